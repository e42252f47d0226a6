// Forward pass of locally connected layers, convolutions and linear layers: y (Ho·Wo, B, Cout) of x (H·W, B, Cin), weights and
// biases, of which bias null means none.
//
//	y[p, b, n] = bias[p, n] + Σ_(taps u on the image) Σ_c x[p·s + u, b, c]·w[p, n, u, c]
//
// 2·P·B·K·N operations; weights read once for 128 images, 4·P·N·K bytes, and taps of x up to k² times, of which caches serve all
// but the first. With weights of its own, a position of ResNet20 at batch 512 (K = 144, 288, 576; N = 16, 32, 64) has 2·512·K·N
// operations for 4·K·N + 2·4·512·N bytes, x read once: 32, 56 and 92 a byte in float32, above the 20 that a card of 67 TFLOP/s
// and 3.3 TB/s can feed, so that arithmetic binds; with activations in bf16 56, 92 and 135 a byte, below the 300 of its
// tensor cores at 990 TFLOP/s, so that memory binds. At batch 256 half-width ResNet18 (K = 288 to 2304) has 46, 68, 89 and 105.
#include "window.cuh"

namespace window {

// Forward is the operands of a position: rows are images, columns output channels, terms the taps on the image, channel by channel.
template <class T>
struct Forward {
  static constexpr bool kAlongA = true, kAlongB = true;
  const Geometry& g;
  const T* x;     // of the group, at (0, 0, 0)
  const float* w; // of the position and the tile's first channel
  int row, images, columns;
  int top, left, across, ci, terms_, K;
  Span rows, cols;
  bool wide;

  __device__ __forceinline__ Forward(const Geometry& g, const T* x, const float* w, const Place& at)
      : g(g),
        x(x + at.group * g.in()),
        w(w + at.position * g.wstep + int64_t(at.group * g.out() + at.column) * g.K()),
        row(at.row),
        images(g.B - at.row),
        columns(g.out() - at.column),
        top(at.position / g.Wo * g.stride - g.pad),
        left(at.position % g.Wo * g.stride - g.pad),
        across(0),
        ci(g.in()),
        terms_(0),
        K(g.K()),
        rows(at.position / g.Wo, g.H, g),
        cols(at.position % g.Wo, g.W, g),
        wide(g.in() % 4 == 0) {
    across = cols.length();
    terms_ = rows.length() * across * ci;
  }
  __device__ __forceinline__ int terms() const { return terms_; }

  // At is four terms: where x has them for the first image, and which weights of a neuron they are.
  struct At {
    const T* x;
    int k, first, n;
  };
  __device__ __forceinline__ At at(int k) const {
    if (k >= terms_) return At{x, k, 0, 0};
    const int i = k / ci, c = k - i * ci, u = rows.lo + i / across, v = cols.lo + i % across;
    return At{x + (int64_t(top + u) * g.W + left + v) * g.B * g.Cin + c, k, (u * g.k + v) * ci + c, min(4, terms_ - k)};
  }
  __device__ __forceinline__ At place_a(int first, int along) const { return at(first + along); }
  __device__ __forceinline__ At place_b(int first, int along) const { return at(first + along); }

  __device__ __forceinline__ void read_a(float (&v)[4], const At& t, int, int m) const {
    if (m >= images || t.n == 0) return zero(v);
    const int64_t of = int64_t(row + m) * g.Cin;
    if (wide) return four(v, t.x + of, t.n, true);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = i < t.n ? to_float(at(t.k + i).x[of]) : 0.f;
  }
  __device__ __forceinline__ void read_b(float (&v)[4], const At& t, int, int n) const {
    if (n >= columns || t.n == 0) return zero(v);
    const float* of = w + int64_t(n) * K;
    if (wide) return four(v, of + t.first, t.n, true);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = i < t.n ? of[at(t.k + i).first] : 0.f;
  }
};

template <class Core, class T>
__device__ __forceinline__ void forward(const T* x, const float* w, const float* bias, T* y, const Geometry& g) {
  const Place at(g.B, g.out(), Core::kRows, Core::kColumns, g.groups);
  const int64_t first = int64_t(at.position) * g.B;
  const int channel = at.group * g.out() + at.column;
  product<Core, false>(Forward<T>(g, x, w, at), [&](int m, int n, float v) {
    if (at.row + m >= g.B || at.column + n >= g.out()) return;
    if (bias) v += bias[at.position * g.bstep + channel + n];
    y[(first + at.row + m) * g.Cout + channel + n] = rounded<T>(v);
  });
}

} // namespace window

#define WINDOW_FORWARD(suffix, T, R, N, ...)                                                                           \
  KERNEL(R, window_forward_##suffix##_##R##x##N, const T* x, const float* w, const float* bias, T* y,                  \
         WINDOW_GEOMETRY) {                                                                                            \
    window::forward<__VA_ARGS__>(x, w, bias, y, WINDOW_VALUES);                                                        \
  }
WINDOW_FORWARD(f32, float, 32, 16, window::Plain<32, 16, true, true>)
WINDOW_FORWARD(f32, float, 128, 16, window::Plain<128, 16, true, true>)
WINDOW_FORWARD(f32, float, 32, 32, window::Plain<32, 32, true, true>)
WINDOW_FORWARD(f32, float, 128, 32, window::Plain<128, 32, true, true>)
WINDOW_FORWARD(f32, float, 128, 64, window::Plain<128, 64, true, true>)
#ifdef BF16
WINDOW_FORWARD(tf32, float, 32, 16, window::Tensor<window::tf32, 32, 16, true, true>)
WINDOW_FORWARD(tf32, float, 128, 16, window::Tensor<window::tf32, 128, 16, true, true>)
WINDOW_FORWARD(tf32, float, 32, 32, window::Tensor<window::tf32, 32, 32, true, true>)
WINDOW_FORWARD(tf32, float, 128, 32, window::Tensor<window::tf32, 128, 32, true, true>)
WINDOW_FORWARD(tf32, float, 128, 64, window::Tensor<window::tf32, 128, 64, true, true>)
WINDOW_FORWARD(bf16, bf16, 32, 16, window::Tensor<bf16, 32, 16, true, true>)
WINDOW_FORWARD(bf16, bf16, 128, 16, window::Tensor<bf16, 128, 16, true, true>)
WINDOW_FORWARD(bf16, bf16, 32, 32, window::Tensor<bf16, 32, 32, true, true>)
WINDOW_FORWARD(bf16, bf16, 128, 32, window::Tensor<bf16, 128, 32, true, true>)
WINDOW_FORWARD(bf16, bf16, 128, 64, window::Tensor<bf16, 128, 64, true, true>)
#endif
#undef WINDOW_FORWARD
