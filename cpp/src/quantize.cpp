#include "thermoq/quantize.hpp"

#include "parallel.hpp"
#include "row_error.hpp"
#include "row_stretch.hpp"

namespace thermoq {
namespace {

double add_lanes(const double (&lanes)[kLanes]) noexcept {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

RowError finish_row(const ErrorSums& sums) noexcept {
  return {add_lanes(sums.squared_error), add_lanes(sums.source_energy),
          add_lanes(sums.decoded_energy),
          *std::max_element(std::begin(sums.max_squared_error), std::end(sums.max_squared_error)),
          sums.max_magnitude};
}

const std::uint8_t* element(const MatrixView& source, std::size_t row, std::size_t col) noexcept {
  return source.row(row) + col * bytes_per_element(source.type);
}

}  // namespace

QuantizationError quantize_affine(const MatrixView& source, const AffineScheme& scheme,
                                  const AffineCodes& out, int threads) {
  check_scheme(scheme);
  const KernelTable& kernel = kernels();
  const std::size_t stretch = stretch_length(scheme.group_size, source.cols);
  const std::size_t groups = scheme.groups_per_row(source.cols);
  const std::size_t row_bytes = scheme.row_bytes(source.cols);
  const auto bits = static_cast<std::size_t>(scheme.bit_width);
  std::vector<RowError> rows(source.rows);
  parallel_for(
      source.rows, source.rows * source.cols, threads, [] { return NoState{}; },
      [&](NoState&, std::size_t row) {
        ErrorSums sums;
        for (std::size_t first = 0; first < source.cols; first += stretch) {
          const std::size_t n = std::min(stretch, source.cols - first);
          const std::size_t group = row * groups + first / scheme.group_size;
          kernel.quantize_affine(element(source, row, first), source.type, n, scheme.group_size,
                                 scheme.bit_width,
                                 {out.codes + row * row_bytes + first * bits / 8, out.scale + group,
                                  out.minimum + group, sums});
        }
        rows[row] = finish_row(sums);
      });
  return total_error(rows, source);
}

QuantizationError quantize_q8(const MatrixView& source, const Q8Codes& out, int threads) {
  const KernelTable& kernel = kernels();
  const std::size_t groups = (source.cols + kQ8GroupSize - 1) / kQ8GroupSize;
  std::vector<RowError> rows(source.rows);
  parallel_for(
      source.rows, source.rows * source.cols, threads, [] { return NoState{}; },
      [&](NoState&, std::size_t row) {
        ErrorSums sums;
        for (std::size_t first = 0; first < source.cols; first += kStretch) {
          const std::size_t n = std::min(kStretch, source.cols - first);
          kernel.quantize_q8(element(source, row, first), source.type, n,
                             {out.codes + row * source.cols + first,
                              out.scale + row * groups + first / kQ8GroupSize, sums});
        }
        rows[row] = finish_row(sums);
      });
  return total_error(rows, source);
}

}  // namespace thermoq
