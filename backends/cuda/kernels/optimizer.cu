// The optimiser on n numbers of the arena, all parameters in one launch; package optim has the equations. Every product and
// sum is rounded by itself, in the order of adamGo and momentumGo of backends/cpu, so that the bits are theirs.
//
//	adam      w, m and v from g      16 bytes read and 12 written a number: 28; 15 operations, one of them a root, one a division
//	momentum  w and m from g         12 read and 8 written: 20; 6 operations
//
// constants are on the device, as they change from step to step while a recorded launch stays: for adam L2, Shrink, Rate,
// Eps, Beta1, Beta2, 1-Beta1, 1-Beta2, 1/RootC2, for momentum L2, Moment, Rate. Nothing moves when one of count flags is
// set. The arrays are aligned to 16 bytes.
#include "pointwise.cuh"

namespace optimizer {
using namespace pointwise;

// stopped tells, in all threads of a block alike, whether a flag is set.
__device__ __forceinline__ bool stopped(const int* flags, int count) {
  int stop = 0;
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) stop |= flags[i];
  return __syncthreads_or(stop);
}

struct Adam {
  float *w, *m, *v;
  const float* g;
  float l2, shrink, rate, epsilon, beta1, beta2, rest1, rest2, scale;
  template <int N>
  __device__ void operator()(int64_t i) const {
    auto W = load<float, N>(w + i), M = load<float, N>(m + i), V = load<float, N>(v + i);
    const auto G = load<float, N>(g + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float d = __fadd_rn(G.v[k], __fmul_rn(l2, W.v[k]));
      M.v[k] = __fadd_rn(__fmul_rn(beta1, M.v[k]), __fmul_rn(rest1, d));
      V.v[k] = __fadd_rn(__fmul_rn(beta2, V.v[k]), __fmul_rn(rest2, __fmul_rn(d, d)));
      const float root = __fadd_rn(__fmul_rn(__fsqrt_rn(V.v[k]), scale), epsilon);
      W.v[k] = __fsub_rn(__fmul_rn(shrink, W.v[k]), __fdiv_rn(__fmul_rn(rate, M.v[k]), root));
    }
    store<float, N>(w + i, W), store<float, N>(m + i, M), store<float, N>(v + i, V);
  }
};

struct Momentum {
  float *w, *m;
  const float* g;
  float l2, moment, rate;
  template <int N>
  __device__ void operator()(int64_t i) const {
    auto W = load<float, N>(w + i), M = load<float, N>(m + i);
    const auto G = load<float, N>(g + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      M.v[k] = __fadd_rn(__fmul_rn(moment, M.v[k]), __fadd_rn(G.v[k], __fmul_rn(l2, W.v[k])));
      W.v[k] = __fsub_rn(W.v[k], __fmul_rn(rate, M.v[k]));
    }
    store<float, N>(w + i, W), store<float, N>(m + i, M);
  }
};

} // namespace optimizer

KERNEL(256, adam, float* w, const float* g, float* m, float* v, int64_t n, const float* constants, const int* flags,
       int count) {
  if (optimizer::stopped(flags, count)) return;
  const float* k = constants;
  pointwise::each<float>(n, optimizer::Adam{w, m, v, g, k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7], k[8]});
}

KERNEL(256, momentum, float* w, const float* g, float* m, int64_t n, const float* constants, const int* flags,
       int count) {
  if (optimizer::stopped(flags, count)) return;
  pointwise::each<float>(n, optimizer::Momentum{w, m, g, constants[0], constants[1], constants[2]});
}
