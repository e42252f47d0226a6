// Pools, forward and backward.
//
//	max_pool_forward_T       y (Ho·Wo, B, C): the largest of a window of x (H·W, B, C); NaN where the window has one. Of equal ones
//	                         the first in the order of rows wins.       k² T read an output, most of them from the caches
//	max_pool_backward_T      dx, with add dx +=: the gradients of the windows that each input wins, found again by looking at the
//	                         windows, at most ceil(k/stride)² an input; in the order of rows, so that the bits are the same always
//	average_pool_forward_T   y (B, C): the mean of x (P, B, C) over P; added in double, in order       P·B·C T read
//	average_pool_backward_T  dx (P, B, C) = dy/P, with add dx += …                                       P·B·C T written
//
// A thread makes an element, neighbouring ones are in neighbouring channels.
#include "pointwise.cuh"

namespace pool {
using namespace pointwise;

struct Geometry {
  int B, H, W, C, Ho, Wo, k, stride, pad;
};

// winner is the index of the input, of image and channel within = b·C + c, that wins the window at (i, j).
template <class T>
__device__ __forceinline__ int64_t winner(const T* x, const Geometry& g, int i, int j, int64_t within, float& best) {
  const int64_t size = int64_t(g.B) * g.C;
  const int row = i * g.stride - g.pad, column = j * g.stride - g.pad;
  int64_t at = -1;
  for (int u = max(row, 0); u < min(row + g.k, g.H); u++) {
    for (int v = max(column, 0); v < min(column + g.k, g.W); v++) {
      const int64_t from = (int64_t(u) * g.W + v) * size + within;
      const float value = to_float(x[from]);
      if (at < 0 || value > best || (value != value && best == best)) at = from, best = value; // a NaN wins
    }
  }
  return at;
}

template <class T>
__device__ __forceinline__ void max_forward(const T* x, T* y, const Geometry& g) {
  const int64_t size = int64_t(g.B) * g.C, n = size * g.Ho * g.Wo;
  for (int64_t o = thread_index(); o < n; o += thread_count()) {
    const int position = int(o / size);
    float best = 0;
    winner(x, g, position / g.Wo, position % g.Wo, o % size, best);
    y[o] = rounded<T>(best);
  }
}

template <class T>
__device__ __forceinline__ void max_backward(const T* x, const T* dy, T* dx, int add, const Geometry& g) {
  const int64_t size = int64_t(g.B) * g.C, n = size * g.H * g.W;
  for (int64_t at = thread_index(); at < n; at += thread_count()) {
    const int position = int(at / size), row = position / g.W + g.pad, column = position % g.W + g.pad;
    const int64_t within = at % size;
    float sum = 0;
    for (int i = max(0, (row - g.k + g.stride) / g.stride); i <= min(row / g.stride, g.Ho - 1); i++) {
      for (int j = max(0, (column - g.k + g.stride) / g.stride); j <= min(column / g.stride, g.Wo - 1); j++) {
        float best = 0;
        if (winner(x, g, i, j, within, best) == at) sum += to_float(dy[(int64_t(i) * g.Wo + j) * size + within]);
      }
    }
    put<T, 1>(dx + at, Pack<T, 1>{{sum}}, add);
  }
}

template <class T>
__device__ __forceinline__ void average_forward(const T* x, T* y, int64_t size, int P) {
  for (int64_t i = thread_index(); i < size; i += thread_count()) {
    double sum = 0;
    for (int p = 0; p < P; p++) sum += double(to_float(x[p * size + i]));
    y[i] = rounded<T>(float(sum / P));
  }
}

template <class T>
__device__ __forceinline__ void average_backward(const T* dy, T* dx, int add, int64_t size, int P) {
  const float scale = 1 / float(P);
  for (int64_t i = thread_index(); i < size * P; i += thread_count())
    put<T, 1>(dx + i, Pack<T, 1>{{to_float(dy[i % size]) * scale}}, add);
}

} // namespace pool

#define POOL_KERNELS(T, suffix)                                                                                        \
  KERNEL(256, max_pool_forward_##suffix, const T* x, T* y, int B, int H, int W, int C, int Ho, int Wo, int k,          \
         int stride, int pad) {                                                                                        \
    pool::max_forward<T>(x, y, {B, H, W, C, Ho, Wo, k, stride, pad});                                                  \
  }                                                                                                                    \
  KERNEL(256, max_pool_backward_##suffix, const T* x, const T* dy, T* dx, int add, int B, int H, int W, int C, int Ho, \
         int Wo, int k, int stride, int pad) {                                                                         \
    pool::max_backward<T>(x, dy, dx, add, {B, H, W, C, Ho, Wo, k, stride, pad});                                       \
  }                                                                                                                    \
  KERNEL(256, average_pool_forward_##suffix, const T* x, T* y, int B, int P, int C) {                                  \
    pool::average_forward<T>(x, y, int64_t(B) * C, P);                                                                 \
  }                                                                                                                    \
  KERNEL(256, average_pool_backward_##suffix, const T* dy, T* dx, int add, int B, int P, int C) {                      \
    pool::average_backward<T>(dy, dx, add, int64_t(B) * C, P);                                                         \
  }
POOL_KERNELS(float, f32)
#ifdef BF16
POOL_KERNELS(bf16, bf16)
#endif
#undef POOL_KERNELS
