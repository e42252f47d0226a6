// What the kernels of locally connected layers, convolutions and linear layers share: geometry, and products of tiles.
//
// x is (H·W, B, Cin), y (Ho·Wo, B, Cout), weights (Ho·Wo, Cout, K) with K = k·k·Cin/groups, or (Cout, K) where positions share
// them (wstep 0). Of a position and group, forward is a product (B × K)(K × N), the gradient of the input at a position
// (B × uses·N)(uses·N × C), that of the weights (K × B)(B × N), N and C being channels of a group. Nothing is unfolded in
// memory: a tap of a receptive field is a (B, Cin) matrix as it lies, and tiles gather the taps. Taps on the padding are not
// read, so that what is not finite does not spread over it.
//
// A block of 128 threads makes 128 × 16, 32 or 64 numbers of a product; where there are few rows, as of small batches, a block of
// 32 threads makes 32 × 16 or 32 (wider ones would take more registers than a thread has). Chunks of both operands go through
// registers into shared memory, the next one being read while one is multiplied:
//
//	Plain     float32 by multiply-adds, 8 × 2, 4 or 8 sums a thread; chunks of 16
//	Tensor    bf16, or tf32, by tensor cores with float sums, a warp 32 × 16, 32 or 64; chunks of 32. Weights are
//	          float32 in memory and rounded on their way.
//
// The terms of a sum are added in the same order whatever the tile.
#pragma once
#include "pointwise.cuh"
#include <type_traits>
#ifdef BF16
#include <mma.h>
#endif

namespace window {

struct Geometry {
  int B, H, W, Cin, Ho, Wo, Cout, k, stride, pad, groups;
  int64_t wstep, bstep;

  __device__ __forceinline__ int in() const { return Cin / groups; } // channels of a group
  __device__ __forceinline__ int out() const { return Cout / groups; }
  __device__ __forceinline__ int K() const { return k * k * in(); }
};

#define WINDOW_GEOMETRY                                                                                                \
  int B, int H, int W, int Cin, int Ho, int Wo, int Cout, int k, int stride, int pad, int groups, int64_t wstep,       \
      int64_t bstep
#define WINDOW_VALUES                                                                                                  \
  window::Geometry { B, H, W, Cin, Ho, Wo, Cout, k, stride, pad, groups, wstep, bstep }

struct tf32 {}; // a precision: float in memory

// four reads n ≤ 4 neighbouring elements, the others are 0; wide: all at once, p being aligned to four elements.
template <class T>
__device__ __forceinline__ void four(float (&v)[4], const T* p, int n, bool wide) {
  if (wide && n >= 4) {
    if constexpr (sizeof(T) == 4) {
      const float4 f = *reinterpret_cast<const float4*>(p);
      v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
    } else {
      const uint2 raw = *reinterpret_cast<const uint2*>(p);
      v[0] = __uint_as_float(raw.x << 16), v[1] = __uint_as_float(raw.x & 0xffff0000u);
      v[2] = __uint_as_float(raw.y << 16), v[3] = __uint_as_float(raw.y & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = i < n ? to_float(p[i]) : 0.f;
}

__device__ __forceinline__ void zero(float (&v)[4]) { v[0] = v[1] = v[2] = v[3] = 0.f; }

// Plain multiplies tiles in float32: thread (ty, tx) makes rows 8·ty… and columns TN·tx….
template <int R, int N, bool, bool>
struct Plain {
  static constexpr int kRows = R, kColumns = N, kChunk = 16, TM = 8, TN = N / 8;
  static constexpr int kA = kRows + 4, kB = N + 4; // from one term's row of a tile to the next's
  static constexpr int kStage = N + 4;
  static constexpr int kFloats = kRows * kStage > kChunk*(kA + kB) ? kRows* kStage : kChunk*(kA + kB);
  float* a;
  float* b;
  float sum[TM][TN] = {};

  __device__ __forceinline__ explicit Plain(float* buffer) : a(buffer), b(buffer + kChunk * kA) {}

  template <bool ALONG>
  __device__ __forceinline__ static void keep(float* tile, int ld, int along, int other, const float (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) tile[ALONG ? (along + i) * ld + other : other * ld + along + i] = v[i];
  }
  // ALONG tells whether the four numbers are neighbours along the sum.
  template <bool ALONG>
  __device__ __forceinline__ void keep_a(int along, int other, const float (&v)[4]) {
    keep<ALONG>(a, kA, along, other, v);
  }
  template <bool ALONG>
  __device__ __forceinline__ void keep_b(int along, int other, const float (&v)[4]) {
    keep<ALONG>(b, kB, along, other, v);
  }

  __device__ __forceinline__ void multiply() {
    const int ty = int(threadIdx.x) / 8, tx = int(threadIdx.x) % 8;
#pragma unroll
    for (int k = 0; k < kChunk; k++) {
      float u[TM], v[TN];
#pragma unroll
      for (int i = 0; i < TM; i++) u[i] = a[k * kA + TM * ty + i];
#pragma unroll
      for (int j = 0; j < TN; j++) v[j] = b[k * kB + TN * tx + j];
#pragma unroll
      for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
      }
    }
  }

  __device__ __forceinline__ void stage(float* out) {
    const int ty = int(threadIdx.x) / 8, tx = int(threadIdx.x) % 8;
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
      for (int j = 0; j < TN; j++) out[(TM * ty + i) * kStage + TN * tx + j] = sum[i][j];
    }
  }
};

#ifdef BF16
// Tensor multiplies tiles by tensor cores: warp w makes rows 32·w…. P is bf16 or tf32; ALONG_A and ALONG_B tell how operands
// come, and tiles lie as they come.
template <class P, int R, int N, bool ALONG_A, bool ALONG_B>
struct Tensor {
  static constexpr bool kHalf = std::is_same<P, bf16>::value;
  using Element = typename std::conditional<kHalf, bf16, float>::type;
  using Operand = typename std::conditional<kHalf, bf16, nvcuda::wmma::precision::tf32>::type;
  static constexpr int kRows = R, kColumns = N, kChunk = 32, kTerms = kHalf ? 16 : 8; // terms of an instruction
  static constexpr int kA = (ALONG_A ? kChunk : kRows) + 8, kB = (ALONG_B ? kChunk : N) + 8;
  static constexpr int kElementsA = kA * (ALONG_A ? kRows : kChunk), kElementsB = kB * (ALONG_B ? N : kChunk);
  static constexpr int kStage = N + 4;
  static constexpr int kOperands = (kElementsA + kElementsB) * int(sizeof(Element)) / 4;
  static constexpr int kFloats = kRows * kStage > kOperands ? kRows* kStage : kOperands;
  using Left = nvcuda::wmma::fragment<
      nvcuda::wmma::matrix_a, 16, 16, kTerms, Operand,
      typename std::conditional<ALONG_A, nvcuda::wmma::row_major, nvcuda::wmma::col_major>::type>;
  using Right = nvcuda::wmma::fragment<
      nvcuda::wmma::matrix_b, 16, 16, kTerms, Operand,
      typename std::conditional<ALONG_B, nvcuda::wmma::col_major, nvcuda::wmma::row_major>::type>;
  Element* a;
  Element* b;
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, kTerms, float> sum[2][N / 16];

  __device__ __forceinline__ explicit Tensor(float* buffer) : a(reinterpret_cast<Element*>(buffer)), b(a + kElementsA) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
      for (int j = 0; j < N / 16; j++) nvcuda::wmma::fill_fragment(sum[i][j], 0.f);
    }
  }

