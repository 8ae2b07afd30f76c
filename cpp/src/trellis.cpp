#include "thermoq/trellis.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "half.hpp"
#include "parallel.hpp"
#include "row_error.hpp"
#include "row_stretch.hpp"
#include "trellis_stream.hpp"

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

// Another pass pays if the fit moved the scales by more than this, in root mean square.
constexpr double kWorthAPass = 0.05;

// Columns whose weights are fetched together: a cache line of f32.
constexpr std::size_t kColumnTile = 16;

struct Layout {
  const TrellisScheme& scheme;
  std::size_t rows, cols;

  std::size_t blocks() const { return (rows + scheme.block_rows - 1) / scheme.block_rows; }
  std::size_t rows_of(std::size_t block) const {
    return std::min(scheme.block_rows, rows - block * scheme.block_rows);
  }
  std::size_t block_offset(std::size_t block) const {
    return block * cols * scheme.stream_bytes(scheme.block_rows);
  }
};

// Eight rows of a block, or what is left of them.
struct RowTile {
  std::size_t first, count;  // of the matrix
  std::size_t block, within;
};

RowTile row_tile(const Layout& layout, std::size_t index) {
  const std::size_t first = index * kLanes;  // blocks are multiples of eight rows
  const std::size_t block = first / layout.scheme.block_rows;
  return {first, std::min(kLanes, layout.rows - first), block,
          first - block * layout.scheme.block_rows};
}

// A table's values, and those of pairs of rows where these stay in the caches and enough `weights`
// are looked up to make them worth it.
struct Lookup {
  std::vector<float> values, pairs;

  Lookup(const std::int16_t* table, const TrellisScheme& scheme, std::size_t weights)
      : values(std::size_t{1} << scheme.window_bits) {
    constexpr int kMostBits = 14;  // of a pair: 128 KiB
    std::transform(table, table + values.size(), values.begin(), [](std::int16_t entry) {
      return static_cast<float>(entry) / static_cast<float>(kTableUnit);
    });
    constexpr std::size_t kLeastUses = 16;
    const std::size_t count = std::size_t{1} << (scheme.window_bits + scheme.bit_width);
    if (count > std::size_t{1} << kMostBits || weights < kLeastUses * count) {
      return;
    }
    pairs.resize(2 * count);
    for (std::size_t i = 0; i < count; ++i) {
      pairs[2 * i] = values[i & (values.size() - 1)];
      pairs[2 * i + 1] = values[i >> scheme.bit_width];
    }
  }
};

constexpr float kOnes[kLanes] = {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F};

// The table values of `n` columns of a tile's rows, times the rows' scales.
void look_up(const KernelTable& kernel, const Layout& layout, const std::uint8_t* codes,
             const RowTile& tile, std::size_t first, std::size_t n, const Lookup& table,
             const float* scale, float* out, std::size_t stride) {
  const TrellisScheme& scheme = layout.scheme;
  const std::size_t stream = scheme.stream_bytes(layout.rows_of(tile.block));
  const auto bits = static_cast<std::size_t>(scheme.bit_width);
  const std::uint8_t* begin = codes + layout.block_offset(tile.block) + first * stream;
  kernel.trellis_rows(
      {begin + tile.within * bits / 8, codes + scheme.codes_bytes(layout.rows, layout.cols), stream,
       n, tile.count, table.values.data(), table.pairs.empty() ? nullptr : table.pairs.data(),
       scale, scheme.bit_width, scheme.window_bits},
      out, stride);
}

// What has to be known of a matrix in all passes.
struct Job {
  const MatrixView& source;
  Layout layout;
  const std::int16_t* table;
  const Lookup* lookup;            // of the table
  std::vector<float> importances;  // empty: all equal
  int threads;
};

struct Scratch {
  explicit Scratch(std::size_t stretch)
      : weights(stretch), weighted(stretch), decoded(kLanes * stretch) {}
  std::vector<float> weights, weighted, decoded;
};

