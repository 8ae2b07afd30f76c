// The inner loops, one table a SIMD level. A kernel works on one stretch of a row on one thread: it
// neither allocates nor checks. Every level gives the same bits for the same finite input; sums run
// in eight lanes (element i into lane i mod 8, counted from the block's start) to make that
// possible.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thermoq/matrix.hpp"

namespace thermoq {

inline constexpr std::size_t kLanes = 8;
inline constexpr std::size_t kMaxGroups = 256;  // of one stretch
inline constexpr std::size_t kCacheLine = 64;   // bytes

// Error sums are made in blocks of at most this many weights of one group. Errors and source energy
// are added in f32, lane by lane, over a block, then over eight blocks, and only then in double: as
// exact as anybody reads them, and cheaper. Squares of weights below kTinyMagnitude
// would leave f32's range.
//
// The decoded energy needs no pass over the weights, as codes are integers: for a block of n codes
// q it is (s^2 * sum(q^2) + 2 * s * m * sum(q)) + n * m^2, in double; block k goes into lane k
// mod 8.
inline constexpr std::size_t kSumBlock = 256;
inline constexpr float kTinyMagnitude = 1e-15F;

struct ErrorSums {
  double squared_error[kLanes] = {};
  double source_energy[kLanes] = {};
  double decoded_energy[kLanes] = {};
  float max_squared_error[kLanes] = {};
  float max_magnitude = 0.0F;
};

// What a quantized stretch of a row is written to.
struct AffineStretch {
  std::uint8_t* codes;     // [ceil(n * bit_width / 8)], packed
  std::uint16_t* scale;    // [ceil(n / group_size)], f16 bits
  std::uint16_t* minimum;  // the same
  ErrorSums& sums;         // added to
};

struct Q8Stretch {
  std::int8_t* codes;    // [n]
  std::uint16_t* scale;  // [ceil(n / 32)], f16 bits
  ErrorSums& sums;
};

// A tile is a stretch of eight rows, transposed: a column's eight weights lie side by side, so that
// every lane works on a row of its own and no sum crosses lanes. Least squares works on tiles; its
// results go by lane. The importances [n] of the tile's columns are null if all are equal.
struct Tile {
  const float* weights;  // [n, kLanes]
  const float* importances;
  std::size_t n;
};

struct TileSums {
  double squared_error[kLanes] = {};
  double source_energy[kLanes] = {};
  double decoded_energy[kLanes] = {};
  float max_squared_error[kLanes] = {};
  float max_magnitude[kLanes] = {};
};

// Where the packed codes of a tile's rows begin, and the sums that their errors are added to.
struct TileRows {
  std::uint8_t* codes[kLanes];
  TileSums& sums;
};

// How a super-block's group parameters are coded.
struct GroupCoding {
  int bit_width;
  std::size_t group_size;
  int scale_bits, minimum_bits;
};

struct CodedTile {
  std::uint16_t super_scale[kLanes], super_minimum[kLanes];  // f16 bits
  std::uint8_t* scale_codes;                                 // [groups, kLanes], one a byte
  std::uint8_t* minimum_codes;                               // the same
};

// Floats that the kernels below need as scratch memory.
constexpr std::size_t group_scratch(std::size_t group_size) noexcept { return kLanes * group_size; }
constexpr std::size_t super_block_scratch(std::size_t group_size, std::size_t groups) noexcept {
  return group_scratch(group_size) + 4 * kLanes * groups;
}

inline constexpr std::size_t kSweepLanes = 2 * kLanes;

// Sixteen rows of a sweep (see compensation.hpp): `weights` become the scaled errors.
struct SweepTile {
  float* weights;  // [n, kSweepLanes]
  std::size_t n;
  const float* factor;  // [n, n]
  const float* scale;   // [groups, kSweepLanes]
  const float* minimum;
  const std::int32_t* group_of;  // [n]
  int lowest, highest;
  std::uint8_t* codes;  // [n, kSweepLanes]
};

// The search for the paths of least squared error through a trellis (see trellis.hpp), for up to
// kMaxPaths columns that are neighbours. The window of step i has the b newest bits lowest. Costs
// saturate at 2^16 - 1.
inline constexpr std::size_t kMaxPaths = 4;
struct TrellisPaths {
  const std::int16_t* values;  // [n, stride], within +-2^14, in the order of the steps
  std::size_t n, stride;       // n: at least 1
  std::size_t columns;         // 1 .. kMaxPaths
  const std::int16_t* table;   // [2^L], 32-byte aligned
  int bit_width, window_bits;
  std::uint16_t* costs;    // [2, 2^L]: scratch, 32-byte aligned
  std::uint16_t* history;  // [columns, n, 2^(L - b)]: scratch, 32-byte aligned
  std::uint16_t* windows;  // [columns, n]: the result
};

// Up to eight rows of a block of columns' streams, to be looked up in a table.
struct TrellisRows {
  const std::uint8_t* codes;  // the first column's stream, at the first row's bits
  const std::uint8_t* end;    // of the readable memory
  std::size_t stream_bytes, cols;
  std::size_t rows;    // 1 .. 8
  const float* table;  // [2^L]
  // [2^(L + b), 2], or null: the values of a row and of the next one, by the bits of both.
  const float* pairs;
  const float* scale;  // [8], by which the rows' values are multiplied
  int bit_width, window_bits;
};

struct KernelTable {
  // 16-bit floats to f32, from any address.
  void (*widen_f16)(const std::uint8_t* in, std::size_t n, float* out) noexcept;
  void (*widen_bf16)(const std::uint8_t* in, std::size_t n, float* out) noexcept;
  // f32 to 16-bit floats, half to even, to any address.
  void (*narrow_f16)(const float* in, std::size_t n, std::uint8_t* out) noexcept;
  void (*narrow_bf16)(const float* in, std::size_t n, std::uint8_t* out) noexcept;

