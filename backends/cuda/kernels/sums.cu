// sum_columns: sums (columns) of parts (rows, columns), double, always in the same order: a block a column, each thread every
// 256th row, then the threads in pairs. It finishes what kernels leave in parts, such as instant_sleep.
#include "pointwise.cuh"

KERNEL(256, sum_columns, const double* parts, double* sums, int64_t rows, int columns) {
  SHARED(double, part, [256]);
  double sum = 0;
  for (int64_t r = threadIdx.x; r < rows; r += 256) sum += parts[r * columns + blockIdx.x];
  part[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}
