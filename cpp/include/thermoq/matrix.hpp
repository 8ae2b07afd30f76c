// A weight matrix as it lies in a checkpoint: bytes, an element type and a shape.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thermoq {

enum class FloatType { f32, f16, bf16 };

constexpr std::size_t bytes_per_element(FloatType type) noexcept {
  return type == FloatType::f32 ? 4 : 2;
}

// Row-major [rows, cols]. The bytes may start at any address: checkpoints promise no alignment.
struct MatrixView {
  const std::uint8_t* bytes;
  FloatType type;
  std::size_t rows;
  std::size_t cols;

  std::size_t row_bytes() const noexcept { return cols * bytes_per_element(type); }
  const std::uint8_t* row(std::size_t index) const noexcept { return bytes + index * row_bytes(); }
};

}  // namespace thermoq
