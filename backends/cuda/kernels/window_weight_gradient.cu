// Gradients of weights and biases of locally connected layers, convolutions and linear layers, of x (H·W, B, Cin) and dy
// (Ho·Wo, B, Cout):
//
//	dw[p, n, u, c] = Σ_b dy[p, b, n]·x[p·s + u, b, c], 0 for taps on the padding        db[p, n] = Σ_b dy[p, b, n]
//
// dw is made in parts, each over a range of positions: weights of their own have a part a position, shared ones a few, which
// sum_parts adds in order. Nothing is added atomically, so that every run gives the same bits.
//
// As many operations as forward; x, up to k² times from caches, dy once for every 128 of the K weights of a neuron, and the gradient
// written once, 4·P·N·K bytes: what binds where the batch is small. Where something written is not
// finite, flags[flag] becomes 1, unless flags is null.
#include "window.cuh"

namespace window {

// WeightGradient is the operands of a range of positions: rows are the weights of a neuron, tap and input channel, columns
// output channels, terms images, position by position.
template <class T>
struct WeightGradient {
  static constexpr bool kAlongA = false, kAlongB = false;
  const Geometry& g;
  const T* x;  // of the group
  const T* dy; // of the group and the tile's first channel
  int begin, end, row, columns, ci, K, images;
  bool wide_a, wide_b;

  __device__ __forceinline__ WeightGradient(const Geometry& g, const T* x, const T* dy, const Place& at, int begin,
                                            int end)
      : g(g),
        x(x + at.group * g.in()),
        dy(dy + at.group * g.out() + at.column),
        begin(begin),
        end(end),
        row(at.row),
        columns(g.out() - at.column),
        ci(g.in()),
        K(g.K()),
        images((g.B + 31) / 32 * 32),
        wide_a(g.in() % 4 == 0),
        wide_b(g.out() % 4 == 0) {}
  __device__ __forceinline__ int terms() const { return (end - begin) * images; } // images up to whole chunks

  // input is where weight j of a neuron at position p finds its input of the first image; null on the padding.
  __device__ __forceinline__ const T* input(int p, int j) const {
    if (j >= K) return nullptr;
    const int u = j / ci, h = p / g.Wo * g.stride - g.pad + u / g.k, l = p % g.Wo * g.stride - g.pad + u % g.k;
    if (h < 0 || h >= g.H || l < 0 || l >= g.W) return nullptr;
    return x + (int64_t(h) * g.W + l) * g.B * g.Cin + j % ci;
  }
  struct A {
    const T* x;
    int position, weight, image;
  };
  struct B {
    const T* dy;
    int along, image;
  };
  __device__ __forceinline__ A place_a(int first, int along) const {
    const int p = begin + first / images, j = row + along;
    return A{input(p, j), p, j, first % images};
  }
  __device__ __forceinline__ B place_b(int first, int along) const {
    return B{dy + int64_t(begin + first / images) * g.B * g.Cout, along, first % images};
  }
  __device__ __forceinline__ void read_a(float (&v)[4], const A& t, int, int k) const {
    const int b = t.image + k;
    if (b >= g.B) return zero(v);
    const int64_t of = int64_t(b) * g.Cin;
    if (wide_a) {
      if (t.x == nullptr) return zero(v);
      return four(v, t.x + of, 4, true);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const T* one = input(t.position, t.weight + i);
      v[i] = one ? to_float(one[of]) : 0.f;
    }
  }
  __device__ __forceinline__ void read_b(float (&v)[4], const B& t, int, int k) const {
    const int b = t.image + k;
    if (b >= g.B || t.along >= columns) return zero(v);
    four(v, t.dy + int64_t(b) * g.Cout + t.along, columns - t.along, wide_b);
  }

