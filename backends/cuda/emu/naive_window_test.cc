// Products of locally connected layers and convolutions, and the broadcast of errors, against plain loops in double.
#include "pointwise_test.h"

#include <array>

#include "feedback.cu"
#include "naive_window.cu"
#include "sums.cu"

using namespace emu;

namespace {

// Layer is a geometry with its arrays: elements T, products in which factors are rounded by a share f.
struct Geometry {
  int B, H, W, Cin, Cout, k, stride, pad, groups;
  bool located, bias;
  int Ho() const { return H / stride; }
  int Wo() const { return W / stride; }
  int P() const { return Ho() * Wo(); }
  int in() const { return Cin / groups; }
  int out() const { return Cout / groups; }
  int K() const { return k * k * in(); }
  int64_t wstep() const { return located ? int64_t(Cout) * K() : 0; }
  int64_t bstep() const { return located ? Cout : 0; }
};

const Geometry kCases[] = {
    {1, 4, 4, 3, 5, 3, 1, 1, 1, true, true},    {3, 6, 4, 4, 6, 3, 2, 1, 2, true, false},
    {17, 3, 5, 8, 16, 1, 1, 0, 1, true, true},  {2, 4, 4, 4, 3, 2, 2, 0, 1, true, true},
    {3, 6, 6, 3, 4, 5, 1, 2, 1, false, true},   {9, 4, 6, 4, 8, 3, 2, 1, 4, false, false},
    {5, 1, 1, 19, 11, 1, 1, 0, 1, false, true},
};

enum Product { kF32, kTF32, kBF16 };
constexpr double kFactor[] = {0, 0x1p-11, 0x1p-8};

#define WINDOW(product, name, ...)                                                                                     \
  do {                                                                                                                 \
    if constexpr (product == kF32) naive_window_##name##_f32(__VA_ARGS__);                                             \
    if constexpr (product == kTF32) naive_window_##name##_tf32(__VA_ARGS__);                                           \
    if constexpr (product == kBF16) naive_window_##name##_bf16(__VA_ARGS__);                                           \
  } while (0)
#define PASS(g) g.B, g.H, g.W, g.Cin, g.Ho(), g.Wo(), g.Cout, g.k, g.stride, g.pad, g.groups, g.wstep(), g.bstep()

// Sum is a sum and that of its terms' absolute values.
struct Sum {
  double value = 0, size = 0;
  int terms = 0;
  void add(double v) { value += v, size += std::abs(v), terms++; }
};

// each calls f for every product of a layer: output position p, tap's position q, channel n, weight's place in (Cout, K) and
// input channel c.
template <class F>
void each(const Geometry& g, F f) {
  for (int p = 0; p < g.P(); p++) {
    for (int tap = 0; tap < g.k * g.k; tap++) {
      const int r = p / g.Wo() * g.stride - g.pad + tap / g.k, s = p % g.Wo() * g.stride - g.pad + tap % g.k;
      if (r < 0 || r >= g.H || s < 0 || s >= g.W) continue;
      for (int n = 0; n < g.Cout; n++) {
        for (int c = 0; c < g.in(); c++) f(p, r * g.W + s, n, n * g.K() + tap * g.in() + c, n / g.out() * g.in() + c);
      }
    }
  }
}

// near compares sums: factors are rounded by f each, n terms added in float and the result stored as T.
template <class T, Product product>
void compare(const char* what, const T* got, const std::vector<Sum>& want, int extra = 0) {
  constexpr double f = kFactor[product];
  for (size_t i = 0; i < want.size(); i++) {
    const double n = (want[i].terms + extra + 1) * kRound,
                 sum = want[i].size * (2 * f + f * f + (1 + f) * (1 + f) * n / (1 - n));
    NEAR(got[i], want[i].value, sum + rounding<T>() * (std::abs(want[i].value) + sum), "%s[%zu], product %d", what, i,
         product);
  }
}

template <class T, Product product>
void products(const Geometry& g) {
  const size_t weights = size_t(g.Cout * g.K()), sets = g.located ? size_t(g.P()) : 1;
  Array<T> x(size_t(g.H * g.W * g.B * g.Cin), uniform(rng, -1, 1)),
      dy(size_t(g.P() * g.B * g.Cout), uniform(rng, -1, 1));
  Array<float> w(weights * sets, uniform(rng, -1, 1)), bias(size_t(g.Cout) * sets, uniform(rng, -1, 1));
  const float* biases = g.bias ? bias.data() : nullptr;
  Array<T> y(dy.size()), dx(x.size());
  Array<float> dw(w.size()), dbias(bias.size());
  Array<int> flags(1);
  flags[0] = 0;
  auto in = [&](int q, int b, int c) { return size_t((q * g.B + b) * g.Cin + c); };
  auto out = [&](int p, int b, int n) { return size_t((p * g.B + b) * g.Cout + n); };
  std::vector<Sum> forward(y.size()), inputs(x.size()), gradients(w.size()), shifts(bias.size());
  each(g, [&](int p, int q, int n, int place, int c) {
    const size_t at = size_t(p * g.wstep()) + size_t(place);
    for (int b = 0; b < g.B; b++) {
      forward[out(p, b, n)].add(double(w[at]) * number(x[in(q, b, c)]));
      inputs[in(q, b, c)].add(double(w[at]) * number(dy[out(p, b, n)]));
      gradients[at].add(number(x[in(q, b, c)]) * number(dy[out(p, b, n)]));
    }
  });
  for (int p = 0; p < g.P(); p++) {
    for (int b = 0; b < g.B; b++) {
      for (int n = 0; n < g.Cout; n++) {
        if (g.bias) forward[out(p, b, n)].add(bias[size_t(p * g.bstep() + n)]);
        shifts[size_t(p * g.bstep() + n)].add(number(dy[out(p, b, n)]));
      }
    }
  }
  launch(3, 256, 0, [&] { WINDOW(product, forward, x, w, biases, y, PASS(g)); });
  SAME_BITS(y);
  compare<T, product>("y", y, forward);
  launch(2, 256, 0, [&] { WINDOW(product, input_gradient, dy, w, dx, 0, PASS(g)); });
  SAME_BITS(dx);
  compare<T, product>("dx", dx, inputs);
  for (size_t i = 0; i < dx.size(); i++) inputs[i].add(number(dx[i]));
  launch(2, 256, 0, [&] { WINDOW(product, input_gradient, dy, w, dx, 1, PASS(g)); });
  compare<T, product>("dx added to", dx, inputs);
  if (g.located) {
    launch(2, 256, 0, [&] { WINDOW(product, weight_gradient, x, dy, dw, flags, 0, PASS(g)); });
  } else {
    const int count = std::min(3, g.P());
    Array<float> parts(weights * size_t(count));
    launch(2, 256, 0, [&] { WINDOW(product, weight_parts, x, dy, parts, count, PASS(g)); });
    launch(1, 256, 0, [&] { sum_parts(parts, dw, count, int64_t(weights), flags, 0); });
  }
  SAME_BITS(dw);
  compare<float, product>("dw", dw, gradients, 3);
  launch(1, 256, 0, [&] { CALL(T, naive_window_bias_gradient, dy, dbias, flags, 0, PASS(g)); });
  SAME_BITS(dbias);
  compare<float, kF32>("dbias", dbias, shifts);
  TRUE(flags[0] == 0, "%s", "a flag without cause");
  dy[dy.size() / 2] = from_double<T>(INFINITY);
  launch(1, 256, 0, [&] { CALL(T, naive_window_bias_gradient, dy, dbias, flags, 0, PASS(g)); });
  TRUE(flags[0] == 1, "%s", "an infinite bias without a flag");
}

// philox is Philox4x32-10 with key and upper half of the counter 0.
void philox(uint64_t i, uint32_t words[4]) {
  uint32_t c[4] = {uint32_t(i), uint32_t(i >> 32), 0, 0}, k[2] = {0, 0};
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t(0xD2511F53) * c[0], b = uint64_t(0xCD9E8D57) * c[2];
    const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ k[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k[1],
                              uint32_t(a)};
    memcpy(c, next, sizeof c);
    k[0] += 0x9E3779B9, k[1] += 0xBB67AE85;
  }
  memcpy(words, c, sizeof c);
}

