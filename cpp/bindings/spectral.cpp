#include "thermoq/spectral.hpp"

#include "bind.hpp"

namespace {

double largest_squared_singular_value(const Bytes& source, thermoq::FloatType type,
                                      py::ssize_t rows, py::ssize_t cols, double frobenius_norm,
                                      int iterations, std::uint64_t seed, int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const py::gil_scoped_release unlocked;
  return thermoq::largest_squared_singular_value(view, frobenius_norm, iterations, seed, threads);
}

}  // namespace

void bind_spectral(py::module_& m) {
  using py::arg;
  m.def("largest_squared_singular_value", &largest_squared_singular_value,
        R"(sigma_1(W)^2 by `iterations` steps of the power iteration: a lower bound.
`frobenius_norm` is ||W||_F; 0 gives 0.)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"), arg("frobenius_norm"),
        arg("iterations"), arg("seed"), arg("threads") = 0);
}
