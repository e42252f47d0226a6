// A library that stands in for the NVIDIA driver's libcuda.so.1 in tests on machines without a GPU: HYPNOS_CUDA_DRIVER
// names it. It has the functions that package driver calls, and runs the kernels of ../kernels through the emulation.
// What it shows is whether the program's calls are right; nothing of it says how fast a GPU would be.
//
// It is strict where a GPU would be lenient, or would fail only sometimes:
//   - work on a stream is not done before something waits for it, so that a missing event or an early change of a buffer shows;
//   - work of two streams on one allocation, of which one writes, is an error unless an event or the host has put one before the other,
//     whichever would have come first here;
//     a kernel uses the whole of the allocations that its arguments point into, and writes where they are no pointers to const;
//   - fresh memory and the zones around it are full of NaN (bytes 0xff), a kernel that writes into a zone loses the device, and a copy
//     beyond an allocation is an error;
//   - a call on a thread without the device's context is an error, and so is a kernel that the module's PTX declares otherwise.
//
// Environment variables, read by cuInit and when a context is made:
//   HYPNOS_EMU_DEVICES     number of devices (1)
//   HYPNOS_EMU_MEMORY      bytes of a device's memory (2147483648)
//   HYPNOS_EMU_CAPABILITY  compute capability, 10·major + minor (80)
//   HYPNOS_EMU_VERSION     CUDA version of the driver, 1000·major + 10·minor (13000)
//   HYPNOS_EMU_INIT        code that cuInit returns (0)
//   HYPNOS_EMU_BUSY        1: another process has the devices for itself
//   HYPNOS_EMU_LAUNCHES    the device is lost at the launch after so many (0: never)
//   HYPNOS_EMU_ORDER       order of the threads of a block: emu::Options
// The device attribute 10001 is the number of objects that are not freed: contexts, memory, streams, events, graphs.
#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include "../kernels/kernels.cu"

#include <time.h>

#include <deque>
#include <mutex>
#include <set>

namespace {

using Work = std::function<CUresult()>;

// Clock is what has happened before: of every stream, by its number, how many pieces of its work.
using Clock = std::map<uint64_t, uint64_t>;

void merge(Clock& into, const Clock& from) {
  for (auto [stream, number] : from) into[stream] = std::max(into[stream], number);
}

// Use is what a piece of work does to an allocation, known by its address.
struct Use {
  uintptr_t at;
  bool writes;
};
using Uses = std::vector<Use>;

constexpr size_t kZone = 256;       // bytes of the zone before an allocation, and at least after
constexpr int kLiveObjects = 10001; // the attribute
constexpr unsigned kUsualShared = 48 << 10, kMostShared = 99 << 10;

long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

double milliseconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6;
}

} // namespace

struct CUctx_st {
  int retained = 0;
  long used = 0, launches = 0, allowed = 0;
  CUresult lost = CUDA_SUCCESS;
  Clock host; // what the host has waited for
};

struct CUfunc_st {
  const char* name;
  const emu::Kernel* kernel;
  unsigned shared = kUsualShared;
};

struct CUmod_st {
  CUcontext context;
  std::map<std::string, int> parameters; // their number, by kernel
  std::map<std::string, CUfunc_st> functions;
};

struct CUgraph_st {
  CUcontext context;
  std::vector<Work> work;
  Uses uses;
  CUstream origin;
  std::set<CUstream> joined; // streams with work that the origin has not waited for
  CUresult broken = CUDA_SUCCESS;
};

struct CUgraphExec_st {
  CUcontext context;
  std::vector<Work> work;
  Uses uses;
};

struct CUstream_st {
  CUcontext context;
  std::deque<Work> work = {};
  uint64_t given = 0, done = 0;  // pieces of work
  CUgraph graph = nullptr;       // that is being recorded
  uint64_t id = 0;               // never used again
  Clock before = {};             // what comes before the work that it is given next
};

struct CUevent_st {
  CUcontext context;
  CUstream stream = nullptr; // where it was recorded, as work number
  uint64_t number = 0;
  CUgraph graph = nullptr; // in which it was recorded
  Clock before = {};       // what had happened then
  double time = 0;         // milliseconds, when it was reached
};