  __device__ __forceinline__ static Element element(float v) {
    if constexpr (kHalf) {
      return rounded<bf16>(v);
    } else {
      return nvcuda::wmma::__float_to_tf32(v);
    }
  }
  __device__ __forceinline__ static void keep(Element* to, const float (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = element(v[i]);
  }
  template <bool>
  __device__ __forceinline__ void keep_a(int along, int other, const float (&v)[4]) {
    keep(a + other * kA + along, v);
  }
  template <bool>
  __device__ __forceinline__ void keep_b(int along, int other, const float (&v)[4]) {
    keep(b + other * kB + along, v);
  }

  __device__ __forceinline__ void multiply() {
    const int first = int(threadIdx.x) / 32 * 32;
#pragma unroll
    for (int k = 0; k < kChunk; k += kTerms) {
      Left left[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int row = first + 16 * i;
        nvcuda::wmma::load_matrix_sync(left[i], a + (ALONG_A ? row * kA + k : k * kA + row), kA);
      }
#pragma unroll
      for (int j = 0; j < N / 16; j++) {
        Right right;
        nvcuda::wmma::load_matrix_sync(right, b + (ALONG_B ? 16 * j * kB + k : k * kB + 16 * j), kB);
#pragma unroll
        for (int i = 0; i < 2; i++) nvcuda::wmma::mma_sync(sum[i][j], left[i], right, sum[i][j]);
      }
    }
  }

  __device__ __forceinline__ void stage(float* out) {
    const int first = int(threadIdx.x) / 32 * 32;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
      for (int j = 0; j < N / 16; j++) {
        nvcuda::wmma::store_matrix_sync(out + (first + 16 * i) * kStage + 16 * j, sum[i][j], kStage,
                                        nvcuda::wmma::mem_row_major);
      }
    }
  }
};
#endif

