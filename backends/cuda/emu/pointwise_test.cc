// Rectifier, sums, layouts, pools, loss, finiteness, augmentation and sums of columns against plain loops in double.
#include "pointwise_test.h"

#include "augment.cu"
#include "finite.cu"
#include "layout.cu"
#include "loss.cu"
#include "pool.cu"
#include "relu.cu"
#include "sums.cu"

using namespace emu;

namespace {

const size_t kSizes[] = {1, 7, 8, 9, 255, 1000, 4099}; // with and without whole packs, less and more than a block

template <class T>
void rectifiers(Cases& cases) {
  for (size_t n : kSizes) {
    for (unsigned blocks : {1u, 3u}) {
      Array<T> x(n, uniform(rng, -1, 1)), b(n, uniform(rng, -1, 1)), y(n), dx(n), s(n), t(n), pass(n);
      if (n > 6)
        x[0] = from_double<T>(NAN), x[1] = from_double<T>(-0.0), x[2] = from_double<T>(INFINITY),
        x[3] = from_double<T>(-INFINITY);
      launch(blocks, 256, 0, [&] { CALL(T, relu_forward, x, y, n); });
      launch(blocks, 256, 0, [&] { CALL(T, add_forward, x, b, s, 0, n); });
      launch(blocks, 256, 0, [&] { CALL(T, add_forward, x, b, t, 1, n); });
      launch(blocks, 256, 0, [&] { CALL(T, relu_backward, y, b, dx, 0, n); });
      launch(blocks, 256, 0, [&] { CALL(T, add_backward, b, pass, 0, n); });
      TRUE(pass.same(b), "n=%zu", n);
      for (size_t i = 0; i < n; i++) {
        const double v = number(x[i]), w = number(b[i]), sum = v + w;
        NEAR(y[i], v <= 0 ? 0 : v, 0, "n=%zu i=%zu", n, i);
        TRUE(!std::signbit(number(y[i])) || std::isnan(v), "n=%zu i=%zu", n, i);
        NEAR(dx[i], v > 0 ? w : 0, 0, "n=%zu i=%zu", n, i);
        NEAR(s[i], sum, std::abs(sum) * rounding<T>(), "n=%zu i=%zu", n, i);
        NEAR(t[i], sum <= 0 ? 0 : sum, std::abs(sum) * rounding<T>(), "n=%zu i=%zu", n, i);
      }
      Array<T> before(dx), in_place(x);
      launch(blocks, 256, 0, [&] { CALL(T, relu_backward, y, b, dx, 1, n); });
      launch(blocks, 256, 0, [&] { CALL(T, add_backward, b, pass, 1, n); });
      launch(blocks, 256, 0, [&] { CALL(T, relu_forward, in_place, in_place, n); });
      TRUE(in_place.same(y), "in place, n=%zu", n);
      for (size_t i = 0; i < n; i++) {
        NEAR(dx[i], 2 * number(before[i]), 0, "added, n=%zu i=%zu", n, i);
        NEAR(pass[i], 2 * number(b[i]), 0, "added, n=%zu i=%zu", n, i);
      }
      cases.count();
    }
  }
}

template <class T>
void layouts(Cases& cases) {
  struct {
    int B, P, C;
  } shapes[] = {{1, 1, 1}, {3, 4, 3}, {5, 33, 3}, {2, 35, 70}, {9, 64, 16}};
  for (auto [B, P, C] : shapes) {
    const size_t n = size_t(B * P * C);
    Array<float> pixels(n, uniform(rng, -2, 2)), back(n);
    Array<T> x(n), y(n), z(n);
    launch(2, 256, 0, [&] { CALL(T, images, pixels, x, B, P, C); });
    launch(3, 256, 0, [&] { CALL(T, canonical, x, back, B, P, C); });
    const dim3 grid(unsigned(C + 31) / 32, unsigned(P + 31) / 32, unsigned(std::min(B, 2)));
    launch(grid, dim3(32, 8), 0, [&] { CALL(T, transpose, x, y, 0, B, P, C); });
    Array<T> twice(y);
    launch(grid, dim3(32, 8), 0, [&] { CALL(T, transpose, x, twice, 1, B, P, C); });
    launch(dim3(grid.y, grid.x, 1), dim3(32, 8), 0, [&] { CALL(T, transpose, y, z, 0, B, C, P); });
    TRUE(z.same(x), "transposed twice, B=%d P=%d C=%d", B, P, C);
    for (int b = 0; b < B; b++) {
      for (int p = 0; p < P; p++) {
        for (int c = 0; c < C; c++) {
          const double want = number(from_double<T>(pixels[size_t((b * P + p) * C + c)]));
          NEAR(x[size_t((p * B + b) * C + c)], want, 0, "B=%d P=%d C=%d", B, P, C);
          NEAR(back[size_t((b * P + p) * C + c)], want, 0, "B=%d P=%d C=%d", B, P, C);
          NEAR(y[size_t((c * B + b) * P + p)], want, 0, "B=%d P=%d C=%d", B, P, C);
          NEAR(twice[size_t((c * B + b) * P + p)], 2 * want, 0, "B=%d P=%d C=%d", B, P, C);
        }
      }
    }
    cases.count();
  }
}

template <class T>
void max_pools(Cases& cases) {
  struct {
    int B, H, W, C, k, stride;
    bool ties;
  } shapes[] = {{2, 8, 8, 3, 3, 2, false}, {1, 7, 5, 4, 3, 2, true},  {3, 4, 4, 1, 2, 2, true},
                {1, 6, 6, 2, 3, 1, true},  {2, 5, 5, 2, 5, 3, false}, {1, 4, 4, 2, 1, 3, false}};
  for (auto [B, H, W, C, k, stride, ties] : shapes) {
    const int pad = (k - 1) / 2, Ho = (H + 2 * pad - k) / stride + 1, Wo = (W + 2 * pad - k) / stride + 1;
    const size_t n = size_t(B * H * W * C), m = size_t(B * Ho * Wo * C);
    Array<T> x(n, uniform(rng, -1, 1)), y(m), dy(m, uniform(rng, -1, 1)), dx(n), added(n, uniform(rng, -1, 1));
    if (ties) {
      for (auto& v : x) v = from_double<T>(std::round(number(v) * 2));
      x[n / 2] = x[n / 2 - 1] = from_double<T>(NAN);
    }
    Array<T> old(added);
    launch(2, 256, 0, [&] { CALL(T, max_pool_forward, x, y, B, H, W, C, Ho, Wo, k, stride, pad); });
    launch(1, 256, 0, [&] { CALL(T, max_pool_backward, x, dy, dx, 0, B, H, W, C, Ho, Wo, k, stride, pad); });
    launch(3, 256, 0, [&] { CALL(T, max_pool_backward, x, dy, added, 1, B, H, W, C, Ho, Wo, k, stride, pad); });
    std::vector<double> want(n), magnitude(n);
    for (int o = 0; o < int(m); o++) {
      const int position = o / (B * C), within = o % (B * C), i = position / Wo, j = position % Wo;
      int best = -1;
      for (int u = 0; u < k; u++) {
        for (int v = 0; v < k; v++) {
          const int row = i * stride - pad + u, column = j * stride - pad + v;
          if (row < 0 || row >= H || column < 0 || column >= W) continue;
          const int at = (row * W + column) * B * C + within;
          const double a = number(x[size_t(at)]), b = best < 0 ? 0 : number(x[size_t(best)]);
          if (best < 0 || a > b || (std::isnan(a) && !std::isnan(b))) best = at;
        }
      }
      NEAR(y[size_t(o)], number(x[size_t(best)]), 0, "k=%d stride=%d o=%d", k, stride, o);
      want[size_t(best)] += number(dy[size_t(o)]);
      magnitude[size_t(best)] += std::abs(number(dy[size_t(o)]));
    }
    for (size_t i = 0; i < n; i++) {
      // An input wins at most k² windows: so many additions, then the rounding to T.
      const double bound = k * k * kRound * magnitude[i], both = want[i] + number(old[i]);
      NEAR(dx[i], want[i], bound + rounding<T>() * std::abs(want[i]), "k=%d stride=%d i=%zu", k, stride, i);
      NEAR(added[i], both, bound + rounding<T>() * (std::abs(both) + bound), "added, k=%d stride=%d i=%zu", k, stride,
           i);
    }
    cases.count();
  }
}

template <class T>
void average_pools(Cases& cases) {
  struct {
    int B, P, C;
  } shapes[] = {{1, 1, 1}, {3, 64, 5}, {2, 49, 130}};
  for (auto [B, P, C] : shapes) {
    const size_t size = size_t(B * C), n = size * size_t(P);
    Array<T> x(n, uniform(rng, -1, 1)), y(size), dy(size, uniform(rng, -1, 1)), dx(n);
    launch(1, 256, 0, [&] { CALL(T, average_pool_forward, x, y, B, P, C); });
    launch(2, 256, 0, [&] { CALL(T, average_pool_backward, dy, dx, 0, B, P, C); });
    Array<T> twice(dx);
    launch(2, 256, 0, [&] { CALL(T, average_pool_backward, dy, twice, 1, B, P, C); });
    for (size_t i = 0; i < size; i++) {
      double sum = 0, magnitude = 0;
      for (int p = 0; p < P; p++)
        sum += number(x[size_t(p) * size + i]), magnitude += std::abs(number(x[size_t(p) * size + i]));
      NEAR(y[i], sum / P, rounding<T>() * std::abs(sum / P) + 2 * 0x1p-53 * magnitude, "P=%d i=%zu", P, i);
      for (int p = 0; p < P; p++) { // 1/P and the product are rounded
        const double want = number(dy[i]) / P;
        NEAR(dx[size_t(p) * size + i], want, (rounding<T>() + 1.01 * kRound) * std::abs(want), "P=%d i=%zu", P, i);
        NEAR(twice[size_t(p) * size + i], 2 * want, (2 * rounding<T>() + 3 * kRound) * std::abs(2 * want), "P=%d i=%zu",
             P, i);
      }
    }
    cases.count();
  }
}

template <class T>
void losses(Cases& cases) {
  struct {
    int B, C;
  } shapes[] = {{1, 2}, {3, 10}, {9, 33}, {17, 100}};
  for (auto [B, C] : shapes) {
    const size_t n = size_t(B * C);
    Array<T> logits(n, uniform(rng, -20, 20)), d(n);
    Array<int> labels(size_t(B), [&] { return double(rng() % unsigned(C)); }), ranks{size_t(B)},
        flags(3, [] { return 0; });
    Array<float> loss{size_t(B)};
    for (int c = 0; c < C / 2; c++) logits[size_t(c)] = logits[size_t(C - 1)]; // ties
    const double scale = 1.0 / B;
    launch(dim3(unsigned(B + 7) / 8), 256, 0,
           [&] { CALL(T, softmax_cross_entropy, logits, labels, d, loss, ranks, B, C, scale, flags, 1); });
    TRUE(flags[0] == 0 && flags[1] == 0 && flags[2] == 0, "B=%d C=%d", B, C);
    SAME_BITS(loss);
    SAME_BITS(d);
    for (int b = 0; b < B; b++) {
      const T* row = logits + b * C;
      const int label = labels[size_t(b)];
      double largest = -INFINITY, sum = 0;
      int rank = 0;
      for (int c = 0; c < C; c++) largest = std::max(largest, number(row[c]));
      for (int c = 0; c < C; c++) {
        sum += std::exp(number(row[c]) - largest);
        rank +=
            c != label && (number(row[c]) > number(row[label]) || (number(row[c]) == number(row[label]) && c < label));
      }
      const double want = std::log(sum) - (number(row[label]) - largest);
      // Double, with C+4 roundings of at most 2^-52 each and values of at most 40, then rounded to float.
      const double slack = (C + 4) * 0x1p-52 * 40;
      NEAR(loss[size_t(b)], want, kRound * want + slack, "B=%d C=%d b=%d", B, C, b);
      TRUE(ranks[size_t(b)] == rank, "rank %d, want %d", ranks[size_t(b)], rank);
      for (int c = 0; c < C; c++) {
        const double g = (std::exp(number(row[c]) - largest) / sum - (c == label)) * scale;
        NEAR(d[size_t(b * C + c)], g, rounding<T>() * std::abs(g) + slack * scale, "B=%d C=%d b=%d c=%d", B, C, b, c);
      }
    }
    cases.count();
  }
}

template <class T>
void bad_losses(Cases& cases) {
  const double inf = INFINITY;
  struct {
    double logits[3];
    int label;
    double loss;
    int rank;
  } table[] = {{{0, NAN, 0}, 0, NAN, 1},  {{NAN, 0, 0}, 0, NAN, 2},        {{inf, 0, 0}, 0, NAN, 0},
               {{-inf, 0, 0}, 0, inf, 2}, {{-inf, -inf, -inf}, 1, NAN, 1}, {{0, -inf, 0}, 2, std::log(2), 1}};
  for (auto& row : table) {
    Array<T> logits(3, [&, i = 0]() mutable { return row.logits[i++]; });
    Array<int> label(1, [&] { return row.label; }), rank(1), flags(1, [] { return 0; });
    Array<float> loss(1);
    launch(1, 256, 0, [&] {
      CALL(T, softmax_cross_entropy, logits, label, static_cast<T*>(nullptr), loss, rank, 1, 3, 1.0, flags, 0);
    });
    NEAR(loss[0], row.loss, kRound, "%g %g %g", row.logits[0], row.logits[1], row.logits[2]);
    TRUE(rank[0] == row.rank, "rank %d, want %d", rank[0], row.rank);
    TRUE((flags[0] != 0) == !std::isfinite(row.loss), "%d", flags[0]);
    cases.count();
  }
}

template <class T>
void finites(Cases& cases) {
  for (size_t n : kSizes) {
    Array<T> x(n, uniform(rng, -3e38, 3e38));
    for (double bad : {0.0, double(NAN), double(INFINITY), -double(INFINITY)}) {
      for (size_t at : {size_t(0), n / 2, n - 1}) {
        Array<int> flags(2, [] { return 0; });
        const T kept = x[at];
        x[at] = from_double<T>(bad);
        launch(2, 256, 0, [&] { CALL(T, finite, x, int64_t(n), flags, 1); });
        x[at] = kept;
        TRUE(flags[0] == 0 && flags[1] == (bad != 0), "n=%zu at=%zu %g", n, at, bad);
        cases.count();
      }
    }
  }
}

template <class T>
void augments(Cases& cases) {
  struct {
    int B, H, W, size, pad;
  } shapes[] = {{5, 8, 8, 8, 2}, {3, 6, 7, 5, 0}, {2, 4, 4, 6, 3}};
  for (auto [B, H, W, size, pad] : shapes) {
    const int count = 4, C = 3;
    Array<unsigned char> images(size_t(count * H * W * C), [&] { return double(rng() % 256); });
    Array<float> table(3 * 256, uniform(rng, -3, 3));
    Array<int> order(size_t(B), [&] { return double(rng() % count); }), places(size_t(3 * B));
    for (int b = 0; b < B; b++) {
      places[size_t(3 * b)] = int(rng() % unsigned(H + 2 * pad - size + 1));
      places[size_t(3 * b + 1)] = int(rng() % unsigned(W + 2 * pad - size + 1));
      places[size_t(3 * b + 2)] = b % 2;
    }
    Array<T> x(size_t(size * size * B * C));
    launch(1, 256, 0, [&] { CALL(T, augment, images, order, places, table, x, B, H, W, C, size, pad); });
    for (int b = 0; b < B; b++) {
      for (int i = 0; i < size; i++) {
        for (int j = 0; j < size; j++) { // as in core/data: the pixel that the crop has at j goes to the mirrored place
          const int to = places[size_t(3 * b + 2)] ? size - 1 - j : j;
          const int row = places[size_t(3 * b)] + i - pad, column = places[size_t(3 * b + 1)] + j - pad;
          for (int c = 0; c < C; c++) {
            float want = 0;
            if (row >= 0 && row < H && column >= 0 && column < W) {
              want = table[size_t(256 * c + images[size_t(((order[size_t(b)] * H + row) * W + column) * C + c)])];
            }
            NEAR(x[size_t(((i * size + to) * B + b) * C + c)], number(from_double<T>(want)), 0, "b=%d i=%d j=%d c=%d",
                 b, i, j, c);
          }
        }
      }
    }
    cases.count();
  }
}

} // namespace

