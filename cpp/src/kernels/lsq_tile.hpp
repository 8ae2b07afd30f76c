// Least squares on a tile (see kernels.hpp), written once for lanes of any kind: `V` is eight
// floats in plain C++ or in a register. Both take the same steps in the same order, so both give
// the same bits.
//
// In an anonymous namespace, as each file that includes it is compiled for another instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace thermoq {
namespace {

constexpr float kMaxHalf = 65504.0F;
constexpr std::size_t kMaxSumLength = 256;  // weights that are summed in f32 before double

// A start's levels reach from the group's lower end plus `low` times its range to its upper end
// minus `high` times its range: positive numbers clip, negative ones leave a level unused.
struct Start {
  float low, high;
};

// At two bits 2 rounds from these end within 1 % of the optimum (tests/test_lsq_optimum.py);
// what matters most is that either end is clipped alone, and that three levels can serve.
constexpr Start kStarts2[] = {{0.0F, 0.0F},   {0.0F, 0.15F}, {0.0F, 0.3F}, {0.15F, 0.0F},
                              {0.15F, 0.15F}, {0.15F, 0.3F}, {0.3F, 0.0F}, {0.3F, 0.15F},
                              {0.3F, 0.3F},   {-0.5F, 0.0F}, {0.0F, -0.5F}};
constexpr Start kStarts4[] = {{0.0F, 0.0F},    {0.0F, 0.03F},    {0.0F, 0.07F},   {0.03F, 0.0F},
                              {0.03F, 0.03F},  {0.03F, 0.07F},   {0.07F, 0.0F},   {0.07F, 0.03F},
                              {0.07F, 0.07F},  {-0.03F, -0.03F}, {-0.03F, 0.0F},  {0.0F, -0.03F},
                              {-0.03F, 0.03F}, {0.03F, -0.03F},  {-0.03F, 0.07F}, {0.07F, -0.03F}};
constexpr int kRoundsPerStart = 2;
constexpr int kLastRounds = 3;

// Below this share of its terms the determinant of a fit is rounding error: all codes are equal.
constexpr float kSingular = 1e-6F;

// What weighs the squared error of column i.
struct Equal {
  template <class V>
  V times(V value, std::size_t /*i*/) const noexcept {
    return value;
  }
  float total(std::size_t n) const noexcept { return static_cast<float>(n); }
  Equal from(std::size_t /*i*/) const noexcept { return {}; }
};

struct Weighted {
  const float* importances;
  template <class V>
  V times(V value, std::size_t i) const noexcept {
    return value * V::all(importances[i]);
  }
  float total(std::size_t n) const noexcept {
    float sum = 0.0F;
    for (std::size_t i = 0; i < n; ++i) {
      sum += importances[i];
    }
    return sum;
  }
  Weighted from(std::size_t i) const noexcept { return {importances + i}; }
};

template <class V>
struct Affine {
  V scale, minimum;
};

template <class V>
V inverse_of(V scale) noexcept {
  const V zero = V::all(0.0F);
  return select(less(zero, scale), V::all(1.0F) / scale, zero);
}

template <class V>
V clamped(V value, V low, V high) noexcept {
  return min_of(max_of(value, low), high);
}

// Assigns codes 0 .. levels to weights.
template <class V>
struct Coder {
  V minimum, inverse, levels;

  Coder(const Affine<V>& p, V top) noexcept
      : minimum(p.minimum), inverse(inverse_of(p.scale)), levels(top) {}
  V code(V x) const noexcept {
    return round_even(clamped((x - minimum) * inverse, V::all(0.0F), levels));
  }
};

template <class V>
struct CodeSums {
  V codes, squares, products;  // sums of q, q * q and q * x
};

template <class V, class W>
CodeSums<V> sums_of_codes(const float* x, std::size_t n, W weights,
                          const Coder<V>& coder) noexcept {
  CodeSums<V> sums{V::all(0.0F), V::all(0.0F), V::all(0.0F)};
  for (std::size_t i = 0; i < n; ++i) {
    const V value = V::load(x + kLanes * i);
    const V code = coder.code(value);
    const V weighted = weights.times(code, i);
    sums.codes = sums.codes + weighted;
    sums.squares = sums.squares + weighted * code;
    sums.products = sums.products + weighted * value;
  }
  return sums;
}

template <class V, class W>
V squared_error(const float* x, std::size_t n, W weights, const Affine<V>& p, V levels) noexcept {
  const Coder<V> coder(p, levels);
  V sum = V::all(0.0F);
  for (std::size_t i = 0; i < n; ++i) {
    const V value = V::load(x + kLanes * i);
    const V error = (coder.code(value) * p.scale + p.minimum) - value;
    sum = sum + weights.times(error * error, i);
  }
  return sum;
}

template <class V>
struct Range {
  V low, high;
};

template <class V>
Range<V> range_of(const float* x, std::size_t n) noexcept {
  Range<V> range{V::load(x), V::load(x)};
  for (std::size_t i = 1; i < n; ++i) {
    const V value = V::load(x + kLanes * i);
    range.low = min_of(value, range.low);
    range.high = max_of(value, range.high);
  }
  return range;
}

// One group of eight rows, centred so that a group far from 0 loses no digits in the sums.
template <class V, class W>
struct CentredGroup {
  const float* x;  // [n, kLanes]
  std::size_t n;
  W weights;
  V sum, total, levels, low, width;

