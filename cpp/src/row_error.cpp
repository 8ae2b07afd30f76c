#include "row_error.hpp"

#include <algorithm>
#include <cmath>

#include "parallel.hpp"
#include "row_stretch.hpp"

namespace thermoq {
namespace {

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

}  // namespace

QuantizationError decoding_error(const MatrixView& source, const float* decoded, int threads) {
  const KernelTable& kernel = kernels();
  std::vector<QuantizationError> of_rows(source.rows);
  parallel_for(
      source.rows, source.rows * source.cols, threads, [] { return std::vector<float>(kStretch); },
      [&](std::vector<float>& scratch, std::size_t row) {
        QuantizationError sums;
        for (std::size_t first = 0; first < source.cols; first += kStretch) {
          const std::size_t n = std::min(kStretch, source.cols - first);
          const float* x =
              load_floats(kernel, source.row(row), source.type, first, n, scratch.data());
          const float* y = decoded + row * source.cols + first;
          for (std::size_t i = 0; i < n; ++i) {
            const double w = x[i], value = y[i], lost = value - w;
            sums.squared_error += lost * lost;
            sums.source_energy += w * w;
            sums.decoded_energy += value * value;
            sums.max_error = std::max(sums.max_error, std::abs(lost));
            sums.max_magnitude = std::max(sums.max_magnitude, std::abs(w));
          }
        }
        of_rows[row] = sums;
      });
  QuantizationError total;
  for (const QuantizationError& row : of_rows) {
    total.squared_error += row.squared_error;
    total.source_energy += row.source_energy;
    total.decoded_energy += row.decoded_energy;
    total.max_error = std::max(total.max_error, row.max_error);
    total.max_magnitude = std::max(total.max_magnitude, row.max_magnitude);
  }
  return total;
}

QuantizationError total_error(const std::vector<RowError>& rows, const MatrixView& source) {
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

}  // namespace thermoq
