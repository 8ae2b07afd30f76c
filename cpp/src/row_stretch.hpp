// Rows are worked on in stretches that stay in the nearest caches: widen, quantize, pack.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"
#include "thermoq/lsq.hpp"
#include "thermoq/matrix.hpp"

namespace thermoq {

inline constexpr std::size_t kStretch = 2048;
static_assert(kStretch <= kMaxGroups * kGroupMultiple, "a stretch has room for its groups");

// The columns of a row and what fills its last kGroupMultiple.
inline std::size_t padded_length(std::size_t cols) noexcept {
  return std::max((cols + kGroupMultiple - 1) / kGroupMultiple * kGroupMultiple, kGroupMultiple);
}

// The length of a stretch of whole groups: near kStretch, a multiple of kGroupMultiple so that its
// codes start at a byte.
inline std::size_t stretch_length(std::size_t group_size, std::size_t cols) {
  const std::size_t groups = std::max<std::size_t>(1, kStretch / group_size);
  return std::min(groups * group_size, padded_length(cols));
}

// A thread's scratch memory.
struct Stretch {
  explicit Stretch(std::size_t length) : floats(length), codes(length) {}
  std::vector<float> floats;
  std::vector<std::uint8_t> codes;
};

// The elements [first, first + n) of a row as f32: in place where they already lie so, aligned.
inline const float* load_floats(const KernelTable& kernel, const std::uint8_t* row, FloatType type,
                                std::size_t first, std::size_t n, float* scratch) {
  const std::uint8_t* in = row + first * bytes_per_element(type);
  switch (type) {
    case FloatType::f16:
      kernel.widen_f16(in, n, scratch);
      return scratch;
    case FloatType::bf16:
      kernel.widen_bf16(in, n, scratch);
      return scratch;
    case FloatType::f32:
      break;
  }
  if (reinterpret_cast<std::uintptr_t>(in) % alignof(float) == 0) {
    return reinterpret_cast<const float*>(in);
  }
  std::memcpy(scratch, in, n * sizeof(float));
  return scratch;
}

inline void store_floats(const KernelTable& kernel, const float* in, std::size_t n, FloatType type,
                         std::uint8_t* out) {
  switch (type) {
    case FloatType::f16:
      kernel.narrow_f16(in, n, out);
      return;
    case FloatType::bf16:
      kernel.narrow_bf16(in, n, out);
      return;
    case FloatType::f32:
      std::memcpy(out, in, n * sizeof(float));
  }
}

inline void check_bit_width(int bit_width) {
  if (bit_width != 2 && bit_width != 4) {
    throw std::invalid_argument("bit_width: expected 2 or 4, got " + std::to_string(bit_width));
  }
}

inline void check_scheme(const AffineScheme& scheme) {
  check_bit_width(scheme.bit_width);
  if (scheme.group_size == 0 || scheme.group_size % kGroupMultiple != 0) {
    throw std::invalid_argument("group_size: expected a multiple of 8, got " +
                                std::to_string(scheme.group_size));
  }
}

}  // namespace thermoq
