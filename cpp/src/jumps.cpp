#include "thermoq/jumps.hpp"

#include <algorithm>
#include <cmath>

namespace thermoq {
namespace {

// The pairs of one boundary.
struct Pairs {
  const double* before;
  const double* after;
  std::size_t count;
};

double scale_jump(const double* scale, const Pairs& pairs) noexcept {
  if (scale[0] == 0.0) {
    return scale[1] == 0.0 ? 0.0 : 1.0;
  }
  const auto at = [&](double f) { return (1.0 - f) * scale[0] + f * scale[1]; };
  double largest = 0.0;
  for (std::size_t k = 0; k < pairs.count; ++k) {
    const double before = at(pairs.before[k]);
    // A scale that has just come to 0 stays there.
    const double jump = before > 0.0 ? std::fabs(at(pairs.after[k]) - before) / before : 0.0;
    largest = std::max(largest, jump);
  }
  return largest;
}

// Zero points on the way between two groups whose scales are not 0.
class ZeroPoints {
 public:
  ZeroPoints(const double* scale, const double* zero_point, float top) noexcept
      : own_{zero_point[0], zero_point[1]}, top_(top) {
    for (int i = 0; i < 2; ++i) {
      const auto s = static_cast<float>(scale[i]);
      const auto z = static_cast<float>(zero_point[i]);
      minimum_[i] = -z * s;
      maximum_[i] = (top - z) * s;
    }
  }

  double at(double fraction) const noexcept {
    const auto f = static_cast<float>(fraction);
    if (f == 0.0F || f == 1.0F) {
      return own_[f == 0.0F ? 0 : 1];
    }
    const float rest = 1.0F - f;
    const float low = rest * minimum_[0] + f * minimum_[1];
    const float high = rest * maximum_[0] + f * maximum_[1];
    const float scale = (high - low) / top_;
    const float steps = scale > 0.0F ? std::nearbyint(-low / scale) : 0.0F;
    return static_cast<double>(std::clamp(steps, 0.0F, top_));
  }

 private:
  double own_[2];
  float top_;
  float minimum_[2]{};
  float maximum_[2]{};
};

double zero_point_jump(const double* scale, const double* zero_point, const Pairs& pairs,
                       double range) noexcept {
  if (scale[0] == 0.0 || scale[1] == 0.0 || zero_point[0] == zero_point[1]) {
    return 0.0;  // ranges of equal zero points keep theirs on the way
  }
  const ZeroPoints points(scale, zero_point, static_cast<float>(range));
  double largest = 0.0;
  for (std::size_t k = 0; k < pairs.count; ++k) {
    const double jump = std::fabs(points.at(pairs.after[k]) - points.at(pairs.before[k]));
    largest = std::max(largest, jump);
  }
  return largest / range;
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

void boundary_jumps(const TimeParametersView& parameters, const Crossings& crossings,
                    double threshold, const LayerJumps& per_layer,
                    const ModelJumps& model) noexcept {
  const std::size_t time_groups = parameters.time_groups;
  const std::size_t boundaries = time_groups == 0 ? 0 : time_groups - 1;
  for (std::size_t i = 0; i < boundaries; ++i) {
    const std::size_t first = i * crossings.count;
    const Pairs pairs{crossings.before + first, crossings.after + first, crossings.count};
    double total = 0.0;
    double scale_sum = 0.0;
    double zero_point_sum = 0.0;
    double unclipped_scale_sum = 0.0;
    double unclipped_zero_point_sum = 0.0;
    for (std::size_t layer = 0; layer < parameters.layers; ++layer) {
      const double* s = parameters.scale + layer * time_groups + i;
      const double* z = parameters.zero_point + layer * time_groups + i;
      const double ds = scale_jump(s, pairs);
      const double range = std::ldexp(1.0, parameters.activation_bits[layer]) - 1.0;
      const double dz = zero_point_jump(s, z, pairs, range);
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
