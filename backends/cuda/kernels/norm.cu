// Batch norm over rows = P·B values a channel; x, y and their gradients are (rows, C) of T. With the batch's or the
// running mean and variance of a channel, and the derivative through the batch's (Ioffe and Szegedy 2015, Section 3),
//
//	y  = gain/√(var+ε) · (x - mean) + shift
//	dx = gain/√(var+ε) · (h - Σh/rows - (x - mean)/(var+ε) · Σ h·(x - mean)/rows)
//
// where h is the gradient of y, or, with a rectifier behind, h = dy where its output is above 0 and otherwise 0.
//
//	norm_sums_T           Σx and Σx² by channel and part of the rows: parts (blocks, 2, C)      rows·C T read; 4 operations
//	norm_statistics       moments (2, C) mean and variance, and affine (3, C) centre, scale, shift, of these sums
//	norm_running          affine (3, C) of the running statistics
//	norm_forward_T        y = (x - centre)·scale + shift, with residual added to it unless null, and rectified when asked:
//	                      rows·C T read (twice as many with residual), rows·C T written; 3 to 5 operations
//	norm_gradient_sums_T  Σh and Σh·(x-centre): parts (blocks, 2, C)           2 rows·C T read, 3 with gate; 4 operations
//	norm_gradient         dshift and dgain (C), and coefficients (2, C), of these sums; flags[flag] = 1 unless all are finite
//	norm_backward_T       dx, with add dx += …                                  2 rows·C T read, 3 with gate; rows·C written
//	norm_move             running statistics towards the batch's, unless one of count flags is set
//
// In backward kernels the rectifier's output is gate, (rows, C), or, where that is null and rectified is set, what
// norm_forward_T makes of x without a residual.
//
// Sums are double, in one order whatever the timing: each thread its rows, then the threads of a block, then the blocks.
// The variance is Σx²/rows - mean², whose cancellation double bears up to means of some 10^6 standard deviations.
//
// norm_sums and norm_gradient_sums: grid (blocks, tiles of channels). The rest of T: threads keep to their channels.
// norm_statistics, norm_running, norm_gradient, norm_move: see each.
#include "pointwise.cuh"

namespace batchnorm {
using namespace pointwise;

// column_sums adds up two numbers by channel over a part of the rows: f(at, coefficients, first, second) adds those of the N
// channels of element at, with what make(channel) returned.
template <class T, int N, class Make, class F>
__device__ __forceinline__ void column_sums(double* buffer, double* parts, int64_t rows, int C, Make make, F f) {
  const int packs = C / N;
  int width = 1; // packs side by side in a block
  while (width < packs && width < 32) width *= 2;
  const int depth = int(blockDim.x) / width, tx = int(threadIdx.x) % width, ty = int(threadIdx.x) / width;
  const int64_t lo = rows * blockIdx.x / gridDim.x, hi = rows * (blockIdx.x + 1) / gridDim.x;
  for (int tile = int(blockIdx.y); tile * width < packs; tile += int(gridDim.y)) {
    const int pack = tile * width + tx;
    double first[N] = {}, second[N] = {};
    if (pack < packs) {
      const auto coefficients = make(pack * N);
#pragma unroll 4
      for (int64_t row = lo + ty; row < hi; row += depth) f(row * C + pack * N, coefficients, first, second);
    }
    double* mine = buffer + threadIdx.x * 2 * N;
#pragma unroll
    for (int k = 0; k < N; k++) mine[k] = first[k], mine[N + k] = second[k];
    __syncthreads();
    for (int half = depth / 2; half > 0; half /= 2) {
      if (ty < half) {
#pragma unroll
        for (int k = 0; k < 2 * N; k++) mine[k] += mine[half * width * 2 * N + k];
      }
      __syncthreads();
    }
    if (ty == 0 && pack < packs) {
      double* to = parts + int64_t(blockIdx.x) * 2 * C + pack * N;
#pragma unroll
      for (int k = 0; k < N; k++) to[k] = mine[k], to[C + k] = mine[N + k];
    }
    __syncthreads();
  }
}

// both calls body with packs as wide as the channels allow.
template <class T, template <class, int> class Body, class... A>
__device__ __forceinline__ void both(int C, A... a) {
  if (C % kWide<T> == 0) {
    Body<T, kWide<T>>::run(C, a...);
  } else {
    Body<T, 1>::run(C, a...);
  }
}

template <class T, int N>
struct Sums {
  static __device__ __forceinline__ void run(int C, double* buffer, const T* x, double* parts, int64_t rows) {
    column_sums<T, N>(
        buffer, parts, rows, C, [](int) { return 0; },
        [=](int64_t at, int, double* s, double* q) {
          const auto p = load<T, N>(x + at);
#pragma unroll
          for (int k = 0; k < N; k++) {
            const double v = p.v[k];
            s[k] += v;
            q[k] = fma(v, v, q[k]);
          }
        });
  }
};

// Coefficients are those of N channels: of the batch norm and, for backward, of its gradient.
template <int N>
struct Coefficients {
  float centre[N], scale[N], shift[N], mean[N], slope[N];
  __device__ __forceinline__ Coefficients(const float* affine, const float* coefficients, int C, int channel) {
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int c = channel + k;
      centre[k] = affine[c], scale[k] = affine[C + c], shift[k] = affine[2 * C + c];
      if (coefficients) mean[k] = coefficients[c], slope[k] = coefficients[C + c];
    }
  }
  __device__ __forceinline__ float norm(float x, int k) const { return fmaf(x - centre[k], scale[k], shift[k]); }
};

