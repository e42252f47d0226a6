// The emulation catches what it says it catches.
#include "check.h"
#include "common.cuh"

using namespace emu;

static void diverge(int* out) {
  if (threadIdx.x < 16) __syncthreads();
  out[threadIdx.x] = 1;
}
static void two_places(int* out) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}
static void half_mask(int* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, int(threadIdx.x), 1); }
static void reversed(int* out, bool barrier) {
  SHARED(int, s, [64]);
  s[threadIdx.x] = int(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = s[63 - threadIdx.x];
}
static void unset(float* out) {
  SHARED(float, s, [32]);
  DYNAMIC_SHARED(float, d);
  if (blockIdx.x == 0) s[threadIdx.x] = d[threadIdx.x] = 1;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x];
  out[blockIdx.x * 64 + 32 + threadIdx.x] = d[threadIdx.x];
}
static void beyond_shared(int* out, int at) {
  SHARED(int, s, [32]);
  SHARED(int, t, [32]);
  s[threadIdx.x] = t[threadIdx.x] = 1;
  out[threadIdx.x] = s[at] + t[0];
}
static void copies(float* out, const float* in, bool wait) {
  SHARED(float, s, [2][32]);
  copy_async<4>(&s[0][threadIdx.x], in + threadIdx.x, true);
  copy_async_commit();
  copy_async<4>(&s[1][threadIdx.x], in + threadIdx.x, threadIdx.x % 2 == 0);
  copy_async_commit();
  if (wait) copy_async_wait<1>();
  out[threadIdx.x] = s[0][threadIdx.x];
  copy_async_wait<0>();
  out[32 + threadIdx.x] = s[1][threadIdx.x];
}
static void too_much_shared() {
  SHARED(float, a, [8 << 10]);
  SHARED(float, b, [8 << 10]);
  a[0] = b[0] = 0;
}
KERNEL(64, emu_test_add, const float* x, float by, float* y, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = x[i] + by;
}

TEST(divergent_barriers) {
  Array<int> out(32);
  THROWS("divergent barrier", launch(1, 32, 0, [&] { diverge(out); }));
  THROWS("divergent barrier", launch(1, 32, 0, [&] { two_places(out); }));
  THROWS("mask of less than the warp", launch(1, 32, 0, [&] { half_mask(out); }));
  THROWS("not whole", launch(1, 16, 0, [&] { __syncwarp(); }));
  THROWS("warp", launch(1, 32, 0, [&] {
           if (threadIdx.x < 31) __syncwarp();
         }));
}

TEST(races) {
  Array<int> a(64), b(64), c(64), d(64);
  const int order = options.order;
  options.order = 0;
  launch(1, 64, 0, [&] { reversed(a, false); });
  launch(1, 64, 0, [&] { reversed(c, true); });
  options.order = 1;
  launch(1, 64, 0, [&] { reversed(b, false); });
  launch(1, 64, 0, [&] { reversed(d, true); });
  options.order = order;
  TRUE(!a.same(b), "a missing barrier went unnoticed");
  TRUE(c.same(d), "a barrier does not hold");
  for (int i = 0; i < 64; i++) TRUE(c[i] == 63 - i, "%d", i);
}

TEST(bits_that_depend_on_the_order) {
  Array<int> out(64);
  launch(1, 64, 0, [&] { reversed(out, true); });
  SAME_BITS(out);
  launch(1, 64, 0, [&] { reversed(out, false); });
  TRUE(same_bits(out) == (options.order == 0), "%s", "a missing barrier went unnoticed");
}

// Every block runs once, whatever the order.
TEST(all_blocks) {
  Cases cases(5);
  for (dim3 grid : {dim3(1), dim3(2, 1, 1), dim3(5, 3, 2), dim3(1, 64), dim3(30, 7, 1)}) {
    Array<int> ran(grid.x * grid.y * grid.z, [] { return 0; });
    launch(grid, 1, 0, [&] { ran[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x]++; });
    for (int n : ran) TRUE(n == 1, "%u blocks: one ran %d times", unsigned(ran.size()), n);
    cases.count();
  }
}

// A block that uses what the one before has made.
TEST(blocks_that_depend_on_each_other) {
  Array<int> out(10, [] { return 0; });
  launch(10, 1, 0, [&] { out[blockIdx.x] = blockIdx.x ? out[blockIdx.x - 1] + 1 : 0; });
  TRUE(same_bits(out) == (options.order == 0), "%s", "went unnoticed");
}

TEST(uninitialised_shared_memory) {
  Array<float> out(128);
  launch(2, 32, 128, [&] { unset(out); });
  for (int i = 0; i < 128; i++) NEAR(out[i], i < 64 ? 1 : NAN, 0, "%d", i);
}

