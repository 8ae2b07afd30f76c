#include "bind.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "thermoq's C++ core: weights, packing, rotation, and what time parameters are made of.";
  bind_dispatch(m);
  bind_quantize(m);
  bind_lsq(m);
  bind_compensation(m);
  bind_rotation(m);
  bind_packing(m);
  bind_spectral(m);
  bind_trellis(m);
  bind_jumps(m);
  bind_inputs(m);
  bind_markov(m);
  bind_moments(m);
}
