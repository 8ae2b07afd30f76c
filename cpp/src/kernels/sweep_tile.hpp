// Error-compensated rounding of a tile, for lanes of any kind (see lsq_tile.hpp).
#pragma once

#include "kernels.hpp"
#include "lsq_tile.hpp"

namespace thermoq {
namespace {

template <class V>
void sweep_on(const SweepTile& tile) noexcept {
  const V lowest = V::all(static_cast<float>(tile.lowest));
  const V highest = V::all(static_cast<float>(tile.highest));
  for (std::size_t j = 0; j < tile.n; ++j) {
    const auto group = static_cast<std::size_t>(tile.group_of[j]);
    const V scale = V::load(tile.scale + kLanes * group);
    const V minimum = V::load(tile.minimum + kLanes * group);
    float* column = tile.weights + kLanes * j;
    const V weight = V::load(column);
    const V code = round_even(clamped((weight - minimum) * inverse_of(scale), lowest, highest));
    const float* factor = tile.factor + j * tile.n;
    const V error = (weight - (code * scale + minimum)) / V::all(factor[j]);
    error.store(column);
    std::uint32_t words[kLanes];
    V::store_bits(V::with_bits(V::no_bits(), code, 0), words);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      tile.codes[kLanes * j + lane] = static_cast<std::uint8_t>(words[lane]);
    }
    for (std::size_t k = j + 1; k < tile.n; ++k) {
      float* behind = tile.weights + kLanes * k;
      (V::load(behind) - error * V::all(factor[k])).store(behind);
    }
  }
}

}  // namespace
}  // namespace thermoq
