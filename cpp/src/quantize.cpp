#include "thermoq/quantize.hpp"

#include <cmath>

#include "parallel.hpp"
#include "row_stretch.hpp"

namespace thermoq {
namespace {

struct RowError {
  double squared_error, source_energy, decoded_energy;
  float max_squared_error, max_magnitude;
};

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

// Calls visit(weight) for every weight in order, on one thread: for the rare cases below.
template <class Visit>
void for_each_weight(const MatrixView& source, const Visit& visit) {
  const KernelTable& kernel = kernels();
  std::vector<float> scratch(kStretch);
  for (std::size_t row = 0; row < source.rows; ++row) {
    for (std::size_t first = 0; first < source.cols; first += kStretch) {
      const std::size_t n = std::min(kStretch, source.cols - first);
      const float* x = load_floats(kernel, source.row(row), source.type, first, n, scratch.data());
      std::for_each(x, x + n, visit);
    }
  }
}

// Rows in order, whatever thread made them: the sum does not depend on the threads.
QuantizationError total(const std::vector<RowError>& rows, const MatrixView& source) {
  QuantizationError error;
  for (const RowError& row : rows) {
    error.squared_error += row.squared_error;
    error.source_energy += row.source_energy;
    error.decoded_energy += row.decoded_energy;
    error.max_error =
        std::max(error.max_error, std::sqrt(static_cast<double>(row.max_squared_error)));
    error.max_magnitude = std::max<double>(error.max_magnitude, row.max_magnitude);
  }
  if (!std::isfinite(error.source_energy)) {
    for_each_weight(source, [&error](float x) {
      error.nan_count += std::isnan(x) ? 1U : 0U;
      error.infinity_count += std::isinf(x) ? 1U : 0U;
    });
  } else if (error.max_magnitude < static_cast<double>(kTinyMagnitude)) {
    // Far below the smallest f16 every weight decodes to 0, and its square is none in f32.
    error.source_energy = 0.0;
    for_each_weight(source, [&error](float x) {
      error.source_energy += static_cast<double>(x) * static_cast<double>(x);
    });
    error.squared_error = error.source_energy;
    error.max_error = error.max_magnitude;
  }
  return error;
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
  return total(rows, source);
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
  return total(rows, source);
}

}  // namespace thermoq
