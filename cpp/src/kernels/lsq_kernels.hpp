// The least-squares kernels of both tables.
#pragma once

#include "kernels.hpp"

namespace thermoq {

void load_tile_scalar(const std::uint8_t* in, std::size_t row_bytes, std::size_t rows,
                      FloatType type, std::size_t n, float* tile) noexcept;
void lsq_affine_scalar(const Tile& tile, int bit_width, float* scratch, const TileRows& rows,
                       std::uint16_t* scale, std::uint16_t* minimum) noexcept;
void lsq_q8_scalar(const Tile& tile, const TileRows& rows, std::uint16_t* scale) noexcept;
void lsq_coded_scalar(const Tile& tile, const GroupCoding& coding, float* scratch,
                      const TileRows& rows, CodedTile& out) noexcept;

void sweep_scalar(const SweepTile& tile) noexcept;

void load_tile_avx2(const std::uint8_t* in, std::size_t row_bytes, std::size_t rows, FloatType type,
                    std::size_t n, float* tile) noexcept;
void lsq_affine_avx2(const Tile& tile, int bit_width, float* scratch, const TileRows& rows,
                     std::uint16_t* scale, std::uint16_t* minimum) noexcept;
void lsq_q8_avx2(const Tile& tile, const TileRows& rows, std::uint16_t* scale) noexcept;
void lsq_coded_avx2(const Tile& tile, const GroupCoding& coding, float* scratch,
                    const TileRows& rows, CodedTile& out) noexcept;
void sweep_avx2(const SweepTile& tile) noexcept;

}  // namespace thermoq
