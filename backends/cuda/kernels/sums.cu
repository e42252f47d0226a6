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

// sum_parts: dw (n) = Σ parts (count, n), in order; where a sum is not finite, flags[flag] becomes 1. Reads 4·count·n bytes.
KERNEL(256, sum_parts, const float* parts, float* dw, int count, int64_t n, int* flags, int flag) {
  for (int64_t i = pointwise::thread_index(); i < n; i += pointwise::thread_count()) {
    float sum = 0;
    for (int c = 0; c < count; c++) sum += parts[c * n + i];
    dw[i] = sum;
    if (!finite(sum)) flags[flag] = 1;
  }
}
