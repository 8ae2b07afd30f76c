// Least squares for q8, for lanes of any kind (see lsq_tile.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"
#include "lsq_tile.hpp"

namespace thermoq {
namespace {

// q8: a scale alone, codes of either sign.
template <class V, class W>
struct SignedLeastSquares {
  // Which code the largest weight starts at. Clipping it costs more than it brings at 8 bits; what
  // pays is to try many scales, as rounding errors differ from one to the next by chance.
  static constexpr int kCandidates = 16;
  static constexpr float kTop = 127.5F;
  static constexpr float kStep = 0.5F;

  static V code(V x, V inverse) noexcept {
    return round_even(clamped(x * inverse, V::all(-127.0F), V::all(127.0F)));
  }

  static V squared_error(const Tile& tile, W weights, V scale) noexcept {
    const V inverse = inverse_of(scale);
    V sum = V::all(0.0F);
    for (std::size_t i = 0; i < tile.n; ++i) {
      const V value = V::load(tile.weights + kLanes * i);
      const V error = code(value, inverse) * scale - value;
      sum = sum + weights.times(error * error, i);
    }
    return sum;
  }

  static V refitted(const Tile& tile, W weights, V scale) noexcept {
    const V inverse = inverse_of(scale);
    V squares = V::all(0.0F);
    V products = V::all(0.0F);
    for (std::size_t i = 0; i < tile.n; ++i) {
      const V value = V::load(tile.weights + kLanes * i);
      const V q = code(value, inverse);
      const V weighted = weights.times(q, i);
      squares = squares + weighted * q;
      products = products + weighted * value;
    }
    return select(less(V::all(0.0F), squares), products / squares, scale);
  }

  static void run(const Tile& tile, W weights, const TileRows& rows,
                  std::uint16_t* scale) noexcept {
    const Range<V> range = range_of<V>(tile.weights, tile.n);
    const V largest = max_of(magnitude(range.low), magnitude(range.high));
    V best = V::half_not_below(largest / V::all(127.0F), scale);
    V error = squared_error(tile, weights, best);
    const auto consider = [&](V candidate) {
      const V rounded = V::nearest_half(candidate, scale);
      const V its_error = squared_error(tile, weights, rounded);
      const auto better = less(its_error, error);
      error = select(better, its_error, error);
      best = select(better, rounded, best);
    };
    for (int k = 0; k < kCandidates; ++k) {
      const V started = largest / V::all(kTop - kStep * static_cast<float>(k));
      consider(refitted(tile, weights, started));
    }
    V::nearest_half(best, scale);
    write(tile, best, rows);
  }

  static void write(const Tile& tile, V scale, const TileRows& rows) noexcept {
    const V inverse = inverse_of(scale);
    V largest_error = V::load(rows.sums.max_squared_error);
    V largest = V::load(rows.sums.max_magnitude);
    V error_sum = V::all(0.0F);
    V source_sum = V::all(0.0F);
    V decoded_sum = V::all(0.0F);
    for (std::size_t i = 0; i < tile.n; ++i) {
      const V value = V::load(tile.weights + kLanes * i);
      const V q = code(value, inverse);
      const V decoded = q * scale;
      const V error = decoded - value;
      const V square = error * error;
      error_sum = error_sum + square;
      source_sum = source_sum + value * value;
      decoded_sum = decoded_sum + decoded * decoded;
      largest_error = max_of(square, largest_error);
      largest = max_of(magnitude(value), largest);
      std::uint32_t words[kLanes];
      V::store_bits(V::with_bits(V::no_bits(), q, 0), words);
      for (std::size_t row = 0; row < kLanes; ++row) {
        rows.codes[row][i] = static_cast<std::uint8_t>(words[row]);
      }
    }
    error_sum.add_to(rows.sums.squared_error);
    source_sum.add_to(rows.sums.source_energy);
    decoded_sum.add_to(rows.sums.decoded_energy);
    largest_error.store(rows.sums.max_squared_error);
    largest.store(rows.sums.max_magnitude);
  }
};

template <class V>
void lsq_q8_on(const Tile& tile, const TileRows& rows, std::uint16_t* scale) noexcept {
  if (tile.importances == nullptr) {
    SignedLeastSquares<V, Equal>::run(tile, {}, rows, scale);
  } else {
    SignedLeastSquares<V, Weighted>::run(tile, {tile.importances}, rows, scale);
  }
}

}  // namespace
}  // namespace thermoq
