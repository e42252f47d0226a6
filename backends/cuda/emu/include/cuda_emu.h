// The subset of CUDA C++ that the kernels use, on the CPU: every CUDA thread is a fiber, the blocks of a launch run one
// after the other, on the thread that launches. It shows whether a kernel computes the right numbers and keeps the rules
// of its language; it says nothing about speed, nor about the order in which a GPU's memory shows writes.
//
// What breaks a rule throws emu::Error out of emu::launch, with the kernel's place in the source where it is known:
//   - a barrier that not all threads of a block, or of a warp, reach, or that they reach at different places;
//   - a shuffle, ballot or warp barrier with a mask of less than the whole warp, or in a warp that is not whole;
//   - more than 48 KB of static shared memory, or a misaligned or bad-sized asynchronous copy.
// What else goes wrong shows so:
//   - shared memory, static and dynamic, is full of NaN (bytes 0xff) at the start of every block;
//   - an asynchronous copy happens when it is waited for, not before, so that a missing wait shows as NaN;
//   - a missing __syncthreads makes the result depend on emu::options.order, the order in which threads run, and so does a
//     block that waits for nothing but uses what another has made;
//   - an access out of bounds is caught by the address sanitizer: each shared array is an allocation of its own;
//   - a misaligned vector access is caught by the undefined-behaviour sanitizer.
//
// Atomics exist for integers only: the kernels must give the same bits on every run.
#pragma once
#ifndef CUDA_EMU
#define CUDA_EMU 1
#endif
#include <math.h>
#include <sanitizer/asan_interface.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <memory>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__ __restrict

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

