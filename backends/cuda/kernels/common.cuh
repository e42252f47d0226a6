// What all kernels share. The same source goes through nvcc, which makes PTX of it, and through a C++ compiler with the
// headers of ../emu/include, which makes a program for the CPU.
//
// KERNEL(threads, name, arguments...) declares a kernel whose blocks have at most so many threads. Every argument takes a
// slot of 8 bytes. SHARED(type, name, dimensions) declares an array in shared memory, as in SHARED(float, tile, [16][17]),
// and DYNAMIC_SHARED(type, name) a pointer to the dynamic part, aligned to 16 bytes. Write no __shared__: the emulation
// has to know the arrays, to fill them with NaN and to find accesses out of bounds. Shuffles and barriers are for whole
// warps and blocks.
#pragma once
#ifdef CUDA_EMU
#include "cuda_emu.h"
#endif
#include <cuda_bf16.h>
#include <stdint.h>

#ifdef CUDA_EMU
#define KERNEL(threads, name, ...)                                                                                     \
  extern "C" void name(__VA_ARGS__);                                                                                   \
  static const emu::Registration registration_##name(#name, threads, &name);                                           \
  extern "C" void name(__VA_ARGS__)
#define SHARED(type, name, dimensions)                                                                                 \
  using name##_type = type dimensions;                                                                                 \
  static const char name##_site = 0;                                                                                   \
  name##_type& name = emu::static_shared<name##_type>(&name##_site)
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emu::dynamic_shared())
#else
#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads, 1) name(__VA_ARGS__)
#define SHARED(type, name, dimensions) __shared__ __align__(16) type name dimensions
#define DYNAMIC_SHARED(type, name)                                                                                     \
  extern __shared__ __align__(16) unsigned char dynamic_shared[];                                                      \
  type* name = reinterpret_cast<type*>(dynamic_shared)
#endif

// BF16 is defined where kernels in bf16 and tf32 are made: from compute capability 8.0 on. Guard them with #ifdef BF16.
#if defined(CUDA_EMU) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
#define BF16 1
#endif

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }

// rounded is v as an element type; bf16 rounds to nearest even.
template <class T>
__device__ __forceinline__ T rounded(float v);
template <>
__device__ __forceinline__ float rounded<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ bf16 rounded<bf16>(float v) {
  return __float2bfloat16_rn(v);
}

// finite is false for infinities and NaN.
__device__ __forceinline__ bool finite(float v) { return (__float_as_uint(v) & 0x7f800000u) != 0x7f800000u; }

// warp_sum is the sum over the lanes of a warp, the same in every lane, always added up in the same order.
template <class V>
__device__ __forceinline__ V warp_sum(V v) {
#pragma unroll
  for (int bit = 16; bit > 0; bit >>= 1) v += __shfl_xor_sync(0xffffffffu, v, bit);
  return v;
}

#ifdef BF16
// copy_async<BYTES> begins to copy 4, 8 or 16 aligned bytes from global to shared memory, or, unless valid, sets them to
// zero without reading; from must be an address in bounds all the same. copy_async_commit ends a group of them;
// copy_async_wait<N> waits for all groups of this thread but the last N. The others' need a barrier besides.
#ifdef CUDA_EMU
template <int BYTES>
inline void copy_async(void* to, const void* from, bool valid, const emu::Place& place = emu::Place::current()) {
  emu::async_copy(to, from, BYTES, valid ? 0 : BYTES, place);
}
inline void copy_async_commit() { emu::async_commit(); }
template <int PENDING>
inline void copy_async_wait() {
  emu::async_wait(PENDING);
}
#else
template <int BYTES>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(BYTES),
                 "r"(valid ? BYTES : 0)
                 : "memory");
  }
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif
#endif
