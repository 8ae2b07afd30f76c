#include "bind.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "thermoq's C++ core: quantization, packing, jumps and the prior's power iteration.";
  bind_dispatch(m);
  bind_quantize(m);
  bind_lsq(m);
  bind_compensation(m);
  bind_hadamard(m);
  bind_packing(m);
  bind_spectral(m);
  bind_jumps(m);
}
