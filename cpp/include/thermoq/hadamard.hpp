// The Hadamard transform, which spreads outliers over the columns of a block.
#pragma once

#include <cstddef>

namespace thermoq {

// Multiplies every `block` consecutive columns of data [rows, cols] by the orthogonal Hadamard
// matrix (Sylvester's, over sqrt(block)), which is its own inverse. `block` is a power of two that
// divides cols; else std::invalid_argument.
void hadamard(float* data, std::size_t rows, std::size_t cols, std::size_t block, int threads);

}  // namespace thermoq
