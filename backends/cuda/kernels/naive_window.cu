// Locally connected layers, convolutions and linear layers in the obvious form: a thread makes a number, and reads from
// memory what it needs. They are the first rung of the ladder, and what faster forms are compared with. x is (H·W, B, Cin), y
// (Ho·Wo, B, Cout), w (Cout, k·k, Cin/groups) at every position, wstep numbers apart, or, with wstep 0, once for all; bias (Cout),
// bstep apart, or null.
//
//	naive_window_forward_T            y(p, b, n) = Σ w(p, n, tap, c)·x(tap's position, b, c) + bias(p, n)
//	naive_window_input_gradient_T     dx(q, b, c) = Σ w(p, n, tap, c)·dy(p, b, n) over the positions that see q; with add dx += …
//	naive_window_weight_gradient_T    dw(p, n, tap, c) = Σ_b x·dy of wstep > 0; flags[flag] = 1 unless all are finite
//	naive_window_weight_parts_T       the same of shared weights, summed over a part of the positions: parts (count, Cout, k·k·Cin/groups)
//	naive_window_bias_gradient_T      dbias(p, n) = Σ_b dy, over all positions where bstep is 0; flags as above
//	sum_parts                         dw (n) = Σ over count parts (count, n), in order; flags as above
//
// Operations: 2·Ho·Wo·B·Cout·k·k·Cin/groups each, but for biases. Memory: each product's factors are asked for anew; what
// the caches do not hold is read again. Sums are float, in the order of taps and channels or of images, one rounding a
// term (fmaf). In tf32 factors are rounded to 11 bits, ties away from zero, as cvt.rna does; in bf16 to 8 bits, ties to even.
#include "pointwise.cuh"

namespace naive_window {
using namespace pointwise;

struct Geometry {
  int B, H, W, Cin, Ho, Wo, Cout, k, stride, pad, groups;
  int64_t wstep, bstep;
  __device__ __forceinline__ int in() const { return Cin / groups; }
  __device__ __forceinline__ int out() const { return Cout / groups; }
  __device__ __forceinline__ int64_t K() const { return int64_t(k) * k * in(); }
  __device__ __forceinline__ int64_t positions() const { return int64_t(Ho) * Wo; }
};

// factor is a number as it enters a product.
struct F32 {
  using Element = float;
  static __device__ __forceinline__ float factor(float v) { return v; }
};
#ifdef BF16
struct TF32 {
  using Element = float;
  static __device__ __forceinline__ float factor(float v) {
    const unsigned bits = __float_as_uint(v);
    return finite(v) ? __uint_as_float((bits + 0x1000u) & 0xffffe000u) : v;
  }
};
struct BF {
  using Element = bf16;
  static __device__ __forceinline__ float factor(float v) { return to_float(rounded<bf16>(v)); }
};
#endif

template <class P, class T = typename P::Element>
__device__ __forceinline__ void forward(const T* x, const float* w, const float* bias, T* y, const Geometry& g) {
  const int64_t count = g.positions() * g.B * g.Cout;
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const int n = int(i % g.Cout), b = int(i / g.Cout % g.B), p = int(i / g.Cout / g.B);
    const int row = p / g.Wo * g.stride - g.pad, column = p % g.Wo * g.stride - g.pad, first = n / g.out() * g.in();
    const float* weights = w + p * g.wstep + n * g.K();
    float sum = 0;
    for (int tap = 0; tap < g.k * g.k; tap++) {
      const int r = row + tap / g.k, s = column + tap % g.k;
      if (r < 0 || r >= g.H || s < 0 || s >= g.W) continue;
      const T* from = x + ((int64_t(r) * g.W + s) * g.B + b) * g.Cin + first;
      for (int c = 0; c < g.in(); c++)
        sum = fmaf(P::factor(to_float(from[c])), P::factor(weights[tap * g.in() + c]), sum);
    }
    y[i] = rounded<T>(bias ? sum + bias[p * g.bstep + n] : sum);
  }
}

template <class P, class T = typename P::Element>
__device__ __forceinline__ void input_gradient(const T* dy, const float* w, T* dx, int add, const Geometry& g) {
  const int64_t count = int64_t(g.H) * g.W * g.B * g.Cin;
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const int c = int(i % g.Cin), b = int(i / g.Cin % g.B), q = int(i / g.Cin / g.B), first = c / g.in() * g.out();
    float sum = 0;
    for (int tap = 0; tap < g.k * g.k; tap++) {
      const int r = q / g.W + g.pad - tap / g.k, s = q % g.W + g.pad - tap % g.k;
      if (r < 0 || s < 0 || r % g.stride || s % g.stride || r / g.stride >= g.Ho || s / g.stride >= g.Wo) continue;
      const int64_t p = int64_t(r / g.stride) * g.Wo + s / g.stride;
      const T* from = dy + (p * g.B + b) * g.Cout;
      const float* weights = w + p * g.wstep + tap * g.in() + c % g.in();
      for (int n = first; n < first + g.out(); n++)
        sum = fmaf(P::factor(to_float(from[n])), P::factor(weights[n * g.K()]), sum);
    }
    put<T, 1>(dx + i, Pack<T, 1>{{sum}}, add);
  }
}

