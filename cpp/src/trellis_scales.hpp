// The scales of trellis codes: a guess from the sizes of the weights, then a fit to the paths.
#pragma once

#include <cstdint>
#include <vector>

#include "thermoq/quantize.hpp"
#include "trellis_matrix.hpp"

namespace thermoq {

// What has to be known of a matrix in all passes.
struct TrellisJob {
  const MatrixView& source;
  TrellisLayout layout;
  const TrellisLookup* lookup;     // null before there are codes
  std::vector<float> importances;  // [cols]; empty: all equal
  int threads;
};

struct TrellisFit {
  double moved = 0.0, energy = 0.0;  // of the scales, weighted by what they stand for
  QuantizationError error;
};

// f16 bits [rows, groups_per_row].
void guess_scales(const TrellisJob& job, std::uint16_t* scale);

// Fits the scales to the paths, and measures what is lost.
TrellisFit fit_scales(const TrellisJob& job, const std::uint8_t* codes, std::uint16_t* scale);

}  // namespace thermoq