namespace emu {

// Error is a rule broken by a kernel or by a launch.
struct Error : std::runtime_error {
  using runtime_error::runtime_error;
};

using Place = std::source_location;

inline std::string text(const Place& p) {
  std::string file = p.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(p.line());
}

// Options of all launches. order is that of the threads between two barriers, and of the blocks: 0 as they are numbered, 1
// the other way round, 2 shuffled, by seed.
struct Options {
  int order = 0;
  unsigned seed = 1;
};
inline Options options;

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 64 << 10;          // bytes of a fiber's stack
constexpr size_t kStaticShared = 48 << 10;   // bytes of static shared memory of a block, at most
constexpr size_t kDynamicShared = 227 << 10; // bytes of dynamic shared memory of a block, at most (capability 9.0)

// Gate is where some number of threads meet. It counts its openings, so that it can be used again at once.
struct Gate {
  unsigned arrived = 0, openings = 0;
  Place place; // of the first that arrived
};

struct Warp {
  Gate gate;
  unsigned threads = 0, live = 0;
  alignas(16) unsigned char slot[2][kWarp][16]; // what a shuffle exchanges; two, as a lane may be one shuffle ahead
  float left[32 * 16], right[32 * 16];          // the operands of a matrix product, row by row
};

// Copy is an asynchronous copy that has not happened yet.
struct Copy {
  void* to;
  const void* from;
  unsigned bytes, zeros;
};

struct Fiber {
  void* stack = nullptr; // its stack pointer, while another runs
  ucontext_t* context = nullptr;
  uint3 index{};
  unsigned linear = 0, lane = 0, phase = 0;
  Warp* warp = nullptr;
  bool done = false;
  const Place* waits = nullptr;
  std::vector<Copy> copies;    // begun and not waited for
  std::vector<size_t> commits; // ends of the groups in copies
};

// Shared is one array in shared memory, known by the place in the source that declares it.
struct Shared {
  const void* site;
  size_t bytes;
  unsigned char* memory;
};

struct Block {
  uint3 index{};
  dim3 size, grid;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Gate gate;
  unsigned live = 0;
  uint64_t progress = 0;
  Fiber* current = nullptr;
  const std::function<void()>* body = nullptr;
  void* scheduler = nullptr; // its stack pointer, while a fiber runs
  std::vector<Shared> shared;
  size_t static_bytes = 0, dynamic_bytes = 0;
  std::string error; // of a fiber, which cannot throw across stacks
  ~Block() {
    for (auto& s : shared) free(s.memory);
  }
};
inline thread_local Block* block = nullptr;

#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_SWITCH 1
extern "C" void emu_switch(void** save, void* to);
__asm__(
    ".text\n.weak emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
inline void yield() { emu_switch(&block->current->stack, block->scheduler); }
#else
inline thread_local ucontext_t scheduler_context;
inline void yield() { swapcontext(block->current->context, &scheduler_context); }
#endif

// fail ends the launch with an error. It does not return, but saying so would make the address sanitizer clear a stack that
// it does not know.
inline void fail(const std::string& what, const Place& place) {
  if (block->error.empty()) block->error = "cuda emulation: " + text(place) + ": " + what;
  while (!block->error.empty()) yield();
}

// meet waits at a gate until all of need have arrived, all at one place.
inline void meet(Gate& g, unsigned need, const Place& place) {
  if (g.arrived == 0) {
    g.place = place;
  } else if (g.place.line() != place.line() || strcmp(g.place.file_name(), place.file_name()) != 0) {
    fail("divergent barrier: another thread waits at " + text(g.place), place);
  }
  block->progress++;
  if (++g.arrived == need) {
    g.arrived = 0;
    g.openings++;
    return;
  }
  block->current->waits = &place;
  for (unsigned before = g.openings; g.openings == before;) yield();
  block->current->waits = nullptr;
}

inline void meet_warp(const Place& place) {
  Warp* w = block->current->warp;
  if (w->threads != kWarp || w->live != kWarp) fail("a warp's operation in a warp that is not whole", place);
  meet(w->gate, kWarp, place);
}

inline void meet_warp(unsigned mask, const Place& place) {
  if (mask != 0xffffffffu) fail("a mask of less than the warp", place);
  meet_warp(place);
}

inline void meet_block(const Place& place) {
  if (block->live != block->fibers.size()) fail("divergent barrier: a thread of the block has ended", place);
  meet(block->gate, block->live, place);
}

inline void finish() {
  Fiber* f = block->current;
  if (f->warp->gate.arrived) fail("divergent barrier: a thread of the warp ends", f->warp->gate.place);
  if (block->gate.arrived) fail("divergent barrier: a thread of the block ends", block->gate.place);
  if (!f->copies.empty()) fail("a thread ends with an asynchronous copy that it did not wait for", Place::current());
  f->done = true;
  f->warp->live--;
  block->live--;
  block->progress++;
}

[[noreturn]] inline void fiber_main() {
  (*block->body)();
  finish();
  for (;;) yield();
}

// Stacks are those of the fibers, kept from launch to launch.
struct Stacks : std::vector<unsigned char*> {
  ~Stacks() {
    for (auto p : *this) free(p);
  }
};
inline Stacks& stacks() {
  static thread_local Stacks s;
  return s;
}

// shared is the block's array of a site of the source, allocated the first time that a thread asks for it.
inline unsigned char* shared(const void* site, size_t bytes) {
  for (auto& s : block->shared) {
    if (s.site == site) return s.memory;
  }
  const size_t whole = (bytes / 128 + 1) * 128;
  auto* p = static_cast<unsigned char*>(aligned_alloc(128, whole));
  memset(p, 0xff, bytes);
  ASAN_POISON_MEMORY_REGION(p + bytes, whole - bytes);
  block->shared.push_back({site, bytes, p});
  return p;
}

template <class T>
T& static_shared(const void* site, const Place& place = Place::current()) {
  const size_t before = block->shared.size();
  T* p = reinterpret_cast<T*>(shared(site, sizeof(T)));
  if (block->shared.size() != before && (block->static_bytes += sizeof(T)) > kStaticShared) {
    fail("more than 48 KB of static shared memory", place);
  }
  return *p;
}

inline void* dynamic_shared() {
  static const char site = 0;
  return shared(&site, block->dynamic_bytes);
}

inline void run_block(Block& b) {
  block = &b;
  const unsigned n = b.size.x * b.size.y * b.size.z;
  b.fibers.assign(n, Fiber{});
  b.warps.resize((n + kWarp - 1) / kWarp);
  for (auto& w : b.warps) w.gate = {}, w.threads = w.live = 0;
  for (auto& s : b.shared) memset(s.memory, 0xff, s.bytes);
  b.live = n;
  b.gate = {};
  auto& st = stacks();
  while (st.size() < n) st.push_back(static_cast<unsigned char*>(aligned_alloc(64, kStack)));
#ifndef EMU_SWITCH
  std::vector<ucontext_t> contexts(n);
#endif
  for (unsigned i = 0; i < n; i++) {
    Fiber& f = b.fibers[i];
    f.linear = i, f.lane = i % kWarp, f.warp = &b.warps[i / kWarp];
    f.warp->threads++, f.warp->live++;
    f.index = {i % b.size.x, i / b.size.x % b.size.y, i / (b.size.x * b.size.y)};
#ifdef EMU_SWITCH
    void** sp = reinterpret_cast<void**>(st[i] + kStack - 64);
    *--sp = nullptr;
    *--sp = reinterpret_cast<void*>(&fiber_main);
    for (int r = 0; r < 6; r++) *--sp = nullptr;
    f.stack = sp;
#else
    f.context = &contexts[i];
    getcontext(f.context);
    f.context->uc_stack.ss_sp = st[i];
    f.context->uc_stack.ss_size = kStack;
    f.context->uc_link = nullptr;
    makecontext(f.context, fiber_main, 0);
#endif
  }
  std::vector<unsigned> order(n);
  for (unsigned i = 0; i < n; i++) order[i] = options.order == 1 ? n - 1 - i : i;
  std::mt19937 rng(options.seed);
  while (b.live && b.error.empty()) {
    if (options.order == 2) std::shuffle(order.begin(), order.end(), rng);
    const uint64_t before = b.progress;
    for (unsigned i : order) {
      if (b.fibers[i].done) continue;
      b.current = &b.fibers[i];
#ifdef EMU_SWITCH
      emu_switch(&b.scheduler, b.current->stack);
#else
      swapcontext(&scheduler_context, b.current->context);
#endif
      if (!b.error.empty()) break;
    }
    if (b.live && b.progress == before && b.error.empty()) {
      b.error = "cuda emulation: divergent barrier, waiting:";
      for (auto& f : b.fibers) {
        if (f.waits && b.error.size() < 200) b.error += " " + std::to_string(f.linear) + " at " + text(*f.waits);
      }
    }
  }
  block = nullptr;
  if (!b.error.empty()) { // fibers that did not end leave their stacks' red zones behind
    for (auto p : st) ASAN_UNPOISON_MEMORY_REGION(p, kStack);
    throw Error(b.error);
  }
}

// nth_block is the number of the block that is the i-th to run: in options.order 2 they go in steps that have no factor in
// common with their number.
inline uint64_t nth_block(uint64_t i, uint64_t blocks) {
  if (options.order == 1) return blocks - 1 - i;
  if (options.order != 2) return i;
  uint64_t step = blocks * 618 / 1000 + options.seed % blocks;
  while (std::gcd(step, blocks) != 1) step++;
  return uint64_t((unsigned __int128)(i)*step % blocks);
}

// launch runs body in every thread of a grid. Throws Error.
inline void launch(dim3 grid, dim3 size, size_t dynamic_shared_bytes, const std::function<void()>& body) {
  const uint64_t threads = uint64_t(size.x) * size.y * size.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw Error("cuda emulation: a grid of " + std::to_string(grid.x) + "x" + std::to_string(grid.y) + "x" +
                std::to_string(grid.z) + " blocks");
  }
  if (threads == 0 || threads > 1024 || size.z > 64)
    throw Error("cuda emulation: a block of " + std::to_string(threads) + " threads");
  if (dynamic_shared_bytes > kDynamicShared) {
    throw Error("cuda emulation: " + std::to_string(dynamic_shared_bytes) + " bytes of dynamic shared memory");
  }
  Block b;
  b.size = size, b.grid = grid, b.body = &body, b.dynamic_bytes = dynamic_shared_bytes;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks; i++) {
    const uint64_t at = nth_block(i, blocks);
    b.index = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
    run_block(b);
  }
}

