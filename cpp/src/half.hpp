// f16 and bf16 in software, bit for bit what F16C does. In an anonymous namespace: the AVX2 file
// includes this too, and its copy, compiled for AVX2, must not serve other files.
#pragma once

#include <cstdint>
#include <cstring>

namespace thermoq {
namespace {

inline std::uint32_t float_bits(float value) noexcept {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_from_bits(std::uint32_t bits) noexcept {
  float value = 0.0F;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float half_to_float(std::uint16_t half) noexcept {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t magnitude = half & 0x7FFFU;
  if (magnitude < 0x0400U) {  // zero and subnormals: an integer times 2^-24
    return float_from_bits(sign | float_bits(static_cast<float>(magnitude) * 0x1p-24F));
  }
  if (magnitude >= 0x7C00U) {  // infinity stays, NaN becomes quiet
    const std::uint32_t quiet = magnitude > 0x7C00U ? 0x00400000U : 0U;
    return float_from_bits(sign | 0x7F800000U | ((magnitude & 0x03FFU) << 13) | quiet);
  }
  return float_from_bits(sign | ((magnitude << 13) + 0x38000000U));
}

// The f16 nearest to `value`, ties to even; beyond the range infinity.
inline std::uint16_t half_nearest(float value) noexcept {
  const std::uint32_t bits = float_bits(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {
    return static_cast<std::uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x03FFU));
  }
  if (magnitude >= 0x477FF000U) {  // 65520 and up round to infinity
    return static_cast<std::uint16_t>(sign | 0x7C00U);
  }
  if (magnitude < 0x38800000U) {  // below 2^-14: the addition rounds to a multiple of 2^-24
    const float shifted = float_from_bits(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (float_bits(shifted) - 0x3F000000U));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1U;
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000U + 0x0FFFU + odd) >> 13));
}

// The largest f16 not above `value`, and the smallest not below it.
inline std::uint16_t half_down(float value) noexcept {
  const std::uint16_t half = half_nearest(value);
  if (!(half_to_float(half) > value)) {
    return half;
  }
  // Never from +0: a value below 0 keeps its sign when it rounds to 0.
  return static_cast<std::uint16_t>((half & 0x8000U) != 0 ? half + 1 : half - 1);
}

inline std::uint16_t half_up(float value) noexcept {
  return static_cast<std::uint16_t>(half_down(-value) ^ 0x8000U);
}

inline float bfloat_to_float(std::uint16_t bfloat) noexcept {
  return float_from_bits(static_cast<std::uint32_t>(bfloat) << 16);
}

inline std::uint16_t bfloat_nearest(float value) noexcept {
  const std::uint32_t bits = float_bits(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x0040U);
  }
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace
}  // namespace thermoq
