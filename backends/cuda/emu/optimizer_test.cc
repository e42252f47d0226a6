// The optimisers: bit for bit as in float, in the order of backends/cpu, and near the equations of package optim in double.
#include <array>

#include "pointwise_test.h"

#include "optimizer.cu"

using namespace emu;

namespace {

const size_t kSizes[] = {1, 5, 64, 1027, 4096};

// Spec is an optimiser at step t, as optim.Spec.At makes it.
struct Spec {
  double decay, lr;
  bool decoupled;
  int t;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double shrink() const { return decoupled ? 1 - lr * decay : 1; }
  double l2() const { return decoupled ? 0 : decay; }
  double rate() const { return lr / (1 - std::pow(beta1, t)); }
  double root() const { return std::sqrt(1 - std::pow(beta2, t)); }
};

Array<float> constants(const Spec& s) {
  const double k[] = {s.l2(),  s.shrink(),  s.rate(),    s.epsilon,   s.beta1,
                      s.beta2, 1 - s.beta1, 1 - s.beta2, 1 / s.root()};
  return Array<float>(9, [&, i = 0]() mutable { return k[i++]; });
}

} // namespace

TEST(adam_step) {
  Cases cases(5 * 4);
  for (size_t n : kSizes) {
    for (const Spec& s :
         {Spec{0.01, 1e-3, true, 1}, Spec{0, 1e-2, true, 100}, Spec{0.1, 1e-3, false, 3}, Spec{0, 0, true, 2}}) {
      Array<float> w(n, uniform(rng, -1, 1)), g(n, uniform(rng, -1, 1)), m(n, uniform(rng, -1, 1)),
          v(n, uniform(rng, 0, 1)), k = constants(s);
      const Array<float> w0(w), m0(m), v0(v);
      Array<int> flags(3, [] { return 0; });
      launch(2, 256, 0, [&] { adam(w, g, m, v, int64_t(n), k, flags, 3); });
      for (size_t i = 0; i < n; i++) {
        const float d = g[i] + k[0] * w0[i];
        const float mf = k[4] * m0[i] + k[6] * d, vf = k[5] * v0[i] + k[7] * (d * d);
        const float wf = k[1] * w0[i] - k[2] * mf / (std::sqrt(vf) * k[8] + k[3]);
        NEAR(m[i], mf, 0, "n=%zu i=%zu", n, i);
        NEAR(v[i], vf, 0, "n=%zu i=%zu", n, i);
        NEAR(w[i], wf, 0, "n=%zu i=%zu", n, i);

        const double G = g[i] + s.l2() * w0[i], M = s.beta1 * m0[i] + (1 - s.beta1) * G,
                     V = s.beta2 * v0[i] + (1 - s.beta2) * G * G;
        const double root = std::sqrt(V) / s.root() + s.epsilon, step = s.rate() * M / root,
                     want = s.shrink() * w0[i] - step;
        // Three roundings on each product of m (constant, product, sum) and on L2·w, one on g + L2·w.
        const double dG = kRound * (2 * s.l2() * std::abs(w0[i]) + std::abs(G)),
                     dM =
                         3.01 * kRound * (s.beta1 * std::abs(m0[i]) + (1 - s.beta1) * std::abs(G)) + (1 - s.beta1) * dG;
        // Four on those of v, which are positive, half of that on the root; its scale twice, the root itself, and the sum.
        const double dV = 4.01 * kRound * V + (1 - s.beta2) * 2.01 * std::abs(G) * dG,
                     dRoot = root * (0.505 * dV / V + 4.01 * kRound);
        const double dStep = s.rate() * dM / root + std::abs(step) * (dRoot / root + 3.01 * kRound);
        NEAR(m[i], M, dM, "n=%zu i=%zu", n, i);
        NEAR(v[i], V, dV, "n=%zu i=%zu", n, i);
        NEAR(w[i], want, 1.01 * (dStep + kRound * (2 * std::abs(w0[i]) + std::abs(want))), "n=%zu i=%zu", n, i);
      }
      cases.count();
    }
  }
}

TEST(momentum_step) {
  Cases cases(5);
  for (size_t n : kSizes) {
    Array<float> w(n, uniform(rng, -1, 1)), g(n, uniform(rng, -1, 1)), m(n, uniform(rng, -1, 1));
    const double l2 = 1e-2, moment = 0.9, rate = 0.1;
    Array<float> k(3, [&, i = 0, all = std::array{l2, moment, rate}]() mutable { return all[size_t(i++)]; });
    const Array<float> w0(w), m0(m);
    Array<int> flags(1, [] { return 0; });
    launch(1, 256, 0, [&] { momentum(w, g, m, int64_t(n), k, flags, 1); });
    for (size_t i = 0; i < n; i++) {
      const float mf = k[1] * m0[i] + (g[i] + k[0] * w0[i]);
      NEAR(m[i], mf, 0, "n=%zu i=%zu", n, i);
      NEAR(w[i], w0[i] - k[2] * mf, 0, "n=%zu i=%zu", n, i);
      const double M = moment * m0[i] + g[i] + l2 * w0[i], W = w0[i] - rate * M;
      const double dM =
          kRound * (3.01 * moment * std::abs(m0[i]) + 2.01 * std::abs(g[i]) + 4.01 * l2 * std::abs(w0[i]));
      NEAR(m[i], M, dM, "n=%zu i=%zu", n, i);
      NEAR(w[i], W, rate * dM + kRound * (2.01 * rate * std::abs(M) + std::abs(W)), "n=%zu i=%zu", n, i);
    }
    cases.count();
  }
}

// A gap of the arena, all 0, stays 0; and where a flag is set nothing moves, whatever the gradients are.
TEST(gaps_and_flags) {
  const size_t n = 128;
  Array<float> w(n, [] { return 0; }), g(w), m(w), v(w), k = constants({0.01, 1e-3, true, 1}), zero(w);
  Array<int> flags(300, [] { return 0; });
  launch(1, 256, 0, [&] { adam(w, g, m, v, int64_t(n), k, flags, 300); });
  launch(1, 256, 0, [&] { momentum(w, g, m, int64_t(n), k, flags, 300); });
  TRUE(w.same(zero) && m.same(zero) && v.same(zero), "%s", "a gap moved");
  Cases cases(3);
  for (size_t flag : {0, 256, 299}) {
    for (auto& x : g) x = NAN;
    flags[flag] = 1;
    launch(2, 256, 0, [&] { adam(w, g, m, v, int64_t(n), k, flags, 300); });
    launch(2, 256, 0, [&] { momentum(w, g, m, int64_t(n), k, flags, 300); });
    TRUE(w.same(zero) && m.same(zero) && v.same(zero), "moved in spite of flag %zu", flag);
    flags[flag] = 0;
    cases.count();
  }
}

int main() { return run_tests(); }
