// Instant sleep, moments of groups and the maps of Hebbian and circuit sleep against plain loops in double.
#include "pointwise_test.h"

#include "plastic.cu"
#include "sleep.cu"
#include "sums.cu"

using namespace emu;

namespace {

constexpr double kDouble = 0x1p-53;

// Layer is weights (positions, elements) and grids of some of the positions.
struct Layer {
  int positions, elements;
  std::vector<std::vector<int>> grids;
  Array<float> w;
  Array<int> list, starts;

  // Grids of a map of width by width with a period, but for the last row, which rests.
  Layer(int width, int period, int elements)
      : positions(width * width),
        elements(elements),
        grids(members(width, period)),
        w(size_t(positions * elements), uniform(rng, -1, 1)),
        list(total(grids)),
        starts(grids.size() + 1) {
    int at = 0;
    for (size_t g = 0; g < grids.size(); g++) {
      starts[g] = at;
      for (int p : grids[g]) list[size_t(at++)] = p;
    }
    starts[grids.size()] = at;
  }
  static std::vector<std::vector<int>> members(int width, int period) {
    std::vector<std::vector<int>> all(size_t(period * period));
    for (int i = 0; i + 1 < width; i++) {
      for (int j = 0; j < width; j++) all[size_t(i % period * period + j % period)].push_back(i * width + j);
    }
    return all;
  }
  static size_t total(const std::vector<std::vector<int>>& grids) {
    size_t n = 0;
    for (auto& g : grids) n += g.size();
    return n;
  }
  float& at(int position, int element) const { return w[size_t(position * elements + element)]; }
  unsigned tiles() const { return unsigned(elements + (elements % 4 ? 31 : 127)) / (elements % 4 ? 32 : 128); }
  dim3 grid() const { return dim3(tiles(), unsigned(grids.size())); }
};

struct Case {
  int width, period, elements;
};
const Case kCases[] = {{4, 2, 1},   {7, 3, 4},   {8, 2, 128}, {9, 3, 131},
                       {16, 3, 36}, {7, 2, 260}, {19, 2, 9},  {18, 2, 12}, {16, 2, 4}};

} // namespace

TEST(instant) {
  Cases cases(9);
  for (auto [width, period, elements] : kCases) {
    Layer l(width, period, elements);
    const Array<float> before(l.w);
    Array<float> naive(l.w);
    const unsigned grids = unsigned(l.grids.size());
    Array<double> parts(size_t(l.tiles()) * grids * 3), sums(3);
    launch(l.grid(), dim3(32, 8), 0, [&] { instant_sleep(l.w, elements, l.list, l.starts, parts); });
    launch(3, 256, 0, [&] { sum_columns(parts, sums, int64_t(l.tiles()) * grids, 3); });
    launch(dim3(unsigned(elements + 255) / 256, grids), 256, 0,
           [&] { naive_instant_sleep(naive, elements, l.list, l.starts); });
    SAME_BITS(l.w);
    SAME_BITS(sums);
    std::vector<bool> asleep(size_t(l.positions));
    double cross = 0, squares = 0, difference = 0;
    for (auto& g : l.grids) {
      for (int e = 0; e < elements; e++) {
        double sum = 0, magnitude = 0;
        for (int p : g) {
          const float v = before[size_t(p * elements + e)];
          sum += v, magnitude += std::abs(v);
        }
        const double mean = sum / double(g.size()), bound = kRound * std::abs(mean) + 2 * kDouble * magnitude;
        for (int p : g) {
          NEAR(l.at(p, e), mean, bound, "width=%d elements=%d", width, elements);
          NEAR(naive[size_t(p * elements + e)], mean, bound, "naive, width=%d elements=%d", width, elements);
          TRUE(l.at(p, e) == l.at(g[0], e), "width=%d elements=%d", width, elements);
          asleep[size_t(p)] = true;
        }
        cross += mean * l.at(g[0], e), squares += mean * mean, difference += std::pow(l.at(g[0], e) - mean, 2);
      }
    }
    for (int p = 0; p < l.positions; p++) {
      for (int e = 0; e < elements && !asleep[size_t(p)]; e++)
        NEAR(l.at(p, e), before[size_t(p * elements + e)], 0, "rests: %d", p);
    }
    // Sums of grids·elements terms and of the grids' positions in double; the last is of differences, each of which a
    // mean's 2^-51 moves.
    const double terms = (grids * unsigned(elements) + unsigned(l.positions)) * 4 * kDouble;
    NEAR(sums[0], cross, terms * squares * 2, "width=%d elements=%d", width, elements);
    NEAR(sums[1], squares, terms * squares * 2, "width=%d elements=%d", width, elements);
    NEAR(sums[2], difference, terms * (difference + std::sqrt(difference * squares) * 2 + squares * terms),
         "width=%d elements=%d", width, elements);
    cases.count();
  }
}

