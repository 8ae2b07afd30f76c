#include "trellis_scales.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "half.hpp"
#include "parallel.hpp"
#include "row_error.hpp"

namespace thermoq {
namespace {

// The scale to begin with, in units of a group's root mean square: `least` for Gaussian weights,
// and `tails` more for each doubling of their kurtosis. Measured with Gaussian tables (scripts and
// figures: bench/trellis.py) for windows of 8 and of 12 bits; those between lie in between. So
// close to the optimum, one pass is nearly as good as many.
struct FirstScale {
  float least[2], tails[2];
};
constexpr FirstScale kFirstScale[] = {
    {{1.05F, 1.02F}, {0.10F, 0.08F}},  // 2 bits
    {{1.13F, 1.06F}, {0.28F, 0.20F}},  // 3
    {{1.20F, 1.09F}, {0.50F, 0.35F}},  // 4
};
constexpr double kGaussianKurtosis = 3.0;

constexpr float kOnes[kLanes] = {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F};

struct Scratch {
  explicit Scratch(std::size_t stretch)
      : weights(stretch), weighted(stretch), decoded(kLanes * stretch) {}
  std::vector<float> weights, weighted, decoded;
};

float first_factor(const TrellisScheme& scheme, double kurtosis) {
  const FirstScale& first = kFirstScale[scheme.bit_width - 2];
  const float part = static_cast<float>(scheme.window_bits - kMinWindowBits) /
                     static_cast<float>(kMaxWindowBits - kMinWindowBits);
  const float tails = static_cast<float>(std::log2(std::max(1.0, kurtosis / kGaussianKurtosis)));
  const auto between = [part](const float(&ends)[2]) {
    return ends[0] + part * (ends[1] - ends[0]);
  };
  return between(first.least) + between(first.tails) * tails;
}

const float* load_row(const TrellisJob& job, std::size_t row, std::size_t first, std::size_t n,
                      Scratch& scratch) {
  return load_floats(kernels(), job.source.row(row), job.source.type, first, n,
                     scratch.weights.data());
}

// Root mean squares of a row's groups [groups_per_row], and the sum of their kurtoses, each as
// often as its group has weights.
double sizes_of_row(const TrellisJob& job, std::size_t row, Scratch& scratch, float* sizes) {
  const KernelTable& kernel = kernels();
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t groups = scheme.groups_per_row(job.source.cols);
  std::vector<double> second(groups);
  std::vector<double> fourth(groups);
  for_each_stretch(job.layout, [&](std::size_t group, std::size_t first, std::size_t n) {
    const float* w = load_row(job, row, first, n, scratch);
    float* squares = scratch.weighted.data();
    std::transform(w, w + n, squares, [](float x) { return x * x; });
    second[group] += static_cast<double>(kernel.dot(w, w, n));
    fourth[group] += static_cast<double>(kernel.dot(squares, squares, n));
  });
  double kurtosis = 0.0;
  for (std::size_t g = 0; g < groups; ++g) {
    const std::size_t size = std::min(scheme.group_size, job.source.cols - g * scheme.group_size);
    const auto n = static_cast<double>(size);
    sizes[g] = static_cast<float>(std::sqrt(second[g] / n));
    const double ratio = second[g] > 0.0 ? n * fourth[g] / (second[g] * second[g]) : 0.0;
    kurtosis += std::isfinite(ratio) ? n * ratio : 0.0;
  }
  return kurtosis;
}

// What a row's paths and its weights have in common, by group.
struct Along {
  explicit Along(std::size_t groups) : products(kLanes * groups), squares(kLanes * groups) {}
  std::vector<double> products, squares;  // [kLanes, groups]
};

Along sums_along(const TrellisJob& job, const std::uint8_t* codes, const RowTile& tile,
                 Scratch& scratch) {
  const KernelTable& kernel = kernels();
  const std::size_t groups = job.layout.scheme.groups_per_row(job.source.cols);
  Along along(groups);
  for_each_stretch(job.layout, [&](std::size_t group, std::size_t first, std::size_t n) {
    job.lookup->decode(job.layout, codes, tile, first, n, kOnes, scratch.decoded.data(), n);
    for (std::size_t r = 0; r < tile.count; ++r) {
      const float* values = scratch.decoded.data() + r * n;
      const float* weighted = values;
      if (!job.importances.empty()) {
        for (std::size_t i = 0; i < n; ++i) {
          scratch.weighted[i] = values[i] * job.importances[first + i];
        }
        weighted = scratch.weighted.data();
      }
      const float* w = load_row(job, tile.first + r, first, n, scratch);
      along.products[r * groups + group] += kernel.dot(w, weighted, n);
      along.squares[r * groups + group] += kernel.dot(values, weighted, n);
    }
  });
  return along;
}

// Sets the scales [groups] of a tile's row to their least squares; returns by how much they moved.
double move_scales(const Along& along, std::size_t row, std::size_t groups, std::uint16_t* scale) {
  double moved = 0.0;
  for (std::size_t g = 0; g < groups; ++g) {
    const double product = along.products[row * groups + g];
    const double square = along.squares[row * groups + g];
    const double before = half_to_float(scale[g]);
    const double fitted = square > 0.0 ? std::max(0.0, product / square) : 0.0;
    scale[g] = half_nearest(std::min(static_cast<float>(fitted), kMaxMagnitude));
    const double change = half_to_float(scale[g]) - before;
    moved += change * change * square;
  }
  return moved;
}

// Adds a stretch of a row to its sums; `lost` [n] is scratch memory.
void add_errors(const KernelTable& kernel, const float* weights, float unit, const float* values,
                std::size_t n, float* lost, RowError& sums) {
  for (std::size_t i = 0; i < n; ++i) {
    lost[i] = unit * values[i] - weights[i];
    sums.max_squared_error = std::max(sums.max_squared_error, lost[i] * lost[i]);
    sums.max_magnitude = std::max(sums.max_magnitude, std::abs(weights[i]));
  }
  sums.squared_error += static_cast<double>(kernel.dot(lost, lost, n));
  sums.source_energy += static_cast<double>(kernel.dot(weights, weights, n));
  const double size = static_cast<double>(kernel.dot(values, values, n));
  sums.decoded_energy += static_cast<double>(unit) * static_cast<double>(unit) * size;
}

// The errors of a tile's rows go to errors [kLanes], which begin at zero.
void measure(const TrellisJob& job, const std::uint8_t* codes, const std::uint16_t* scale,
             const RowTile& tile, Scratch& scratch, RowError* errors) {
  const KernelTable& kernel = kernels();
  const std::size_t groups = job.layout.scheme.groups_per_row(job.source.cols);
  for_each_stretch(job.layout, [&](std::size_t group, std::size_t first, std::size_t n) {
    job.lookup->decode(job.layout, codes, tile, first, n, kOnes, scratch.decoded.data(), n);
    for (std::size_t r = 0; r < tile.count; ++r) {
      const float unit = half_to_float(scale[(tile.first + r) * groups + group]);
      const float* w = load_row(job, tile.first + r, first, n, scratch);
      add_errors(kernel, w, unit, scratch.decoded.data() + r * n, n, scratch.weighted.data(),
                 errors[r]);
    }
  });
}

}  // namespace

void guess_scales(const TrellisJob& job, std::uint16_t* scale) {
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t rows = job.source.rows;
  const std::size_t groups = scheme.groups_per_row(job.source.cols);
  std::vector<float> sizes(rows * groups);
  std::vector<double> kurtoses(rows);
  parallel_for(
      rows, rows * job.source.cols, job.threads, [&] { return Scratch(stretch_of(job.layout)); },
      [&](Scratch& scratch, std::size_t row) {
        kurtoses[row] = sizes_of_row(job, row, scratch, sizes.data() + row * groups);
      });
  double kurtosis = 0.0;
  for (const double one : kurtoses) {
    kurtosis += one;
  }
  const float factor = first_factor(
      scheme,
      kurtosis / std::max(1.0, static_cast<double>(rows) * static_cast<double>(job.source.cols)));
  std::transform(sizes.begin(), sizes.end(), scale, [factor](float size) {
    return half_nearest(std::min(factor * size, kMaxMagnitude));
  });
}

TrellisFit fit_scales(const TrellisJob& job, const std::uint8_t* codes, std::uint16_t* scale) {
  const std::size_t groups = job.layout.scheme.groups_per_row(job.source.cols);
  std::vector<RowError> errors(job.source.rows);
  std::vector<double> moved(job.source.rows);
  parallel_for(
      job.layout.row_tiles(), job.source.rows * job.source.cols, job.threads,
      [&] { return Scratch(stretch_of(job.layout)); },
      [&](Scratch& scratch, std::size_t index) {
        const RowTile tile = row_tile(job.layout, index);
        const Along along = sums_along(job, codes, tile, scratch);
        for (std::size_t r = 0; r < tile.count; ++r) {
          const std::size_t row = tile.first + r;
          moved[row] = move_scales(along, r, groups, scale + row * groups);
        }
        measure(job, codes, scale, tile, scratch, errors.data() + tile.first);
      });
  TrellisFit fit;
  fit.error = total_error(errors, job.source);
  for (const double one : moved) {
    fit.moved += one;
  }
  fit.energy = fit.error.decoded_energy;
  return fit;
}

void first_trellis_scales(const MatrixView& source, const TrellisScheme& scheme,
                          std::uint16_t* scale, int threads) {
  check(scheme);
  guess_scales({source, {scheme, source.rows, source.cols}, nullptr, {}, threads}, scale);
}

}  // namespace thermoq