TEST(rectifier_and_sum) {
  Cases cases(2 * 7 * 2);
  BOTH(rectifiers, cases);
}
TEST(changes_of_layout) {
  Cases cases(2 * 5);
  BOTH(layouts, cases);
}
TEST(max_pool) {
  Cases cases(2 * 6);
  BOTH(max_pools, cases);
}
TEST(average_pool) {
  Cases cases(2 * 3);
  BOTH(average_pools, cases);
}
TEST(cross_entropy) {
  Cases cases(2 * 4);
  BOTH(losses, cases);
}
TEST(cross_entropy_of_bad_logits) {
  Cases cases(2 * 6);
  BOTH(bad_losses, cases);
}
TEST(not_finite) {
  Cases cases(2 * 7 * 4 * 3);
  BOTH(finites, cases);
}
TEST(augmentation_as_in_core_data) {
  Cases cases(2 * 3);
  BOTH(augments, cases);
}
TEST(column_sums) {
  Cases cases(4);
  for (int rows : {1, 255, 256, 1000}) {
    Array<double> parts(size_t(rows * 3), uniform(rng, -1, 1)), sums(3);
    launch(3, 256, 0, [&] { sum_columns(parts, sums, rows, 3); });
    for (int c = 0; c < 3; c++) {
      double sum = 0, magnitude = 0;
      for (int r = 0; r < rows; r++) sum += parts[size_t(3 * r + c)], magnitude += std::abs(parts[size_t(3 * r + c)]);
      NEAR(sums[size_t(c)], sum, 2 * rows * 0x1p-53 * magnitude, "rows=%d", rows);
    }
    cases.count();
  }
}

int main() { return run_tests(); }
