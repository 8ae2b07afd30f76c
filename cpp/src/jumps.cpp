#include "thermoq/jumps.hpp"

#include <algorithm>
#include <cmath>

namespace thermoq {
namespace {

double scale_jump(double before, double after) noexcept {
  if (before == 0.0) {
    return after == 0.0 ? 0.0 : 1.0;
  }
  return std::fabs(after - before) / before;
}

double score(double scale_jump, double zero_point_jump) noexcept {
  return 1.0 - (scale_jump + zero_point_jump) / 2.0;
}

}  // namespace

Severity severity_of(double scale_jump, double zero_point_jump, double threshold) noexcept {
  const double jump = std::max(scale_jump, zero_point_jump);
  if (!(jump > threshold)) {
    return Severity::none;
  }
  if (jump > 0.50) {
    return Severity::high;
  }
  return jump >= 0.30 ? Severity::medium : Severity::low;
}

void boundary_jumps(const TimeParametersView& parameters, double threshold,
                    const LayerJumps& per_layer, const ModelJumps& model) noexcept {
  const std::size_t time_groups = parameters.time_groups;
  const std::size_t boundaries = time_groups == 0 ? 0 : time_groups - 1;
  const double range = std::ldexp(1.0, parameters.activation_bits) - 1.0;
  for (std::size_t i = 0; i < boundaries; ++i) {
    double total = 0.0;
    double scale_sum = 0.0;
    double zero_point_sum = 0.0;
    double unclipped_scale_sum = 0.0;
    double unclipped_zero_point_sum = 0.0;
    for (std::size_t layer = 0; layer < parameters.layers; ++layer) {
      const double* s = parameters.scale + layer * time_groups + i;
      const double* z = parameters.zero_point + layer * time_groups + i;
      const double ds = scale_jump(s[0], s[1]);
      const double dz = s[0] == 0.0 || s[1] == 0.0 ? 0.0 : std::fabs(z[1] - z[0]) / range;
      const double clipped_ds = std::min(ds, 1.0);
      const double clipped_dz = std::min(dz, 1.0);
      const std::size_t at = layer * boundaries + i;
      per_layer.scale_jump[at] = ds;
      per_layer.zero_point_jump[at] = dz;
      per_layer.boundary_score[at] = score(clipped_ds, clipped_dz);
      const double weight = parameters.num_weights[layer];
      total += weight;
      scale_sum += weight * clipped_ds;
      zero_point_sum += weight * clipped_dz;
      unclipped_scale_sum += weight * ds;
      unclipped_zero_point_sum += weight * dz;
    }
    const double share = total > 0.0 ? 1.0 / total : 0.0;
    model.scale_jump[i] = scale_sum * share;
    model.zero_point_jump[i] = zero_point_sum * share;
    model.unclipped_scale_jump[i] = unclipped_scale_sum * share;
    model.unclipped_zero_point_jump[i] = unclipped_zero_point_sum * share;
    model.boundary_score[i] = score(model.scale_jump[i], model.zero_point_jump[i]);
    model.severity[i] = severity_of(model.scale_jump[i], model.zero_point_jump[i], threshold);
  }
}

}  // namespace thermoq
