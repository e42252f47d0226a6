// nvcuda::wmma as plain loops, bf16 and tf32. Which element is in which lane is not specified, nor what other operations
// than those on all elements alike would do; here elements are dealt out in turn. Products are added in float.
#pragma once
#include "cuda_bf16.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
namespace precision {
struct tf32;
}
enum layout_t { mem_row_major, mem_col_major };

template <class T>
struct storage {
  using type = T;
};
template <>
struct storage<precision::tf32> {
  using type = float;
};

// shape is the rows and columns of a fragment of an M x K by K x N product.
template <class Use, int M, int N, int K>
struct shape;
template <int M, int N, int K>
struct shape<matrix_a, M, N, K> {
  static constexpr int rows = M, columns = K;
};
template <int M, int N, int K>
struct shape<matrix_b, M, N, K> {
  static constexpr int rows = K, columns = N;
};
template <int M, int N, int K>
struct shape<accumulator, M, N, K> {
  static constexpr int rows = M, columns = N;
};

// supported are the products that the hardware has.
template <class T>
constexpr bool supported(int m, int n, int k) {
  if (std::is_same_v<T, precision::tf32>) return m == 16 && n == 16 && k == 8;
  return k == 16 && ((m == 16 && n == 16) || (m == 32 && n == 8) || (m == 8 && n == 32));
}

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  static_assert(std::is_same_v<Use, accumulator> || supported<T>(M, N, K));
  using element = typename storage<T>::type;
  static constexpr int rows = shape<Use, M, N, K>::rows, columns = shape<Use, M, N, K>::columns;
  static constexpr int num_elements = rows * columns / 32;
  element x[num_elements];
};

inline float value(float v) { return v; }
inline float value(__nv_bfloat16 v) { return __bfloat162float(v); }
// The hardware ignores the low 13 bits of a tf32 operand; __float_to_tf32 rounds to nearest, ties away (cvt.rna).
inline float truncate_tf32(float f) { return __uint_as_float(__float_as_uint(f) & ~0x1fffu); }
inline float __float_to_tf32(float f) {
  unsigned u = __float_as_uint(f);
  if ((u & 0x7f800000u) != 0x7f800000u) u += 0x1000;
  return __uint_as_float(u & ~0x1fffu);
}

template <class Fragment, class V>
void fill_fragment(Fragment& f, V v) {
  for (auto& e : f.x) e = v;
}

// each calls visit with every element of this lane and its row and column.
template <class Fragment, class Visit>
void each(Fragment& f, Visit visit) {
  for (int i = 0; i < Fragment::num_elements; i++) {
    const int e = i * 32 + int(emu::block->current->lane);
    visit(f.x[i], size_t(e / Fragment::columns), size_t(e % Fragment::columns));
  }
}

// check is what the hardware asks of a matrix in memory: 32 bytes of alignment, rows a multiple of 16 bytes apart.
inline void check(const void* p, size_t stride_bytes, const emu::Place& place) {
  if (uintptr_t(p) % 32 || stride_bytes % 16) emu::fail("a misaligned matrix", place);
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const typename storage<T>::type* p, unsigned stride,
                      const emu::Place& place = emu::Place::current()) {
  check(p, stride * sizeof(*p), place);
  emu::meet_warp(place);
  each(f, [&](auto& e, size_t r, size_t c) {
    e = std::is_same_v<Layout, col_major> ? p[c * stride + r] : p[r * stride + c];
  });
}
template <int M, int N, int K, class T>
void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const T* p, unsigned stride, layout_t layout,
                      const emu::Place& place = emu::Place::current()) {
  check(p, stride * sizeof(*p), place);
  emu::meet_warp(place);
  each(f, [&](auto& e, size_t r, size_t c) { e = layout == mem_col_major ? p[c * stride + r] : p[r * stride + c]; });
}
template <int M, int N, int K, class T>
void store_matrix_sync(T* p, const fragment<accumulator, M, N, K, T>& f, unsigned stride, layout_t layout,
                       const emu::Place& place = emu::Place::current()) {
  check(p, stride * sizeof(*p), place);
  emu::meet_warp(place);
  each(f, [&](const auto& e, size_t r, size_t c) { p[layout == mem_col_major ? c * stride + r : r * stride + c] = e; });
}

template <int M, int N, int K, class T, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, M, N, K, float>& d, const fragment<matrix_a, M, N, K, T, LayoutA>& a,
              const fragment<matrix_b, M, N, K, T, LayoutB>& b, const fragment<accumulator, M, N, K, float>& c,
              const emu::Place& place = emu::Place::current()) {
  static_assert(M * K <= 32 * 16 && K * N <= 32 * 16);
  emu::Warp* w = emu::block->current->warp;
  auto share = [](float* to, const auto& operand) {
    for (int i = 0; i < operand.num_elements; i++) {
      const float v = value(operand.x[i]);
      to[i * 32 + int(emu::block->current->lane)] = std::is_same_v<T, precision::tf32> ? truncate_tf32(v) : v;
    }
  };
  share(w->left, a);
  share(w->right, b);
  emu::meet_warp(place);
  fragment<accumulator, M, N, K, float> sum = c;
  each(sum, [&](float& s, size_t r, size_t q) {
    const float *left = w->left + r * K, *right = w->right + q;
    float products = 0;
    for (int k = 0; k < K; k++) products += left[k] * right[k * N];
    s += products;
  });
  emu::meet_warp(place);
  d = sum;
}

} // namespace nvcuda::wmma