// product adds a position's products of weight i of (Cout, K) to a sum.
template <class P, class T = typename P::Element>
__device__ __forceinline__ float product(const T* x, const T* dy, int64_t p, int64_t i, const Geometry& g, float sum) {
  const int n = int(i / g.K()), tap = int(i % g.K()) / g.in(), c = n / g.out() * g.in() + int(i % g.in());
  const int r = int(p / g.Wo) * g.stride - g.pad + tap / g.k, s = int(p % g.Wo) * g.stride - g.pad + tap % g.k;
  if (r < 0 || r >= g.H || s < 0 || s >= g.W) return sum;
  const T* inputs = x + (int64_t(r) * g.W + s) * g.B * g.Cin + c;
  const T* errors = dy + p * g.B * g.Cout + n;
  for (int b = 0; b < g.B; b++) {
    sum = fmaf(P::factor(to_float(inputs[int64_t(b) * g.Cin])), P::factor(to_float(errors[int64_t(b) * g.Cout])), sum);
  }
  return sum;
}

template <class P, class T = typename P::Element>
__device__ __forceinline__ void weight_gradient(const T* x, const T* dy, float* dw, int* flags, int flag,
                                                const Geometry& g) {
  const int64_t each = g.Cout * g.K(), count = g.positions() * each;
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const float v = product<P>(x, dy, i / each, i % each, g, 0);
    dw[i] = v;
    if (!finite(v)) flags[flag] = 1;
  }
}

template <class P, class T = typename P::Element>
__device__ __forceinline__ void weight_parts(const T* x, const T* dy, float* parts, int count, const Geometry& g) {
  const int64_t each = g.Cout * g.K();
  for (int64_t i = thread_index(); i < count * each; i += thread_count()) {
    const int64_t part = i / each, end = g.positions() * (part + 1) / count;
    float sum = 0;
    for (int64_t p = g.positions() * part / count; p < end; p++) sum = product<P>(x, dy, p, i % each, g, sum);
    parts[i] = sum;
  }
}

template <class T>
__device__ __forceinline__ void bias_gradient(const T* dy, float* dbias, int* flags, int flag, const Geometry& g) {
  const int64_t count = g.bstep > 0 ? g.positions() * g.Cout : g.Cout;
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const int n = int(i % g.Cout);
    const int64_t first = g.bstep > 0 ? i / g.Cout : 0, last = g.bstep > 0 ? first + 1 : g.positions();
    float sum = 0;
    for (int64_t row = first * g.B; row < last * g.B; row++) sum += to_float(dy[row * g.Cout + n]);
    dbias[i] = sum;
    if (!finite(sum)) flags[flag] = 1;
  }
}

} // namespace naive_window

#define GEOMETRY                                                                                                       \
  int B, int H, int W, int Cin, int Ho, int Wo, int Cout, int k, int stride, int pad, int groups, int64_t wstep,       \
      int64_t bstep
#define PASSED                                                                                                         \
  naive_window::Geometry { B, H, W, Cin, Ho, Wo, Cout, k, stride, pad, groups, wstep, bstep }
#define WINDOW_KERNELS(P, T, suffix)                                                                                   \
  KERNEL(256, naive_window_forward_##suffix, const T* x, const float* w, const float* bias, T* y, GEOMETRY) {          \
    naive_window::forward<naive_window::P>(x, w, bias, y, PASSED);                                                     \
  }                                                                                                                    \
  KERNEL(256, naive_window_input_gradient_##suffix, const T* dy, const float* w, T* dx, int add, GEOMETRY) {           \
    naive_window::input_gradient<naive_window::P>(dy, w, dx, add, PASSED);                                             \
  }                                                                                                                    \
  KERNEL(256, naive_window_weight_gradient_##suffix, const T* x, const T* dy, float* dw, int* flags, int flag,         \
         GEOMETRY) {                                                                                                   \
    naive_window::weight_gradient<naive_window::P>(x, dy, dw, flags, flag, PASSED);                                    \
  }                                                                                                                    \
  KERNEL(256, naive_window_weight_parts_##suffix, const T* x, const T* dy, float* parts, int count, GEOMETRY) {        \
    naive_window::weight_parts<naive_window::P>(x, dy, parts, count, PASSED);                                          \
  }
#define BIAS_KERNEL(T, suffix)                                                                                         \
  KERNEL(256, naive_window_bias_gradient_##suffix, const T* dy, float* dbias, int* flags, int flag, GEOMETRY) {        \
    naive_window::bias_gradient<T>(dy, dbias, flags, flag, PASSED);                                                    \
  }
WINDOW_KERNELS(F32, float, f32)
BIAS_KERNEL(float, f32)
#ifdef BF16
WINDOW_KERNELS(TF32, float, tf32)
WINDOW_KERNELS(BF, bf16, bf16)
BIAS_KERNEL(bf16, bf16)
#endif
#undef GEOMETRY
#undef PASSED
#undef WINDOW_KERNELS
#undef BIAS_KERNEL
