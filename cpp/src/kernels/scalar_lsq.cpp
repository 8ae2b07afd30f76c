// Least squares in plain C++: what the AVX2 kernels have to equal bit for bit.
#include <algorithm>

#include "lsq_kernels.hpp"
#include "lsq_tile.hpp"
#include "q8_tile.hpp"
#include "scalar_lanes.hpp"
#include "super_block_tile.hpp"
#include "sweep_tile.hpp"

namespace thermoq {

void load_tile_scalar(const std::uint8_t* in, std::size_t row_bytes, std::size_t rows,
                      FloatType type, std::size_t n, float* tile) noexcept {
  const std::size_t size = bytes_per_element(type);
  std::fill_n(tile, kLanes * n, 0.0F);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::uint8_t* x = in + row * row_bytes;
    for (std::size_t i = 0; i < n; ++i) {
      std::uint16_t half = 0;
      float& value = tile[kLanes * i + row];
      if (type == FloatType::f32) {
        std::memcpy(&value, x + size * i, sizeof value);
        continue;
      }
      std::memcpy(&half, x + size * i, sizeof half);
      value = type == FloatType::f16 ? half_to_float(half) : bfloat_to_float(half);
    }
  }
}

void lsq_affine_scalar(const Tile& tile, int bit_width, float* scratch, const TileRows& rows,
                       std::uint16_t* scale, std::uint16_t* minimum) noexcept {
  lsq_affine_on<ScalarLanes>(tile, bit_width, scratch, rows, scale, minimum);
}

void lsq_q8_scalar(const Tile& tile, const TileRows& rows, std::uint16_t* scale) noexcept {
  lsq_q8_on<ScalarLanes>(tile, rows, scale);
}

void lsq_coded_scalar(const Tile& tile, const GroupCoding& coding, float* scratch,
                      const TileRows& rows, CodedTile& out) noexcept {
  lsq_coded_on<ScalarLanes>(tile, coding, scratch, rows, out);
}

void sweep_scalar(const SweepTile& tile) noexcept { sweep_on<ScalarLanes>(tile); }

}  // namespace thermoq
