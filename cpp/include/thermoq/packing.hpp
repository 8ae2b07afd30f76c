// Codes of 2 or 4 bits in bytes: code i occupies bits (i*b) mod 8 and up of byte (i*b) / 8.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thermoq {

// codes [rows, cols], one a byte -> packed [rows, ceil(cols*bit_width/8)]; spare bits are 0.
void pack_codes(const std::uint8_t* codes, std::size_t rows, std::size_t cols, int bit_width,
                std::uint8_t* packed, int threads);

void unpack_codes(const std::uint8_t* packed, std::size_t rows, std::size_t cols, int bit_width,
                  std::uint8_t* codes, int threads);

}  // namespace thermoq
