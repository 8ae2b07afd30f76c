// Round-to-nearest quantization of a matrix (`minmax`), and the way back.
//
// affine   W^ = scale * code + minimum    one f16 pair per group, codes of 2 or 4 bits
// q8       W^ = scale * code              one f16 scale per 32 weights, codes in [-127, 127]
//
// Arithmetic is f32: one multiply, one add, no contraction. Parameters are rounded to f16 outwards
// (minimum down, scale up), so that a group's range stays covered and no code has to be clamped;
// codes are then fitted to the rounded parameters. A constant group has scale 0 and the nearest f16
// as its minimum. Results do not depend on the number of threads nor on the SIMD level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thermoq/matrix.hpp"

namespace thermoq {

inline constexpr std::size_t kQ8GroupSize = 32;
inline constexpr std::size_t kGroupMultiple = 8;  // group sizes are multiples of this
inline constexpr float kMaxMagnitude = 65504.0F;  // the largest finite f16

struct AffineScheme {
  int bit_width;           // 2 or 4
  std::size_t group_size;  // a multiple of kGroupMultiple; the last group of a row may be ragged

  std::size_t groups_per_row(std::size_t cols) const noexcept {
    return (cols + group_size - 1) / group_size;
  }
  std::size_t row_bytes(std::size_t cols) const noexcept {
    return (cols * static_cast<std::size_t>(bit_width) + 7) / 8;
  }
};

struct AffineCodes {
  std::uint8_t* codes;     // [rows, row_bytes], low bits first; a row starts at a byte
  std::uint16_t* scale;    // f16 bits [rows, groups_per_row]
  std::uint16_t* minimum;  // f16 bits [rows, groups_per_row]
};

struct Q8Codes {
  std::int8_t* codes;    // [rows, cols]
  std::uint16_t* scale;  // f16 bits [rows, ceil(cols / 32)]
};

// How far the decoded matrix is from its source. Meaningless if a weight was not finite.
struct QuantizationError {
  double squared_error = 0.0;   // ||W^ - W||^2
  double source_energy = 0.0;   // ||W||^2
  double decoded_energy = 0.0;  // ||W^||^2
  double max_error = 0.0;       // max |W^ - W|
  double max_magnitude = 0.0;   // max |W|; above kMaxMagnitude the f16 parameters overflowed
  std::uint64_t nan_count = 0;
  std::uint64_t infinity_count = 0;
};

// How far `decoded` [rows, cols] is from its source, in f64 throughout; sums of rows are added in
// order. Counts nothing that is not finite: that is refused before anything is decoded.
QuantizationError decoding_error(const MatrixView& source, const float* decoded, int threads);

// `threads` <= 0 means all. Both throw std::invalid_argument for a scheme outside the limits above.
QuantizationError quantize_affine(const MatrixView& source, const AffineScheme& scheme,
                                  const AffineCodes& out, int threads);
QuantizationError quantize_q8(const MatrixView& source, const Q8Codes& out, int threads);

struct AffineCodesView {
  const std::uint8_t* codes;
  const std::uint16_t* scale;
  const std::uint16_t* minimum;
};

struct Q8CodesView {
  const std::int8_t* codes;
  const std::uint16_t* scale;
};

// Writes the decoded matrix as `type` (rounded half to even from f32) to out [rows, cols].
void dequantize_affine(const AffineCodesView& in, const AffineScheme& scheme, std::size_t rows,
                       std::size_t cols, FloatType type, std::uint8_t* out, int threads);
void dequantize_q8(const Q8CodesView& in, std::size_t rows, std::size_t cols, FloatType type,
                   std::uint8_t* out, int threads);

// Rewrites `count` elements from one type to another, rounding half to even. Returns how many
// finite elements became infinite.
std::uint64_t convert(const std::uint8_t* in, FloatType from, std::size_t count, FloatType to,
                      std::uint8_t* out, int threads);

}  // namespace thermoq
