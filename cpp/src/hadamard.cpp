#include "thermoq/hadamard.hpp"

#include <cmath>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace thermoq {
namespace {

void transform(float* x, std::size_t block, float norm) {
  for (std::size_t half = 1; half < block; half *= 2) {
    for (std::size_t start = 0; start < block; start += 2 * half) {
      for (std::size_t i = start; i < start + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  for (std::size_t i = 0; i < block; ++i) {
    x[i] *= norm;
  }
}

}  // namespace

void hadamard(float* data, std::size_t rows, std::size_t cols, std::size_t block, int threads) {
  if (block == 0 || (block & (block - 1)) != 0 || cols % block != 0) {
    throw std::invalid_argument("block: expected a power of two that divides " +
                                std::to_string(cols) + ", got " + std::to_string(block));
  }
  const float norm = 1.0F / std::sqrt(static_cast<float>(block));
  parallel_for(
      rows, rows * cols, threads, [] { return NoState{}; },
      [&](NoState&, std::size_t row) {
        for (std::size_t first = 0; first < cols; first += block) {
          transform(data + row * cols + first, block, norm);
        }
      });
}

}  // namespace thermoq
