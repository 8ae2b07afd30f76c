#include "thermoq/compensation.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"
#include "parallel.hpp"

namespace thermoq {
namespace {

// Of a sweep's multiplications, that take as long as other work takes for a weight.
constexpr std::size_t kSweepsPerWeight = 16;

// A thread's tile of sixteen rows, and their parameters by group.
struct SweepSpace {
  SweepSpace(std::size_t n, std::size_t groups)
      : weights(kSweepLanes * n),
        codes(kSweepLanes * n),
        scale(kSweepLanes * groups),
        minimum(kSweepLanes * groups) {}
  std::vector<float> weights;
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, minimum;
};

// [rows, n] -> [n, kSweepLanes], absent rows 0; and back.
void to_lanes(const float* in, std::size_t rows, std::size_t n, std::vector<float>& out) {
  std::fill(out.begin(), out.end(), 0.0F);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < n; ++i) {
      out[kSweepLanes * i + row] = in[row * n + i];
    }
  }
}

template <class T>
void from_lanes(const std::vector<T>& in, std::size_t rows, std::size_t n, T* out) {
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < n; ++i) {
      out[row * n + i] = in[kSweepLanes * i + row];
    }
  }
}

}  // namespace

void sweep(float* weights, std::size_t rows, std::size_t n, const float* factor,
           const SweepGrid& grid, std::uint8_t* codes, int threads) {
  if (n > kMaxSweep) {
    throw std::invalid_argument("columns: expected at most 256, got " + std::to_string(n));
  }
  for (std::size_t j = 0; j < n; ++j) {
    if (grid.group_of[j] < 0 || static_cast<std::size_t>(grid.group_of[j]) >= grid.groups) {
      throw std::invalid_argument("group_of: expected groups below " + std::to_string(grid.groups) +
                                  ", got " + std::to_string(grid.group_of[j]));
    }
  }
  const KernelTable& kernel = kernels();
  parallel_for(
      (rows + kSweepLanes - 1) / kSweepLanes, rows * n * n / kSweepsPerWeight, threads,
      [&] { return SweepSpace(n, grid.groups); },
      [&](SweepSpace& space, std::size_t block) {
        const std::size_t first = block * kSweepLanes;
        const std::size_t count = std::min(kSweepLanes, rows - first);
        to_lanes(weights + first * n, count, n, space.weights);
        to_lanes(grid.scale + first * grid.groups, count, grid.groups, space.scale);
        to_lanes(grid.minimum + first * grid.groups, count, grid.groups, space.minimum);
        kernel.sweep({space.weights.data(), n, factor, space.scale.data(), space.minimum.data(),
                      grid.group_of, grid.lowest, grid.highest, space.codes.data()});
        from_lanes(space.weights, count, n, weights + first * n);
        from_lanes(space.codes, count, n, codes + first * n);
      });
}

}  // namespace thermoq
