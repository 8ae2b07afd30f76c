// Rotations of a layer's inputs, which spread outliers over the columns of a block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thermoq {

// Multiplies every `block` consecutive columns of data [rows, cols] by the orthogonal Hadamard
// matrix (Sylvester's, over sqrt(block)), which is its own inverse. `block` is a power of two that
// divides cols; else std::invalid_argument.
void hadamard(float* data, std::size_t rows, std::size_t cols, std::size_t block, int threads);

// Column `order[j]`, times its sign, comes to place j; then Hadamard blocks as above. Both arrays
// have `cols` entries; `order` is a permutation, which the caller vouches for.
struct RotationView {
  const std::int64_t* order;
  const float* signs;
  std::size_t block;
};

// Rotates the rows of `in` [rows, cols], or undoes that. `out` may not overlap `in`.
void rotate(const float* in, std::size_t rows, std::size_t cols, const RotationView& rotation,
            float* out, int threads);
void unrotate(const float* in, std::size_t rows, std::size_t cols, const RotationView& rotation,
              float* out, int threads);

}  // namespace thermoq
