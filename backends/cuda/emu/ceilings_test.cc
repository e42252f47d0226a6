// The kernels that measure a device's limits do the work that they are held to do.
#include "check.h"
#include "common.cuh"
#include "ceilings.cu"

using namespace emu;

TEST(copies_and_scales) {
  Cases cases(5);
  for (unsigned n : {1, 3, 4, 1000, 4099}) {
    Array<float> x(n, uniform(rng, -1, 1)), y(n), z(n);
    launch(2, 256, 0, [&] { copy(x, y, n); });
    TRUE(y.same(x), "n=%u", n);
    launch(3, 128, 0, [&] { scale(x, z, 3, n); });
    launch(1, 256, 0, [&] { scale(y, y, 3, n); });
    for (unsigned i = 0; i < n; i++) NEAR(z[i], 3 * x[i], 0, "n=%u i=%u", n, i);
    TRUE(z.same(y), "in place, n=%u", n);
    cases.count();
  }
}

TEST(multiplies_and_adds) {
  Array<float> y(128);
  launch(2, 64, 0, [&] { ceiling_fma(y, 0.5f, 1, 3); });
  // v = v/8 + 7/4 after three rounds; the sum over v = 0, 1, ..., 7 is 28/8 + 14, exact.
  for (float v : y) NEAR(v, 17.5, 0, "a thread's sum");
}

TEST(multiplies_tiles) {
  Array<float> y(4 * 256), z(4 * 256);
  launch(2, 64, 0, [&] { ceiling_bf16(y, 5); });
  launch(2, 64, 0, [&] { ceiling_tf32(z, 5); });
  for (float v : y) NEAR(v, 160, 0, "bf16");
  for (float v : z) NEAR(v, 80, 0, "tf32");
}

int main() { return run_tests(); }