  // The parameters that fit the codes of `p` best, and by how much they lower the error of a
  // constant: cov(q, x)^2 / var(q). Where all codes are equal, `p` itself.
  Affine<V> refitted(const Affine<V>& p, V& gain) const noexcept {
    const CodeSums<V> sums = sums_of_codes(x, n, weights, Coder<V>(p, levels));
    const V scaled_squares = total * sums.squares;
    const V variance = scaled_squares - sums.codes * sums.codes;
    const V covariance = total * sums.products - sums.codes * sum;
    const V scale = covariance / variance;
    const V minimum = (sum - scale * sums.codes) / total;
    const auto regular = less(V::all(kSingular) * scaled_squares, variance);
    gain = select(regular, covariance * scale, V::all(0.0F));
    return {select(regular, scale, p.scale), select(regular, minimum, p.minimum)};
  }

  Affine<V> started(const Start& start) const noexcept {
    return {(width * V::all(1.0F - start.low - start.high)) / levels,
            low + width * V::all(start.low)};
  }

  // The best of all starts.
  template <std::size_t kCount>
  Affine<V> fitted(const Start (&starts)[kCount]) const noexcept {
    Affine<V> best = started({0.0F, 0.0F});
    V best_gain = V::all(-1.0F);
    for (const Start& start : starts) {
      V gain = V::all(0.0F);
      Affine<V> p = started(start);
      for (int round = 0; round < kRoundsPerStart; ++round) {
        p = refitted(p, gain);
      }
      const auto better = less(best_gain, gain);
      best_gain = select(better, gain, best_gain);
      best = {select(better, p.scale, best.scale), select(better, p.minimum, best.minimum)};
    }
    return best;
  }
};

// Codes of `n` weights under f16-exact parameters: packs them and adds up what they lose.
template <class V>
void encode(const float* x, std::size_t n, const Affine<V>& p, int bit_width, std::size_t first,
            const TileRows& rows) noexcept {
  const Coder<V> coder(p, V::all(static_cast<float>((1 << bit_width) - 1)));
  V largest_error = V::load(rows.sums.max_squared_error);
  V largest = V::load(rows.sums.max_magnitude);
  const auto bits = static_cast<std::size_t>(bit_width);
  for (std::size_t begin = 0; begin < n; begin += kMaxSumLength) {
    const std::size_t end = n - begin < kMaxSumLength ? n : begin + kMaxSumLength;
    V error_sum = V::all(0.0F);
    V source_sum = V::all(0.0F);
    V decoded_sum = V::all(0.0F);
    for (std::size_t eight = begin; eight < end; eight += 8) {
      const std::size_t count = end - eight < 8 ? end - eight : 8;
      auto word = V::no_bits();
      for (std::size_t k = 0; k < count; ++k) {
        const V value = V::load(x + kLanes * (eight + k));
        const V code = coder.code(value);
        const V decoded = code * p.scale + p.minimum;
        const V error = decoded - value;
        const V square = error * error;
        error_sum = error_sum + square;
        source_sum = source_sum + value * value;
        decoded_sum = decoded_sum + decoded * decoded;
        largest_error = max_of(square, largest_error);
        largest = max_of(magnitude(value), largest);
        word = V::with_bits(word, code, static_cast<int>(k * bits));
      }
      std::uint32_t words[kLanes];
      V::store_bits(word, words);
      for (std::size_t row = 0; row < kLanes; ++row) {
        std::memcpy(rows.codes[row] + (first + eight) * bits / 8, words + row,
                    (count * bits + 7) / 8);
      }
    }
    error_sum.add_to(rows.sums.squared_error);
    source_sum.add_to(rows.sums.source_energy);
    decoded_sum.add_to(rows.sums.decoded_energy);
  }
  largest_error.store(rows.sums.max_squared_error);
  largest.store(rows.sums.max_magnitude);
}

template <class V, class W>
struct LeastSquares {
  // The best parameters of a group as f32. `scratch` holds kLanes * n floats.
  static Affine<V> fit(const float* x, std::size_t n, W weights, int bit_width,
                       const Range<V>& range, float* scratch, int last_rounds) noexcept {
    const V centre = (range.low + range.high) * V::all(0.5F);
    V sum = V::all(0.0F);
    for (std::size_t i = 0; i < n; ++i) {
      const V value = V::load(x + kLanes * i) - centre;
      value.store(scratch + kLanes * i);
      sum = sum + weights.times(value, i);
    }
    const CentredGroup<V, W> group{scratch,
                                   n,
                                   weights,
                                   sum,
                                   V::all(weights.total(n)),
                                   V::all(static_cast<float>((1 << bit_width) - 1)),
                                   range.low - centre,
                                   range.high - range.low};
    Affine<V> p = bit_width == 2 ? group.fitted(kStarts2) : group.fitted(kStarts4);
    V gain = V::all(0.0F);
    for (int round = 0; round < last_rounds; ++round) {
      p = group.refitted(p, gain);
    }
    return {p.scale, p.minimum + centre};
  }

