// Products of tiles of locally connected layers, convolutions and linear layers against plain loops in double, over kernels,
// strides, groups, patches, odd sizes and batches.
//
// A sum of n products in float32 is off by at most γ(n)·Σ|a||b|, γ(n) = nu/(1-nu), u = 2^-24 (Higham, "Accuracy and stability of
// numerical algorithms", 2nd ed., Section 3.1). Operands rounded to a format of unit v before add (2v + v²)·Σ|a||b|: v is
// 2^-11 for tf32 and 2^-8 for weights in bf16, whose activations are bf16 already; a result in bf16 is rounded once more.
#include "check.h"
#include "naive_window.cu"
#include "sums.cu"
#include "window_forward.cu"
#include "window_input_gradient.cu"
#include "window_weight_gradient.cu"

using namespace emu;

namespace {

struct Case {
  int B, H, W, Cin, Cout, k, stride, pad, groups;
  bool located, bias;
  window::Geometry geometry() const {
    const int K = k * k * Cin / groups;
    return {B,
            H,
            W,
            Cin,
            H / stride,
            W / stride,
            Cout,
            k,
            stride,
            pad,
            groups,
            located ? int64_t(Cout) * K : 0,
            located ? Cout : 0};
  }
};

const Case kCases[] = {
    {1, 4, 4, 3, 5, 3, 1, 1, 1, true, true},    {5, 4, 4, 4, 8, 3, 2, 1, 2, true, false},
    {3, 3, 5, 8, 20, 3, 1, 1, 1, true, false},  {130, 1, 2, 4, 4, 3, 1, 1, 1, true, true},
    {7, 4, 6, 6, 9, 1, 2, 0, 3, true, false},   {2, 4, 4, 3, 7, 2, 2, 0, 1, true, true},
    {33, 1, 2, 16, 33, 1, 1, 0, 1, true, true}, {4, 2, 3, 4, 70, 3, 1, 1, 1, true, false},
    {4, 3, 3, 12, 16, 3, 1, 1, 1, false, true}, {9, 4, 4, 3, 8, 3, 2, 1, 1, false, false},
    {6, 1, 1, 37, 10, 1, 1, 0, 1, false, true}, {2, 4, 5, 4, 4, 5, 1, 2, 2, true, false},
    {3, 4, 4, 5, 4, 1, 4, 0, 1, true, false},   {40, 1, 1, 64, 100, 1, 1, 0, 1, false, true},
};
constexpr int kCount = int(sizeof kCases / sizeof *kCases);

// chosen are the cases for tiles of N columns: all for 16, for wider tiles those that fill more than 16 and some others. They are
// those of any number of rows: batches and receptive fields of less, and of more, than 32 and 128.
bool chosen(int i, int N) { return N == 16 || kCases[i].Cout > 16 || i % 4 == 0; }
constexpr int kChosen = 8;

constexpr double kU = 0x1p-24;
double gamma(double n) { return n * kU / (1 - n * kU); }

// grid is the launch of a tiled kernel.
dim3 grid(int positions, int groups, int rows, int columns, int R, int N) {
  return dim3(unsigned(positions) * unsigned(groups) * unsigned((rows + R - 1) / R) * unsigned((columns + N - 1) / N));
}

// taps calls f(output position, input position, tap) for all on the image.
template <class F>
void taps(const window::Geometry& g, F f) {
  for (int p = 0; p < g.Ho * g.Wo; p++) {
    for (int u = 0; u < g.k * g.k; u++) {
      const int h = p / g.Wo * g.stride - g.pad + u / g.k, l = p % g.Wo * g.stride - g.pad + u % g.k;
      if (h >= 0 && h < g.H && l >= 0 && l < g.W) f(p, h * g.W + l, u);
    }
  }
}

// Want is the exact results in double, and Σ|a||b| beside each.
struct Want {
  std::vector<double> y, y_size, dx, dx_size, dw, dw_size, db, db_size;
};

template <class T>
Want exact(const Case& c, const Array<T>& x, const Array<float>& w, const Array<float>& bias, const Array<T>& dy) {
  const auto g = c.geometry();
  const size_t P = size_t(g.Ho * g.Wo), Q = size_t(g.H * g.W), K = size_t(g.K());
  Want r;
  r.y.assign(P * size_t(g.B * g.Cout), 0), r.y_size = r.y;
  r.dx.assign(Q * size_t(g.B * g.Cin), 0), r.dx_size = r.dx;
  r.dw.assign((c.located ? P : 1) * size_t(g.Cout) * K, 0), r.dw_size = r.dw;
  r.db.assign(size_t(c.located ? int(P) * g.Cout : g.Cout), 0), r.db_size = r.db;
  auto add = [](double& sum, double& size, double v) { sum += v, size += std::abs(v); };
  taps(g, [&](int p, int q, int u) {
    for (int n = 0; n < g.Cout; n++) {
      for (int j = 0; j < g.in(); j++) {
        const size_t weight = size_t(p * g.wstep) + size_t(n) * K + size_t(u * g.in() + j),
                     input = size_t(n / g.out() * g.in() + j);
        for (int b = 0; b < g.B; b++) {
          const size_t a = (size_t(q) * size_t(g.B) + size_t(b)) * size_t(g.Cin) + input,
                       o = (size_t(p) * size_t(g.B) + size_t(b)) * size_t(g.Cout) + size_t(n);
          const double xv = number(x[a]), wv = number(w[weight]), dv = number(dy[o]);
          add(r.y[o], r.y_size[o], xv * wv);
          add(r.dx[a], r.dx_size[a], dv * wv);
          add(r.dw[weight], r.dw_size[weight], xv * dv);
        }
      }
    }
  });
  for (size_t p = 0; p < P; p++) {
    for (int b = 0; b < g.B; b++) {
      for (int n = 0; n < g.Cout; n++) {
        const size_t o = (p * size_t(g.B) + size_t(b)) * size_t(g.Cout) + size_t(n),
                     i = size_t(int64_t(p) * g.bstep + n);
        if (c.bias) add(r.y[o], r.y_size[o], number(bias[i]));
        add(r.db[i], r.db_size[i], number(dy[o]));
      }
    }
  }
  return r;
}

// near_all compares an array with exact numbers: n terms a sum, operands rounded by relative, the result by result, parts of which
// may have been added to old.
template <class T>
void near_all(const char* what, const Array<T>& got, const std::vector<double>& want, const std::vector<double>& size,
              double n, double relative, double result, int number_of_case) {
  TRUE(got.size() == want.size(), "%s: %zu numbers, want %zu", what, got.size(), want.size());
  for (size_t i = 0; i < want.size(); i++) {
    const double bound = (gamma(n) + relative) * size[i];
    NEAR(got[i], want[i], bound + result * (std::abs(want[i]) + bound), "%s: case %d, element %zu", what,
         number_of_case, i);
  }
}

#define ARGUMENTS g.B, g.H, g.W, g.Cin, g.Ho, g.Wo, g.Cout, g.k, g.stride, g.pad, g.groups, g.wstep, g.bstep

// check runs all kernels of a precision at a tile on a case. relative and result are the roundings of operands and results.
#define CHECK(T, suffix, R, N, relative, result)                                                                       \
  TEST(suffix##_##R##x##N) {                                                                                           \
    Cases cases(N == 16 ? kCount : kChosen);                                                                           \
    for (int i = 0; i < kCount; i++) {                                                                                 \
      if (!chosen(i, N)) continue;                                                                                     \
      const Case& c = kCases[i];                                                                                       \
      const auto g = c.geometry();                                                                                     \
      const size_t P = size_t(g.Ho * g.Wo), Q = size_t(g.H * g.W), each = size_t(g.Cout * g.K());                      \
      const double terms = g.K() + 1, uses = double(g.k) * g.k * g.out() + 1,                                          \
                   images = double(g.B) * (c.located ? 1 : double(P)) + 64;                                            \
      Array<T> x(Q* size_t(g.B* g.Cin), uniform(rng, -1, 1)), dy(P* size_t(g.B* g.Cout), uniform(rng, -1, 1)),         \
          y(dy.size()), dx(x.size());                                                                                  \
      Array<float> w((c.located ? P : 1) * each, uniform(rng, -1, 1)),                                                 \
          bias(c.located ? P* size_t(g.Cout) : size_t(g.Cout), uniform(rng, -1, 1));                                   \
      Array<float> dw(w.size()), db(bias.size());                                                                      \
      Array<int> flags(2);                                                                                             \
      flags[0] = flags[1] = 0;                                                                                         \
      const Want want = exact(c, x, w, bias, dy);                                                                      \
      launch(grid(int(P), g.groups, g.B, g.out(), R, N), R, 0,                                                         \
             [&] { window_forward_##suffix##_##R##x##N(x, w, c.bias ? bias.data() : nullptr, y, ARGUMENTS); });        \
      near_all("y", y, want.y, want.y_size, terms, relative, result, i);                                               \
      SAME_BITS(y);                                                                                                    \
      const dim3 inputs = grid(int(Q), g.groups, g.B, g.in(), R, N);                                                   \
      launch(inputs, R, 0, [&] { window_input_gradient_##suffix##_##R##x##N(dy, w, dx, 0, ARGUMENTS); });              \
      near_all("dx", dx, want.dx, want.dx_size, uses, relative, result, i);                                            \
      Array<T> twice(dx);                                                                                              \
      launch(inputs, R, 0, [&] { window_input_gradient_##suffix##_##R##x##N(dy, w, twice, 1, ARGUMENTS); });           \
      auto doubled = want.dx, larger = want.dx_size;                                                                   \
      for (auto& v : doubled) v *= 2;                                                                                  \
      for (auto& v : larger) v *= 2;                                                                                   \
      near_all("dx added", twice, doubled, larger, uses + 1, relative + result, result, i);                            \
      const int count = c.located ? int(P) : std::min(3, int(P));                                                      \
      Array<float> parts(size_t(count) * each);                                                                        \
      launch(grid(count, g.groups, g.K(), g.out(), R, N), R, 0, [&] {                                                  \
        window_weight_gradient_##suffix##_##R##x##N(x, dy, c.located ? dw.data() : parts.data(), count, flags, 1,      \
                                              ARGUMENTS);                                                              \
      });                                                                                                              \
      if (!c.located) launch(2, 256, 0, [&] { sum_parts(parts, dw, count, int64_t(each), flags, 1); });                \
      near_all("dw", dw, want.dw, want.dw_size, images, sizeof(T) == 2 ? 0 : relative, 0, i);                          \
      SAME_BITS(dw);                                                                                                   \
      TRUE(flags[0] == 0 && flags[1] == 0, "case %d: finite numbers raise a flag", i);                                 \
      cases.count();                                                                                                   \
    }                                                                                                                  \
  }

constexpr double kTf32 = 2 * 0x1p-11 + 0x1p-22, kWeights = 0x1p-8;

} // namespace

CHECK(float, f32, 32, 16, 0, 0)
CHECK(float, f32, 128, 16, 0, 0)
CHECK(float, f32, 32, 32, 0, 0)
CHECK(float, f32, 128, 32, 0, 0)
CHECK(float, f32, 128, 64, 0, 0)
CHECK(float, tf32, 32, 16, kTf32, 0)
CHECK(float, tf32, 128, 16, kTf32, 0)
CHECK(float, tf32, 32, 32, kTf32, 0)
CHECK(float, tf32, 128, 32, kTf32, 0)
CHECK(float, tf32, 128, 64, kTf32, 0)
CHECK(bf16, bf16, 32, 16, kWeights, 0x1p-8)
CHECK(bf16, bf16, 128, 16, kWeights, 0x1p-8)
CHECK(bf16, bf16, 32, 32, kWeights, 0x1p-8)
CHECK(bf16, bf16, 128, 32, kWeights, 0x1p-8)
CHECK(bf16, bf16, 128, 64, kWeights, 0x1p-8)

// Biases' gradients, of positions and shared.
template <class T, class Kernel>
void biases(Kernel kernel) {
  Cases cases(kCount);
  for (int i = 0; i < kCount; i++) {
    const Case& c = kCases[i];
    const auto g = c.geometry();
    const size_t P = size_t(g.Ho * g.Wo);
    Array<T> x(size_t(g.H * g.W * g.B * g.Cin), uniform(rng, -1, 1)), dy(P * size_t(g.B * g.Cout), uniform(rng, -1, 1));
    Array<float> w((c.located ? P : 1) * size_t(g.Cout * g.K()), uniform(rng, -1, 1)),
        bias(c.located ? P * size_t(g.Cout) : size_t(g.Cout), uniform(rng, -1, 1));
    Array<float> db(bias.size());
    Array<int> flags(1);
    flags[0] = 0;
    const Want want = exact(c, x, w, bias, dy);
    launch(dim3(unsigned(g.Cout + 31) / 32, c.located ? unsigned(P) : 1), dim3(32, 8), 0,
           [&] { kernel(dy.data(), db.data(), flags.data(), 0, g); });
    near_all("db", db, want.db, want.db_size, double(g.B) * double(P) + 8, 0, 0, i);
    TRUE(flags[0] == 0, "case %d", i);
    cases.count();
  }
}
TEST(biases_f32) {
  biases<float>([](auto... a) {
    [](const float* dy, float* db, int* flags, int flag, window::Geometry g) {
      window_bias_gradient_f32(dy, db, flags, flag, ARGUMENTS);
    }(a...);
  });
}
TEST(biases_bf16) {
  biases<bf16>([](auto... a) {
    [](const bf16* dy, float* db, int* flags, int flag, window::Geometry g) {
      window_bias_gradient_bf16(dy, db, flags, flag, ARGUMENTS);
    }(a...);
  });
}

// What is not finite goes where the definition has it and nowhere else: not over the padding, and it raises the layer's flag.
TEST(not_finite) {
  Cases cases(3);
  for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
    const Case c{3, 4, 4, 4, 4, 3, 1, 1, 1, true, false};
    const auto g = c.geometry();
    Array<float> x(size_t(16 * 3 * 4), uniform(rng, 0.5, 1)), dy(x.size(), uniform(rng, 0.5, 1)),
        w(size_t(16 * 4 * 36), uniform(rng, 0.5, 1));
    Array<float> y(x.size()), y0(x.size()), dx(x.size()), dx0(x.size()), dw(w.size()), dw0(w.size()),
        parts(size_t(4 * 36)), sum(parts.size());
    Array<int> flags(3);
    flags[0] = flags[1] = flags[2] = 0;
    w[5] = float(bad);  // of the corner's first neuron, a tap on the padding
    w[20] = float(bad); // and one on the image
    dy[0] = float(bad);
    const dim3 one = grid(16, 1, 3, 4, 32, 16), all = grid(16, 1, 36, 4, 128, 16);
    launch(one, 32, 0, [&] { window_forward_f32_32x16(x, w, nullptr, y, ARGUMENTS); });
    launch(3, 256, 0, [&] { naive_window_forward_f32(x, w, nullptr, y0, ARGUMENTS); });
    launch(one, 32, 0, [&] { window_input_gradient_f32_32x16(dy, w, dx, 0, ARGUMENTS); });
    launch(3, 256, 0, [&] { naive_window_input_gradient_f32(dy, w, dx0, 0, ARGUMENTS); });
    launch(all, 128, 0, [&] { window_weight_gradient_f32_128x16(x, dy, dw, 16, flags, 0, ARGUMENTS); });
    launch(3, 256, 0, [&] { naive_window_weight_gradient_f32(x, dy, dw0, flags, 1, ARGUMENTS); });
    int infected = 0;
    auto same = [&](const char* what, const Array<float>& a, const Array<float>& b) {
      for (size_t i = 0; i < a.size(); i++) {
        TRUE(std::isnan(a[i]) == std::isnan(b[i]) && std::isinf(a[i]) == std::isinf(b[i]),
             "%s: element %zu is %g, want %g", what, i, a[i], b[i]);
        infected += !std::isfinite(a[i]);
      }
    };
    same("y", y, y0), same("dx", dx, dx0), same("dw", dw, dw0);
    TRUE(infected > 3 && flags[0] == 1 && flags[1] == 1, "%d numbers are not finite, flags %d and %d", infected,
         flags[0], flags[1]);
    auto shared = g;
    shared.wstep = 0;
    {
      const auto g = shared;
      launch(grid(1, 1, 36, 4, 128, 16), 128, 0,
             [&] { window_weight_gradient_f32_128x16(x, dy, parts, 1, nullptr, 0, ARGUMENTS); });
      launch(1, 256, 0, [&] { sum_parts(parts, sum, 1, 4 * 36, flags, 2); });
    }
    for (size_t i = 0; i < sum.size(); i++) {
      bool want = true;
      for (size_t p = 0; p < 16; p++) want &= bool(std::isfinite(dw0[p * sum.size() + i]));
      TRUE(std::isfinite(sum[i]) == want, "shared weight %zu is %g", i, sum[i]);
    }
    TRUE(flags[2] == 1, "no flag");
    cases.count();
  }
}

int main() { return run_tests(); }
