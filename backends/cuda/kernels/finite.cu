// Numbers that are not finite.
//
//	finite_T  flags[flag] = 1 when one of n elements is infinite or NaN; otherwise the flag stays        n T read
#include "pointwise.cuh"

namespace finiteness {
using namespace pointwise;

template <class T>
struct Check {
  const T* x;
  int* flag;
  template <int N>
  __device__ void operator()(int64_t i) const {
    const auto p = load<T, N>(x + i);
    bool good = true;
#pragma unroll
    for (int k = 0; k < N; k++) good = good && finite(p.v[k]);
    if (!good) *flag = 1;
  }
};

} // namespace finiteness

KERNEL(256, finite_f32, const float* x, int64_t n, int* flags, int flag) {
  pointwise::each<float>(n, finiteness::Check<float>{x, flags + flag});
}
#ifdef BF16
KERNEL(256, finite_bf16, const bf16* x, int64_t n, int* flags, int flag) {
  pointwise::each<bf16>(n, finiteness::Check<bf16>{x, flags + flag});
}
#endif