// gated is the gradient behind the rectifier.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> gated(const T* dy, const T* gate, int rectified, const Pack<T, N>& x, int64_t at,
                                            const Coefficients<N>& c) {
  auto h = load<T, N>(dy + at);
  if (gate) {
    const auto y = load<T, N>(gate + at);
#pragma unroll
    for (int k = 0; k < N; k++) h.v[k] = y.v[k] > 0 ? h.v[k] : 0.f;
  } else if (rectified) {
#pragma unroll
    for (int k = 0; k < N; k++) h.v[k] = c.norm(x.v[k], k) > 0 ? h.v[k] : 0.f;
  }
  return h;
}

template <class T, int N>
struct GradientSums {
  static __device__ __forceinline__ void run(int C, double* buffer, const T* dy, const T* x, const T* gate,
                                             int rectified, const float* affine, double* parts, int64_t rows) {
    column_sums<T, N>(
        buffer, parts, rows, C, [=](int channel) { return Coefficients<N>(affine, nullptr, C, channel); },
        [=](int64_t at, const Coefficients<N>& c, double* s, double* q) {
          const auto p = load<T, N>(x + at);
          const auto h = gated<T, N>(dy, gate, rectified, p, at, c);
#pragma unroll
          for (int k = 0; k < N; k++) {
            s[k] += double(h.v[k]);
            q[k] = fma(double(h.v[k]), double(p.v[k]) - double(c.centre[k]), q[k]);
          }
        });
  }
};

// channels calls f(at, coefficients) for the packs of rows·C elements, with the coefficients that make(channel) returns: once for
// all, as a thread keeps to its channels, unless there are fewer threads than packs in a row.
template <class T, int N, class Make, class F>
__device__ __forceinline__ void channels(int64_t rows, int C, Make make, F f) {
  const int64_t packs = rows * (C / N), width = C / N;
  const bool keeps = thread_count() >= width;
  const int64_t count = keeps ? thread_count() / width * width : thread_count();
  int64_t i = thread_index();
  if (i >= count || i >= packs) return;
  auto coefficients = make(int(i % width) * N);
  for (; i < packs; i += count) {
    if (!keeps) coefficients = make(int(i % width) * N);
    f(i * N, coefficients);
  }
}

template <class T, int N>
struct Forward {
  static __device__ __forceinline__ void run(int C, const T* x, const float* affine, const T* residual, T* y,
                                             int rectify, int64_t rows) {
    channels<T, N>(
        rows, C, [=](int channel) { return Coefficients<N>(affine, nullptr, C, channel); },
        [=](int64_t at, const Coefficients<N>& c) {
          auto p = load<T, N>(x + at);
#pragma unroll
          for (int k = 0; k < N; k++) p.v[k] = c.norm(p.v[k], k);
          if (residual) {
            const auto r = load<T, N>(residual + at);
#pragma unroll
            for (int k = 0; k < N; k++) p.v[k] += r.v[k];
          }
          if (rectify) {
#pragma unroll
            for (int k = 0; k < N; k++) p.v[k] = p.v[k] <= 0 ? 0.f : p.v[k];
          }
          store<T, N>(y + at, p);
        });
  }
};

template <class T, int N>
struct Backward {
  static __device__ __forceinline__ void run(int C, const T* dy, const T* x, const T* gate, int rectified,
                                             const float* affine, const float* coefficients, T* dx, int add,
                                             int64_t rows) {
    channels<T, N>(
        rows, C, [=](int channel) { return Coefficients<N>(affine, coefficients, C, channel); },
        [=](int64_t at, const Coefficients<N>& c) {
          const auto p = load<T, N>(x + at);
          auto h = gated<T, N>(dy, gate, rectified, p, at, c);
#pragma unroll
          for (int k = 0; k < N; k++) h.v[k] = c.scale[k] * (h.v[k] - c.mean[k] - (p.v[k] - c.centre[k]) * c.slope[k]);
          put<T, N>(dx + at, h, add);
        });
  }
};

// totals adds up the parts of channel blockIdx.x*32 + threadIdx.x in a block of (32, 8), in a fixed order; they are in
// first and second of the threads with threadIdx.y 0.
__device__ __forceinline__ void totals(const double* parts, int blocks, int C, double& first, double& second) {
  SHARED(double, sums, [2][8][33]);
  const int tx = int(threadIdx.x), ty = int(threadIdx.y), c = int(blockIdx.x) * 32 + tx;
  first = second = 0;
  if (c < C) {
    for (int i = ty; i < blocks; i += 8) {
      first += parts[int64_t(i) * 2 * C + c];
      second += parts[int64_t(i) * 2 * C + C + c];
    }
  }
  sums[0][ty][tx] = first, sums[1][ty][tx] = second;
  __syncthreads();
  if (ty == 0) {
    for (int i = 1; i < 8; i++) first += sums[0][i][tx], second += sums[1][i][tx];
  }
}

