// Inputs of a layer as its quantized form sees them.
#pragma once

#include <cstddef>

namespace thermoq {

// Rows [rows, cols] by group: the first sizes[0] are the first group's, and so on. Each group has
// its own scale (0 or positive) and zero point, a whole number from 0 to top; top is below 2^22.
struct InputRows {
  const float* values;
  const double* scale;       // [groups], of f32's precision
  const double* zero_point;  // [groups]
  const std::size_t* sizes;  // [groups]
  std::size_t groups;
  std::size_t cols;
  float top;
};

// Writes (clip(rint(x / scale) + zero_point, 0, top) - zero_point) * scale to `out` [rows, cols], 0
// where the scale is 0; with `error`, minus x.
//
// The same bytes on any number of threads.
void quantize_inputs(const InputRows& inputs, bool error, float* out, int threads);

// Errors [rows, cols] by group, as above.
struct ErrorRows {
  const float* values;
  const std::size_t* sizes;
  std::size_t groups;
  std::size_t cols;
};

// Writes sum ||d||^2 + systematic * n ||mean d||^2 over the n rows d of each group to `out`
// [groups].
void group_losses(const ErrorRows& errors, double systematic, double* out);

}  // namespace thermoq
