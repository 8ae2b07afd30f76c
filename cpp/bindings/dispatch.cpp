#include "thermoq/dispatch.hpp"

#include <pybind11/stl.h>

#include "bind.hpp"

void bind_dispatch(py::module_& m) {
  m.def("simd_level", &thermoq::simd_level);
  m.def("set_simd_level", &thermoq::set_simd_level, py::arg("level"));
  m.def("available_simd_levels", &thermoq::available_simd_levels);
  m.def("has_openmp", &thermoq::has_openmp);
  m.def("default_threads", &thermoq::default_threads);
  m.def("compiler", &thermoq::compiler);
}
