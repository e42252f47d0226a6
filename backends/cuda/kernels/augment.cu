// augment_T: a batch from images (count, H, W, C) of bytes that stay on the device, with the numbers of core/data for the same
// crops: x (size·size, B, C) of T. Image b of the batch is order[b], its crop begins at (row, column) = places[3b], places[3b+1]
// of the image padded by pad on every side, and is mirrored where places[3b+2] is not 0; the padding is 0, and a byte v of
// channel c is table[256c + v]. A thread a pixel.        B·size²·C bytes read, as many T written; no operation
#include "pointwise.cuh"

namespace augmentation {
using namespace pointwise;

template <class T>
__device__ __forceinline__ void augment(const unsigned char* images, const int* order, const int* places,
                                        const float* table, T* x, int B, int H, int W, int C, int size, int pad) {
  const int64_t n = int64_t(size) * size * B;
  for (int64_t at = thread_index(); at < n; at += thread_count()) {
    const int position = int(at / B), b = int(at % B), i = position / size, j = position % size;
    const int row = places[3 * b] + i - pad, column = places[3 * b + 1] + (places[3 * b + 2] ? size - 1 - j : j) - pad;
    const bool inside = row >= 0 && row < H && column >= 0 && column < W;
    const unsigned char* pixel = images + ((int64_t(order[b]) * H + row) * W + column) * C;
    for (int c = 0; c < C; c++) x[at * C + c] = rounded<T>(inside ? table[256 * c + pixel[c]] : 0.f);
  }
}

} // namespace augmentation

#define AUGMENT_KERNELS(T, suffix)                                                                                     \
  KERNEL(256, augment_##suffix, const unsigned char* images, const int* order, const int* places, const float* table,  \
         T* x, int B, int H, int W, int C, int size, int pad) {                                                        \
    augmentation::augment<T>(images, order, places, table, x, B, H, W, C, size, pad);                                  \
  }
AUGMENT_KERNELS(float, f32)
#ifdef BF16
AUGMENT_KERNELS(bf16, bf16)
#endif
#undef AUGMENT_KERNELS
