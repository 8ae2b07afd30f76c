#include "thermoq/rotation.hpp"

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.hpp"

namespace thermoq {
namespace {

constexpr std::size_t kRegisters = 8;

// The first three stages of eight values, in registers: their steps are too short for wide ones.
void first_stages(float* x) {
  const float a0 = x[0] + x[1];
  const float a1 = x[0] - x[1];
  const float a2 = x[2] + x[3];
  const float a3 = x[2] - x[3];
  const float a4 = x[4] + x[5];
  const float a5 = x[4] - x[5];
  const float a6 = x[6] + x[7];
  const float a7 = x[6] - x[7];
  const float b0 = a0 + a2;
  const float b1 = a1 + a3;
  const float b2 = a0 - a2;
  const float b3 = a1 - a3;
  const float b4 = a4 + a6;
  const float b5 = a5 + a7;
  const float b6 = a4 - a6;
  const float b7 = a5 - a7;
  x[0] = b0 + b4;
  x[1] = b1 + b5;
  x[2] = b2 + b6;
  x[3] = b3 + b7;
  x[4] = b0 - b4;
  x[5] = b1 - b5;
  x[6] = b2 - b6;
  x[7] = b3 - b7;
}

void transform(float* x, std::size_t block, float norm) {
  std::size_t done = 1;
  if (block >= kRegisters) {
    for (std::size_t start = 0; start < block; start += kRegisters) {
      first_stages(x + start);
    }
    done = kRegisters;
  }
  for (std::size_t half = done; half < block; half *= 2) {
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

void transform_row(float* row, std::size_t cols, std::size_t block, float norm) {
  for (std::size_t first = 0; first < cols; first += block) {
    transform(row + first, block, norm);
  }
}

float checked_norm(std::size_t cols, std::size_t block) {
  if (block == 0 || (block & (block - 1)) != 0 || cols % block != 0) {
    throw std::invalid_argument("block: expected a power of two that divides " +
                                std::to_string(cols) + ", got " + std::to_string(block));
  }
  return 1.0F / std::sqrt(static_cast<float>(block));
}

}  // namespace

void hadamard(float* data, std::size_t rows, std::size_t cols, std::size_t block, int threads) {
  const float norm = checked_norm(cols, block);
  parallel_for(
      rows, rows * cols, threads, [] { return NoState{}; },
      [&](NoState&, std::size_t row) { transform_row(data + row * cols, cols, block, norm); });
}

void rotate(const float* in, std::size_t rows, std::size_t cols, const RotationView& rotation,
            float* out, int threads) {
  const float norm = checked_norm(cols, rotation.block);
  parallel_for(
      rows, rows * cols, threads, [] { return NoState{}; },
      [&](NoState&, std::size_t row) {
        const float* source = in + row * cols;
        float* target = out + row * cols;
        for (std::size_t j = 0; j < cols; ++j) {
          const auto column = static_cast<std::size_t>(rotation.order[j]);
          target[j] = source[column] * rotation.signs[column];
        }
        transform_row(target, cols, rotation.block, norm);
      });
}

void unrotate(const float* in, std::size_t rows, std::size_t cols, const RotationView& rotation,
              float* out, int threads) {
  const float norm = checked_norm(cols, rotation.block);
  parallel_for(
      rows, rows * cols, threads, [cols] { return std::vector<float>(cols); },
      [&](std::vector<float>& turned, std::size_t row) {
        std::memcpy(turned.data(), in + row * cols, cols * sizeof(float));
        transform_row(turned.data(), cols, rotation.block, norm);
        float* target = out + row * cols;
        for (std::size_t j = 0; j < cols; ++j) {
          const auto column = static_cast<std::size_t>(rotation.order[j]);
          target[column] = turned[j] * rotation.signs[column];
        }
      });
}

}  // namespace thermoq
