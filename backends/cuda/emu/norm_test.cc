// Batch norm, forward, backward and its running statistics, against plain loops in double.
#include "pointwise_test.h"

#include "norm.cu"

using namespace emu;

namespace {

struct Shape {
  int rows, C;
  unsigned blocks; // parts of the sums
  double mean, deviation;
};
// Channels that make whole packs in both types, in float alone, and in neither; fewer rows than threads, and
// than blocks; more packs than threads.
const Shape kShapes[] = {{2, 1, 1, 0, 1},        {37, 3, 2, 5, 0.1}, {100, 16, 3, -1, 2}, {65, 12, 1, 0.5, 1},
                         {300, 40, 11, 1000, 1}, {5, 264, 7, 0, 1},  {3, 2056, 1, 0, 1}};

constexpr double kEpsilon = 1e-5, kMomentum = 0.1;
constexpr double kDouble = 0x1p-53;

// Layer is a batch norm with random parameters, and its statistics by plain loops.
template <class T>
struct Layer {
  int rows, C;
  Array<T> x, dy, residual;
  Array<float> gain, shift, affine;
  Array<double> parts, moments;
  std::vector<double> mean, variance, square; // square is the mean of x²
  unsigned blocks;

  explicit Layer(const Shape& s)
      : rows(s.rows),
        C(s.C),
        x(size(), normal(s)),
        dy(size(), uniform(rng, -1, 1)),
        residual(size(), uniform(rng, -1, 1)),
        gain(width(), uniform(rng, -2, 2)),
        shift(width(), uniform(rng, -1, 1)),
        affine(3 * width()),
        parts(s.blocks * 2 * width()),
        moments(2 * width()),
        mean(width()),
        variance(width()),
        square(width()),
        blocks(s.blocks) {
    for (size_t i = 0; i < size(); i++)
      mean[i % width()] += number(x[i]) / rows, square[i % width()] += number(x[i]) * number(x[i]) / rows;
    for (size_t i = 0; i < size(); i++) variance[i % width()] += std::pow(number(x[i]) - mean[i % width()], 2) / rows;
  }
  size_t size() const { return size_t(rows) * size_t(C); }
  size_t width() const { return size_t(C); }
  static std::function<double()> normal(const Shape& s) {
    return [d = std::normal_distribution<double>(s.mean, s.deviation)]() mutable { return d(rng); };
  }
  dim3 sums_grid(unsigned tiles) const { return dim3(blocks, tiles); }
  dim3 channel_grid() const { return dim3(unsigned(C + 31) / 32); }
  double inverse(size_t c) const { return 1 / std::sqrt(moments[width() + c] + kEpsilon); }

