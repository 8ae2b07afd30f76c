// From the error sums of rows to those of a matrix.
#pragma once

#include <vector>

#include "thermoq/matrix.hpp"
#include "thermoq/quantize.hpp"

namespace thermoq {

struct RowError {
  double squared_error, source_energy, decoded_energy;
  float max_squared_error, max_magnitude;
};

// Adds rows in order, whatever thread made them, so that the sum does not depend on the threads;
// counts what is not finite.
QuantizationError total_error(const std::vector<RowError>& rows, const MatrixView& source);

}  // namespace thermoq
