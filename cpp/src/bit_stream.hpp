// Codes of 1 to 8 bits as one stream, low bits first: code i occupies the bits from i * bits on,
// and may lie in two bytes. For group parameters, of which there are few.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thermoq {

// `packed` [ceil(n * bits / 8)] is overwritten; spare bits are 0.
inline void pack_bits(const std::uint8_t* codes, std::size_t n, int bits,
                      std::uint8_t* packed) noexcept {
  unsigned pending = 0;
  int count = 0;
  for (std::size_t i = 0; i < n; ++i) {
    pending |= static_cast<unsigned>(codes[i]) << static_cast<unsigned>(count);
    count += bits;
    if (count >= 8) {
      *packed++ = static_cast<std::uint8_t>(pending);
      pending >>= 8U;
      count -= 8;
    }
  }
  if (count > 0) {
    *packed = static_cast<std::uint8_t>(pending);
  }
}

// Codes first .. first + n - 1 of a stream.
inline void unpack_bits(const std::uint8_t* packed, std::size_t first, std::size_t n, int bits,
                        std::uint8_t* codes) noexcept {
  const unsigned mask = (1U << static_cast<unsigned>(bits)) - 1U;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t bit = (first + i) * static_cast<std::size_t>(bits);
    const std::size_t shift = bit % 8;
    unsigned value = static_cast<unsigned>(packed[bit / 8]) >> shift;
    if (shift + static_cast<std::size_t>(bits) > 8) {
      value |= static_cast<unsigned>(packed[bit / 8 + 1]) << (8 - shift);
    }
    codes[i] = static_cast<std::uint8_t>(value & mask);
  }
}

}  // namespace thermoq
