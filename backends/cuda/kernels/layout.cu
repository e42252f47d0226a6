// Changes of layout. Element counts are P = H·W positions, B images, C channels.
//
//	images_T     x (P, B, C) of T = pixels (B, P, C) of float      B·P·C floats read, as many T written
//	canonical_T  y (B, P, C) of float = x (P, B, C) of T           B·P·C T read, as many floats written
//	transpose_T  y (C, B, P) = x (P, B, C), with add y += x         B·P·C T read and written; no operation, or one
//
// A transpose backward is transpose_T of the gradient with P and C exchanged. Tiles of 32 by 32 pass through shared
// memory, so that both sides are read and written in the order of memory.
#include "pointwise.cuh"

namespace layout {
using namespace pointwise;

// exchange copies (outer, inner, C) to (inner, outer, C).
template <class From, class To>
__device__ __forceinline__ void exchange(const From* x, To* y, int outer, int inner, int C) {
  const int64_t n = int64_t(outer) * inner * C;
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const int64_t row = i / C;
    const int c = int(i - row * C);
    const int64_t o = row % outer, k = row / outer;
    y[i] = rounded<To>(to_float(x[(o * inner + k) * C + c]));
  }
}

// transpose: block (32, 8), grid (tiles of C, tiles of P, some images).
template <class T>
__device__ __forceinline__ void transpose(const T* x, T* y, int add, int B, int P, int C) {
  SHARED(float, tile, [32][33]);
  const int c0 = int(blockIdx.x) * 32, p0 = int(blockIdx.y) * 32, tx = int(threadIdx.x), ty = int(threadIdx.y);
  for (int b = int(blockIdx.z); b < B; b += int(gridDim.z)) {
    for (int r = ty; r < 32; r += 8) {
      if (p0 + r < P && c0 + tx < C) tile[r][tx] = to_float(x[(int64_t(p0 + r) * B + b) * C + c0 + tx]);
    }
    __syncthreads();
    for (int r = ty; r < 32; r += 8) {
      if (c0 + r < C && p0 + tx < P) {
        T* to = y + (int64_t(c0 + r) * B + b) * P + p0 + tx;
        *to = rounded<T>(add ? to_float(*to) + tile[tx][r] : tile[tx][r]);
      }
    }
    __syncthreads();
  }
}

} // namespace layout

#define LAYOUT_KERNELS(T, suffix)                                                                                      \
  KERNEL(256, images_##suffix, const float* pixels, T* x, int B, int P, int C) {                                       \
    layout::exchange<float, T>(pixels, x, B, P, C);                                                                    \
  }                                                                                                                    \
  KERNEL(256, canonical_##suffix, const T* x, float* y, int B, int P, int C) {                                         \
    layout::exchange<T, float>(x, y, P, B, C);                                                                         \
  }                                                                                                                    \
  KERNEL(256, transpose_##suffix, const T* x, T* y, int add, int B, int P, int C) {                                    \
    layout::transpose<T>(x, y, add, B, P, C);                                                                          \
  }
LAYOUT_KERNELS(float, f32)
#ifdef BF16
LAYOUT_KERNELS(bf16, bf16)
#endif
#undef LAYOUT_KERNELS