// Kernel is a kernel as a driver sees it: bind reads the arguments from where the pointers show, each in a slot of its
// own, and returns what every thread runs.
struct Kernel {
  std::function<std::function<void()>(void** arguments)> bind;
  std::function<std::vector<std::pair<uintptr_t, bool>>(void** arguments)> pointers; // among them, and whether not to const
  int arguments; // their number
  int threads;   // of a block, at most
};

// kernels are all that KERNEL declares in this program, by name.
inline std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> m;
  return m;
}

struct Registration {
  template <class... A>
  Registration(const char* name, int threads, void (*f)(A...)) {
    auto bind = [f](void** p) {
      return [&]<size_t... I>(std::index_sequence<I...>) -> std::function<void()> {
        auto values = std::make_tuple(*static_cast<std::remove_cv_t<A>*>(p[I])...);
        return [f, values] { std::apply(f, values); };
      }(std::index_sequence_for<A...>{});
    };
    auto pointers = [](void** p) {
      std::vector<std::pair<uintptr_t, bool>> all;
      size_t i = 0;
      auto add = [&]<class T>(std::type_identity<T>) {
        if constexpr (std::is_pointer_v<T>) all.emplace_back(uintptr_t(*static_cast<T*>(p[i])), !std::is_const_v<std::remove_pointer_t<T>>);
        i++;
      };
      (add(std::type_identity<std::remove_cv_t<A>>{}), ...);
      return all;
    };
    if (!kernels().emplace(name, Kernel{bind, pointers, int(sizeof...(A)), threads}).second) {
      fprintf(stderr, "cuda emulation: two kernels %s\n", name);
      abort();
    }
  }
};

