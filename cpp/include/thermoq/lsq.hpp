// Least-squares quantization of a matrix (`lsq`): smaller errors than round-to-nearest at the same
// bits, for more arithmetic.
//
// For each group, codes and parameters are fitted to each other in turns, from several starts (the
// group's range, clipped and widened at either end), and the best is kept. Parameters are rounded
// to what is stored before the last fit of the codes. Errors may be weighted by importances, one a
// column: what is minimized is sum(importance * (W^ - W)^2); what is reported is unweighted.
//
// coded    W^ = (super_scale * scale_code) * code - (super_minimum * minimum_code)
//          the group parameters are small unsigned codes under an f16 pair a super-block. Products
//          are exact in f32, so the subtraction is the only rounding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thermoq/matrix.hpp"
#include "thermoq/quantize.hpp"

namespace thermoq {

inline constexpr std::size_t kMaxLsqGroup = std::size_t{1} << 16;  // weights; super-blocks too
inline constexpr std::size_t kMaxSuperBlockGroups = 256;
inline constexpr int kMaxParameterBits = 8;

struct CodedScheme {
  int bit_width;            // 2 or 4
  std::size_t group_size;   // a multiple of kGroupMultiple
  std::size_t super_block;  // a multiple of group_size; groups and super-blocks do not cross rows
  int scale_bits;           // 1 .. kMaxParameterBits
  int minimum_bits;         // the same

  std::size_t groups_per_row(std::size_t cols) const noexcept {
    return (cols + group_size - 1) / group_size;
  }
  std::size_t super_blocks_per_row(std::size_t cols) const noexcept {
    return (cols + super_block - 1) / super_block;
  }
  std::size_t row_bytes(std::size_t cols) const noexcept { return bytes(cols, bit_width); }
  std::size_t scale_bytes(std::size_t cols) const noexcept {
    return bytes(groups_per_row(cols), scale_bits);
  }
  std::size_t minimum_bytes(std::size_t cols) const noexcept {
    return bytes(groups_per_row(cols), minimum_bits);
  }

 private:
  static std::size_t bytes(std::size_t count, int bits) noexcept {
    return (count * static_cast<std::size_t>(bits) + 7) / 8;
  }
};

struct CodedCodes {
  std::uint8_t* codes;           // [rows, row_bytes], low bits first; a row starts at a byte
  std::uint8_t* scale_codes;     // [rows, scale_bytes], a row's codes as one stream of bits
  std::uint8_t* minimum_codes;   // [rows, minimum_bytes]
  std::uint16_t* super_scale;    // f16 bits [rows, super_blocks_per_row], at least 0
  std::uint16_t* super_minimum;  // the same shape, of either sign
};

struct CodedCodesView {
  const std::uint8_t* codes;
  const std::uint8_t* scale_codes;
  const std::uint8_t* minimum_codes;
  const std::uint16_t* super_scale;
  const std::uint16_t* super_minimum;
};

// `importances`: [cols], finite and at least 0, or null for 1; only their ratios matter, and a
// group where all are 0 is fitted as if they were equal. `threads` <= 0 means all. The scheme is
// checked as `check` does.
QuantizationError lsq_affine(const MatrixView& source, const AffineScheme& scheme,
                             const float* importances, const AffineCodes& out, int threads);
QuantizationError lsq_q8(const MatrixView& source, const float* importances, const Q8Codes& out,
                         int threads);
QuantizationError lsq_coded(const MatrixView& source, const CodedScheme& scheme,
                            const float* importances, const CodedCodes& out, int threads);

// Throw std::invalid_argument for a scheme outside the limits above.
void check(const AffineScheme& scheme);
void check(const CodedScheme& scheme);

// Writes the decoded matrix as `type` (rounded half to even from f32) to out [rows, cols].
void dequantize_coded(const CodedCodesView& in, const CodedScheme& scheme, std::size_t rows,
                      std::size_t cols, FloatType type, std::uint8_t* out, int threads);

}  // namespace thermoq
