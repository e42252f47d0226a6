// What the kernels share that move memory: loops over long arrays, 16 bytes at a time.
#pragma once
#include "common.cuh"

namespace pointwise {

constexpr int kThreads = 256; // of a block, where nothing else is said; launch_pointwise.go has the same number

// Pack is N neighbouring elements, as floats. load and store move 16 bytes at once where N elements are that many, and
// then need that alignment; otherwise N is 1.
template <class T, int N>
struct Pack {
  float v[N];
};

template <class T>
constexpr int kWide = 16 / int(sizeof(T)); // elements in 16 bytes

template <class T, int N>
__device__ __forceinline__ Pack<T, N> load(const T* p) {
  Pack<T, N> r;
  if constexpr (N == 1) {
    r.v[0] = to_float(*p);
  } else {
    const uint4 raw = *reinterpret_cast<const uint4*>(p);
    const unsigned word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (sizeof(T) == 4) {
        r.v[i] = __uint_as_float(word[i]);
      } else {
        r.v[2 * i] = __uint_as_float(word[i] << 16);
        r.v[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
      }
    }
  }
  return r;
}

template <class T, int N>
__device__ __forceinline__ void store(T* p, const Pack<T, N>& r) {
  if constexpr (N == 1) {
    *p = rounded<T>(r.v[0]);
  } else {
    unsigned word[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (sizeof(T) == 4) {
        word[i] = __float_as_uint(r.v[i]);
      } else {
        word[i] = __bfloat16_as_ushort(rounded<bf16>(r.v[2 * i])) |
                  unsigned(__bfloat16_as_ushort(rounded<bf16>(r.v[2 * i + 1]))) << 16;
      }
    }
    *reinterpret_cast<uint4*>(p) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

__device__ __forceinline__ int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t thread_count() { return int64_t(gridDim.x) * blockDim.x; }

// each calls f<N>(i) for the elements i…i+N-1 of n, wide packs first and the rest one by one; n is any number, and the
// arrays are aligned to 16 bytes.
template <class T, class F>
__device__ __forceinline__ void each(int64_t n, F f) {
  constexpr int W = kWide<T>;
  for (int64_t i = thread_index() * W; i + W <= n; i += thread_count() * W) f.template operator()<W>(i);
  const int64_t i = n / W * W + thread_index();
  if (i < n) f.template operator()<1>(i);
}

// put stores a value or, with add, adds it to what is there: the kernels that set a gradient can add to one.
template <class T, int N>
__device__ __forceinline__ void put(T* p, Pack<T, N> value, int add) {
  if (add) {
    const auto old = load<T, N>(p);
#pragma unroll
    for (int k = 0; k < N; k++) value.v[k] += old.v[k];
  }
  store<T, N>(p, value);
}

} // namespace pointwise