// exchange gives every lane the value of another; of is the lane that it asks.
template <class T>
T exchange(T v, unsigned of, const Place& place) {
  static_assert(sizeof(T) <= 16);
  Fiber* f = block->current;
  auto& slots = f->warp->slot[f->phase++ & 1];
  memcpy(slots[f->lane], &v, sizeof v);
  meet_warp(place);
  memcpy(&v, slots[of], sizeof v);
  return v;
}

// async_copy begins an asynchronous copy into shared memory; zeros of its bytes, the last, become 0 and are not read.
inline void async_copy(void* to, const void* from, unsigned bytes, unsigned zeros, const Place& place) {
  if ((bytes != 4 && bytes != 8 && bytes != 16) || zeros > bytes) fail("an asynchronous copy of a bad size", place);
  if (uintptr_t(to) % bytes || (zeros < bytes && uintptr_t(from) % bytes))
    fail("a misaligned asynchronous copy", place);
  block->current->copies.push_back({to, from, bytes, zeros});
}

inline void async_commit() { block->current->commits.push_back(block->current->copies.size()); }

// async_wait makes all groups but the last pending ones happen.
inline void async_wait(size_t pending) {
  Fiber* f = block->current;
  const size_t groups = f->commits.size() > pending ? f->commits.size() - pending : 0;
  if (!groups) return;
  const size_t end = f->commits[groups - 1];
  for (size_t i = 0; i < end; i++) {
    const Copy& c = f->copies[i];
    memcpy(c.to, c.from, c.bytes - c.zeros);
    memset(static_cast<char*>(c.to) + c.bytes - c.zeros, 0, c.zeros);
  }
  f->copies.erase(f->copies.begin(), f->copies.begin() + long(end));
  f->commits.erase(f->commits.begin(), f->commits.begin() + long(groups));
  for (auto& c : f->commits) c -= end;
}

} // namespace emu

#define threadIdx (emu::block->current->index)
#define blockIdx (emu::block->index)
#define blockDim (emu::block->size)
#define gridDim (emu::block->grid)
#define warpSize 32

using std::max;
using std::min;