// Reader is a thread's part of a chunk of one operand on its way: four neighbours along the operand's contiguous axis, of
// LENGTH, at some of OTHERS places across, of a block of so many threads.
template <int THREADS, int LENGTH, int OTHERS>
struct Reader {
  static constexpr int kAcross = THREADS / (LENGTH / 4); // other coordinates at a time
  static constexpr int kTimes = (OTHERS + kAcross - 1) / kAcross;
  float v[kTimes][4];

  __device__ __forceinline__ static int along() { return int(threadIdx.x) % (LENGTH / 4) * 4; }
  __device__ __forceinline__ static int other(int i) { return int(threadIdx.x) / (LENGTH / 4) + i * kAcross; }
};

// product adds up the chunks of a source and hands every number of the tile to put(row, column, value), neighbouring rows
// (ROWS_FIRST) or columns in neighbouring threads. Source has terms(), the length of the sums; kAlongA and kAlongB, which tell
// whether an operand's neighbours lie along the sums; and for both operands place(first term of the chunk, along), what a
// thread's four neighbours have in common, and read(v, place, first, other).
template <class Core, bool ROWS_FIRST, class Source, class Put>
__device__ __forceinline__ void product(const Source& s, Put put) {
  constexpr int C = Core::kChunk, R = Core::kRows, N = Core::kColumns; // a thread a row
  using A = Reader<R, (Source::kAlongA ? C : R), (Source::kAlongA ? R : C)>;
  using B = Reader<R, (Source::kAlongB ? C : N), (Source::kAlongB ? N : C)>;
  SHARED(float, buffer, [Core::kFloats]);
  Core core(&buffer[0]);
  A left;
  B right;
  auto read = [&](int chunk) {
    const auto at = s.place_a(chunk * C, A::along());
#pragma unroll
    for (int i = 0; i < A::kTimes; i++) {
      if (A::other(i) < (Source::kAlongA ? R : C)) s.read_a(left.v[i], at, chunk * C, A::other(i));
    }
    const auto bt = s.place_b(chunk * C, B::along());
#pragma unroll
    for (int i = 0; i < B::kTimes; i++) {
      if (B::other(i) < (Source::kAlongB ? N : C)) s.read_b(right.v[i], bt, chunk * C, B::other(i));
    }
  };
  const int chunks = (s.terms() + C - 1) / C;
  for (int chunk = 0; chunk <= chunks; chunk++) {
    if (chunk < chunks) read(chunk); // on its way while the chunk before is multiplied
    if (chunk > 0) {
      core.multiply();
      __syncthreads();
    }
    if (chunk == chunks) break;
#pragma unroll
    for (int i = 0; i < A::kTimes; i++) {
      if (A::other(i) < (Source::kAlongA ? R : C))
        core.template keep_a<Source::kAlongA>(A::along(), A::other(i), left.v[i]);
    }
#pragma unroll
    for (int i = 0; i < B::kTimes; i++) {
      if (B::other(i) < (Source::kAlongB ? N : C))
        core.template keep_b<Source::kAlongB>(B::along(), B::other(i), right.v[i]);
    }
    __syncthreads();
  }
  core.stage(&buffer[0]);
  __syncthreads();
#pragma unroll 1
  for (int i = int(threadIdx.x); i < R * N; i += R) {
    const int row = ROWS_FIRST ? i % R : i / N, column = ROWS_FIRST ? i / R : i % N;
    put(row, column, buffer[row * Core::kStage + column]);
  }
}

// Span is the taps along one axis, [lo, hi), of output i that lie on real inputs of n.
struct Span {
  int lo, hi;
  __device__ __forceinline__ Span(int i, int n, const Geometry& g)
      : lo(max(0, g.pad - i * g.stride)), hi(min(g.k, n + g.pad - i * g.stride)) {}
  __device__ __forceinline__ int length() const { return hi - lo; }
};

// Uses is the outputs along one axis, [lo, hi), of n that read input i: output o by tap i + pad - o·stride.
struct Uses {
  int lo, hi;
  __device__ __forceinline__ Uses(int i, int n, const Geometry& g)
      : lo(max(0, (i + g.pad - g.k) / g.stride + (i + g.pad - g.k >= 0))), hi(min(n, (i + g.pad) / g.stride + 1)) {}
  __device__ __forceinline__ int length() const { return max(0, hi - lo); }
};

// Place is a block's: position, group, and the first row and column of its tile. Columns come first, then rows, groups and
// positions, so that blocks that run together share operands.
struct Place {
  int position, group, row, column;
  __device__ __forceinline__ Place(int rows, int columns, int R, int N, int groups) {
    const int across = (columns + N - 1) / N, down = (rows + R - 1) / R;
    int64_t i = blockIdx.x;
    column = int(i % across) * N, i /= across;
    row = int(i % down) * R, i /= down;
    group = int(i % groups);
    position = int(i / groups);
  }
};

} // namespace window
