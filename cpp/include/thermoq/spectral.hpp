// The noise-schedule prior's one question to a weight matrix.
#pragma once

#include <cstdint>

#include "thermoq/matrix.hpp"

namespace thermoq {

struct SquaredNorms {
  double spectral = 0.0;   // sigma_1(W)^2, from below
  double frobenius = 0.0;  // ||W||_F^2
};

// sigma_1(W)^2, the largest squared singular value, by `iterations` steps of the power iteration on
// W^T W from a start drawn with `seed`: a lower bound that tightens with every step. Each step is
// one pass over the weights; the first also adds up ||W||_F^2. `magnitude`, about ||W||_F, keeps
// the arithmetic of tiny and of huge weights within the range of f32; only its power of two
// matters, so that where it comes from does not show in the result. 0 returns zeros.
SquaredNorms squared_norms(const MatrixView& matrix, double magnitude, int iterations,
                           std::uint64_t seed, int threads);

}  // namespace thermoq