namespace {

struct Memory {
  CUcontext context;
  bool host;
  size_t bytes;
  void* block;
  size_t whole;
  Clock reads, writes; // by stream, the last of each
  uintptr_t start() const { return uintptr_t(block) + kZone; }
};

std::recursive_mutex mutex;
std::map<uintptr_t, Memory> memory;
std::set<CUstream> streams;
std::set<CUevent> events;
std::set<CUgraph> graphs;
std::set<CUgraphExec> execs;
std::set<CUmodule> modules;
CUctx_st contexts[16];
thread_local CUcontext current = nullptr;

// What every call begins with: one thread at a time, and an error without a context or after the device was lost.
#define ENTER                                          \
  std::lock_guard<std::recursive_mutex> entered(mutex); \
  if (!current || !current->retained) return CUDA_ERROR_INVALID_CONTEXT; \
  if (current->lost) return current->lost

// allocation is where n bytes from p on lie, or null.
Memory* allocation(uintptr_t p, size_t n, bool host) {
  auto i = memory.upper_bound(p);
  if (i == memory.begin()) return nullptr;
  --i;
  const bool inside = p - i->first <= i->second.bytes && n <= i->second.bytes - (p - i->first);
  return inside && i->second.host == host ? &i->second : nullptr;
}

uintptr_t allocate(size_t bytes, bool host) {
  const size_t whole = kZone + (bytes / kZone + 2) * kZone;
  auto* block = static_cast<unsigned char*>(aligned_alloc(kZone, whole));
  if (!block) return 0;
  memset(block, 0xff, whole);
  const uintptr_t p = uintptr_t(block) + kZone;
  memory[p] = {current, host, bytes, block, whole, {}, {}};
  return p;
}

// drop deletes what a list has of a context.
template <class T> void drop(std::set<T>& list, CUcontext context) {
  for (auto i = list.begin(); i != list.end();) {
    if ((*i)->context != context) {
      ++i;
      continue;
    }
    delete *i;
    i = list.erase(i);
  }
}

// all_ones tells whether n bytes, at most two zones, are 0xff.
bool all_ones(const unsigned char* p, size_t n) {
  static const std::vector<unsigned char> ones(2 * kZone, 0xff);
  return memcmp(p, ones.data(), n) == 0;
}

// untouched checks the zones around all memory.
bool untouched(const char* after) {
  for (auto& [p, m] : memory) {
    auto* block = static_cast<unsigned char*>(m.block);
    const size_t behind = kZone + m.bytes;
    if (all_ones(block, kZone) && all_ones(block + behind, m.whole - behind)) continue;
    for (size_t i = 0; i < m.whole; i++) {
      if (i == kZone) i += m.bytes;
      if (block[i] == 0xff) continue;
      fprintf(stderr, "fakecuda: kernel %s wrote %ld bytes from the start of an allocation of %zu\n", after, long(i) - long(kZone), m.bytes);
      break;
    }
    return false;
  }
  return true;
}

// advance does the first pieces of a stream's work.
CUresult advance(CUstream s, uint64_t until) {
  while (s->done < until) {
    Work work = std::move(s->work.front());
    s->work.pop_front();
    s->done++;
    if (s->context->lost) continue;
    s->context->lost = work();
  }
  return s->context->lost;
}

// ordered tells whether all pieces of work in last, but those of the stream itself, come before what it is given next.
bool ordered(const Clock& last, CUstream s) {
  for (auto [stream, number] : last) {
    auto i = s->before.find(stream);
    if (stream != s->id && (i == s->before.end() || i->second < number)) return false;
  }
  return true;
}

// use notes what the work that a stream is given does to memory. It is an error where nothing has put it behind the work of another
// stream on the same allocation, of which either writes.
CUresult use(CUstream s, const Uses& uses, const char* what) {
  for (auto [at, writes] : uses) {
    auto i = memory.find(at);
    if (i == memory.end()) continue; // a graph's, freed since
    Memory& m = i->second;
    if (!ordered(m.writes, s) || (writes && !ordered(m.reads, s))) {
      fprintf(stderr, "fakecuda: %s uses an allocation of %zu bytes that another stream uses, with nothing between them\n", what, m.bytes);
      return CUDA_ERROR_LAUNCH_FAILED;
    }
    (writes ? m.writes : m.reads)[s->id] = s->given + 1;
  }
  return CUDA_SUCCESS;
}

CUresult give(CUstream s, Work work, const Uses& uses = {}, const char* what = "") {
  if (!streams.count(s)) return CUDA_ERROR_INVALID_HANDLE;
  if (s->graph) {
    if (s != s->graph->origin) s->graph->joined.insert(s);
    s->graph->work.push_back(std::move(work));
    s->graph->uses.insert(s->graph->uses.end(), uses.begin(), uses.end());
    return s->graph->broken;
  }
  merge(s->before, s->context->host);
  if (CUresult r = use(s, uses, what)) return s->context->lost = r;
  s->work.push_back(std::move(work));
  s->before[s->id] = ++s->given;
  return CUDA_SUCCESS;
}

// waited tells that the host has waited for all that a stream was given.
void waited(CUstream s) { merge(s->context->host, s->before); }

CUresult advance_all(CUcontext context) {
  for (CUstream s : streams) {
    if (s->context == context) advance(s, s->given), waited(s);
  }
  return context->lost;
}

// break_capture is what a call does that is not allowed while a graph is recorded.
CUresult break_capture(CUstream s, CUresult why) {
  s->graph->broken = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  return why;
}

CUresult launch(CUcontext context, const char* name, dim3 grid, dim3 block, unsigned shared, const std::function<void()>& body) {
  if (context->allowed && ++context->launches > context->allowed) return CUDA_ERROR_LAUNCH_FAILED;
  try {
    emu::launch(grid, block, shared, body);
  } catch (const std::exception& e) {
    fprintf(stderr, "fakecuda: kernel %s: %s\n", name, e.what());
    return CUDA_ERROR_LAUNCH_FAILED;
  }
  return untouched(name) ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS;
}

// parameters counts those of every kernel in PTX, by name.
std::map<std::string, int> parameters(const std::string& ptx) {
  std::map<std::string, int> all;
  const std::string mark = ".entry ";
  for (size_t at = 0; (at = ptx.find(mark, at)) != std::string::npos;) {
    at += mark.size();
    const size_t list = ptx.find('(', at), end = ptx.find(')', at);
    int& n = all[ptx.substr(at, list - at)];
    for (size_t i = list; (i = ptx.find(".param", i)) < end; i++) n++;
  }
  return all;
}

const std::map<int, std::pair<const char*, const char*>> codes = {
    {CUDA_ERROR_INVALID_VALUE, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {CUDA_ERROR_OUT_OF_MEMORY, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {CUDA_ERROR_DEVICE_UNAVAILABLE, {"CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"}},
    {CUDA_ERROR_NO_DEVICE, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {CUDA_ERROR_INVALID_DEVICE, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {CUDA_ERROR_INVALID_CONTEXT, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {CUDA_ERROR_INVALID_PTX, {"CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}},
    {CUDA_ERROR_UNSUPPORTED_PTX_VERSION, {"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."}},
    {CUDA_ERROR_INVALID_HANDLE, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {CUDA_ERROR_NOT_FOUND, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {CUDA_ERROR_NOT_READY, {"CUDA_ERROR_NOT_READY", "device not ready"}},
    {CUDA_ERROR_ILLEGAL_ADDRESS, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {CUDA_ERROR_LAUNCH_FAILED, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
     {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {CUDA_ERROR_STREAM_CAPTURE_UNJOINED, {"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"}},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
    {CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, {"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"}},
};

} // namespace

CUresult cuGetErrorName(CUresult code, const char** text) {
  auto i = codes.find(code);
  if (i == codes.end()) return CUDA_ERROR_INVALID_VALUE;
  *text = i->second.first;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult code, const char** text) {
  auto i = codes.find(code);
  if (i == codes.end()) return CUDA_ERROR_INVALID_VALUE;
  *text = i->second.second;
  return CUDA_SUCCESS;
}

CUresult cuInit(unsigned) {
  emu::options.order = int(setting("HYPNOS_EMU_ORDER", 0));
  return CUresult(setting("HYPNOS_EMU_INIT", 0));
}

CUresult cuDriverGetVersion(int* v) {
  *v = int(setting("HYPNOS_EMU_VERSION", 13000));
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* n) {
  *n = int(setting("HYPNOS_EMU_DEVICES", 1));
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* d, int ordinal) {
  int n;
  cuDeviceGetCount(&n);
  if (ordinal < 0 || ordinal >= n || ordinal >= int(std::size(contexts))) return CUDA_ERROR_INVALID_DEVICE;
  *d = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  snprintf(name, size_t(size), "CPU emulation");
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* v, CUdevice_attribute attribute, CUdevice) {
  std::lock_guard<std::recursive_mutex> entered(mutex);
  const int capability = int(setting("HYPNOS_EMU_CAPABILITY", 80));
  switch (int(attribute)) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = capability / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = capability % 10; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 4; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *v = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = kMostShared; break;
    case kLiveObjects:
      *v = int(memory.size() + streams.size() + events.size() + graphs.size() + execs.size() + modules.size());
      for (auto& c : contexts) *v += c.retained;
      break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* n, CUdevice) {
  *n = size_t(setting("HYPNOS_EMU_MEMORY", 2l << 30));
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice d) {
  std::lock_guard<std::recursive_mutex> entered(mutex);
  if (setting("HYPNOS_EMU_BUSY", 0)) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  *c = &contexts[d];
  if (!(*c)->retained++) (*c)->allowed = setting("HYPNOS_EMU_LAUNCHES", 0);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice d) {
  std::lock_guard<std::recursive_mutex> entered(mutex);
  CUcontext c = &contexts[d];
  if (!c->retained) return CUDA_ERROR_INVALID_CONTEXT;
  if (--c->retained) return CUDA_SUCCESS;
  if (c->lost) { // nothing of it could be freed
    for (auto i = memory.begin(); i != memory.end();) {
      if (i->second.context == c) free(i->second.block);
      i = i->second.context == c ? memory.erase(i) : std::next(i);
    }
    drop(streams, c), drop(events, c), drop(graphs, c), drop(execs, c), drop(modules, c);
  }
  *c = CUctx_st{}; // what is left of it otherwise stays in the lists, where a test finds it
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext c) {
  current = c;
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
  ENTER;
  return advance_all(current);
}

CUresult cuMemGetInfo(size_t* unused, size_t* total) {
  ENTER;
  cuDeviceTotalMem(total, 0);
  *unused = *total - size_t(current->used);
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule* m, const void* image, unsigned n, CUjit_option* options, void** values) {
  ENTER;
  const std::string ptx = static_cast<const char*>(image);
  int version;
  cuDriverGetVersion(&version);
  if (version < 11080) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  if (ptx.find(".version") == std::string::npos) {
    char* log = nullptr;
    size_t size = 0;
    for (unsigned i = 0; i < n; i++) {
      if (options[i] == CU_JIT_ERROR_LOG_BUFFER) log = static_cast<char*>(values[i]);
      if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) size = size_t(values[i]);
    }
    if (log) snprintf(log, size, "ptxas fatal   : Missing .version directive at start of file");
    return CUDA_ERROR_INVALID_PTX;
  }
  *m = new CUmod_st{current, parameters(ptx), {}};
  modules.insert(*m);
  return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule m) {
  ENTER;
  if (!modules.erase(m)) return CUDA_ERROR_INVALID_HANDLE;
  delete m;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* f, CUmodule m, const char* name) {
  ENTER;
  if (!modules.count(m)) return CUDA_ERROR_INVALID_HANDLE;
  auto kernel = emu::kernels().find(name);
  auto declared = m->parameters.find(name);
  if (kernel == emu::kernels().end() || declared == m->parameters.end()) return CUDA_ERROR_NOT_FOUND;
  if (declared->second != kernel->second.arguments) {
    fprintf(stderr, "fakecuda: kernel %s has %d parameters, in PTX %d: make ptx\n", name, kernel->second.arguments, declared->second);
    return CUDA_ERROR_INVALID_PTX;
  }
  auto made = m->functions.try_emplace(name, CUfunc_st{kernel->first.c_str(), &kernel->second});
  *f = &made.first->second;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* v, CUfunction_attribute attribute, CUfunction) {
  ENTER;
  if (attribute != CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
  *v = 0; // how much a kernel has is known when it runs
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value) {
  ENTER;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || unsigned(value) > kMostShared) return CUDA_ERROR_INVALID_VALUE;
  f->shared = unsigned(value);
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* p, size_t n) {
  ENTER;
  size_t available, total;
  cuMemGetInfo(&available, &total);
  if (!n) return CUDA_ERROR_INVALID_VALUE;
  if (n > available || !(*p = allocate(n, false))) return CUDA_ERROR_OUT_OF_MEMORY;
  current->used += long(n);
  return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr p) {
  ENTER;
  auto i = memory.find(p);
  if (i == memory.end() || i->second.host) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult r = advance_all(current)) return r;
  current->used -= long(i->second.bytes);
  free(i->second.block);
  memory.erase(i);
  return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void** p, size_t n, unsigned) {
  ENTER;
  if (!n) return CUDA_ERROR_INVALID_VALUE;
  *p = reinterpret_cast<void*>(allocate(n, true));
  return *p ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void* p) {
  ENTER;
  auto i = memory.find(uintptr_t(p));
  if (i == memory.end() || !i->second.host) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult r = advance_all(current)) return r;
  free(i->second.block);
  memory.erase(i);
  return CUDA_SUCCESS;
}

static CUresult copy_bytes(uintptr_t to, bool to_host, uintptr_t from, bool from_host, size_t n, CUstream s) {
  if (!n) return CUDA_SUCCESS;
  Memory *target = allocation(to, n, to_host), *source = allocation(from, n, from_host);
  if (!target || !source) return CUDA_ERROR_INVALID_VALUE;
  const Work copy = [=] {
    memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), n);
    return CUDA_SUCCESS;
  };
  return give(s, copy, {{source->start(), false}, {target->start(), true}}, "a copy");
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t n, CUstream s) {
  ENTER;
  return copy_bytes(to, false, uintptr_t(from), true, n, s);
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t n, CUstream s) {
  ENTER;
  return copy_bytes(uintptr_t(to), true, from, false, n, s);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) {
  ENTER;
  return copy_bytes(to, false, from, false, n, s);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream s) {
  ENTER;
  if (!n) return CUDA_SUCCESS;
  Memory* target = allocation(to, n, false);
  if (!target) return CUDA_ERROR_INVALID_VALUE;
  const Work set = [=] {
    memset(reinterpret_cast<void*>(to), value, n);
    return CUDA_SUCCESS;
  };
  return give(s, set, {{target->start(), true}}, "a fill");
}

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream s,
                        void** arguments, void** extra) {
  ENTER;
  const dim3 grid(gx, gy, gz), block(bx, by, bz);
  if (extra || !gx || !gy || !gz || gx > 0x7fffffffu || gy > 65535 || gz > 65535) return CUDA_ERROR_INVALID_VALUE;
  if (bx * by * bz == 0 || uint64_t(bx) * by * bz > uint64_t(f->kernel->threads) || bz > 64) return CUDA_ERROR_INVALID_VALUE;
  if (shared > f->shared) return CUDA_ERROR_INVALID_VALUE;
  Uses uses;
  for (auto [p, writes] : f->kernel->pointers(arguments)) {
    if (Memory* m = allocation(p, 0, false)) uses.push_back({m->start(), writes});
  }
  const Work work = [=, body = f->kernel->bind(arguments), context = current, name = f->name] { return launch(context, name, grid, block, shared, body); };
  return give(s, work, uses, f->name);
}

CUresult cuStreamCreate(CUstream* s, unsigned) {
  ENTER;
  static uint64_t id = 0;
  *s = new CUstream_st{.context = current, .id = ++id};
  streams.insert(*s);
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream s) {
  ENTER;
  if (!streams.count(s)) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult r = advance(s, s->given);
  for (CUevent e : events) {
    if (e->stream == s) e->stream = nullptr;
    e->before.erase(s->id);
  }
  // What it was given is done: everything comes after it.
  s->context->host.erase(s->id);
  for (CUstream other : streams) other->before.erase(s->id);
  for (auto& [at, m] : memory) m.reads.erase(s->id), m.writes.erase(s->id);
  streams.erase(s);
  delete s;
  return r;
}

CUresult cuStreamSynchronize(CUstream s) {
  ENTER;
  if (!streams.count(s)) return CUDA_ERROR_INVALID_HANDLE;
  if (s->graph) return break_capture(s, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  waited(s);
  return advance(s, s->given);
}

CUresult cuEventCreate(CUevent* e, unsigned) {
  ENTER;
  events.insert(*e = new CUevent_st{.context = current});
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent e) {
  ENTER;
  if (!events.count(e)) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult r = advance_all(current)) return r; // work that writes its time
  events.erase(e);
  delete e;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent e, CUstream s) {
  ENTER;
  if (!events.count(e) || !streams.count(s)) return CUDA_ERROR_INVALID_HANDLE;
  e->graph = s->graph;
  e->stream = s;
  if (s->graph) return s->graph->broken; // in a graph an event is nothing but an order
  const CUresult r = give(s, [e] {
    e->time = milliseconds();
    return CUDA_SUCCESS;
  });
  e->number = s->given;
  e->before = s->before;
  return r;
}

CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned) {
  ENTER;
  if (!events.count(e) || !streams.count(s)) return CUDA_ERROR_INVALID_HANDLE;
  if (e->graph) { // that is being recorded; its work is in order as it is
    if (s->graph && s->graph != e->graph) return break_capture(s, CUDA_ERROR_STREAM_CAPTURE_MERGE);
    s->graph = e->graph;
    if (s != e->graph->origin) e->graph->joined.insert(s);
    if (s == e->graph->origin) e->graph->joined.erase(e->stream);
    return e->graph->broken;
  }
  if (s->graph) return break_capture(s, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
  if (!e->stream) return CUDA_SUCCESS; // never recorded, or the stream has ended
  merge(s->before, e->before);
  return give(s, [on = e->stream, number = e->number] { return streams.count(on) ? advance(on, number) : CUDA_SUCCESS; });
}

CUresult cuEventElapsedTime(float* ms, CUevent from, CUevent to) {
  ENTER;
  if (!events.count(from) || !events.count(to)) return CUDA_ERROR_INVALID_HANDLE;
  if (!from->time || !to->time) return CUDA_ERROR_NOT_READY;
  *ms = float(to->time - from->time);
  return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream s, CUstreamCaptureMode) {
  ENTER;
  if (!streams.count(s)) return CUDA_ERROR_INVALID_HANDLE;
  if (s->graph) return break_capture(s, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  graphs.insert(s->graph = new CUgraph_st{current, {}, {}, s, {}});
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream s, CUgraph* g) {
  ENTER;
  if (!streams.count(s)) return CUDA_ERROR_INVALID_HANDLE;
  *g = s->graph;
  if (!*g) return CUDA_ERROR_ILLEGAL_STATE;
  if ((*g)->origin != s) return break_capture(s, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
  for (CUstream other : streams) {
    if (other->graph == *g) other->graph = nullptr;
  }
  for (CUevent e : events) {
    if (e->graph == *g) e->graph = nullptr, e->stream = nullptr;
  }
  (*g)->origin = nullptr;
  CUresult r = (*g)->broken;
  if (!r && !(*g)->joined.empty()) r = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  if (r) {
    graphs.erase(*g);
    delete *g;
    *g = nullptr;
  }
  return r;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* e, CUgraph g, unsigned long long) {
  ENTER;
  if (!graphs.count(g)) return CUDA_ERROR_INVALID_VALUE;
  execs.insert(*e = new CUgraphExec_st{current, g->work, g->uses});
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph g) {
  ENTER;
  if (!graphs.erase(g)) return CUDA_ERROR_INVALID_VALUE;
  delete g;
  return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec e) {
  ENTER;
  if (!execs.count(e)) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult r = advance_all(current)) return r;
  execs.erase(e);
  delete e;
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec e, CUstream s) {
  ENTER;
  if (!execs.count(e)) return CUDA_ERROR_INVALID_VALUE;
  return give(s, [e] {
    for (auto& work : e->work) {
      if (CUresult r = work()) return r;
    }
    return CUDA_SUCCESS;
  }, e->uses, "a graph");
}