  // Round-to-nearest's parameters, exactly as `minmax` has them.
  static Affine<V> minmax(const Range<V>& range, V levels, std::uint16_t* scale,
                          std::uint16_t* minimum) noexcept {
    const V zero = V::all(0.0F);
    const V low = range.low + zero;
    const auto varies = less(low, range.high);
    std::uint16_t constant[kLanes];
    const V nearest = V::nearest_half(low, constant);
    const V below = V::half_not_above(low, minimum);
    const V start = select(varies, below, nearest);
    V::nearest_half(start, minimum);
    const V step = select(varies, (range.high - start) / levels, zero);
    return {V::half_not_below(step, scale), start};
  }

  static void affine(const Tile& tile, W weights, int bit_width, float* scratch,
                     const TileRows& rows, std::uint16_t* scale, std::uint16_t* minimum) noexcept {
    const float* x = tile.weights;
    const V levels = V::all(static_cast<float>((1 << bit_width) - 1));
    const V limit = V::all(kMaxHalf);
    const Range<V> range = range_of<V>(x, tile.n);
    const Affine<V> exact = fit(x, tile.n, weights, bit_width, range, scratch, kLastRounds);

    // The minimum is rounded first, then the scale that fits it best.
    std::uint16_t half[kLanes];
    Affine<V> p{exact.scale,
                V::nearest_half(clamped(exact.minimum, V::all(-kMaxHalf), limit), half)};
    const CodeSums<V> sums = sums_of_codes(x, tile.n, weights, Coder<V>(p, levels));
    const V best_scale = (sums.products - p.minimum * sums.codes) / sums.squares;
    const V usable = select(less(V::all(0.0F), sums.squares), best_scale, p.scale);
    p.scale = V::nearest_half(clamped(usable, V::all(0.0F), limit), half);

    const Affine<V> plain = minmax(range, levels, scale, minimum);
    const auto better = less(squared_error(x, tile.n, weights, p, levels),
                             squared_error(x, tile.n, weights, plain, levels));
    p = {select(better, p.scale, plain.scale), select(better, p.minimum, plain.minimum)};
    V::nearest_half(p.scale, scale);
    V::nearest_half(p.minimum, minimum);
    encode(x, tile.n, p, bit_width, 0, rows);
  }
};

template <class V>
void lsq_affine_on(const Tile& tile, int bit_width, float* scratch, const TileRows& rows,
                   std::uint16_t* scale, std::uint16_t* minimum) noexcept {
  if (tile.importances == nullptr) {
    LeastSquares<V, Equal>::affine(tile, {}, bit_width, scratch, rows, scale, minimum);
  } else {
    LeastSquares<V, Weighted>::affine(tile, {tile.importances}, bit_width, scratch, rows, scale,
                                      minimum);
  }
}

}  // namespace
}  // namespace thermoq