TEST(out_of_bounds) {
  Array<float> x(33), y(33);
  Array<int> out(32);
  TRUE(!dies([&] { launch(2, 32, 0, [&] { emu_test_add(x, 1, y, 33); }); }), "%s", "within bounds");
  TRUE(dies([&] { launch(2, 32, 0, [&] { emu_test_add(x, 1, y, 34); }); }), "%s",
       "an access beyond the end went unnoticed");
  TRUE(dies([&] { launch(1, 32, 0, [&] { beyond_shared(out, 32); }); }), "%s", "beyond a shared array");
  TRUE(dies([&] { launch(1, 32, 0, [&] { beyond_shared(out, -1); }); }), "%s", "before a shared array");
  TRUE(dies([&] {
         launch(1, 32, 64, [&] {
           DYNAMIC_SHARED(int, d);
           d[threadIdx.x] = 0;
         });
       }),
       "%s", "beyond dynamic shared memory");
  TRUE(dies([&] { launch(1, 1, 0, [&] { *reinterpret_cast<float4*>(x + 1) = {}; }); }), "%s", "a misaligned access");
}

TEST(asynchronous_copies) {
  Array<float> in(32, uniform(rng, -1, 1)), out(64);
  launch(1, 32, 0, [&] { copies(out, in, true); });
  for (int i = 0; i < 32; i++) {
    NEAR(out[i], in[i], 0, "%d", i);
    NEAR(out[32 + i], i % 2 ? 0 : in[i], 0, "%d", i);
  }
  launch(1, 32, 0, [&] { copies(out, in, false); });
  for (int i = 0; i < 32; i++) NEAR(out[i], NAN, 0, "%d", i);
  THROWS("misaligned", launch(1, 1, 64, [&] {
           DYNAMIC_SHARED(float, d);
           copy_async<16>(d + 1, in.data(), true);
         }));
  THROWS("did not wait", launch(1, 1, 64, [&] {
           DYNAMIC_SHARED(float, d);
           copy_async<16>(d, in.data(), true);
         }));
}

TEST(limits) {
  THROWS("48 KB", launch(1, 32, 0, [] { too_much_shared(); }));
  THROWS("a block of", launch(1, dim3(1025), 0, [] {}));
  THROWS("a grid of", launch(dim3(1, 65536), 1, 0, [] {}));
}

TEST(warps) {
  Array<int> out(6 * 64);
  launch(1, dim3(8, 8), 0, [&] {
    const int i = int(threadIdx.y * 8 + threadIdx.x);
    out[i] = __shfl_sync(~0u, i, 3);
    out[64 + i] = __shfl_xor_sync(~0u, i, 5);
    out[128 + i] = __shfl_down_sync(~0u, i, 30);
    out[192 + i] = __shfl_up_sync(~0u, i, 2, 8);
    out[256 + i] = int(__ballot_sync(~0u, i % 3 == 0));
    out[320 + i] = int(warp_sum(double(i)));
  });
  for (int i = 0; i < 64; i++) {
    const int lane = i % 32, base = i - lane;
    unsigned ballot = 0;
    for (int l = 0; l < 32; l++) ballot |= unsigned((base + l) % 3 == 0) << l;
    TRUE(out[i] == base + 3, "%d", i);
    TRUE(out[64 + i] == (i ^ 5), "%d", i);
    TRUE(out[128 + i] == (lane < 2 ? i + 30 : i), "%d", i);
    TRUE(out[192 + i] == (i % 8 < 2 ? i : i - 2), "%d", i);
    TRUE(unsigned(out[256 + i]) == ballot, "%d", i);
    TRUE(out[320 + i] == 32 * base + 496, "%d", i);
  }
}

TEST(kernels_by_name) {
  Array<float> x(100, uniform(rng, -1, 1)), y(100);
  const Kernel& k = kernels().at("emu_test_add");
  TRUE(k.arguments == 4 && k.threads == 64, "%d %d", k.arguments, k.threads);
  uint64_t slots[4] = {uint64_t(x.data()), 0, uint64_t(y.data()), 100};
  const float by = 2;
  memcpy(&slots[1], &by, 4);
  void* arguments[4] = {&slots[0], &slots[1], &slots[2], &slots[3]};
  const auto body = k.bind(arguments);
  memset(slots, 0, sizeof slots); // the driver keeps no hold of the caller's arguments
  launch(2, 64, 0, body);
  for (int i = 0; i < 100; i++) NEAR(y[i], x[i] + 2, 0, "%d", i);
}

TEST(bfloat16) {
  Cases cases(7);
  struct {
    float in;
    uint16_t bits;
  } table[] = {{1, 0x3f80},       {-2, 0xc000},       {1.00390625f, 0x3f80}, {1.01171875f, 0x3f82},
               {3.4e38f, 0x7f80}, {INFINITY, 0x7f80}, {NAN, 0x7fff}};
  for (auto& c : table) {
    TRUE(__float2bfloat16_rn(c.in).bits == c.bits, "%g gives %04x", double(c.in), __float2bfloat16_rn(c.in).bits);
    cases.count();
  }
}

int main() { return run_tests(); }
