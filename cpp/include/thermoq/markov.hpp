// Gauss-Markov chains over time groups: estimates that neighbouring groups hold together.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thermoq {

struct MarkovChains {
  const double* observed;      // [rows, groups], finite
  const double* variance;      // [rows, groups] of the observations, >= 0; infinite: says nothing
  const double* strength;      // [rows], or [1] for all rows: >= 0
  const std::uint8_t* linked;  // [rows, groups - 1], or [groups - 1] for all: 0 breaks the chain
  std::size_t rows;
  std::size_t groups;
  bool strength_per_row;
  bool linked_per_row;
};

// Writes to `out` [rows, groups], for each row, the values x that minimize
//
//   sum_g (x[g] - observed[g])^2 / variance[g] + strength * sum_g linked[g] * (x[g+1] - x[g])^2
//
// A variance of 0 keeps x[g] = observed[g], a strength of 0 all of them. In the limit of infinite
// strength, linked groups share their precision-weighted mean; where some of them have variance 0,
// the others lie on a straight line between the nearest of those. Groups that say nothing and are
// linked to none that does keep their observation.
//
// The same bytes on any number of threads. std::invalid_argument for values outside the above.
void solve_markov_chains(const MarkovChains& chains, double* out, int threads);

}  // namespace thermoq
