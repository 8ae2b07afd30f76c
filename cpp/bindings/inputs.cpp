#include "thermoq/inputs.hpp"

#include "bind.hpp"

namespace {

constexpr py::ssize_t kMostBits = 16;

Floats quantize_inputs(const Floats& rows, const Doubles& scale, const Doubles& zero_point,
                       const Counts& sizes, py::ssize_t bits, bool error, int threads) {
  if (rows.ndim() != 2) {
    throw std::invalid_argument("rows: expected 2 dimensions, got " + std::to_string(rows.ndim()));
  }
  if (bits < 1 || bits > kMostBits) {
    throw std::invalid_argument("bits: expected 1 to 16, got " + std::to_string(bits));
  }
  const std::vector<std::size_t> counts = group_sizes(sizes, rows.shape(0));
  check_size(scale.size(), counts.size(), "scale");
  check_size(zero_point.size(), counts.size(), "zero_point");
  Floats out({rows.shape(0), rows.shape(1)});
  const thermoq::InputRows inputs{rows.data(),
                                  scale.data(),
                                  zero_point.data(),
                                  counts.data(),
                                  counts.size(),
                                  static_cast<std::size_t>(rows.shape(1)),
                                  static_cast<float>((1 << bits) - 1)};
  float* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::quantize_inputs(inputs, error, target, threads);
  }
  return out;
}

Doubles group_losses(const Floats& errors, const Counts& sizes, double systematic) {
  if (errors.ndim() != 2) {
    throw std::invalid_argument("errors: expected 2 dimensions, got " +
                                std::to_string(errors.ndim()));
  }
  const std::vector<std::size_t> counts = group_sizes(sizes, errors.shape(0));
  Doubles out(static_cast<py::ssize_t>(counts.size()));
  const thermoq::ErrorRows rows{errors.data(), counts.data(), counts.size(),
                                static_cast<std::size_t>(errors.shape(1))};
  double* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::group_losses(rows, systematic, target);
  }
  return out;
}

}  // namespace

void bind_inputs(py::module_& m) {
  using py::arg;
  m.def("quantize_inputs", &quantize_inputs,
        R"(Rows [n, in] of a layer's input as codes of `bits` give them back.

(clip(rint(x / scale) + zero_point, 0, 2^bits - 1) - zero_point) * scale in f32; 0 where the
scale is 0. scale, zero_point and sizes are by group: the first sizes[0] rows are the first
group's, and so on. With `error`, minus the rows. The same bytes on any number of threads.)",
        arg("rows").noconvert(), arg("scale").noconvert(), arg("zero_point").noconvert(),
        arg("sizes").noconvert(), arg("bits"), arg("error") = false, arg("threads") = 0);
  m.def("group_losses", &group_losses,
        R"(sum ||d||^2 + systematic * n ||mean d||^2 over the n rows d of each group, in f64.

errors: [rows, cols], the first sizes[0] of them the first group's, and so on.)",
        arg("errors").noconvert(), arg("sizes").noconvert(), arg("systematic"));
}
