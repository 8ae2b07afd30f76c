#include "thermoq/dispatch.hpp"

#include <pybind11/stl.h>

#include "bind.hpp"

void bind_dispatch(py::module_& m) {
  m.def("simd_level", &thermoq::simd_level,
        "The SIMD level in use; raises ValueError if THERMOQ_SIMD asks for one that is not there.");
  m.def("set_simd_level", &thermoq::set_simd_level,
        "Switch the level for the whole process; every level gives the same bits.",
        py::arg("level"));
  m.def("available_simd_levels", &thermoq::available_simd_levels,
        "Levels of this build and CPU, best first.");
  m.def("has_openmp", &thermoq::has_openmp, "Whether the build found OpenMP.");
  m.def("default_threads", &thermoq::default_threads, "The threads that `threads = 0` stands for.");
  m.def("compiler", &thermoq::compiler, "Compiler and version.");
}
