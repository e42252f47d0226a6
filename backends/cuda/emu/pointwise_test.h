// What the tests of kernels in several element types share.
#pragma once
#include "check.h"

namespace emu {

// CALL calls the kernel of an element type T, a template's argument.
#define CALL(T, name, ...)                                                                                             \
  do {                                                                                                                 \
    if constexpr (std::is_same_v<T, float>) {                                                                          \
      name##_f32(__VA_ARGS__);                                                                                         \
    } else {                                                                                                           \
      name##_bf16(__VA_ARGS__);                                                                                        \
    }                                                                                                                  \
  } while (0)

// BOTH runs a function template with either element type.
#define BOTH(f, ...)                                                                                                   \
  do {                                                                                                                 \
    f<float>(__VA_ARGS__);                                                                                             \
    f<__nv_bfloat16>(__VA_ARGS__);                                                                                     \
  } while (0)

constexpr double kRound = 0x1p-24; // largest relative error of rounding to float

// rounding<T> is the largest relative error of a value rounded to float and then to T.
template <class T>
constexpr double rounding() {
  return std::is_same_v<T, float> ? kRound : 0x1p-8 + 1.01 * 0x1p-24;
}

} // namespace emu
