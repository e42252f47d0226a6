// Gradient of the input of locally connected layers, convolutions and linear layers: dx (H·W, B, Cin), or with add dx += …,
// of dy (Ho·Wo, B, Cout) and the weights.
//
//	dx[i, b, c] = Σ_(outputs o that read i, by tap u) Σ_n dy[o, b, n]·w[o, n, u, c]
//
// As many operations and bytes as forward; every weight is read by the one input position that its tap lies on. An input that no output
// reads, behind a stride beyond the kernel, gets 0.
#include "window.cuh"

namespace window {

// InputGradient is the operands of an input position: rows are images, columns input channels, terms the outputs that read the
// position, channel by channel.
template <class T>
struct InputGradient {
  static constexpr bool kAlongA = true, kAlongB = false;
  const Geometry& g;
  const T* dy;    // of the group
  const float* w; // of the group and the tile's first channel
  int h, l, row, images, columns, across, co, terms_, K;
  Uses down, right;
  bool wide_a, wide_b;

  __device__ __forceinline__ InputGradient(const Geometry& g, const T* dy, const float* w, const Place& at)
      : g(g),
        dy(dy + at.group * g.out()),
        w(w + int64_t(at.group * g.out()) * g.K() + at.column),
        h(at.position / g.W),
        l(at.position % g.W),
        row(at.row),
        images(g.B - at.row),
        columns(g.in() - at.column),
        across(0),
        co(g.out()),
        terms_(0),
        K(g.K()),
        down(at.position / g.W, g.Ho, g),
        right(at.position % g.W, g.Wo, g),
        wide_a(g.out() % 4 == 0),
        wide_b(g.in() % 4 == 0) {
    across = right.length();
    terms_ = down.length() * across * co;
  }
  __device__ __forceinline__ int terms() const { return terms_; }

  // At is a term: the output's position and channel, and the tap.
  struct At {
    int64_t output;
    int k, channel, tap, n;
  };
  __device__ __forceinline__ At at(int k) const {
    if (k >= terms_) return At{0, k, 0, 0, 0};
    const int i = k / co, r = down.lo + i / across, s = right.lo + i % across;
    return At{int64_t(r) * g.Wo + s, k, k - i * co, (h + g.pad - r * g.stride) * g.k + l + g.pad - s * g.stride,
              min(4, terms_ - k)};
  }
  __device__ __forceinline__ At place_a(int first, int along) const { return at(first + along); }
  __device__ __forceinline__ int place_b(int, int along) const { return along; }

  __device__ __forceinline__ void read_a(float (&v)[4], const At& t, int, int m) const {
    if (m >= images || t.n == 0) return zero(v);
    if (wide_a) return four(v, dy + (t.output * g.B + row + m) * g.Cout + t.channel, t.n, true);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const At one = at(t.k + i);
      v[i] = i < t.n ? to_float(dy[(one.output * g.B + row + m) * g.Cout + one.channel]) : 0.f;
    }
  }
  __device__ __forceinline__ void read_b(float (&v)[4], int along, int first, int k) const {
    const At t = at(first + k);
    if (t.n == 0 || along >= columns) return zero(v);
    four(v, w + t.output * g.wstep + int64_t(t.channel) * K + t.tap * g.in() + along, columns - along, wide_b);
  }
};

template <class Core, class T>
__device__ __forceinline__ void input_gradient(const T* dy, const float* w, T* dx, int add, const Geometry& g) {
  const Place at(g.B, g.in(), Core::kRows, Core::kColumns, g.groups);
  const int64_t first = int64_t(at.position) * g.B;
  const int channel = at.group * g.in() + at.column;
  product<Core, false>(InputGradient<T>(g, dy, w, at), [&](int m, int n, float v) {
    if (at.row + m >= g.B || at.column + n >= g.in()) return;
    T* to = dx + (first + at.row + m) * g.Cin + channel + n;
    *to = rounded<T>(add ? to_float(*to) + v : v);
  });
}

} // namespace window

#define WINDOW_INPUT_GRADIENT(suffix, T, R, N, ...)                                                                    \
  KERNEL(R, window_input_gradient_##suffix##_##R##x##N, const T* dy, const float* w, T* dx, int add,                   \
         WINDOW_GEOMETRY) {                                                                                            \
    window::input_gradient<__VA_ARGS__>(dy, w, dx, add, WINDOW_VALUES);                                                \
  }
WINDOW_INPUT_GRADIENT(f32, float, 32, 16, window::Plain<32, 16, true, false>)
WINDOW_INPUT_GRADIENT(f32, float, 128, 16, window::Plain<128, 16, true, false>)
WINDOW_INPUT_GRADIENT(f32, float, 32, 32, window::Plain<32, 32, true, false>)
WINDOW_INPUT_GRADIENT(f32, float, 128, 32, window::Plain<128, 32, true, false>)
WINDOW_INPUT_GRADIENT(f32, float, 128, 64, window::Plain<128, 64, true, false>)
#ifdef BF16
WINDOW_INPUT_GRADIENT(tf32, float, 32, 16, window::Tensor<window::tf32, 32, 16, true, false>)
WINDOW_INPUT_GRADIENT(tf32, float, 128, 16, window::Tensor<window::tf32, 128, 16, true, false>)
WINDOW_INPUT_GRADIENT(tf32, float, 32, 32, window::Tensor<window::tf32, 32, 32, true, false>)
WINDOW_INPUT_GRADIENT(tf32, float, 128, 32, window::Tensor<window::tf32, 128, 32, true, false>)
WINDOW_INPUT_GRADIENT(tf32, float, 128, 64, window::Tensor<window::tf32, 128, 64, true, false>)
WINDOW_INPUT_GRADIENT(bf16, bf16, 32, 16, window::Tensor<bf16, 32, 16, true, false>)
WINDOW_INPUT_GRADIENT(bf16, bf16, 128, 16, window::Tensor<bf16, 128, 16, true, false>)
WINDOW_INPUT_GRADIENT(bf16, bf16, 32, 32, window::Tensor<bf16, 32, 32, true, false>)
WINDOW_INPUT_GRADIENT(bf16, bf16, 128, 32, window::Tensor<bf16, 128, 32, true, false>)
WINDOW_INPUT_GRADIENT(bf16, bf16, 128, 64, window::Tensor<bf16, 128, 64, true, false>)
#endif
#undef WINDOW_INPUT_GRADIENT
