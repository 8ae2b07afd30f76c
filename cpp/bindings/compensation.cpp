#include "thermoq/compensation.hpp"

#include <algorithm>
#include <tuple>

#include "bind.hpp"

namespace {

using Indices = py::array_t<std::int32_t, py::array::c_style>;

std::tuple<Bytes, Floats> sweep(const Floats& weights, const Floats& factor, const Floats& scale,
                                const Floats& minimum, const Indices& group_of, int lowest,
                                int highest, int threads) {
  if (weights.ndim() != 2 || scale.ndim() != 2) {
    throw std::invalid_argument("weights, scale: expected 2 dimensions");
  }
  const auto rows = static_cast<std::size_t>(weights.shape(0));
  const auto n = static_cast<std::size_t>(weights.shape(1));
  const auto groups = static_cast<std::size_t>(scale.shape(1));
  check_size(factor.size(), n * n, "factor");
  check_size(scale.size(), rows * groups, "scale");
  check_size(minimum.size(), rows * groups, "minimum");
  check_size(group_of.size(), n, "group_of");
  Bytes codes({weights.shape(0), weights.shape(1)});
  Floats errors({weights.shape(0), weights.shape(1)});
  std::copy(weights.data(), weights.data() + weights.size(), errors.mutable_data());
  const thermoq::SweepGrid grid{scale.data(), minimum.data(), group_of.data(),
                                groups,       lowest,         highest};
  float* in_place = errors.mutable_data();
  std::uint8_t* out = codes.mutable_data();
  const float* upper = factor.data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::sweep(in_place, rows, n, upper, grid, out, threads);
  }
  return {codes, errors};
}

}  // namespace

void bind_compensation(py::module_& m) {
  using py::arg;
  m.attr("MAX_SWEEP") = thermoq::kMaxSweep;
  m.def("sweep", &sweep,
        R"(Round the columns of weights [rows, n] in order, each making up for those before.

factor [n, n]: the upper Cholesky factor of the inverse Gram matrix on these columns. scale and
minimum [rows, groups]; group_of [n]; codes from lowest to highest. Returns the codes as bytes
[rows, n] and the errors over the factor's diagonal [rows, n], from which the columns behind
follow. Raises ValueError for more than MAX_SWEEP columns or arrays of another size.)",
        arg("weights").noconvert(), arg("factor").noconvert(), arg("scale").noconvert(),
        arg("minimum").noconvert(), arg("group_of").noconvert(), arg("lowest"), arg("highest"),
        arg("threads") = 0);
}