template <class T>
void carries(int P, int C, int O, int B) {
  Array<float> e(size_t(B * O), uniform(rng, -1, 1));
  Array<T> dx(size_t(P * B * C)), once(dx.size());
  std::vector<Sum> want(dx.size());
  for (int j = 0; j < P * C; j++) {
    for (int o = 0; o < O; o++) {
      uint32_t words[4];
      const uint64_t i = uint64_t(j) * uint64_t(O) + uint64_t(o);
      philox(i / 128, words);
      const double sign = words[i % 128 / 32] >> (i % 32) & 1 ? -0.5 : 0.5;
      for (int b = 0; b < B; b++) want[size_t((j / C * B + b) * C + j % C)].add(sign * e[size_t(b * O + o)]);
    }
  }
  const dim3 grid(unsigned(P * C + 255) / 256, unsigned(B + 7) / 8);
  launch(grid, 256, 0, [&] { CALL(T, feedback, e, dx, 0, 0, 0, 0.5f, B, P, C, O); });
  SAME_BITS(dx);
  compare<T, kF32>("dx", dx, want);
  for (size_t i = 0; i < dx.size(); i++) want[i].add(number(dx[i]));
  launch(grid, 256, 0, [&] { CALL(T, feedback, e, dx, 1, 0, 0, 0.5f, B, P, C, O); });
  compare<T, kF32>("dx added to", dx, want);
}

} // namespace

TEST(products) {
  Cases cases(21);
  for (const Geometry& g : kCases) {
    products<float, kF32>(g), cases.count();
    products<float, kTF32>(g), cases.count();
    products<__nv_bfloat16, kBF16>(g), cases.count();
  }
}

TEST(feedback) {
  Cases cases(4);
  uint32_t words[4];
  philox(0, words); // the known answer of the Random123 library
  TRUE(words[0] == 0x6627e8d5 && words[1] == 0xe169c58d && words[2] == 0xbc57ac4c && words[3] == 0x9b00dbd8, "%x",
       words[0]);
  for (auto [P, C, O, B] : {std::array{1, 1, 128, 1}, {3, 5, 7, 9}, {4, 80, 10, 3}, {2, 3, 130, 8}}) {
    carries<float>(P, C, O, B);
    carries<__nv_bfloat16>(P, C, O, B);
    cases.count();
  }
}

int main() { return run_tests(); }
