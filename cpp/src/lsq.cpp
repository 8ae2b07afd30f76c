#include "thermoq/lsq.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "bit_stream.hpp"
#include "parallel.hpp"
#include "row_error.hpp"
#include "row_stretch.hpp"

namespace thermoq {
namespace {

// Positive importances are kept from here up, relative to their mean: below, squares times
// importances would leave f32's range, and nothing would tell a zero.
constexpr double kLeastImportance = 0x1p-40;

// Importances with mean 1, so that their unit does not matter; those of a group where all are 0 are
// equal, and small enough to leave the other groups of a super-block alone. Empty for null.
std::vector<float> normalized(const float* importances, std::size_t cols, std::size_t group_size) {
  if (importances == nullptr) {
    return {};
  }
  double sum = 0.0;
  for (std::size_t i = 0; i < cols; ++i) {
    sum += static_cast<double>(importances[i]);
  }
  const double unit = sum > 0.0 ? static_cast<double>(cols) / sum : 0.0;
  std::vector<float> result(cols);
  for (std::size_t begin = 0; begin < cols; begin += group_size) {
    const std::size_t end = std::min(cols, begin + group_size);
    const bool all_zero =
        std::all_of(importances + begin, importances + end, [](float x) { return !(x > 0.0F); });
    for (std::size_t i = begin; i < end; ++i) {
      const double x = static_cast<double>(importances[i]) * unit;
      const double kept = importances[i] > 0.0F ? std::max(x, kLeastImportance) : 0.0;
      result[i] = static_cast<float>(all_zero ? kLeastImportance : kept);
    }
  }
  return result;
}

// A thread's tile, scratch memory, and a place for the codes of rows that do not exist.
struct Workspace {
  Workspace(std::size_t tile, std::size_t scratch_size, std::size_t row_bytes)
      : weights(kLanes * tile), scratch(scratch_size), nowhere(row_bytes) {}
  std::vector<float> weights;
  std::vector<float> scratch;
  std::vector<std::uint8_t> nowhere;
};

// Eight rows, or what is left of them.
struct RowBlock {
  std::size_t first, count;
};

// Calls body(workspace, rows, sums) for every eight rows; `make` makes a thread's workspace.
template <class Make, class Body>
QuantizationError for_each_row_block(const MatrixView& source, int threads, const Make& make,
                                     const Body& body) {
  std::vector<RowError> errors(source.rows);
  parallel_for((source.rows + kLanes - 1) / kLanes, source.rows * source.cols, threads, make,
               [&](auto& workspace, std::size_t block) {
                 const std::size_t first = block * kLanes;
                 const RowBlock rows{first, std::min(kLanes, source.rows - first)};
                 TileSums sums;
                 body(workspace, rows, sums);
                 for (std::size_t lane = 0; lane < rows.count; ++lane) {
                   errors[first + lane] = {sums.squared_error[lane], sums.source_energy[lane],
                                           sums.decoded_energy[lane], sums.max_squared_error[lane],
                                           sums.max_magnitude[lane]};
                 }
               });
  return total_error(errors, source);
}

// The tile of `n` columns from `first` on.
Tile load(const KernelTable& kernel, const MatrixView& source, const RowBlock& rows,
          std::size_t first, std::size_t n, const std::vector<float>& importances,
          Workspace& workspace) {
  kernel.load_tile(source.row(rows.first) + first * bytes_per_element(source.type),
                   source.row_bytes(), rows.count, source.type, n, workspace.weights.data());
  return {workspace.weights.data(), importances.empty() ? nullptr : importances.data() + first, n};
}

// Where the codes of the rows go, `offset` bytes into each.
TileRows targets(std::uint8_t* codes, std::size_t row_bytes, const RowBlock& rows,
                 std::size_t offset, Workspace& workspace, TileSums& sums) {
  TileRows result{{}, sums};
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    std::uint8_t* row =
        lane < rows.count ? codes + (rows.first + lane) * row_bytes : workspace.nowhere.data();
    result.codes[lane] = row + offset;
  }
  return result;
}

// Lane by lane to [row, column] of a matrix with `width` columns.
void store_column(const std::uint16_t* lanes, const RowBlock& rows, std::size_t width,
                  std::size_t column, std::uint16_t* out) {
  for (std::size_t lane = 0; lane < rows.count; ++lane) {
    out[(rows.first + lane) * width + column] = lanes[lane];
  }
}

void check_parameter_bits(int bits, const char* name) {
  if (bits < 1 || bits > kMaxParameterBits) {
    throw std::invalid_argument(std::string(name) + ": expected 1 to 8, got " +
                                std::to_string(bits));
  }
}

// Packs one row's lane of codes [groups, kLanes].
void pack_lane(const std::vector<std::uint8_t>& codes, std::size_t lane, std::size_t groups,
               int bits, std::vector<std::uint8_t>& scratch, std::uint8_t* out) {
  for (std::size_t g = 0; g < groups; ++g) {
    scratch[g] = codes[kLanes * g + lane];
  }
  pack_bits(scratch.data(), groups, bits, out);
}

struct CodedWorkspace : Workspace {
  CodedWorkspace(const CodedScheme& scheme, std::size_t block, std::size_t cols)
      : Workspace(block,
                  super_block_scratch(scheme.group_size, scheme.super_block / scheme.group_size),
                  scheme.row_bytes(cols)),
        scale_codes(kLanes * scheme.groups_per_row(cols)),
        minimum_codes(scale_codes.size()),
        row_codes(scheme.groups_per_row(cols)) {}
  std::vector<std::uint8_t> scale_codes, minimum_codes;  // [groups of a row, kLanes]
  std::vector<std::uint8_t> row_codes;
};

}  // namespace