  // exact is weight j of the tile's column n by itself, taps on the padding left out.
  __device__ __forceinline__ float exact(int j, int n) const {
    float sum = 0;
    for (int p = begin; p < end; p++) {
      const T* from = input(p, j);
      for (int b = 0; from && b < g.B; b++)
        sum = fmaf(to_float(from[int64_t(b) * g.Cin]), to_float(dy[(int64_t(p) * g.B + b) * g.Cout + n]), sum);
    }
    return sum;
  }
};

// weight_gradient sets every part of dw (parts, Cout, K) to the sum over its range of positions. Products with a padding of zeros
// are NaN where dy is not finite: such sums are made again without.
template <class Core, class T>
__device__ __forceinline__ void weight_gradient(const T* x, const T* dy, float* dw, int parts, int* flags, int flag,
                                                const Geometry& g) {
  const Place at(g.K(), g.out(), Core::kRows, Core::kColumns, g.groups); // its position is the part
  const int64_t all = int64_t(g.Ho) * g.Wo;
  const int begin = int(all * at.position / parts), end = int(all * (at.position + 1) / parts);
  const WeightGradient<T> s(g, x, dy, at, begin, end);
  dw += (int64_t(at.position) * g.Cout + at.group * g.out() + at.column) * g.K();
  product<Core, true>(s, [&](int m, int n, float v) {
    const int j = at.row + m;
    if (j >= g.K() || at.column + n >= g.out()) return;
    if (!finite(v) && g.pad > 0) v = s.exact(j, n);
    dw[int64_t(n) * g.K() + j] = v;
    if (flags && !finite(v)) flags[flag] = 1;
  });
}

// bias_gradient: a block (32, 8) sums 32 channels of a position, or of all where positions share biases: each warp every eighth
// image, then the warps in order. Grid (ceil(Cout/32), positions).
template <class T>
__device__ __forceinline__ void bias_gradient(const T* dy, float* db, int* flags, int flag, const Geometry& g) {
  SHARED(float, part, [8][32]);
  const int c = int(blockIdx.x) * 32 + int(threadIdx.x);
  const int64_t rows = (g.bstep ? 1 : int64_t(g.Ho) * g.Wo) * g.B, first = int64_t(blockIdx.y) * g.B;
  float sum = 0;
  if (c < g.Cout) {
    for (int64_t r = threadIdx.y; r < rows; r += 8) sum += to_float(dy[(first + r) * g.Cout + c]);
  }
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || c >= g.Cout) return;
  sum = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += part[i][threadIdx.x];
  db[blockIdx.y * g.bstep + c] = sum;
  if (!finite(sum)) flags[flag] = 1;
}

} // namespace window

#define WINDOW_WEIGHT_GRADIENT(suffix, T, R, N, ...)                                                                   \
  KERNEL(R, window_weight_gradient_##suffix##_##R##x##N, const T* x, const T* dy, float* dw, int parts, int* flags,    \
         int flag, WINDOW_GEOMETRY) {                                                                                  \
    window::weight_gradient<__VA_ARGS__>(x, dy, dw, parts, flags, flag, WINDOW_VALUES);                                \
  }
#define WINDOW_BIAS_GRADIENT(suffix, T)                                                                                \
  KERNEL(256, window_bias_gradient_##suffix, const T* dy, float* db, int* flags, int flag, WINDOW_GEOMETRY) {          \
    window::bias_gradient<T>(dy, db, flags, flag, WINDOW_VALUES);                                                      \
  }
WINDOW_WEIGHT_GRADIENT(f32, float, 32, 16, window::Plain<32, 16, false, false>)
WINDOW_WEIGHT_GRADIENT(f32, float, 128, 16, window::Plain<128, 16, false, false>)
WINDOW_WEIGHT_GRADIENT(f32, float, 32, 32, window::Plain<32, 32, false, false>)
WINDOW_WEIGHT_GRADIENT(f32, float, 128, 32, window::Plain<128, 32, false, false>)
WINDOW_WEIGHT_GRADIENT(f32, float, 128, 64, window::Plain<128, 64, false, false>)
WINDOW_BIAS_GRADIENT(f32, float)
#ifdef BF16
WINDOW_WEIGHT_GRADIENT(tf32, float, 32, 16, window::Tensor<window::tf32, 32, 16, false, false>)
WINDOW_WEIGHT_GRADIENT(tf32, float, 128, 16, window::Tensor<window::tf32, 128, 16, false, false>)
WINDOW_WEIGHT_GRADIENT(tf32, float, 32, 32, window::Tensor<window::tf32, 32, 32, false, false>)
WINDOW_WEIGHT_GRADIENT(tf32, float, 128, 32, window::Tensor<window::tf32, 128, 32, false, false>)
WINDOW_WEIGHT_GRADIENT(tf32, float, 128, 64, window::Tensor<window::tf32, 128, 64, false, false>)
WINDOW_WEIGHT_GRADIENT(bf16, bf16, 32, 16, window::Tensor<bf16, 32, 16, false, false>)
WINDOW_WEIGHT_GRADIENT(bf16, bf16, 128, 16, window::Tensor<bf16, 128, 16, false, false>)
WINDOW_WEIGHT_GRADIENT(bf16, bf16, 32, 32, window::Tensor<bf16, 32, 32, false, false>)
WINDOW_WEIGHT_GRADIENT(bf16, bf16, 128, 32, window::Tensor<bf16, 128, 32, false, false>)
WINDOW_WEIGHT_GRADIENT(bf16, bf16, 128, 64, window::Tensor<bf16, 128, 64, false, false>)
WINDOW_BIAS_GRADIENT(bf16, bf16)
#endif
#undef WINDOW_WEIGHT_GRADIENT
#undef WINDOW_BIAS_GRADIENT
