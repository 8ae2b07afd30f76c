#include "thermoq/hadamard.hpp"

#include <algorithm>

#include "bind.hpp"

namespace {

Floats hadamard(const Floats& data, py::ssize_t block, int threads) {
  if (data.ndim() != 2) {
    throw std::invalid_argument("data: expected 2 dimensions, got " + std::to_string(data.ndim()));
  }
  Floats out({data.shape(0), data.shape(1)});
  std::copy(data.data(), data.data() + data.size(), out.mutable_data());
  const auto rows = static_cast<std::size_t>(data.shape(0));
  const auto cols = static_cast<std::size_t>(data.shape(1));
  const std::size_t size = checked(block, "block");
  float* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::hadamard(target, rows, cols, size, threads);
  }
  return out;
}

}  // namespace

void bind_hadamard(py::module_& m) {
  using py::arg;
  m.def("hadamard", &hadamard,
        R"(Multiply every `block` columns of data [rows, cols] by the orthogonal Hadamard matrix.

It is its own inverse. Raises ValueError unless block is a power of two that divides cols.)",
        arg("data").noconvert(), arg("block"), arg("threads") = 0);
}
