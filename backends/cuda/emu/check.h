// A frame for tests of kernels through the emulation. A test program is a file of TESTs with `int main() { return
// emu::run_tests(); }` at its end; every TEST runs three times, with the threads in three orders (emu::Options).
//
//	TEST(scales) {
//	  Cases cases(3);                     // the test fails unless it counts so many
//	  for (int n : {1, 31, 1000}) {
//	    Array<float> x(n, uniform(rng, -1, 1)), y(n);   // device memory between guard zones; y is full of NaN
//	    emu::launch(grid, block, 0, [&] { scale(x, y, n); });
//	    for (int i = 0; i < n; i++) NEAR(y[i], 2.0 * x[i], 0, "n=%d i=%d", n, i);
//	    cases.count();
//	  }
//	}
#pragma once
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_bf16.h"

namespace emu {

struct Test {
  const char* name;
  void (*run)();
};
inline std::vector<Test>& tests() {
  static std::vector<Test> t;
  return t;
}
inline const char* running = "";
inline int failures = 0, checks = 0;
inline std::mt19937_64 rng;

#define TEST(name)                                                                                                     \
  static void test_##name();                                                                                           \
  static const int added_##name = (emu::tests().push_back({#name, &test_##name}), 0);                                  \
  static void test_##name()

// report notes a failure; only the first ones are printed.
[[gnu::format(printf, 5, 6)]] inline void report(const char* file, int line, const char* what, const char* of,
                                                 const char* format, ...) {
  if (++failures > 20) return;
  printf("%s:%d: %s (order %d): %s: %s: ", file, line, running, options.order, what, of);
  va_list v;
  va_start(v, format);
  vprintf(format, v);
  va_end(v);
  puts("");
}

// TRUE checks a condition; the rest says, as for printf, of what.
#define TRUE(condition, ...)                                                                                           \
  do {                                                                                                                 \
    emu::checks++;                                                                                                     \
    if (!(condition)) emu::report(__FILE__, __LINE__, "not true", #condition, __VA_ARGS__);                            \
  } while (0)

// NEAR checks that got is within bound of want; NaN is only near NaN, an infinity only near itself.
inline bool near(double got, double want, double bound) {
  if (std::isnan(want)) return std::isnan(got);
  return got == want || std::abs(got - want) <= bound;
}
#define NEAR(got, want, bound, format, ...)                                                                            \
  do {                                                                                                                 \
    const double got_ = emu::number(got), want_ = emu::number(want), bound_ = bound;                                   \
    emu::checks++;                                                                                                     \
    if (!emu::near(got_, want_, bound_))                                                                               \
      emu::report(__FILE__, __LINE__, "not near", #got, "is %.9g, want %.9g within %.3g: " format, got_, want_,        \
                  bound_, ##__VA_ARGS__);                                                                              \
  } while (0)
inline double number(double v) { return v; }
inline double number(__nv_bfloat16 v) { return __bfloat162float(v); }

// THROWS checks that a statement throws an Error whose text contains part.
#define THROWS(part, statement)                                                                                        \
  do {                                                                                                                 \
    std::string what_ = "no error";                                                                                    \
    try {                                                                                                              \
      statement;                                                                                                       \
    } catch (const emu::Error& e) {                                                                                    \
      what_ = e.what();                                                                                                \
    }                                                                                                                  \
    TRUE(what_.find(part) != std::string::npos, "%s, want \"%s\"", what_.c_str(), part);                               \
  } while (0)

// Cases fails its test unless count was called as often as expected.
class Cases {
 public:
  explicit Cases(int expected) : expected_(expected) {}
  ~Cases() { TRUE(counted_ == expected_, "%d cases, want %d", counted_, expected_); }
  void count() { counted_++; }

 private:
  int expected_, counted_ = 0;
};

// from_double is v as an element type.
template <class T>
T from_double(double v) {
  return T(v);
}
template <>
inline __nv_bfloat16 from_double<__nv_bfloat16>(double v) {
  return __float2bfloat16_rn(float(v));
}

// Array is n elements of device memory, aligned to 256 bytes, full of bytes 0xff (NaN), between guard zones, which the
// address sanitizer watches and the destructor looks at. Copies are deep.
template <class T>
class Array {
 public:
  explicit Array(size_t n) : n_(n) {
    const size_t whole = (2 * kGuard + n * sizeof(T) + 255) / 256 * 256;
    base_ = static_cast<unsigned char*>(aligned_alloc(256, whole));
    whole_ = whole;
    memset(base_, 0xff, whole);
    memset(base_, kPattern, kGuard);
    memset(base_ + kGuard + n * sizeof(T), kPattern, whole - kGuard - n * sizeof(T));
    ASAN_POISON_MEMORY_REGION(base_, kGuard);
    ASAN_POISON_MEMORY_REGION(base_ + kGuard + n * sizeof(T), whole - kGuard - n * sizeof(T));
  }
  template <class Make>
  Array(size_t n, Make make) : Array(n) {
    for (size_t i = 0; i < n; i++) (*this)[i] = from_double<T>(make());
  }
  Array(const Array& o) : Array(o.n_) { memcpy(data(), o.data(), n_ * sizeof(T)); }
  Array& operator=(const Array&) = delete;
  ~Array() {
    ASAN_UNPOISON_MEMORY_REGION(base_, whole_);
    bool intact = true;
    for (size_t i = 0; i < whole_; i++) intact &= base_[i] == kPattern || (i >= kGuard && i < kGuard + n_ * sizeof(T));
    TRUE(intact, "a guard zone of an array of %zu was written to", n_);
    free(base_);
  }
  T* data() const { return reinterpret_cast<T*>(base_ + kGuard); }
  operator T*() const { return data(); }
  T& operator[](size_t i) const { return data()[i]; }
  size_t size() const { return n_; }
  T* begin() const { return data(); }
  T* end() const { return data() + n_; }
  bool same(const Array& o) const { return n_ == o.n_ && memcmp(data(), o.data(), n_ * sizeof(T)) == 0; } // bit for bit

 private:
  static constexpr size_t kGuard = 1024;
  static constexpr unsigned char kPattern = 0xa5;
  size_t n_, whole_;
  unsigned char* base_;
};

// SAME_BITS checks that an array has the same bits in whatever order the threads of a block ran: those of the first run of the
// test, at the same call.
inline std::map<std::string, std::vector<uint64_t>> digests; // by test
inline size_t digest_number;
template <class T>
bool same_bits(const Array<T>& a) {
  uint64_t hash = 14695981039346656037u; // FNV-1a
  for (size_t i = 0; i < a.size() * sizeof(T); i++)
    hash = (hash ^ reinterpret_cast<const unsigned char*>(a.data())[i]) * 1099511628211u;
  auto& known = digests[running];
  if (options.order == 0) known.push_back(hash);
  const size_t i = digest_number++;
  return i < known.size() && known[i] == hash;
}
#define SAME_BITS(array) TRUE(emu::same_bits(array), "its bits depend on the order of threads")

// uniform makes numbers for an Array.
inline auto uniform(std::mt19937_64& r, double lo, double hi) {
  return [&r, d = std::uniform_real_distribution<double>(lo, hi)]() mutable { return d(r); };
}

// dies tells whether f ends the process, as the sanitizers do; it runs in a child, whose output is dropped.
inline bool dies(const std::function<void()>& f) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    if (!freopen("/dev/null", "w", stderr)) _exit(0);
    f();
    _exit(0);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

inline int run_tests() {
  int ran = 0;
  for (options.order = 0; options.order < 3; options.order++) {
    for (auto& t : tests()) {
      running = t.name;
      rng.seed(1);
      digest_number = 0;
      ran++;
      try {
        t.run();
      } catch (const std::exception& e) {
        report(__FILE__, __LINE__, "threw", t.name, "%s", e.what());
      }
    }
  }
  printf("%s: %d runs of %zu tests, %d checks, %d failures; seed 1\n", failures ? "FAILED" : "ok", ran, tests().size(),
         checks, failures);
  return failures != 0 || ran == 0 || checks == 0;
}

} // namespace emu
