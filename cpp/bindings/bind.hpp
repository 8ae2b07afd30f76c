// One bind_* function a subject; each file checks shapes, allocates, releases the GIL and calls.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "thermoq/matrix.hpp"

namespace py = pybind11;

using Bytes = py::array_t<std::uint8_t, py::array::c_style>;
using SignedBytes = py::array_t<std::int8_t, py::array::c_style>;
using Halves = py::array_t<std::uint16_t, py::array::c_style>;  // f16 bits
using Floats = py::array_t<float, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;
using Counts = py::array_t<std::int64_t, py::array::c_style>;

void bind_compensation(py::module_& m);
void bind_dispatch(py::module_& m);
void bind_inputs(py::module_& m);
void bind_jumps(py::module_& m);
void bind_lsq(py::module_& m);
void bind_markov(py::module_& m);
void bind_moments(py::module_& m);
void bind_packing(py::module_& m);
void bind_quantize(py::module_& m);
void bind_rotation(py::module_& m);
void bind_spectral(py::module_& m);
void bind_trellis(py::module_& m);

inline std::size_t checked(py::ssize_t value, const char* name) {
  if (value < 0) {
    throw std::invalid_argument(std::string(name) + ": expected 0 or more, got " +
                                std::to_string(value));
  }
  return static_cast<std::size_t>(value);
}

inline void check_size(py::ssize_t got, std::size_t expected, const char* name) {
  if (static_cast<std::size_t>(got) != expected) {
    throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(expected) +
                                " elements, got " + std::to_string(got));
  }
}

// How many rows each group has, `rows` in all.
inline std::vector<std::size_t> group_sizes(const Counts& sizes, py::ssize_t rows) {
  std::vector<std::size_t> counts;
  std::size_t total = 0;
  for (py::ssize_t g = 0; g < sizes.size(); ++g) {
    counts.push_back(checked(static_cast<py::ssize_t>(sizes.data()[g]), "sizes"));
    total += counts.back();
  }
  check_size(rows, total, "rows");
  return counts;
}

// rows * cols, refused where the bytes of even four times as many would not fit an address.
inline std::size_t checked_count(std::size_t rows, std::size_t cols) {
  constexpr std::size_t kLargest = std::size_t{1} << 60;
  if (cols != 0 && rows > kLargest / cols) {
    throw std::invalid_argument("rows * cols: expected at most 2^60 elements, got " +
                                std::to_string(rows) + " x " + std::to_string(cols));
  }
  return rows * cols;
}

inline thermoq::MatrixView matrix_view(const Bytes& source, thermoq::FloatType type,
                                       py::ssize_t rows, py::ssize_t cols) {
  const thermoq::MatrixView view{source.data(), type, checked(rows, "rows"), checked(cols, "cols")};
  checked_count(view.rows, view.cols);
  check_size(source.size(), view.rows * view.row_bytes(), "source");
  return view;
}