void check(const AffineScheme& scheme) {
  check_scheme(scheme);
  if (scheme.group_size > kMaxLsqGroup) {
    throw std::invalid_argument("group_size: expected at most 65536 for least squares, got " +
                                std::to_string(scheme.group_size));
  }
}

void check(const CodedScheme& scheme) {
  check_scheme(AffineScheme{scheme.bit_width, scheme.group_size});
  check_parameter_bits(scheme.scale_bits, "scale_bits");
  check_parameter_bits(scheme.minimum_bits, "minimum_bits");
  const std::size_t groups = scheme.super_block / scheme.group_size;
  if (scheme.super_block % scheme.group_size != 0 || groups == 0 || groups > kMaxSuperBlockGroups ||
      scheme.super_block > kMaxLsqGroup) {
    throw std::invalid_argument(
        "super_block: expected a multiple of group_size, of at most 256 groups and 65536 weights, "
        "got " +
        std::to_string(scheme.super_block));
  }
}

QuantizationError lsq_affine(const MatrixView& source, const AffineScheme& scheme,
                             const float* importances, const AffineCodes& out, int threads) {
  check(scheme);
  const KernelTable& kernel = kernels();
  const std::vector<float> weights = normalized(importances, source.cols, scheme.group_size);
  const std::size_t group_size = std::min(scheme.group_size, padded_length(source.cols));
  const std::size_t groups = scheme.groups_per_row(source.cols);
  const std::size_t row_bytes = scheme.row_bytes(source.cols);
  const auto bits = static_cast<std::size_t>(scheme.bit_width);
  return for_each_row_block(
      source, threads, [&] { return Workspace(group_size, group_scratch(group_size), row_bytes); },
      [&](Workspace& workspace, const RowBlock& rows, TileSums& sums) {
        for (std::size_t first = 0, g = 0; first < source.cols; first += group_size, ++g) {
          const std::size_t n = std::min(group_size, source.cols - first);
          const Tile tile = load(kernel, source, rows, first, n, weights, workspace);
          std::uint16_t scale[kLanes];
          std::uint16_t minimum[kLanes];
          kernel.lsq_affine(tile, scheme.bit_width, workspace.scratch.data(),
                            targets(out.codes, row_bytes, rows, first * bits / 8, workspace, sums),
                            scale, minimum);
          store_column(scale, rows, groups, g, out.scale);
          store_column(minimum, rows, groups, g, out.minimum);
        }
      });
}