inline void __syncthreads(const emu::Place& place = emu::Place::current()) { emu::meet_block(place); }
inline void __syncwarp(unsigned mask = ~0u, const emu::Place& place = emu::Place::current()) {
  emu::meet_warp(mask, place);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

inline unsigned emu_lane(unsigned mask, int width, const emu::Place& place) {
  if (mask != 0xffffffffu) emu::fail("a mask of less than the warp", place);
  if (width < 1 || width > 32 || (width & (width - 1))) emu::fail("a shuffle's width that is no power of 2", place);
  return emu::block->current->lane;
}
template <class T>
T __shfl_sync(unsigned mask, T v, int of, int width = 32, const emu::Place& place = emu::Place::current()) {
  const unsigned lane = emu_lane(mask, width, place);
  return emu::exchange(v, (lane & ~unsigned(width - 1)) | (unsigned(of) & unsigned(width - 1)), place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, const emu::Place& place = emu::Place::current()) {
  const unsigned lane = emu_lane(mask, width, place), of = lane ^ unsigned(bits);
  return emu::exchange(v, of / unsigned(width) == lane / unsigned(width) ? of : lane, place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, const emu::Place& place = emu::Place::current()) {
  const unsigned lane = emu_lane(mask, width, place);
  return emu::exchange(v, lane % unsigned(width) + by < unsigned(width) ? lane + by : lane, place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, const emu::Place& place = emu::Place::current()) {
  const unsigned lane = emu_lane(mask, width, place);
  return emu::exchange(v, lane % unsigned(width) >= by ? lane - by : lane, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, const emu::Place& place = emu::Place::current()) {
  emu_lane(mask, 32, place);
  emu::Fiber* f = emu::block->current;
  auto& slots = f->warp->slot[f->phase++ & 1];
  slots[f->lane][0] = predicate != 0;
  emu::meet_warp(place);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; i++) bits |= unsigned(slots[i][0]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int p, const emu::Place& place = emu::Place::current()) {
  return __ballot_sync(mask, p, place) != 0;
}
inline int __all_sync(unsigned mask, int p, const emu::Place& place = emu::Place::current()) {
  return __ballot_sync(mask, p, place) == ~0u;
}
// Barriers that count or combine a predicate of all threads of the block.
inline int __syncthreads_count(int predicate, const emu::Place& place = emu::Place::current()) {
  static const char site = 0;
  auto* flags = emu::shared(&site, 1024);
  flags[emu::block->current->linear] = predicate != 0;
  emu::meet_block(place);
  int n = 0;
  for (size_t i = 0; i < emu::block->fibers.size(); i++) n += flags[i];
  emu::meet_block(place);
  return n;
}
inline int __syncthreads_or(int p, const emu::Place& place = emu::Place::current()) {
  return __syncthreads_count(p, place) != 0;
}
inline int __syncthreads_and(int p, const emu::Place& place = emu::Place::current()) {
  return __syncthreads_count(p, place) == int(emu::block->fibers.size());
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcg(T* p, std::type_identity_t<T> v) {
  *p = v;
}
template <class T>
void __stcs(T* p, std::type_identity_t<T> v) {
  *p = v;
}

template <class T>
concept EmuAtomic = std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;
template <EmuAtomic T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return std::exchange(*p, T(*p + v));
}
template <EmuAtomic T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  return std::exchange(*p, std::max(*p, v));
}
template <EmuAtomic T>
T atomicOr(T* p, std::type_identity_t<T> v) {
  return std::exchange(*p, T(*p | v));
}
template <EmuAtomic T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return std::exchange(*p, v);
}

// Arithmetic that a compiler does not contract. (The emulation is compiled with -ffp-contract=off.)
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

inline unsigned __float_as_uint(float f) {
  unsigned u;
  memcpy(&u, &f, 4);
  return u;
}
inline int __float_as_int(float f) {
  int i;
  memcpy(&i, &f, 4);
  return i;
}
inline float __uint_as_float(unsigned u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline float __int_as_float(int i) {
  float f;
  memcpy(&f, &i, 4);
  return f;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
