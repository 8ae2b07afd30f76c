#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.hpp"
#include "thermoq/compensation.hpp"
#include "thermoq/trellis.hpp"
#include "trellis_stream.hpp"

namespace thermoq {
namespace {

// What all blocks of rows share.
struct Sweep {
  std::size_t n;
  const float* factor;
  const TrellisSweep& grid;
  const TrellisScheme& scheme;
};

// A thread's block of rows, column after column, and what one column needs.
struct BlockSpace {
  BlockSpace(const TrellisScheme& scheme, const std::int16_t* table, std::size_t n)
      : paths(scheme, table, 1), weights(n * scheme.block_rows), steps(scheme.block_rows) {}
  TrellisWorkspace paths;
  std::vector<float> weights;  // [n, rows]
  std::vector<float> steps;    // in the order of the steps, in units of the table
};

// Column `j` of `rows` rows, whose scales begin at `scale`: its codes, and the scaled errors in the
// place of its weights.
void quantize_column(const Sweep& sweep, const float* scale, std::size_t rows, std::size_t j,
                     BlockSpace& space, std::uint8_t* codes) {
  scale += sweep.grid.group_of[j];
  float* column = space.weights.data() + j * rows;
  for (std::size_t r = 0; r < rows; ++r) {
    const float unit = scale[r * sweep.grid.groups];
    const float inverse = unit > 0.0F ? static_cast<float>(kTableUnit) / unit : 0.0F;
    space.steps[rows - 1 - r] = column[r] * inverse;
  }
  TrellisWorkspace& paths = space.paths;
  kernels().trellis_values(space.steps.data(), rows, 1.0F, paths.values.data());
  paths.encode(rows, 1, codes);
  const float own = sweep.factor[j * sweep.n + j];
  for (std::size_t r = 0; r < rows; ++r) {
    const auto entry = static_cast<float>(paths.table.data()[paths.windows[rows - 1 - r]]);
    const float value = entry / static_cast<float>(kTableUnit);
    column[r] = (column[r] - scale[r * sweep.grid.groups] * value) / own;
  }
}

// Makes up for the errors of column `j` in those behind.
void compensate(const Sweep& sweep, std::size_t rows, std::size_t j, float* weights) {
  const float* errors = weights + j * rows;
  for (std::size_t k = j + 1; k < sweep.n; ++k) {
    const float share = sweep.factor[j * sweep.n + k];
    float* behind = weights + k * rows;
    for (std::size_t r = 0; r < rows; ++r) {
      behind[r] -= errors[r] * share;
    }
  }
}

void check_sweep(std::size_t n, const TrellisSweep& grid) {
  if (n > kMaxSweep) {
    throw std::invalid_argument("columns: expected at most 256, got " + std::to_string(n));
  }
  for (std::size_t j = 0; j < n; ++j) {
    if (grid.group_of[j] < 0 || static_cast<std::size_t>(grid.group_of[j]) >= grid.groups) {
      throw std::invalid_argument("group_of: expected groups below " + std::to_string(grid.groups) +
                                  ", got " + std::to_string(grid.group_of[j]));
    }
  }
}

}  // namespace

void sweep_trellis(float* weights, std::size_t rows, std::size_t n, const float* factor,
                   const TrellisSweep& grid, const TrellisScheme& scheme, const std::int16_t* table,
                   std::uint8_t* codes, int threads) {
  check(scheme);
  check_table(table, scheme.window_bits);
  check_sweep(n, grid);
  const Sweep sweep{n, factor, grid, scheme};
  const std::size_t whole = scheme.block_rows;
  parallel_for((rows + whole - 1) / whole, rows * n * n, threads,
               [&] { return BlockSpace(scheme, table, n); },
               [&](BlockSpace& space, std::size_t block) {
                 const std::size_t first = block * whole;
                 const std::size_t count = std::min(whole, rows - first);
                 const std::size_t stream = scheme.stream_bytes(count);
                 float* own = weights + first * n;
                 for (std::size_t r = 0; r < count; ++r) {
                   for (std::size_t j = 0; j < n; ++j) {
                     space.weights[j * count + r] = own[r * n + j];
                   }
                 }
                 std::uint8_t* out = codes + block * n * scheme.stream_bytes(whole);
                 for (std::size_t j = 0; j < n; ++j) {
                   quantize_column(sweep, grid.scale + first * grid.groups, count, j, space,
                                   out + j * stream);
                   compensate(sweep, count, j, space.weights.data());
                 }
                 for (std::size_t r = 0; r < count; ++r) {
                   for (std::size_t j = 0; j < n; ++j) {
                     own[r * n + j] = space.weights[j * count + r];
                   }
                 }
               });
}

}  // namespace thermoq