QuantizationError lsq_q8(const MatrixView& source, const float* importances, const Q8Codes& out,
                         int threads) {
  const KernelTable& kernel = kernels();
  const std::vector<float> weights = normalized(importances, source.cols, kQ8GroupSize);
  const std::size_t groups = (source.cols + kQ8GroupSize - 1) / kQ8GroupSize;
  auto* codes = reinterpret_cast<std::uint8_t*>(out.codes);
  return for_each_row_block(
      source, threads, [&] { return Workspace(kQ8GroupSize, 0, source.cols); },
      [&](Workspace& workspace, const RowBlock& rows, TileSums& sums) {
        for (std::size_t first = 0, g = 0; first < source.cols; first += kQ8GroupSize, ++g) {
          const std::size_t n = std::min(kQ8GroupSize, source.cols - first);
          const Tile tile = load(kernel, source, rows, first, n, weights, workspace);
          std::uint16_t scale[kLanes];
          kernel.lsq_q8(tile, targets(codes, source.cols, rows, first, workspace, sums), scale);
          store_column(scale, rows, groups, g, out.scale);
        }
      });
}

QuantizationError lsq_coded(const MatrixView& source, const CodedScheme& scheme,
                            const float* importances, const CodedCodes& out, int threads) {
  check(scheme);
  const KernelTable& kernel = kernels();
  const std::vector<float> weights = normalized(importances, source.cols, scheme.group_size);
  const std::size_t block = std::min(scheme.super_block, padded_length(source.cols));
  const std::size_t groups = scheme.groups_per_row(source.cols);
  const std::size_t blocks = scheme.super_blocks_per_row(source.cols);
  const std::size_t row_bytes = scheme.row_bytes(source.cols);
  const auto bits = static_cast<std::size_t>(scheme.bit_width);
  const GroupCoding coding{scheme.bit_width, scheme.group_size, scheme.scale_bits,
                           scheme.minimum_bits};
  return for_each_row_block(
      source, threads, [&] { return CodedWorkspace(scheme, block, source.cols); },
      [&](CodedWorkspace& workspace, const RowBlock& rows, TileSums& sums) {
        for (std::size_t first = 0, k = 0; first < source.cols; first += block, ++k) {
          const std::size_t n = std::min(block, source.cols - first);
          const Tile tile = load(kernel, source, rows, first, n, weights, workspace);
          const std::size_t offset = kLanes * (first / scheme.group_size);
          CodedTile coded{{},
                          {},
                          workspace.scale_codes.data() + offset,
                          workspace.minimum_codes.data() + offset};
          kernel.lsq_coded(tile, coding, workspace.scratch.data(),
                           targets(out.codes, row_bytes, rows, first * bits / 8, workspace, sums),
                           coded);
          store_column(coded.super_scale, rows, blocks, k, out.super_scale);
          store_column(coded.super_minimum, rows, blocks, k, out.super_minimum);
        }
        for (std::size_t lane = 0; lane < rows.count; ++lane) {
          const std::size_t row = rows.first + lane;
          pack_lane(workspace.scale_codes, lane, groups, scheme.scale_bits, workspace.row_codes,
                    out.scale_codes + row * scheme.scale_bytes(source.cols));
          pack_lane(workspace.minimum_codes, lane, groups, scheme.minimum_bits, workspace.row_codes,
                    out.minimum_codes + row * scheme.minimum_bytes(source.cols));
        }
      });
}

}  // namespace thermoq