// Equal weights stay as they are, bit for bit, without parts as well; what is not finite spreads over its group only.
TEST(equal_and_bad_weights) {
  Layer l(7, 2, 8);
  for (int p = 0; p < l.positions; p++) {
    for (int e = 0; e < l.elements; e++) l.at(p, e) = float(e) / 3 - 0.1f;
  }
  const Array<float> before(l.w);
  launch(l.grid(), dim3(32, 8), 0, [&] { instant_sleep(l.w, l.elements, l.list, l.starts, nullptr); });
  TRUE(l.w.same(before), "%s", "equal weights changed");
  l.at(l.grids[1][3], 5) = NAN;
  launch(l.grid(), dim3(32, 8), 0, [&] { instant_sleep(l.w, l.elements, l.list, l.starts, nullptr); });
  for (size_t g = 0; g < l.grids.size(); g++) {
    for (int p : l.grids[g]) {
      for (int e = 0; e < l.elements; e++)
        TRUE(std::isnan(l.at(p, e)) == (g == 1 && e == 5), "grid %zu element %d", g, e);
    }
  }
}

TEST(moments) {
  Cases cases(9);
  for (auto [width, period, elements] : kCases) {
    Layer l(width, period, elements);
    for (int p = 0; p < l.positions; p++) l.at(p, 0) = 0.3f; // equal: a variance of exactly 0
    const size_t n = l.grids.size() * size_t(elements);
    Array<double> mean(n), variance(n), only(n);
    launch(l.grid(), dim3(32, 8), 0, [&] { group_moments(l.w, elements, l.list, l.starts, mean, variance); });
    launch(l.grid(), dim3(32, 8), 0, [&] { group_moments(l.w, elements, l.list, l.starts, only, nullptr); });
    SAME_BITS(variance);
    TRUE(only.same(mean), "width=%d elements=%d", width, elements);
    for (size_t g = 0; g < l.grids.size(); g++) {
      for (int e = 0; e < elements; e++) {
        const double first = l.at(l.grids[g][0], e), size = double(l.grids[g].size());
        double d1 = 0, d2 = 0, magnitude = 0;
        for (int p : l.grids[g]) {
          const double d = l.at(p, e) - first;
          d1 += d, d2 += d * d, magnitude += std::abs(d);
        }
        const size_t at = g * size_t(elements) + size_t(e);
        const double want = std::max(0.0, d2 / size - d1 / size * (d1 / size));
        NEAR(mean[at], first + d1 / size, 2 * kDouble * (magnitude + 1), "width=%d elements=%d", width, elements);
        NEAR(variance[at], want, e == 0 ? 0 : 4 * size * kDouble * d2 / size, "width=%d elements=%d", width, elements);
      }
    }
    cases.count();
  }
}

namespace {

// Product is a = b·dᵀ by map_product, within bounds of plain loops.
void product(int rows, int n, int k, Cases& cases) {
  Array<float> a(size_t(rows * k), uniform(rng, -1, 1)), d(size_t(n * k), uniform(rng, -1, 1)), c(size_t(rows * n));
  launch(dim3(unsigned(n + 63) / 64, rows > 64 ? 2 : 1), 256, 0, [&] { map_product(a, d, c, rows, n, k); });
  for (int i = 0; i < rows; i++) {
    for (int j = 0; j < n; j++) {
      double sum = 0, magnitude = 0;
      for (int q = 0; q < k; q++) {
        const double term = double(a[size_t(i * k + q)]) * double(d[size_t(j * k + q)]);
        sum += term, magnitude += std::abs(term);
      }
      NEAR(c[size_t(i * n + j)], sum, k * kRound * magnitude, "rows=%d n=%d k=%d", rows, n, k); // a rounding a term
    }
  }
  cases.count();
}

} // namespace

TEST(products) {
  Cases cases(6);
  product(1, 1, 1, cases);
  product(64, 64, 16, cases);
  product(65, 63, 17, cases);
  product(3, 130, 40, cases);
  product(200, 10, 27, cases);
  product(129, 28, 28, cases);
}

