// Cross-entropy of logits (B, C) of T with labels (B), as package core defines it, in double relative to the largest logit:
//
//	softmax_cross_entropy_T  losses (B) = ln Σexp(logit - largest) - (logit of the label - largest), NaN with a NaN or two equal
//	                         infinities; ranks (B) how many classes come before the label; dlogits (B, C) = (softmax - onehot)·scale,
//	                         unless null; flags[flag] = 1 when a loss is not finite
//
// A warp an image, blocks of 8 warps. 3 B·C T read, the last two times from the caches, B·C T written.
#include "pointwise.cuh"

namespace loss {

__device__ __forceinline__ double warp_max(double v) {
#pragma unroll
  for (int bit = 16; bit > 0; bit >>= 1) v = fmax(v, __shfl_xor_sync(0xffffffffu, v, bit));
  return v;
}

template <class T>
__device__ __forceinline__ void softmax_cross_entropy(const T* logits, const int* labels, T* dlogits, float* losses,
                                                      int* ranks, int B, int C, double scale, int* flags, int flag) {
  const int image = int(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32), lane = int(threadIdx.x % 32);
  if (image >= B) return; // the whole warp
  const T* row = logits + int64_t(image) * C;
  const int label = labels[image];
  const double own = to_float(row[label]);
  double largest = -INFINITY;
  int rank = 0;
  for (int c = lane; c < C; c += 32) {
    const double v = to_float(row[c]);
    largest = fmax(largest, v); // passes over NaN, which spoils the sum instead
    rank += c != label && !(v < own || (v == own && c > label));
  }
  largest = warp_max(largest);
  rank = warp_sum(rank);
  double sum = 0;
  for (int c = lane; c < C; c += 32) sum += exp(double(to_float(row[c])) - largest);
  sum = warp_sum(sum);
  if (dlogits) {
    T* d = dlogits + int64_t(image) * C;
    for (int c = lane; c < C; c += 32) {
      const double p = exp(double(to_float(row[c])) - largest) * (scale / sum);
      d[c] = rounded<T>(float(c == label ? p - scale : p));
    }
  }
  if (lane == 0) {
    const float value = float(log(sum) - (own - largest));
    losses[image] = value;
    ranks[image] = rank;
    if (!finite(value)) flags[flag] = 1;
  }
}

} // namespace loss

// dlogits must be another array than logits.
#define LOSS_KERNELS(T, suffix)                                                                                        \
  KERNEL(256, softmax_cross_entropy_##suffix, const T* logits, const int* labels, T* dlogits, float* losses,           \
         int* ranks, int B, int C, double scale, int* flags, int flag) {                                               \
    loss::softmax_cross_entropy<T>(logits, labels, dlogits, losses, ranks, B, C, scale, flags, flag);                  \
  }
LOSS_KERNELS(float, f32)
#ifdef BF16
LOSS_KERNELS(bf16, bf16)
#endif
#undef LOSS_KERNELS