  // statistics by the kernels; tiles of channels may be fewer than there are.
  void statistics(unsigned tiles) {
    launch(sums_grid(tiles), 256, 0, [&] { CALL(T, norm_sums, x, parts, rows, C); });
    launch(channel_grid(), dim3(32, 8), 0,
           [&] { norm_statistics(parts, int(blocks), rows, C, kEpsilon, gain, shift, moments, affine); });
  }
};

template <class T>
void forwards(Cases& cases) {
  for (auto& shape : kShapes) {
    Layer<T> l(shape);
    l.statistics(1);
    SAME_BITS(l.moments);
    for (size_t c = 0; c < l.width(); c++) {
      // A sum of n terms is within n·2^-53 of the sum of their magnitudes, whose mean is at most √(mean x²); then some roundings.
      const double n = 2 * l.rows + 8;
      NEAR(l.moments[c], l.mean[c], n * kDouble * std::sqrt(l.square[c]), "rows=%d C=%d c=%zu", l.rows, l.C, c);
      NEAR(l.moments[l.width() + c], l.variance[c], 2 * n * kDouble * l.square[c], "rows=%d C=%d c=%zu", l.rows, l.C,
           c);
    }
    for (int rectify = 0; rectify < 2; rectify++) {
      for (bool residual : {false, true}) {
        Array<T> y(l.size());
        launch(2, 256, 0, [&] {
          CALL(T, norm_forward, l.x, l.affine, residual ? l.residual.data() : nullptr, y, rectify, l.rows, l.C);
        });
        for (size_t i = 0; i < l.size(); i++) {
          const size_t c = i % l.width();
          const double scale = std::abs(l.gain[c]) * l.inverse(c), centred = number(l.x[i]) - l.moments[c];
          const double norm = l.gain[c] * l.inverse(c) * centred + l.shift[c],
                       sum = norm + (residual ? number(l.residual[i]) : 0);
          // Rounded are the mean, the difference, the scale and the sum of both, then the sum with the residual.
          const double slack =
              kRound * (scale * (std::abs(l.mean[c]) + 2.01 * std::abs(centred)) + 1.01 * std::abs(norm));
          const double want = rectify && sum <= 0 ? 0 : sum;
          NEAR(y[i], want, 1.01 * slack + rounding<T>() * std::abs(sum) + (residual ? kRound * std::abs(sum) : 0),
               "rows=%d C=%d i=%zu", l.rows, l.C, i);
        }
        cases.count();
      }
    }
  }
}

// gates are no rectifier, one that is made again of x, and one whose output is given.
template <class T>
void backwards(Cases& cases) {
  for (auto& shape : kShapes) {
    for (int gate = 0; gate < 3; gate++) {
      Layer<T> l(shape);
      l.statistics(3);
      Array<T> y(l.size()), dx(l.size()), added(l.size(), uniform(rng, -1, 1));
      const Array<T> old(added);
      launch(2, 256, 0,
             [&] { CALL(T, norm_forward, l.x, l.affine, gate == 2 ? l.residual.data() : nullptr, y, 1, l.rows, l.C); });
      const T* output = gate == 2 ? y.data() : nullptr;
      const int rectified = gate == 1;
      Array<float> dgain(l.width()), dshift(l.width()), coefficients(2 * l.width());
      Array<int> flags(2, [] { return 0; });
      launch(l.sums_grid(2), 256, 0,
             [&] { CALL(T, norm_gradient_sums, l.dy, l.x, output, rectified, l.affine, l.parts, l.rows, l.C); });
      launch(l.channel_grid(), dim3(32, 8), 0, [&] {
        norm_gradient(l.parts, int(l.blocks), l.rows, l.C, kEpsilon, l.moments, l.affine, dgain, dshift, coefficients,
                      flags, 1);
      });
      launch(3, 256, 0,
             [&] { CALL(T, norm_backward, l.dy, l.x, output, rectified, l.affine, coefficients, dx, 0, l.rows, l.C); });
      launch(1, 256, 0, [&] {
        CALL(T, norm_backward, l.dy, l.x, output, rectified, l.affine, coefficients, added, 1, l.rows, l.C);
      });
      TRUE(flags[0] == 0 && flags[1] == 0, "rows=%d C=%d", l.rows, l.C);
      SAME_BITS(dgain);
      SAME_BITS(dx);

      auto h = [&](size_t i) { return gate && !(number(y[i]) > 0) ? 0 : number(l.dy[i]); };
      for (size_t c = 0; c < l.width(); c++) {
        double sum = 0, products = 0, magnitude = 0, size = 0;
        for (size_t i = c; i < l.size(); i += l.width()) {
          const double centred = number(l.x[i]) - l.moments[c];
          sum += h(i), products += h(i) * centred, magnitude += std::abs(h(i));
          size += std::abs(h(i)) * (std::abs(centred) + std::abs(l.mean[c]) * kRound);
        }
        // As for the statistics: n terms in double, around the mean as a float, then rounded to float.
        const double n = (2 * l.rows + 8) * kDouble, inverse = l.inverse(c);
        NEAR(dshift[c], sum, kRound * std::abs(sum) + n * magnitude, "rows=%d C=%d c=%zu", l.rows, l.C, c);
        NEAR(dgain[c], products * inverse, kRound * std::abs(products * inverse) + 2 * n * size * inverse,
             "rows=%d C=%d c=%zu", l.rows, l.C, c);
        const double mean = sum / l.rows, slope = products * inverse * inverse / l.rows, scale = l.gain[c] * inverse;
        const double slack = (n * magnitude + 2 * n * size * inverse * inverse) / l.rows * std::abs(scale);
        for (size_t i = c; i < l.size(); i += l.width()) {
          const double centred = number(l.x[i]) - l.moments[c], want = scale * (h(i) - mean - centred * slope);
          // At most six roundings act on each term (scale, coefficient, difference, product, sums, product), one on the mean of x.
          const double terms =
              std::abs(h(i)) + std::abs(mean) + (std::abs(centred) + std::abs(l.mean[c])) * std::abs(slope);
          const double bound =
              6.01 * kRound * std::abs(scale) * terms + slack + std::abs(scale * slope) * kDouble * l.square[c];
          NEAR(dx[i], want, bound + rounding<T>() * std::abs(want), "rows=%d C=%d gate=%d i=%zu", l.rows, l.C, gate, i);
          const double both = want + number(old[i]);
          NEAR(added[i], both, bound + (rounding<T>() + kRound) * (std::abs(both) + bound),
               "rows=%d C=%d gate=%d i=%zu", l.rows, l.C, gate, i);
        }
      }
      cases.count();
    }
  }
}

template <class T>
void spoiled(Cases& cases) {
  for (int bad = 0; bad < 2; bad++) { // NaN in the input, or in the gradient
    Layer<T> l({40, 16, 2, 0, 1});
    (bad ? l.dy : l.x)[16 * 7 + 3] = from_double<T>(NAN);
    l.statistics(1);
    for (size_t c = 0; c < l.width(); c++) {
      TRUE(std::isnan(l.moments[c]) == (c == 3 && !bad), "c=%zu", c);
      TRUE(std::isnan(l.moments[l.width() + c]) == (c == 3 && !bad), "c=%zu", c);
    }
    Array<float> dgain(l.width()), dshift(l.width()), coefficients(2 * l.width());
    Array<int> flags(2, [] { return 0; });
    launch(l.sums_grid(1), 256, 0, [&] {
      CALL(T, norm_gradient_sums, l.dy, l.x, static_cast<T*>(nullptr), 0, l.affine, l.parts, l.rows, l.C);
    });
    launch(l.channel_grid(), dim3(32, 8), 0, [&] {
      norm_gradient(l.parts, int(l.blocks), l.rows, l.C, kEpsilon, l.moments, l.affine, dgain, dshift, coefficients,
                    flags, 1);
    });
    TRUE(flags[0] == 0 && flags[1] == 1, "%d %d", flags[0], flags[1]);
    Array<T> y(l.size());
    launch(1, 256, 0, [&] { CALL(T, norm_forward, l.x, l.affine, static_cast<T*>(nullptr), y, 1, l.rows, l.C); });
    for (size_t i = 0; i < l.size(); i++) TRUE(std::isnan(number(y[i])) == (i % 16 == 3 && !bad), "i=%zu", i);
    cases.count();
  }
}

} // namespace

