// Instant sleep and the moments of groups. w are a locally connected layer's weights (positions, elements), elements = Cout·K
// (or its biases, elements = Cout), float; a group is one element at all positions of a grid, which lie in positions from
// starts[g] to starts[g+1]-1 for grid g.
//
//	instant_sleep        every element of a group becomes the group's mean. A block makes 32 or 128 neighbouring elements of a
//	                     grid: 8 rows of threads share the positions, so that each weight is read once and written once, 8
//	                     bytes a weight, and nothing need be kept between: the mean is all that is written. parts, unless
//	                     null, gets of every block Σ m·w, Σ m² and Σ (w-m)², m the mean and w what it is rounded to
//	                     (sleep.PreservationSum): (grids, tiles, 3)
//	naive_instant_sleep  the same by one thread a group, the first rung of the ladder, without parts
//	group_moments        mean and, unless null, variance (divided by N) of every group around its first weight, as sleep.Moments
//	                     has them: (grids, elements) of double         4 bytes read a weight
//
// Sums are double, in a fixed order: equal weights stay as they are, since the sum of up to 2^29 of them is exact.
// Block (32, 8), grid (tiles, grids); a tile is 32 threads' elements, 4 each where elements is a multiple of 4, otherwise 1.
#include "pointwise.cuh"

namespace asleep {
using namespace pointwise;

constexpr int kRows = 8;  // of threads in a block
constexpr int kAhead = 8; // loads that a thread has under way

// Tile is where a thread works.
template <int N>
struct Tile {
  int64_t element;
  int lo, hi; // its grid's positions
  int row;
  bool inside;
  __device__ __forceinline__ Tile(int64_t elements, const int* starts)
      : element((int64_t(blockIdx.x) * 32 + threadIdx.x) * N),
        lo(starts[blockIdx.y]),
        hi(starts[blockIdx.y + 1]),
        row(int(threadIdx.y)),
        inside(element < elements) {}
};

template <int N>
__device__ __forceinline__ void add(double* sum, const Pack<float, N>& p) {
#pragma unroll
  for (int k = 0; k < N; k++) sum[k] += double(p.v[k]);
}

// gathered is the sum over the rows of a block, in their order, of each thread's N numbers.
template <int N>
__device__ __forceinline__ void gathered(double (*sums)[32 * 4], double* v) {
  double* mine = sums[threadIdx.y] + threadIdx.x;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < N; k++) mine[32 * k] = v[k], v[k] = 0;
  __syncthreads();
  for (int r = 0; r < kRows; r++) {
#pragma unroll
    for (int k = 0; k < N; k++) v[k] += sums[r][threadIdx.x + 32 * k];
  }
}

template <int N>
__device__ __forceinline__ void share(double (*sums)[32 * 4], float* __restrict__ w, int64_t elements,
                                      const int* __restrict__ positions, const int* __restrict__ starts,
                                      double* __restrict__ parts) {
  const Tile<N> t(elements, starts);
  double mean[N] = {};
  if (t.inside) {
    int i = t.lo + t.row;
    for (; i + (kAhead - 1) * kRows < t.hi; i += kAhead * kRows) {
      Pack<float, N> p[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; j++) p[j] = load<float, N>(w + positions[i + j * kRows] * elements + t.element);
#pragma unroll
      for (int j = 0; j < kAhead; j++) add<N>(mean, p[j]);
    }
    for (; i < t.hi; i += kRows) add<N>(mean, load<float, N>(w + positions[i] * elements + t.element));
  }
  gathered<N>(sums, mean);
  Pack<float, N> value;
  double cross = 0, before = 0, difference = 0;
#pragma unroll
  for (int k = 0; k < N; k++) {
    mean[k] /= double(t.hi - t.lo);
    value.v[k] = float(mean[k]);
    const double d = double(value.v[k]) - mean[k];
    cross += mean[k] * double(value.v[k]), before += mean[k] * mean[k], difference += d * d;
  }
  if (t.inside) {
    for (int i = t.lo + t.row; i < t.hi; i += kRows) store<float, N>(w + positions[i] * elements + t.element, value);
  }
  if (parts && t.row == 0) { // the first warp; outside of the elements the sums are 0
    cross = warp_sum(cross), before = warp_sum(before), difference = warp_sum(difference);
    if (threadIdx.x == 0) {
      double* to = parts + (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * 3;
      to[0] = cross, to[1] = before, to[2] = difference;
    }
  }
}

template <int N>
__device__ __forceinline__ void moments(double (*sums)[32 * 4], const float* __restrict__ w, int64_t elements,
                                        const int* __restrict__ positions, const int* __restrict__ starts,
                                        double* __restrict__ mean, double* __restrict__ variance) {
  const Tile<N> t(elements, starts);
  Pack<float, N> first = {};
  double d1[N] = {}, d2[N] = {};
  if (t.inside) {
    first = load<float, N>(w + positions[t.lo] * elements + t.element);
#pragma unroll 4
    for (int i = t.lo + t.row; i < t.hi; i += kRows) {
      const auto p = load<float, N>(w + positions[i] * elements + t.element);
#pragma unroll
      for (int k = 0; k < N; k++) {
        const double d = double(p.v[k]) - double(first.v[k]);
        d1[k] += d;
        d2[k] += d * d;
      }
    }
  }
  gathered<N>(sums, d1);
  gathered<N>(sums, d2);
  if (!t.inside || t.row != 0) return;
  const int64_t to = blockIdx.y * elements + t.element;
  const double n = double(t.hi - t.lo);
#pragma unroll
  for (int k = 0; k < N; k++) {
    const double d = d1[k] / n, v = d2[k] / n - d * d;
    mean[to + k] = double(first.v[k]) + d;
    if (variance) variance[to + k] = v < 0 ? 0 : v; // NaN stays
  }
}

} // namespace asleep

KERNEL(256, instant_sleep, float* __restrict__ w, int64_t elements, const int* __restrict__ positions,
       const int* __restrict__ starts, double* __restrict__ parts) {
  SHARED(double, sums, [asleep::kRows][32 * 4]);
  if (elements % 4 == 0) {
    asleep::share<4>(sums, w, elements, positions, starts, parts);
  } else {
    asleep::share<1>(sums, w, elements, positions, starts, parts);
  }
}

// naive_instant_sleep: a thread an element, grid (blocks of 256 elements, grids).
KERNEL(256, naive_instant_sleep, float* w, int64_t elements, const int* positions, const int* starts) {
  const int64_t element = pointwise::thread_index();
  if (element >= elements) return;
  const int lo = starts[blockIdx.y], hi = starts[blockIdx.y + 1];
  double sum = 0;
  for (int i = lo; i < hi; i++) sum += double(w[positions[i] * elements + element]);
  const float mean = float(sum / double(hi - lo));
  for (int i = lo; i < hi; i++) w[positions[i] * elements + element] = mean;
}

KERNEL(256, group_moments, const float* __restrict__ w, int64_t elements, const int* __restrict__ positions,
       const int* __restrict__ starts, double* __restrict__ mean, double* __restrict__ variance) {
  SHARED(double, sums, [asleep::kRows][32 * 4]);
  if (elements % 4 == 0) {
    asleep::moments<4>(sums, w, elements, positions, starts, mean, variance);
  } else {
    asleep::moments<1>(sums, w, elements, positions, starts, mean, variance);
  }
}
