// The noise-schedule prior's one question to a weight matrix.
#pragma once

#include <cstdint>

#include "thermoq/matrix.hpp"

namespace thermoq {

// sigma_1(W)^2, the largest squared singular value, by `iterations` steps of the power iteration on
// W^T W from a start drawn with `seed`: a lower bound that tightens with every step. Each step is
// one pass over the weights. `frobenius_norm` = ||W||_F scales the arithmetic so that neither tiny
// nor huge weights leave the range of f32; 0 returns 0.
double largest_squared_singular_value(const MatrixView& matrix, double frobenius_norm,
                                      int iterations, std::uint64_t seed, int threads);

}  // namespace thermoq
