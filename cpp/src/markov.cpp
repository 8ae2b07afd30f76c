#include "thermoq/markov.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.hpp"

namespace thermoq {
namespace {

// A run of linked groups of one row.
struct Chain {
  const double* observed;
  const double* variance;
  double* out;
  std::size_t size;
};

// The Thomas algorithm (forward elimination, back substitution) on the tridiagonal normal
// equations, written in variances: elimination up to group g leaves the mean and the variance of
// x[g] given what was observed up to there, and substitution goes back through them. Those are the
// steps of a Kalman filter and its smoother (Rauch, Tung and Striebel 1965). Every line is a mean
// of two values with weights in [0, 1], so nothing cancels, whatever the variances and strength;
// the textbook's pivots vanish where the strength is large.
void solve_chain(const Chain& chain, double strength, double* filtered) noexcept {
  const double step = 1.0 / strength;  // may be infinite, is never 0
  double* x = chain.out;
  x[0] = chain.observed[0];
  filtered[0] = chain.variance[0];
  for (std::size_t g = 1; g < chain.size; ++g) {
    const double v = chain.variance[g];
    const double prior = filtered[g - 1] + step;
    if (v == 0.0 || std::isinf(prior)) {  // the observation alone counts
      x[g] = chain.observed[g];
      filtered[g] = v;
    } else {
      const double gain = 1.0 / (1.0 + v / prior);
      x[g] = x[g - 1] + gain * (chain.observed[g] - x[g - 1]);
      filtered[g] = v <= prior ? v * gain : prior / (1.0 + prior / v);
    }
  }
  for (std::size_t g = chain.size - 1; g-- > 0;) {
    if (filtered[g] > 0.0 && !std::isinf(step)) {
      x[g] += (x[g + 1] - x[g]) / (1.0 + step / filtered[g]);
    }
  }
}

bool says_something(const Chain& chain) noexcept {
  for (std::size_t g = 0; g < chain.size; ++g) {
    if (!std::isinf(chain.variance[g])) {
      return true;
    }
  }
  return false;
}

// The first group from `from` on with variance 0; `size` if there is none.
std::size_t next_fixed(const Chain& chain, std::size_t from) noexcept {
  while (from < chain.size && chain.variance[from] != 0.0) {
    ++from;
  }
  return from;
}

void interpolate_fixed(const Chain& chain, std::size_t first) noexcept {
  for (std::size_t g = 0; g <= first; ++g) {
    chain.out[g] = chain.observed[first];
  }
  for (std::size_t before = first; before < chain.size;) {
    const std::size_t after = next_fixed(chain, before + 1);
    const double from = chain.observed[before];
    const double rise = after < chain.size ? chain.observed[after] - from : 0.0;
    const auto length = static_cast<double>(after - before);
    for (std::size_t g = before + 1; g < after; ++g) {
      chain.out[g] = from + rise * (static_cast<double>(g - before) / length);
    }
    if (after < chain.size) {
      chain.out[after] = chain.observed[after];
    }
    before = after;
  }
}

// Infinite strength: see the header.
void pool(const Chain& chain) noexcept {
  const std::size_t first = next_fixed(chain, 0);
  if (first < chain.size) {
    interpolate_fixed(chain, first);
    return;
  }
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t g = 0; g < chain.size; ++g) {
    least = std::fmin(least, chain.variance[g]);
  }
  double weight = 0.0;
  double mean = 0.0;
  for (std::size_t g = 0; g < chain.size; ++g) {
    // Relative to the largest precision, so that nothing overflows.
    const double share = least / chain.variance[g];
    if (share > 0.0) {
      weight += share;
      mean += (chain.observed[g] - mean) * (share / weight);
    }
  }
  for (std::size_t g = 0; g < chain.size; ++g) {
    chain.out[g] = mean;
  }
}

void solve_row(const MarkovChains& chains, std::size_t row, double* out, double* filtered) {
  const std::size_t groups = chains.groups;
  const double strength = chains.strength[chains.strength_per_row ? row : 0];
  const std::uint8_t* linked =
      chains.linked + (chains.linked_per_row ? row * (groups - 1) : std::size_t{0});
  const double* observed = chains.observed + row * groups;
  const double* variance = chains.variance + row * groups;
  for (std::size_t start = 0; start < groups;) {
    std::size_t end = start + 1;
    while (end < groups && linked[end - 1] != 0) {
      ++end;
    }
    const Chain chain{observed + start, variance + start, out + row * groups + start, end - start};
    if (strength == 0.0 || chain.size == 1 || !says_something(chain)) {
      for (std::size_t g = 0; g < chain.size; ++g) {
        chain.out[g] = chain.observed[g];
      }
    } else if (std::isinf(strength)) {
      pool(chain);
    } else {
      solve_chain(chain, strength, filtered);
    }
    start = end;
  }
}

void check(const MarkovChains& chains) {
  const auto refuse = [](const char* name, const char* expected, double got) {
    throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " +
                                std::to_string(got));
  };
  for (std::size_t i = 0; i < chains.rows * chains.groups; ++i) {
    if (!std::isfinite(chains.observed[i])) {
      refuse("theta", "finite values", chains.observed[i]);
    }
    if (!(chains.variance[i] >= 0.0)) {  // NaN is not, either
      refuse("variance", "values of at least 0", chains.variance[i]);
    }
  }
  for (std::size_t i = 0; i < (chains.strength_per_row ? chains.rows : 1); ++i) {
    if (!(chains.strength[i] >= 0.0)) {
      refuse("strength", "values of at least 0", chains.strength[i]);
    }
  }
}

}  // namespace

void solve_markov_chains(const MarkovChains& chains, double* out, int threads) {
  check(chains);
  if (chains.groups == 0) {
    return;
  }
  // A row takes about as long as quantizing several weights a group.
  const std::size_t work = 8 * chains.rows * chains.groups;
  parallel_for(
      chains.rows, work, threads, [&] { return std::vector<double>(chains.groups); },
      [&](std::vector<double>& filtered, std::size_t row) {
        solve_row(chains, row, out, filtered.data());
      });
}

}  // namespace thermoq