// A whole map on one grid, dense, of low rank and diagonal, with biases and without, of the second of two groups of channels.
TEST(maps) {
  enum { kDense, kFactored, kDiagonal };
  Cases cases(3 * 2);
  for (int kind : {kDense, kFactored, kDiagonal}) {
    for (bool with_bias : {false, true}) {
      const int width = 6, period = 2, Cout = 10, first = 4, cout = 6, K = 18, M = K + with_bias, rank = 3;
      Layer l(width, period, Cout * K);
      const auto& positions = l.grids[2];
      const int count = int(positions.size()), rows = count * cout;
      Array<int> list(size_t(count), [&, i = 0]() mutable { return positions[size_t(i++)]; }), seen { size_t(M) };
      for (int j = 0; j < M; j++) seen[size_t(j)] = j < K ? (j + 7) % K : K;
      Array<float> bias(size_t(l.positions * Cout), uniform(rng, -1, 1)), means(size_t(cout * M), uniform(rng, -1, 1)),
          plus(size_t(cout * M), uniform(rng, -1, 1));
      Array<float> dense(size_t(M * M), uniform(rng, -1, 1)), diagonal(size_t(M), uniform(rng, -1, 1)),
          y(size_t(rank * M), uniform(rng, -1, 1)), xt(size_t(M * rank), uniform(rng, -1, 1));
      Array<float> deviations(size_t(rows * M)), response(size_t(rows * rank)), result(size_t(rows * M));
      const Array<float> w0(l.w), bias0(bias);
      float* const b = with_bias ? bias.data() : nullptr;
      launch(2, 256, 0, [&] { map_take(l.w, b, list, count, seen, means, deviations, Cout, first, cout, K, M); });
      const dim3 wide(1, unsigned(rows + 63) / 64);
      if (kind == kDense) {
        launch(wide, 256, 0, [&] { map_product(deviations, dense, result, rows, M, M); });
      } else if (kind == kFactored) {
        launch(wide, 256, 0, [&] { map_product(deviations, y, response, rows, rank, M); });
        launch(wide, 256, 0, [&] { map_product(response, xt, result, rows, M, rank); });
      }
      const float *from = kind == kDiagonal ? deviations : result,
                  *scale = kind == kDiagonal ? diagonal.data() : nullptr;
      launch(1, 256, 0, [&] { map_put(l.w, b, list, count, seen, from, scale, plus, Cout, first, cout, K, M); });

      std::vector<bool> changed(l.w.size()), bias_changed(bias.size());
      for (int i = 0; i < count; i++) {
        for (int n = 0; n < cout; n++) {
          const size_t neuron = size_t(positions[size_t(i)] * Cout + first + n);
          std::vector<double> d(static_cast<size_t>(M));
          for (int j = 0; j < M; j++) {
            const size_t place = size_t(seen[size_t(j)]);
            d[place] = double(j < K ? w0[neuron * size_t(K) + size_t(j)] : bias0[neuron]) -
                       double(means[size_t(n * M) + place]);
          }
          for (int j = 0; j < M; j++) {
            const size_t place = size_t(seen[size_t(j)]);
            double sum = 0, magnitude = 0;
            int roundings = 3; // the deviation, the product with the diagonal, the sum with plus
            if (kind == kDiagonal) {
              sum = diagonal[place] * d[place], magnitude = std::abs(sum);
            } else if (kind == kDense) {
              for (int q = 0; q < M; q++)
                sum += dense[place * size_t(M) + size_t(q)] * d[size_t(q)],
                    magnitude += std::abs(dense[place * size_t(M) + size_t(q)] * d[size_t(q)]);
              roundings += M;
            } else {
              for (int r = 0; r < rank; r++) {
                double inner = 0, size = 0;
                for (int q = 0; q < M; q++)
                  inner += y[size_t(r * M + q)] * d[size_t(q)], size += std::abs(y[size_t(r * M + q)] * d[size_t(q)]);
                sum += xt[place * rank + size_t(r)] * inner, magnitude += std::abs(xt[place * rank + size_t(r)]) * size;
              }
              roundings += M + rank;
            }
            const double add = plus[size_t(n * M) + place],
                         got = j < K ? l.w[neuron * size_t(K) + size_t(j)] : bias[neuron];
            NEAR(got, sum + add, 1.01 * kRound * (roundings * magnitude + std::abs(sum + add)), "kind=%d bias=%d j=%d",
                 kind, with_bias, j);
            if (j < K)
              changed[neuron * size_t(K) + size_t(j)] = true;
            else
              bias_changed[neuron] = true;
          }
        }
      }
      for (size_t i = 0; i < l.w.size(); i++)
        TRUE(changed[i] || l.w[i] == w0[i], "weight %zu is none of the group's", i);
      for (size_t i = 0; i < bias.size(); i++)
        TRUE(bias_changed[i] || bias[i] == bias0[i], "bias %zu is none of the group's", i);
      cases.count();
    }
  }
}

int main() { return run_tests(); }
