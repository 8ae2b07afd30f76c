// The quantizing kernels of avx2.cpp's table.
#pragma once

#include "kernels.hpp"

namespace thermoq {

void quantize_affine_avx2(const std::uint8_t* in, FloatType type, std::size_t n,
                          std::size_t group_size, int bit_width, const AffineStretch& out) noexcept;
void quantize_q8_avx2(const std::uint8_t* in, FloatType type, std::size_t n,
                      const Q8Stretch& out) noexcept;

}  // namespace thermoq
