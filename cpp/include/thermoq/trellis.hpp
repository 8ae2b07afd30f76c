// Trellis-coded quantization (`trellis`): b bits a weight spent as one path through 2^L states.
//
// The rows of a matrix are cut into blocks of `block_rows`. In a block every column is a stream of
// b * n + L - b bits for its n rows, low bits first; row r's window is the L bits from bit b * r
// on, and selects one of 2^L values of a table:
//
//     W^[r, c] = scale[r, c / group_size] * table[window(r, c)]
//
// So neighbouring rows share L - b bits, and row r's own b bits are the lowest of its window. The
// encoder runs from the last row to the first and finds the path of least squared error (Viterbi;
// the bit-shift trellis of QTIP, Tseng et al., arXiv 2406.11235). Any stretch of rows can be
// decoded by itself. Results depend neither on the threads nor on the SIMD level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thermoq/matrix.hpp"
#include "thermoq/quantize.hpp"

namespace thermoq {

inline constexpr int kMinWindowBits = 8;
inline constexpr int kMaxWindowBits = 12;
inline constexpr int kTableUnit = 4096;                // what an entry of 1 is in a table
inline constexpr int kMaxTableEntry = 1 << 14;         // in magnitude
inline constexpr std::size_t kMaxTrellisBlock = 4096;  // rows

struct TrellisScheme {
  int bit_width;           // 2, 3 or 4
  int window_bits;         // L: kMinWindowBits .. kMaxWindowBits
  std::size_t group_size;  // columns that share a row's scale, a multiple of kGroupMultiple
  std::size_t block_rows;  // a multiple of 8, at most kMaxTrellisBlock

  std::size_t groups_per_row(std::size_t cols) const noexcept {
    return (cols + group_size - 1) / group_size;
  }
  // Of a column's stream in a block of n rows.
  std::size_t stream_bytes(std::size_t n) const noexcept {
    const auto b = static_cast<std::size_t>(bit_width);
    return (b * n + static_cast<std::size_t>(window_bits) - b + 7) / 8;
  }
  // Of all streams: blocks one after the other, in each of them the columns' streams in order.
  std::size_t codes_bytes(std::size_t rows, std::size_t cols) const noexcept {
    const std::size_t rest = rows % block_rows;
    return cols *
           (rows / block_rows * stream_bytes(block_rows) + (rest == 0 ? 0 : stream_bytes(rest)));
  }
};

struct TrellisCodes {
  std::uint8_t* codes;   // [codes_bytes]
  std::uint16_t* scale;  // f16 bits [rows, groups_per_row], at least 0
};

struct TrellisCodesView {
  const std::uint8_t* codes;
  const std::uint16_t* scale;
};

// Quantizes by least squares: scales from the groups' sizes, the best path, scales fitted to it,
// and again while that pays, at most `passes` times. `table` [2^L] in units of 1 / kTableUnit.
// `importances` [cols] weigh the fit of the scales, null for 1. `threads` <= 0 means all. Throws
// std::invalid_argument for a scheme or a table outside the limits above.
QuantizationError quantize_trellis(const MatrixView& source, const TrellisScheme& scheme,
                                   const std::int16_t* table, const float* importances, int passes,
                                   const TrellisCodes& out, int threads);

// Writes the decoded matrix as `type` (rounded half to even from f32) to out [rows, cols].
void dequantize_trellis(const TrellisCodesView& in, const TrellisScheme& scheme,
                        const std::int16_t* table, std::size_t rows, std::size_t cols,
                        FloatType type, std::uint8_t* out, int threads);

// The scales that quantize_trellis begins with: f16 bits [rows, groups_per_row].
void first_trellis_scales(const MatrixView& source, const TrellisScheme& scheme,
                          std::uint16_t* scale, int threads);

// Columns of a sweep: column j of a row has the scale of group `group_of[j]`.
struct TrellisSweep {
  const float* scale;            // [rows, groups], at least 0, each an f16's value
  const std::int32_t* group_of;  // [n], each in [0, groups)
  std::size_t groups;
};

// `sweep` of compensation.hpp for these codes: in every block of rows, a column takes its best
// path, and what that loses is made up for by the columns behind. On return `weights` [rows, n]
// holds the scaled errors, and `codes` [scheme.codes_bytes(rows, n)] the streams of the n columns.
// Blocks are independent: nothing depends on `threads`. Throws std::invalid_argument as `sweep`
// does.
void sweep_trellis(float* weights, std::size_t rows, std::size_t n, const float* factor,
                   const TrellisSweep& grid, const TrellisScheme& scheme, const std::int16_t* table,
                   std::uint8_t* codes, int threads);

// Throw std::invalid_argument for what is outside the limits.
void check(const TrellisScheme& scheme);
void check_table(const std::int16_t* table, int window_bits);

}  // namespace thermoq