  // Quantize n weights of `type` from any address, in at most kMaxGroups groups. The next stretch
  // is expected behind them, and may be fetched into the cache: reading the ranges is faster than
  // memory, encoding slower.
  void (*quantize_affine)(const std::uint8_t* in, FloatType type, std::size_t n,
                          std::size_t group_size, int bit_width, const AffineStretch& out) noexcept;
  void (*quantize_q8)(const std::uint8_t* in, FloatType type, std::size_t n,
                      const Q8Stretch& out) noexcept;

  void (*dequantize_affine)(const std::uint8_t* codes, std::size_t n, std::size_t group_size,
                            const float* scale, const float* minimum, float* out) noexcept;
  void (*dequantize_q8)(const std::int8_t* codes, std::size_t n, const std::uint16_t* scale,
                        float* out) noexcept;

  // n columns of up to eight rows, `row_bytes` apart, as a tile; absent rows are 0.
  void (*load_tile)(const std::uint8_t* in, std::size_t row_bytes, std::size_t rows, FloatType type,
                    std::size_t n, float* tile) noexcept;
  // Least squares: a group of eight rows, a group of q8, a super-block of at most
  // kMaxSuperBlockGroups groups.
  void (*lsq_affine)(const Tile& tile, int bit_width, float* scratch, const TileRows& rows,
                     std::uint16_t* scale, std::uint16_t* minimum) noexcept;
  void (*lsq_q8)(const Tile& tile, const TileRows& rows, std::uint16_t* scale) noexcept;
  void (*lsq_coded)(const Tile& tile, const GroupCoding& coding, float* scratch,
                    const TileRows& rows, CodedTile& out) noexcept;

  void (*sweep)(const SweepTile& tile) noexcept;

  // Weights times `factor`, rounded half to even within +-2^14; NaN becomes -2^14.
  void (*trellis_values)(const float* weights, std::size_t n, float factor,
                         std::int16_t* out) noexcept;
  void (*trellis_paths)(const TrellisPaths& paths) noexcept;
  // scale * table value to out, whose rows are `stride` apart; absent rows are left as they are.
  void (*trellis_rows)(const TrellisRows& rows, float* out, std::size_t stride) noexcept;

  void (*pack)(const std::uint8_t* codes, std::size_t n, int bit_width,
               std::uint8_t* packed) noexcept;
  void (*unpack)(const std::uint8_t* packed, std::size_t n, int bit_width,
                 std::uint8_t* codes) noexcept;

  float (*dot)(const float* a, const float* b, std::size_t n) noexcept;
  void (*add_scaled)(float factor, const float* x, std::size_t n, float* y) noexcept;
};

extern const KernelTable kScalarKernels;
#ifdef THERMOQ_HAVE_AVX2
extern const KernelTable kAvx2Kernels;
#endif

// The table of the level in use (see dispatch.hpp).
const KernelTable& kernels();

}  // namespace thermoq
