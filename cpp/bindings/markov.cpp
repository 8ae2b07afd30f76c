#include "thermoq/markov.hpp"

#include <pybind11/stl.h>

#include <variant>

#include "bind.hpp"

namespace {

using Flags = py::array_t<bool, py::array::c_style>;

Doubles solve_markov_chains(const Doubles& theta, const Doubles& variance,
                            const std::variant<double, Doubles>& strength, const Flags& linked,
                            int threads) {
  if (theta.ndim() != 2 || theta.shape(1) < 1) {
    throw std::invalid_argument("theta: expected [rows, time_groups] with time_groups >= 1");
  }
  const auto rows = static_cast<std::size_t>(theta.shape(0));
  const auto groups = static_cast<std::size_t>(theta.shape(1));
  check_size(variance.size(), rows * groups, "variance");
  const auto* each = std::get_if<Doubles>(&strength);
  if (each != nullptr) {
    check_size(each->size(), rows, "strength");
  }
  if (linked.ndim() != 1 && linked.ndim() != 2) {
    throw std::invalid_argument("linked: expected [time_groups - 1] or [rows, time_groups - 1]");
  }
  const bool linked_per_row = linked.ndim() == 2;
  check_size(linked.size(), (linked_per_row ? rows : 1) * (groups - 1), "linked");
  Doubles out({theta.shape(0), theta.shape(1)});
  static_assert(sizeof(bool) == 1);
  const thermoq::MarkovChains chains{
      theta.data(),
      variance.data(),
      each != nullptr ? each->data() : std::get_if<double>(&strength),
      reinterpret_cast<const std::uint8_t*>(linked.data()),
      rows,
      groups,
      each != nullptr,
      linked_per_row};
  double* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::solve_markov_chains(chains, target, threads);
  }
  return out;
}

}  // namespace

void bind_markov(py::module_& m) {
  using py::arg;
  m.def("solve_markov_chains", &solve_markov_chains,
        R"(Estimates [rows, time_groups] that neighbouring time groups hold together.

They minimize, for each row, sum_g (x[g] - theta[g])^2 / variance[g] + strength *
sum_g linked[g] * (x[g+1] - x[g])^2. theta, variance: [rows, time_groups]; strength: one number
or [rows]; linked: [time_groups - 1] or [rows, time_groups - 1]. A variance of 0 keeps theta[g],
a strength of 0 all of them, an infinite one pools linked groups by their precision.)",
        arg("theta").noconvert(), arg("variance").noconvert(), arg("strength").noconvert(),
        arg("linked").noconvert(), arg("threads") = 0);
}
