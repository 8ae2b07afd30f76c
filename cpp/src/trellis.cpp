#include "thermoq/trellis.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "half.hpp"
#include "parallel.hpp"
#include "row_stretch.hpp"
#include "trellis_matrix.hpp"
#include "trellis_scales.hpp"
#include "trellis_stream.hpp"

namespace thermoq {
namespace {

// Another pass pays if the fit moved the scales by more than this, in root mean square.
constexpr double kWorthAPass = 0.05;

// Columns whose weights are fetched together: a cache line of f32.
constexpr std::size_t kColumnTile = 16;

// The values of a block's rows in the order of the steps.
void normalize(const TrellisJob& job, const std::uint16_t* scale, std::size_t block,
               std::size_t first, std::size_t n, TrellisWorkspace& workspace) {
  const KernelTable& kernel = kernels();
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t groups = scheme.groups_per_row(job.source.cols);
  const std::size_t rows = job.layout.rows_of(block);
  // A group may end in the middle of a tile, after eight columns.
  const bool whole = groups == 1 || scheme.group_size % kColumnTile == 0;
  const std::size_t step = whole ? kColumnTile : kGroupMultiple;
  float scratch[kColumnTile];
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t row = block * scheme.block_rows + r;
    const float* w = load_floats(kernel, job.source.row(row), job.source.type, first, n, scratch);
    std::int16_t* values = workspace.values.data() + (rows - 1 - r) * kColumnTile;
    for (std::size_t c = 0; c < n; c += step) {
      const float unit = half_to_float(scale[row * groups + (first + c) / scheme.group_size]);
      const float factor = unit > 0.0F ? static_cast<float>(kTableUnit) / unit : 0.0F;
      kernel.trellis_values(w + c, std::min(step, n - c), factor, values + c);
    }
  }
}

void encode(const TrellisJob& job, const std::int16_t* table, const std::uint16_t* scale,
            std::uint8_t* codes) {
  const TrellisScheme& scheme = job.layout.scheme;
  const std::size_t tiles = (job.source.cols + kColumnTile - 1) / kColumnTile;
  parallel_for(
      job.layout.blocks() * tiles, job.source.rows * job.source.cols, job.threads,
      [&] { return TrellisWorkspace(scheme, table, kColumnTile); },
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

QuantizationError quantize_trellis(const MatrixView& source, const TrellisScheme& scheme,
                                   const std::int16_t* table, const float* importances, int passes,
                                   const TrellisCodes& out, int threads) {
  check(scheme);
  check_table(table, scheme.window_bits);
  const TrellisLookup lookup(table, scheme, source.rows * source.cols);
  const TrellisJob job{source,
                       {scheme, source.rows, source.cols},
                       &lookup,
                       relative(importances, source.cols),
                       threads};
  const std::size_t num_codes = scheme.codes_bytes(source.rows, source.cols);
  const std::size_t num_scales = source.rows * scheme.groups_per_row(source.cols);
  guess_scales(job, out.scale);
  encode(job, table, out.scale, out.codes);
  TrellisFit best = fit_scales(job, out.codes, out.scale);
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scale;
  for (int pass = 1; pass < passes && best.moved > kWorthAPass * kWorthAPass * best.energy;
       ++pass) {
    codes.resize(num_codes);
    scale.assign(out.scale, out.scale + num_scales);
    encode(job, table, scale.data(), codes.data());
    const TrellisFit fit = fit_scales(job, codes.data(), scale.data());
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
  const TrellisLayout layout{scheme, rows, cols};
  const TrellisLookup lookup(table, scheme, rows * cols);
  const std::size_t groups = scheme.groups_per_row(cols);
  const bool in_place =
      type == FloatType::f32 && reinterpret_cast<std::uintptr_t>(out) % alignof(float) == 0;
  parallel_for(
      layout.row_tiles(), rows * cols, threads,
      [&] { return std::vector<float>(kLanes * stretch_of(layout)); },
      [&](std::vector<float>& scratch, std::size_t index) {
        const RowTile tile = row_tile(layout, index);
        for_each_stretch(layout, [&](std::size_t group, std::size_t first, std::size_t n) {
          float scale[kLanes];
          for (std::size_t r = 0; r < tile.count; ++r) {
            scale[r] = half_to_float(in.scale[(tile.first + r) * groups + group]);
          }
          float* direct =
              in_place ? reinterpret_cast<float*>(out) + tile.first * cols + first : scratch.data();
          lookup.decode(layout, in.codes, tile, first, n, scale, direct, in_place ? cols : n);
          for (std::size_t r = 0; !in_place && r < tile.count; ++r) {
            store_floats(kernel, direct + r * n, n, type,
                         out + ((tile.first + r) * cols + first) * bytes_per_element(type));
          }
        });
      });
}

}  // namespace thermoq
