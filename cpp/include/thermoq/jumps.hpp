// Jumps of time parameters at the boundaries between time groups, and the scores made of them
// (the original specification's smoothness metrics, extended to schedules over timesteps).
#pragma once

#include <cstddef>
#include <cstdint>

namespace thermoq {

enum class Severity : std::int8_t { none = -1, low = 0, medium = 1, high = 2 };

struct TimeParametersView {
  const double* scale;        // [layers, time_groups], >= 0
  const double* zero_point;   // [layers, time_groups]
  const double* num_weights;  // [layers], how much a layer counts; >= 0
  std::size_t layers;
  std::size_t time_groups;
  const std::int32_t* activation_bits;  // [layers]
};

// How far each boundary is crossed: `before` and `after` [boundaries, count] in [0, 1] are pairs of
// fractions of the way from its first group's parameters to its second's, one sampling step apart.
// Piecewise constant parameters have the pair (0, 1) alone.
struct Crossings {
  const double* before;
  const double* after;
  std::size_t count;
};

// Caller-owned arrays, boundaries = time_groups - 1.
struct LayerJumps {
  double* scale_jump;       // [layers, boundaries], not clipped
  double* zero_point_jump;  // [layers, boundaries], not clipped
  double* boundary_score;   // [layers, boundaries], of the jumps clipped to 1
};

struct ModelJumps {
  double* scale_jump;                 // [boundaries], weighted mean of the clipped jumps
  double* zero_point_jump;            // [boundaries]
  double* unclipped_scale_jump;       // [boundaries]
  double* unclipped_zero_point_jump;  // [boundaries]
  double* boundary_score;             // [boundaries], 1 - (scale_jump + zero_point_jump) / 2
  Severity* severity;                 // [boundaries], none where no jump exceeds the threshold
};

// With s(f) and z(f) the parameters at fraction f of the way, the largest over the pairs of
//
//   scale_jump[l,i] = |s(after) - s(before)| / s(before)
//     0 if both groups' scales are 0, 1 if only scale[i] is.
//   zero_point_jump[l,i] = |z(after) - z(before)| / (2^activation_bits[l] - 1)
//     0 if either group's scale is 0.
//
// s(f) = (1 - f) * scale[i] + f * scale[i+1]: what follows from interpolating minimum and maximum.
// z(f) is evaluated in f32 as the checkpoint's format has it; z(0) and z(1) are the groups' own.
void boundary_jumps(const TimeParametersView& parameters, const Crossings& crossings,
                    double threshold, const LayerJumps& per_layer,
                    const ModelJumps& model) noexcept;

// How bad a boundary with these two jumps is: by the larger one, above 0.50 high, from 0.30 medium,
// else low; none unless it exceeds `threshold`.
Severity severity_of(double scale_jump, double zero_point_jump, double threshold) noexcept;

}  // namespace thermoq