TEST(statistics_and_forward) {
  Cases cases(2 * 7 * 4);
  BOTH(forwards, cases);
}
TEST(backward) {
  Cases cases(2 * 7 * 3);
  BOTH(backwards, cases);
}
TEST(not_a_number) {
  Cases cases(2 * 2);
  BOTH(spoiled, cases);
}
TEST(constant_channels) { // a variance of exactly 0 is possible only where the sums are exact
  Layer<float> l({64, 4, 3, 0, 1});
  for (auto& v : l.x) v = 1.5f;
  l.statistics(1);
  for (size_t c = 0; c < 4; c++) {
    NEAR(l.moments[c], 1.5, 0, "c=%zu", c);
    NEAR(l.moments[4 + c], 0, 0, "c=%zu", c);
  }
}
TEST(running_statistics) {
  Cases cases(3);
  for (int C : {1, 100, 300}) {
    const int64_t rows = 50;
    const size_t n = size_t(C);
    Array<double> moments(2 * n, uniform(rng, 0, 2));
    Array<float> mean(n, uniform(rng, -1, 1)), variance(n, uniform(rng, 0, 2)), gain(n, uniform(rng, -1, 1)),
        shift(n, uniform(rng, -1, 1)), affine(3 * n);
    const Array<float> mean0(mean), variance0(variance);
    Array<int> flags(300, [] { return 0; });
    flags[299] = 1;
    launch(dim3(unsigned(C + 255) / 256), 256, 0,
           [&] { norm_move(moments, rows, C, kMomentum, mean, variance, flags, 300); });
    TRUE(mean.same(mean0) && variance.same(variance0), "moved in spite of a flag, C=%d", C);
    flags[299] = 0;
    launch(dim3(unsigned(C + 255) / 256), 256, 0,
           [&] { norm_move(moments, rows, C, kMomentum, mean, variance, flags, 300); });
    launch(dim3(unsigned(C + 255) / 256), 256, 0,
           [&] { norm_running(mean, variance, C, kEpsilon, gain, shift, affine); });
    for (size_t c = 0; c < n; c++) {
      // The step and the sum are each rounded to float.
      const double m = mean0[c] + kMomentum * (moments[c] - mean0[c]),
                   v = variance0[c] + kMomentum * (moments[n + c] * rows / (rows - 1.0) - variance0[c]);
      NEAR(mean[c], m, kRound * (std::abs(m) + std::abs(m - mean0[c])) * 1.01, "C=%d c=%zu", C, c);
      NEAR(variance[c], v, kRound * (std::abs(v) + std::abs(v - variance0[c])) * 1.01, "C=%d c=%zu", C, c);
      const double scale = gain[c] / std::sqrt(double(variance[c]) + kEpsilon);
      NEAR(affine[c], mean[c], 0, "C=%d c=%zu", C, c);
      NEAR(affine[n + c], scale, 1.01 * kRound * std::abs(scale), "C=%d c=%zu", C, c);
      NEAR(affine[2 * n + c], shift[c], 0, "C=%d c=%zu", C, c);
    }
    cases.count();
  }
}

int main() { return run_tests(); }
