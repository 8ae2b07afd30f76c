#include "thermoq/spectral.hpp"

#include <pybind11/stl.h>

#include <tuple>

#include "bind.hpp"

namespace {

std::tuple<double, double> squared_norms(const Bytes& source, thermoq::FloatType type,
                                         py::ssize_t rows, py::ssize_t cols, double magnitude,
                                         int iterations, std::uint64_t seed, int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const py::gil_scoped_release unlocked;
  const auto norms = thermoq::squared_norms(view, magnitude, iterations, seed, threads);
  return {norms.spectral, norms.frobenius};
}

}  // namespace

void bind_spectral(py::module_& m) {
  using py::arg;
  m.def("squared_norms", &squared_norms,
        R"(sigma_1(W)^2 by `iterations` steps of the power iteration, a lower bound, and ||W||_F^2.

`magnitude` is about ||W||_F; 0 gives zeros.)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"), arg("magnitude"),
        arg("iterations"), arg("seed"), arg("threads") = 0);
}