__device__ __forceinline__ void put_affine(float* affine, int C, int c, double mean, double variance, double epsilon,
                                           float gain, float shift) {
  affine[c] = float(mean);
  affine[C + c] = float(double(gain) / sqrt(variance + epsilon));
  affine[2 * C + c] = shift;
}

} // namespace batchnorm

// norm_statistics: block (32, 8), grid ceil(C/32).
KERNEL(256, norm_statistics, const double* parts, int blocks, int64_t rows, int C, double epsilon, const float* gain,
       const float* shift, double* moments, float* affine) {
  double sum, squares;
  batchnorm::totals(parts, blocks, C, sum, squares);
  const int c = int(blockIdx.x * 32 + threadIdx.x);
  if (threadIdx.y != 0 || c >= C) return;
  const double mean = sum / double(rows);
  double variance = squares / double(rows) - mean * mean;
  variance = variance < 0 ? 0 : variance; // NaN stays
  moments[c] = mean, moments[C + c] = variance;
  batchnorm::put_affine(affine, C, c, mean, variance, epsilon, gain[c], shift[c]);
}

// norm_running: a thread a channel.
KERNEL(256, norm_running, const float* mean, const float* variance, int C, double epsilon, const float* gain,
       const float* shift, float* affine) {
  const int64_t c = pointwise::thread_index();
  if (c < C) batchnorm::put_affine(affine, C, int(c), mean[c], variance[c], epsilon, gain[c], shift[c]);
}

// norm_gradient: block (32, 8), grid ceil(C/32). coefficients are Σh/rows and Σh·(x-mean)/(rows·(var+ε)).
KERNEL(256, norm_gradient, const double* parts, int blocks, int64_t rows, int C, double epsilon, const double* moments,
       const float* affine, float* dgain, float* dshift, float* coefficients, int* flags, int flag) {
  double sum, products;
  batchnorm::totals(parts, blocks, C, sum, products);
  const int c = int(blockIdx.x * 32 + threadIdx.x);
  if (threadIdx.y != 0 || c >= C) return;
  products -= sum * (moments[c] - double(affine[c])); // around the mean, not its float
  const double inverse = 1 / sqrt(moments[C + c] + epsilon);
  const float g = float(products * inverse), s = float(sum);
  dgain[c] = g, dshift[c] = s;
  coefficients[c] = float(sum / double(rows));
  coefficients[C + c] = float(products * inverse * inverse / double(rows));
  if (!finite(g) || !finite(s)) flags[flag] = 1;
}

// norm_move: v += momentum·(batch - v), the variance made unbiased; a thread a channel, one block of threads.
KERNEL(256, norm_move, const double* moments, int64_t rows, int C, double momentum, float* mean, float* variance,
       const int* flags, int count) {
  int stop = 0;
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) stop |= flags[i];
  if (__syncthreads_or(stop)) return;
  const int64_t c = pointwise::thread_index();
  if (c >= C) return;
  const double unbiased = moments[C + c] * double(rows) / double(rows - 1);
  mean[c] += float(momentum * (moments[c] - double(mean[c])));
  variance[c] += float(momentum * (unbiased - double(variance[c])));
}

#define NORM_KERNELS(T, suffix)                                                                                        \
  KERNEL(256, norm_sums_##suffix, const T* x, double* parts, int64_t rows, int C) {                                    \
    SHARED(double, buffer, [256 * 2 * pointwise::kWide<T>]);                                                           \
    batchnorm::both<T, batchnorm::Sums>(C, buffer, x, parts, rows);                                                    \
  }                                                                                                                    \
  KERNEL(256, norm_forward_##suffix, const T* x, const float* affine, const T* residual, T* y, int rectify,            \
         int64_t rows, int C) {                                                                                        \
    batchnorm::both<T, batchnorm::Forward>(C, x, affine, residual, y, rectify, rows);                                  \
  }                                                                                                                    \
  KERNEL(256, norm_gradient_sums_##suffix, const T* dy, const T* x, const T* gate, int rectified, const float* affine, \
         double* parts, int64_t rows, int C) {                                                                         \
    SHARED(double, buffer, [256 * 2 * pointwise::kWide<T>]);                                                           \
    batchnorm::both<T, batchnorm::GradientSums>(C, buffer, dy, x, gate, rectified, affine, parts, rows);               \
  }                                                                                                                    \
  KERNEL(256, norm_backward_##suffix, const T* dy, const T* x, const T* gate, int rectified, const float* affine,      \
         const float* coefficients, T* dx, int add, int64_t rows, int C) {                                             \
    batchnorm::both<T, batchnorm::Backward>(C, dy, x, gate, rectified, affine, coefficients, dx, add, rows);           \
  }
NORM_KERNELS(float, f32)
#ifdef BF16
NORM_KERNELS(bf16, bf16)
#endif
#undef NORM_KERNELS
