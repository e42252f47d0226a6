// Rectifier and sum, element by element, on n elements in any layout.
//
//	relu_forward_T   y = max(x, 0); NaN stays            reads n T, writes n T      1 operation an element
//	relu_backward_T  dx = dy where y > 0, otherwise 0    reads 2 n T, writes n T    1; with add, dx += …, n T more to read
//	add_forward_T    y = a + b, with rectify its maximum with 0   reads 2 n T, writes n T    1 or 2
//	add_backward_T   dx = dy, with add dx += dy          reads n T, writes n T      0 or 1
//
// Outputs may be the same array as an input.
#include "pointwise.cuh"

namespace relu {
using namespace pointwise;

__device__ __forceinline__ float rectified(float v) { return v <= 0 ? 0.f : v; } // NaN is not <= 0

template <class T>
struct Forward {
  const T* x;
  T* y;
  template <int N>
  __device__ void operator()(int64_t i) const {
    auto r = load<T, N>(x + i);
#pragma unroll
    for (int k = 0; k < N; k++) r.v[k] = rectified(r.v[k]);
    store<T, N>(y + i, r);
  }
};

template <class T>
struct Backward {
  const T *y, *dy;
  T* dx;
  int add;
  template <int N>
  __device__ void operator()(int64_t i) const {
    const auto out = load<T, N>(y + i);
    auto g = load<T, N>(dy + i);
#pragma unroll
    for (int k = 0; k < N; k++) g.v[k] = out.v[k] > 0 ? g.v[k] : 0.f;
    put<T, N>(dx + i, g, add);
  }
};

template <class T>
struct Sum {
  const T *a, *b;
  T* y;
  int rectify;
  template <int N>
  __device__ void operator()(int64_t i) const {
    auto r = load<T, N>(a + i);
    const auto s = load<T, N>(b + i);
#pragma unroll
    for (int k = 0; k < N; k++) r.v[k] = rectify ? rectified(r.v[k] + s.v[k]) : r.v[k] + s.v[k];
    store<T, N>(y + i, r);
  }
};

template <class T>
struct Pass {
  const T* dy;
  T* dx;
  int add;
  template <int N>
  __device__ void operator()(int64_t i) const {
    put<T, N>(dx + i, load<T, N>(dy + i), add);
  }
};

} // namespace relu

#define RELU_KERNELS(T, suffix)                                                                                        \
  KERNEL(256, relu_forward_##suffix, const T* x, T* y, int64_t n) { pointwise::each<T>(n, relu::Forward<T>{x, y}); }   \
  KERNEL(256, relu_backward_##suffix, const T* y, const T* dy, T* dx, int add, int64_t n) {                            \
    pointwise::each<T>(n, relu::Backward<T>{y, dy, dx, add});                                                          \
  }                                                                                                                    \
  KERNEL(256, add_forward_##suffix, const T* a, const T* b, T* y, int rectify, int64_t n) {                            \
    pointwise::each<T>(n, relu::Sum<T>{a, b, y, rectify});                                                             \
  }                                                                                                                    \
  KERNEL(256, add_backward_##suffix, const T* dy, T* dx, int add, int64_t n) {                                         \
    pointwise::each<T>(n, relu::Pass<T>{dy, dx, add});                                                                 \
  }
RELU_KERNELS(float, f32)
#ifdef BF16
RELU_KERNELS(bf16, bf16)
#endif
#undef RELU_KERNELS