std::size_t stretch_of(const Job& job) {
  return std::min({job.layout.scheme.group_size, kStretch, padded_length(job.source.cols)});
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

// Calls visit(group, first column, number of columns) for stretches of at most a group.
template <class Visit>
void for_each_stretch(const Job& job, std::size_t stretch, const Visit& visit) {
  const std::size_t group_size = job.layout.scheme.group_size;
  for (std::size_t begin = 0, group = 0; begin < job.source.cols; begin += group_size, ++group) {
    const std::size_t end = std::min(begin + group_size, job.source.cols);
    for (std::size_t first = begin; first < end; first += stretch) {
      visit(group, first, std::min(stretch, end - first));
    }
  }
}

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

// Root mean squares of a row's groups [groups_per_row], and the sum of their kurtoses, each as
// often as its group has weights.
double sizes_of_row(const Job& job, std::size_t row, std::size_t stretch, Scratch& scratch,
                    float* sizes) {
  const KernelTable& kernel = kernels();
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t groups = scheme.groups_per_row(job.source.cols);
  std::vector<double> second(groups);
  std::vector<double> fourth(groups);
  for_each_stretch(job, stretch, [&](std::size_t group, std::size_t first, std::size_t n) {
    const float* w =
        load_floats(kernel, job.source.row(row), job.source.type, first, n, scratch.weights.data());
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

void first_scales(const Job& job, std::uint16_t* scale) {
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t rows = job.source.rows;
  const std::size_t groups = scheme.groups_per_row(job.source.cols);
  const std::size_t stretch = stretch_of(job);
  std::vector<float> sizes(rows * groups);
  std::vector<double> kurtoses(rows);
  parallel_for(
      rows, rows * job.source.cols, job.threads, [&] { return Scratch(stretch); },
      [&](Scratch& scratch, std::size_t row) {
        kurtoses[row] = sizes_of_row(job, row, stretch, scratch, sizes.data() + row * groups);
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

// The values of a block's rows in the order of the steps.
void normalize(const Job& job, const std::uint16_t* scale, std::size_t block, std::size_t first,
               std::size_t n, TrellisWorkspace& workspace) {
  const KernelTable& kernel = kernels();
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t groups = scheme.groups_per_row(job.source.cols);
  const std::size_t rows = job.layout.rows_of(block);
  float scratch[kColumnTile];
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t row = block * scheme.block_rows + r;
    const float* w = load_floats(kernel, job.source.row(row), job.source.type, first, n, scratch);
    const float unit = half_to_float(scale[row * groups + first / scheme.group_size]);
    const float factor = unit > 0.0F ? static_cast<float>(kTableUnit) / unit : 0.0F;
    kernel.trellis_values(w, n, factor, workspace.values.data() + (rows - 1 - r) * kColumnTile);
  }
}

void encode(const Job& job, const std::uint16_t* scale, std::uint8_t* codes) {
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t tiles = (job.source.cols + kColumnTile - 1) / kColumnTile;
  parallel_for(
      job.layout.blocks() * tiles, job.source.rows * job.source.cols, job.threads,
      [&] { return TrellisWorkspace(scheme, job.table, kColumnTile); },
      [&](TrellisWorkspace& workspace, std::size_t index) {
        const std::size_t block = index / tiles;
        const std::size_t first = index % tiles * kColumnTile;
        const std::size_t n = std::min(kColumnTile, job.source.cols - first);
        const std::size_t rows = job.layout.rows_of(block);
        const std::size_t stream = scheme.stream_bytes(rows);
        normalize(job, scale, block, first, n, workspace);
        workspace.encode(rows, n, codes + job.layout.block_offset(block) + first * stream);
      });
}

struct Fit {
  double moved = 0.0, energy = 0.0;  // of the scales, weighted by what they stand for
  QuantizationError error;
};

// Fits the scales to the paths, and measures what is lost.
Fit fit_scales(const Job& job, const std::uint8_t* codes, std::uint16_t* scale) {
  const KernelTable& kernel = kernels();
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t cols = job.source.cols;
  const std::size_t groups = scheme.groups_per_row(cols);
  const std::size_t stretch = stretch_of(job);
  std::vector<RowError> errors(job.source.rows);
  std::vector<double> moved(job.source.rows);
  const auto body = [&](Scratch& scratch, std::size_t index) {
    const RowTile tile = row_tile(job.layout, index);
    std::vector<double> along(kLanes * groups);
    std::vector<double> size(kLanes * groups);
    const auto weights = [&](std::size_t r, std::size_t first, std::size_t n) {
      return load_floats(kernel, job.source.row(tile.first + r), job.source.type, first, n,
                         scratch.weights.data());
    };
    for_each_stretch(job, stretch, [&](std::size_t group, std::size_t first, std::size_t n) {
      look_up(kernel, job.layout, codes, tile, first, n, *job.lookup, kOnes, scratch.decoded.data(),
              n);
      for (std::size_t r = 0; r < tile.count; ++r) {
        const float* values = scratch.decoded.data() + r * n;
        const float* weighted = values;
        if (!job.importances.empty()) {
          for (std::size_t i = 0; i < n; ++i) {
            scratch.weighted[i] = values[i] * job.importances[first + i];
          }
          weighted = scratch.weighted.data();
        }
        along[r * groups + group] += kernel.dot(weights(r, first, n), weighted, n);
        size[r * groups + group] += kernel.dot(values, weighted, n);
      }
    });
    for (std::size_t r = 0; r < tile.count; ++r) {
      for (std::size_t g = 0; g < groups; ++g) {
        std::uint16_t& half = scale[(tile.first + r) * groups + g];
        const double before = half_to_float(half);
        const std::size_t i = r * groups + g;
        const double fitted = size[i] > 0.0 ? std::max(0.0, along[i] / size[i]) : 0.0;
        half = half_nearest(std::min(static_cast<float>(fitted), kMaxMagnitude));
        const double change = half_to_float(half) - before;
        moved[tile.first + r] += change * change * size[i];
      }
    }
    RowError sums[kLanes] = {};
    for_each_stretch(job, stretch, [&](std::size_t group, std::size_t first, std::size_t n) {
      look_up(kernel, job.layout, codes, tile, first, n, *job.lookup, kOnes, scratch.decoded.data(),
              n);
      for (std::size_t r = 0; r < tile.count; ++r) {
        const float unit = half_to_float(scale[(tile.first + r) * groups + group]);
        add_errors(kernel, weights(r, first, n), unit, scratch.decoded.data() + r * n, n,
                   scratch.weighted.data(), sums[r]);
      }
    });
    std::copy(sums, sums + tile.count, errors.begin() + static_cast<std::ptrdiff_t>(tile.first));
  };
  parallel_for((job.source.rows + kLanes - 1) / kLanes, job.source.rows * cols, job.threads,
               [&] { return Scratch(stretch); }, body);
  Fit fit;
  fit.error = total_error(errors, job.source);
  for (const double one : moved) {
    fit.moved += one;
  }
  fit.energy = fit.error.decoded_energy;
  return fit;
}

std::vector<float> relative(const float* importances, std::size_t cols) {
  if (importances == nullptr) {
    return {};
  }
  const float largest = *std::max_element(importances, importances + cols);
  if (!(largest > 0.0F)) {
    return {};  // all are 0, as if they were equal
  }
  std::vector<float> result(cols);
  std::transform(importances, importances + cols, result.begin(),
                 [largest](float x) { return x / largest; });
  return result;
}

}  // namespace

void check(const TrellisScheme& scheme) {
  if (scheme.bit_width < 2 || scheme.bit_width > 4) {
    throw std::invalid_argument("bit_width: expected 2, 3 or 4, got " +
                                std::to_string(scheme.bit_width));
  }
  if (scheme.window_bits < kMinWindowBits || scheme.window_bits > kMaxWindowBits) {
    throw std::invalid_argument("window_bits: expected 8 to 12, got " +
                                std::to_string(scheme.window_bits));
  }
  check_scheme(AffineScheme{2, scheme.group_size});
  if (scheme.block_rows == 0 || scheme.block_rows % kLanes != 0 ||
      scheme.block_rows > kMaxTrellisBlock) {
    throw std::invalid_argument("block_rows: expected a multiple of 8 up to 4096, got " +
                                std::to_string(scheme.block_rows));
  }
}

void check_table(const std::int16_t* table, int window_bits) {
  const std::int16_t* end = table + (std::size_t{1} << window_bits);
  const auto* wrong = std::find_if(
      table, end, [](int entry) { return entry < -kMaxTableEntry || entry > kMaxTableEntry; });
  if (wrong != end) {
    throw std::invalid_argument("table: expected entries within +-16384, got " +
                                std::to_string(*wrong));
  }
}

void first_trellis_scales(const MatrixView& source, const TrellisScheme& scheme,
                          std::uint16_t* scale, int threads) {
  check(scheme);
  const Job job{source, {scheme, source.rows, source.cols}, nullptr, nullptr, {}, threads};
  first_scales(job, scale);
}

QuantizationError quantize_trellis(const MatrixView& source, const TrellisScheme& scheme,
                                   const std::int16_t* table, const float* importances, int passes,
                                   const TrellisCodes& out, int threads) {
  check(scheme);
  check_table(table, scheme.window_bits);
  const Layout layout{scheme, source.rows, source.cols};
  const Lookup lookup(table, scheme, source.rows * source.cols);
  const Job job{source, layout, table, &lookup, relative(importances, source.cols), threads};
  const std::size_t num_codes = scheme.codes_bytes(source.rows, source.cols);
  const std::size_t num_scales = source.rows * scheme.groups_per_row(source.cols);
  first_scales(job, out.scale);
  encode(job, out.scale, out.codes);
  Fit best = fit_scales(job, out.codes, out.scale);
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scale;
  for (int pass = 1; pass < passes && best.moved > kWorthAPass * kWorthAPass * best.energy;
       ++pass) {
    codes.resize(num_codes);
    scale.assign(out.scale, out.scale + num_scales);
    encode(job, scale.data(), codes.data());
    const Fit fit = fit_scales(job, codes.data(), scale.data());
    if (!(fit.error.squared_error < best.error.squared_error)) {
      break;
    }
    best = fit;
    std::copy(codes.begin(), codes.end(), out.codes);
    std::copy(scale.begin(), scale.end(), out.scale);
  }
  return best.error;
}

void dequantize_trellis(const TrellisCodesView& in, const TrellisScheme& scheme,
                        const std::int16_t* table, std::size_t rows, std::size_t cols,
                        FloatType type, std::uint8_t* out, int threads) {
  check(scheme);
  check_table(table, scheme.window_bits);
  const KernelTable& kernel = kernels();
  const Layout layout{scheme, rows, cols};
  const Lookup lookup(table, scheme, rows * cols);
  const std::size_t groups = scheme.groups_per_row(cols);
  const std::size_t stretch = std::min({scheme.group_size, kStretch, padded_length(cols)});
  const MatrixView shape{nullptr, type, rows, cols};
  const Job job{shape, layout, table, &lookup, {}, threads};
  const bool in_place =
      type == FloatType::f32 && reinterpret_cast<std::uintptr_t>(out) % alignof(float) == 0;
  parallel_for(
      (rows + kLanes - 1) / kLanes, rows * cols, threads,
      [&] { return std::vector<float>(kLanes * stretch); },
      [&](std::vector<float>& scratch, std::size_t index) {
        const RowTile tile = row_tile(layout, index);
        for_each_stretch(job, stretch, [&](std::size_t group, std::size_t first, std::size_t n) {
          float scale[kLanes];
          for (std::size_t r = 0; r < tile.count; ++r) {
            scale[r] = half_to_float(in.scale[(tile.first + r) * groups + group]);
          }
          float* direct =
              in_place ? reinterpret_cast<float*>(out) + tile.first * cols + first : scratch.data();
          look_up(kernel, layout, in.codes, tile, first, n, lookup, scale, direct,
                  in_place ? cols : n);
          for (std::size_t r = 0; !in_place && r < tile.count; ++r) {
            store_floats(kernel, direct + r * n, n, type,
                         out + ((tile.first + r) * cols + first) * bytes_per_element(type));
          }
        });
      });
}

}  // namespace thermoq
