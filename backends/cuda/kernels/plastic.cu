// The map of Hebbian and of circuit sleep on one grid and one group of channels (package sleep, TileMaps),
//
//	w_i ← mean·w̄ + deviation·(w_i - w̄)
//
// for the neurons (i, n) of positions i of the grid and channels n of the group, a row each: rows = count·cout. A neuron's M
// inputs are its K weights and, where M = K+1, its bias; input j is seen[j] in the maps' order. w is (positions, Cout, K),
// bias (positions, Cout), first the group's first channel.
//
//	map_take     deviations (rows, M), in the maps' order, = w - means, means (cout, M) in that order       8 bytes a weight
//	map_product  c (rows, n) = a (rows, k) times the transpose of d (n, k): a dense deviation, or one after the other the factors
//	             Y (R, M) and Xᵀ (M, R) of one of low rank; 2·rows·n·k operations in float, in tiles of 64 by 64 that
//	             go through shared memory, 16 terms at a time, added one by one
//	map_put      w = deviations, times diagonal (M) unless null, + plus (cout, M), plus = mean·w̄            8 bytes a weight
//
// map_take and map_put: a thread a number. map_product: block 256, grid (tiles of n, tiles of rows).
#include "pointwise.cuh"

namespace plastic {
using namespace pointwise;

constexpr int kTile = 64, kDepth = 16;

// Neurons says where the inputs of the rows are.
struct Neurons {
  const int *positions, *seen;
  int count, Cout, first, cout, K, M;
  __device__ __forceinline__ int64_t numbers() const { return int64_t(count) * cout * M; }
  // at finds number i, input by input of row by row: its place in w, or in bias, its channel in the group and its place in the maps.
  __device__ __forceinline__ int64_t at(int64_t i, bool& bias, int64_t& row, int& n, int& place) const {
    row = i / M;
    const int j = int(i - row * M);
    n = int(row % cout), place = seen[j], bias = j == K;
    const int64_t neuron = int64_t(positions[row / cout]) * Cout + first + n;
    return bias ? neuron : neuron * K + j;
  }
};

} // namespace plastic

KERNEL(256, map_take, const float* w, const float* bias, const int* positions, int count, const int* seen,
       const float* means, float* deviations, int Cout, int first, int cout, int K, int M) {
  const plastic::Neurons neurons{positions, seen, count, Cout, first, cout, K, M};
  for (int64_t i = pointwise::thread_index(); i < neurons.numbers(); i += pointwise::thread_count()) {
    bool is_bias;
    int64_t row;
    int n, place;
    const int64_t at = neurons.at(i, is_bias, row, n, place);
    deviations[row * M + place] = (is_bias ? bias : w)[at] - means[int64_t(n) * M + place];
  }
}

KERNEL(256, map_put, float* w, float* bias, const int* positions, int count, const int* seen, const float* deviations,
       const float* diagonal, const float* plus, int Cout, int first, int cout, int K, int M) {
  const plastic::Neurons neurons{positions, seen, count, Cout, first, cout, K, M};
  for (int64_t i = pointwise::thread_index(); i < neurons.numbers(); i += pointwise::thread_count()) {
    bool is_bias;
    int64_t row;
    int n, place;
    const int64_t at = neurons.at(i, is_bias, row, n, place);
    float d = deviations[row * M + place];
    if (diagonal) d = __fmul_rn(diagonal[place], d);
    (is_bias ? bias : w)[at] = __fadd_rn(d, plus[int64_t(n) * M + place]);
  }
}

KERNEL(256, map_product, const float* a, const float* d, float* c, int64_t rows, int n, int k) {
  using plastic::kDepth;
  using plastic::kTile;
  SHARED(float, left, [plastic::kDepth][plastic::kTile + 4]);
  SHARED(float, right, [plastic::kDepth][plastic::kTile + 4]);
  const int tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16, column0 = int(blockIdx.x) * kTile;
  for (int64_t row0 = int64_t(blockIdx.y) * kTile; row0 < rows; row0 += int64_t(gridDim.y) * kTile) {
    float sum[4][4] = {};
    for (int k0 = 0; k0 < k; k0 += kDepth) {
      for (int e = int(threadIdx.x); e < kTile * kDepth; e += 256) {
        const int r = e / kDepth, q = e % kDepth;
        const bool term = k0 + q < k;
        left[q][r] = term && row0 + r < rows ? a[(row0 + r) * k + k0 + q] : 0.f;
        right[q][r] = term && column0 + r < n ? d[int64_t(column0 + r) * k + k0 + q] : 0.f;
      }
      __syncthreads();
#pragma unroll
      for (int q = 0; q < kDepth; q++) {
        const float4 l = *reinterpret_cast<const float4*>(&left[q][ty * 4]),
                     r = *reinterpret_cast<const float4*>(&right[q][tx * 4]);
        const float x[4] = {l.x, l.y, l.z, l.w}, y[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
          for (int j = 0; j < 4; j++) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int64_t row = row0 + ty * 4 + i;
        const int column = column0 + tx * 4 + j;
        if (row < rows && column < n) c[row * n + column] = sum[i][j];
      }
    }
  }
}
