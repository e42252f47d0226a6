// The error of the network's output, broadcast to a layer's input (core.Broadcast): dx (P, B, C) = Σ_o F(p·C+c, o)·e(b, o), with
// add dx += …, e (B, O) of float. F(j, o) = ±scale, its sign that of number j·O+o of a stream of package rng, Philox4x32-10 with the
// key and the upper half of the counter given. Signs are drawn where they are used and kept nowhere.
//
//	feedback_T   P·B·C·O additions; a block of Philox, some 100 operations, for 128 signs of 8 images; B·O floats read from the caches,
//	             P·B·C T written
//
// A thread makes one position and channel of 8 images. Grid (ceil(P·C/256), ceil(B/8)), block 256.
#include "pointwise.cuh"

namespace feedback {
using namespace pointwise;

constexpr int kImages = 8;

// Signs gives the numbers of a stream in order, 1 for negative ones.
struct Signs {
  uint32_t key0, key1, id0, id1;
  uint64_t block;
  uint32_t words[4];

  __device__ __forceinline__ Signs(uint64_t key, uint64_t id)
      : key0(uint32_t(key)),
        key1(uint32_t(key >> 32)),
        id0(uint32_t(id)),
        id1(uint32_t(id >> 32)),
        block(~uint64_t(0)),
        words{} {}

  __device__ __forceinline__ void draw(uint64_t i) {
    uint32_t c0 = uint32_t(i), c1 = uint32_t(i >> 32), c2 = id0, c3 = id1, k0 = key0, k1 = key1;
#pragma unroll
    for (int round = 0; round < 10; round++) {
      const uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
      c0 = uint32_t(b >> 32) ^ c1 ^ k0;
      c1 = uint32_t(b);
      c2 = uint32_t(a >> 32) ^ c3 ^ k1;
      c3 = uint32_t(a);
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
    block = i;
  }

  __device__ __forceinline__ bool negative(uint64_t i) {
    if (i / 128 != block) draw(i / 128);
    const int word = int(i % 128 / 32);
    const uint32_t w = word < 2 ? (word == 0 ? words[0] : words[1]) : (word == 2 ? words[2] : words[3]);
    return w >> (i % 32) & 1;
  }
};

template <class T>
__device__ __forceinline__ void carry(const float* e, T* dx, int add, uint64_t key, uint64_t id, float scale, int B,
                                      int P, int C, int O) {
  const int64_t j = thread_index();
  if (j >= int64_t(P) * C) return;
  const int first = int(blockIdx.y) * kImages;
  Signs signs(key, id);
  float sum[kImages] = {};
  for (int o = 0; o < O; o++) {
    const float f = signs.negative(uint64_t(j) * uint64_t(O) + uint64_t(o)) ? -scale : scale;
#pragma unroll
    for (int k = 0; k < kImages; k++) {
      if (first + k < B) sum[k] = fmaf(f, e[int64_t(first + k) * O + o], sum[k]);
    }
  }
  const int64_t p = j / C, c = j - p * C;
#pragma unroll
  for (int k = 0; k < kImages; k++) {
    if (first + k < B) put<T, 1>(dx + (p * B + first + k) * C + c, Pack<T, 1>{{sum[k]}}, add);
  }
}

} // namespace feedback

#define FEEDBACK_KERNELS(T, suffix)                                                                                    \
  KERNEL(256, feedback_##suffix, const float* e, T* dx, int add, uint64_t key, uint64_t id, float scale, int B, int P, \
         int C, int O) {                                                                                               \
    feedback::carry<T>(e, dx, add, key, id, scale, B, P, C, O);                                                        \
  }
FEEDBACK_KERNELS(float, f32)
#ifdef BF16
FEEDBACK_KERNELS(bf16, bf16)
#endif
#undef FEEDBACK_KERNELS
