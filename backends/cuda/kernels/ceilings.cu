// What a device can do at most, as measured limits for the other kernels: copies and scaling for the bandwidth of
// memory, chains of multiply-adds for the rate of the arithmetic units and of the tensor cores.

// copy: y (n) = x (n), not overlapping, both aligned to 16 bytes. Reads 4n bytes and writes as many.
KERNEL(256, copy, const float* __restrict__ x, float* __restrict__ y, int64_t n) {
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
  const float4* from = reinterpret_cast<const float4*>(x);
  float4* to = reinterpret_cast<float4*>(y);
  for (int64_t i = first; i < n / 4; i += step) to[i] = from[i];
  for (int64_t i = n / 4 * 4 + first; i < n; i += step) y[i] = x[i];
}

// scale: y (n) = by·x (n); y may be x, both aligned to 16 bytes. Reads 4n bytes and writes as many.
KERNEL(256, scale, const float* x, float* y, float by, int64_t n) {
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
  const float4* from = reinterpret_cast<const float4*>(x);
  float4* to = reinterpret_cast<float4*>(y);
  for (int64_t i = first; i < n / 4; i += step) {
    const float4 v = from[i];
    to[i] = make_float4(by * v.x, by * v.y, by * v.z, by * v.w);
  }
  for (int64_t i = n / 4 * 4 + first; i < n; i += step) y[i] = by * x[i];
}

// ceiling_fma: every thread makes 8 chains v = a·v + b, rounds long, and writes their sum to y (threads). 16·rounds
// operations a thread, two to a multiply-add.
KERNEL(256, ceiling_fma, float* y, float a, float b, int rounds) {
  float v[8];
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] = float(j);
  for (int r = 0; r < rounds; r++) {
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = __fmaf_rn(v[j], a, b);
  }
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 8; j++) sum += v[j];
  y[int64_t(blockIdx.x) * blockDim.x + threadIdx.x] = sum;
}

#ifdef BF16
#include <mma.h>

namespace ceiling {

// products makes 4 chains of products of tiles of ones and halves, rounds long, and writes their sum to a tile of y.
template <int K, class T, class Element>
__device__ __forceinline__ void products(float* y, int rounds, Element one, Element half) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, K, T, row_major> a;
  fragment<matrix_b, 16, 16, K, T, row_major> b;
  fragment<accumulator, 16, 16, K, float> sum[4];
  fill_fragment(a, one);
  fill_fragment(b, half);
#pragma unroll
  for (int j = 0; j < 4; j++) fill_fragment(sum[j], 0.f);
  for (int r = 0; r < rounds; r++) {
#pragma unroll
    for (int j = 0; j < 4; j++) mma_sync(sum[j], a, b, sum[j]);
  }
#pragma unroll
  for (int i = 0; i < sum[0].num_elements; i++) sum[0].x[i] += sum[1].x[i] + sum[2].x[i] + sum[3].x[i];
  const int64_t warp = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  store_matrix_sync(y + warp * 256, sum[0], 16, mem_row_major);
}

}  // namespace ceiling

// ceiling_bf16: y (warps, 16, 16), all 32·rounds; 4·2·16·16·16·rounds operations a warp. Blocks are of whole warps.
KERNEL(256, ceiling_bf16, float* y, int rounds) {
  ceiling::products<16, bf16>(y, rounds, rounded<bf16>(1.f), rounded<bf16>(0.5f));
}

// ceiling_tf32: y (warps, 16, 16), all 16·rounds; 4·2·16·16·8·rounds operations a warp. Blocks are of whole warps.
KERNEL(256, ceiling_tf32, float* y, int rounds) { ceiling::products<8, nvcuda::wmma::precision::tf32>(y, rounds, 1.f, 0.5f); }
#endif
