#include "thermoq/jumps.hpp"

#include <pybind11/native_enum.h>

#include <algorithm>
#include <vector>

#include "bind.hpp"

namespace {

using thermoq::Severity;

using Ints = py::array_t<std::int32_t, py::array::c_style>;

struct BoundaryJumps {
  Doubles layer_scale_jump, layer_zero_point_jump, layer_boundary_score;
  Doubles scale_jump, zero_point_jump, unclipped_scale_jump, unclipped_zero_point_jump;
  Doubles boundary_score;
  py::array_t<std::int8_t> severity;
};

BoundaryJumps boundary_jumps(const Doubles& scale, const Doubles& zero_point,
                             const Doubles& num_weights, const Ints& activation_bits,
                             double threshold, const Doubles& before, const Doubles& after) {
  if (scale.ndim() != 2 || scale.shape(1) < 1) {
    throw std::invalid_argument("scale: expected [layers, time_groups] with time_groups >= 1");
  }
  const py::ssize_t layers = scale.shape(0);
  const py::ssize_t boundaries = scale.shape(1) - 1;
  check_size(zero_point.size(), static_cast<std::size_t>(scale.size()), "zero_point");
  check_size(num_weights.size(), static_cast<std::size_t>(layers), "num_weights");
  check_size(activation_bits.size(), static_cast<std::size_t>(layers), "activation_bits");
  if (before.ndim() != 2 || before.shape(0) != boundaries) {
    throw std::invalid_argument("before: expected [" + std::to_string(boundaries) + ", pairs]");
  }
  check_size(after.size(), static_cast<std::size_t>(before.size()), "after");
  const auto per_layer = [&] { return Doubles({layers, boundaries}); };
  const auto per_boundary = [&] { return Doubles(boundaries); };
  BoundaryJumps out{per_layer(),    per_layer(),    per_layer(),
                    per_boundary(), per_boundary(), per_boundary(),
                    per_boundary(), per_boundary(), py::array_t<std::int8_t>(boundaries)};
  const thermoq::LayerJumps layer_jumps{out.layer_scale_jump.mutable_data(),
                                        out.layer_zero_point_jump.mutable_data(),
                                        out.layer_boundary_score.mutable_data()};
  const thermoq::ModelJumps model_jumps{out.scale_jump.mutable_data(),
                                        out.zero_point_jump.mutable_data(),
                                        out.unclipped_scale_jump.mutable_data(),
                                        out.unclipped_zero_point_jump.mutable_data(),
                                        out.boundary_score.mutable_data(),
                                        reinterpret_cast<Severity*>(out.severity.mutable_data())};
  const thermoq::TimeParametersView view{scale.data(),
                                         zero_point.data(),
                                         num_weights.data(),
                                         static_cast<std::size_t>(layers),
                                         static_cast<std::size_t>(boundaries) + 1,
                                         activation_bits.data()};
  const thermoq::Crossings crossings{before.data(), after.data(),
                                     static_cast<std::size_t>(before.shape(1))};
  {
    const py::gil_scoped_release unlocked;
    thermoq::boundary_jumps(view, crossings, threshold, layer_jumps, model_jumps);
  }
  return out;
}

}  // namespace

void bind_jumps(py::module_& m) {
  using py::arg;
  py::native_enum<Severity>(m, "Severity", "enum.IntEnum")
      .value("NONE", Severity::none)
      .value("LOW", Severity::low)
      .value("MEDIUM", Severity::medium)
      .value("HIGH", Severity::high)
      .finalize();
  py::class_<BoundaryJumps>(m, "BoundaryJumps")
      .def_readonly("layer_scale_jump", &BoundaryJumps::layer_scale_jump)
      .def_readonly("layer_zero_point_jump", &BoundaryJumps::layer_zero_point_jump)
      .def_readonly("layer_boundary_score", &BoundaryJumps::layer_boundary_score)
      .def_readonly("scale_jump", &BoundaryJumps::scale_jump)
      .def_readonly("zero_point_jump", &BoundaryJumps::zero_point_jump)
      .def_readonly("unclipped_scale_jump", &BoundaryJumps::unclipped_scale_jump)
      .def_readonly("unclipped_zero_point_jump", &BoundaryJumps::unclipped_zero_point_jump)
      .def_readonly("boundary_score", &BoundaryJumps::boundary_score)
      .def_readonly("severity", &BoundaryJumps::severity);
  m.def("boundary_jumps", &boundary_jumps,
        R"(Jumps at time-group boundaries, per layer [layers, time_groups - 1] and for the model
[time_groups - 1], averaged with `num_weights` [layers]. scale, zero_point: [layers,
time_groups]; activation_bits: [layers]. before, after: [time_groups - 1, pairs] in [0, 1],
fractions of the way over each boundary one sampling step apart; the largest change counts.
severity: -1 none, 0 low, 1 medium, 2 high.)",
        arg("scale").noconvert(), arg("zero_point").noconvert(), arg("num_weights").noconvert(),
        arg("activation_bits").noconvert(), arg("threshold"), arg("before").noconvert(),
        arg("after").noconvert());
  m.def("severity_of", &thermoq::severity_of,
        "How bad a boundary with these jumps is; NONE unless the larger one exceeds `threshold`.",
        arg("scale_jump"), arg("zero_point_jump"), arg("threshold"));
}
