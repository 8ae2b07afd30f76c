// Error-compensated rounding of a tile, for lanes of any kind (see lsq_tile.hpp).
#pragma once

#include <algorithm>

#include "kernels.hpp"
#include "lsq_tile.hpp"

namespace thermoq {
namespace {

// Two rows of lanes at once: a column waits for the one before it, and while one half waits, the
// other has work.
template <class V>
struct Twice {
  V low, high;

  static Twice all(float value) noexcept { return {V::all(value), V::all(value)}; }
  static Twice load(const float* in) noexcept { return {V::load(in), V::load(in + kLanes)}; }
  void store(float* out) const noexcept {
    low.store(out);
    high.store(out + kLanes);
  }

  friend Twice operator+(const Twice& a, const Twice& b) noexcept {
    return {a.low + b.low, a.high + b.high};
  }
  friend Twice operator-(const Twice& a, const Twice& b) noexcept {
    return {a.low - b.low, a.high - b.high};
  }
  friend Twice operator*(const Twice& a, const Twice& b) noexcept {
    return {a.low * b.low, a.high * b.high};
  }
  friend Twice operator/(const Twice& a, const Twice& b) noexcept {
    return {a.low / b.low, a.high / b.high};
  }
};

template <class V>
void round_column(const SweepTile& tile, std::size_t j) noexcept {
  using Pair = Twice<V>;
  const auto group = static_cast<std::size_t>(tile.group_of[j]);
  const Pair scale = Pair::load(tile.scale + kSweepLanes * group);
  const Pair minimum = Pair::load(tile.minimum + kSweepLanes * group);
  float* column = tile.weights + kSweepLanes * j;
  const Pair weight = Pair::load(column);
  const Pair steps = (weight - minimum) * Pair{inverse_of(scale.low), inverse_of(scale.high)};
  const V lowest = V::all(static_cast<float>(tile.lowest));
  const V highest = V::all(static_cast<float>(tile.highest));
  const Pair code = {round_even(clamped(steps.low, lowest, highest)),
                     round_even(clamped(steps.high, lowest, highest))};
  ((weight - (code * scale + minimum)) / Pair::all(tile.factor[j * tile.n + j])).store(column);
  std::uint32_t words[kSweepLanes];
  V::store_bits(V::with_bits(V::no_bits(), code.low, 0), words);
  V::store_bits(V::with_bits(V::no_bits(), code.high, 0), words + kLanes);
  for (std::size_t lane = 0; lane < kSweepLanes; ++lane) {
    tile.codes[kSweepLanes * j + lane] = static_cast<std::uint8_t>(words[lane]);
  }
}

// Column k makes up for the errors of `Count` columns from `first` on, one after the other.
template <class V, std::size_t Count>
void make_up(const SweepTile& tile, std::size_t first, std::size_t k) noexcept {
  using Pair = Twice<V>;
  float* behind = tile.weights + kSweepLanes * k;
  Pair weight = Pair::load(behind);
  for (std::size_t j = first; j < first + Count; ++j) {
    const Pair error = Pair::load(tile.weights + kSweepLanes * j);
    weight = weight - error * Pair::all(tile.factor[j * tile.n + k]);
  }
  weight.store(behind);
}

template <class V>
void sweep_on(const SweepTile& tile) noexcept {
  constexpr std::size_t kTogether = 4;
  std::size_t first = 0;
  for (; first + kTogether <= tile.n; first += kTogether) {
    for (std::size_t j = first; j < first + kTogether; ++j) {
      round_column<V>(tile, j);
      for (std::size_t k = j + 1; k < first + kTogether; ++k) {
        make_up<V, 1>(tile, j, k);
      }
    }
    for (std::size_t k = first + kTogether; k < tile.n; ++k) {
      make_up<V, kTogether>(tile, first, k);
    }
  }
  for (; first < tile.n; ++first) {
    round_column<V>(tile, first);
    for (std::size_t k = first + 1; k < tile.n; ++k) {
      make_up<V, 1>(tile, first, k);
    }
  }
}

}  // namespace
}  // namespace thermoq
