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

// At two bits 2 rounds from these end within 0.5 % of the optimum (tests/test_lsq_optimum.py);
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

// Codes of group parameters under a super-block's pair, and the fit of that pair to the codes.
template <class V, class W>
class SuperBlock {
 public:
  SuperBlock(const Tile& tile, W weights, const GroupCoding& coding, float* scratch) noexcept
      : tile_(tile),
        weights_(weights),
        coding_(coding),
        levels_(V::all(static_cast<float>((1 << coding.bit_width) - 1))),
        top_scale_(V::all(static_cast<float>((1 << coding.scale_bits) - 1))),
        top_minimum_(V::all(static_cast<float>((1 << coding.minimum_bits) - 1))),
        groups_((tile.n + coding.group_size - 1) / coding.group_size),
        scale_codes_(scratch + group_scratch(coding.group_size)),
        minimum_codes_(scale_codes_ + kLanes * groups_),
        best_scale_codes_(minimum_codes_ + kLanes * groups_),
        best_minimum_codes_(best_scale_codes_ + kLanes * groups_),
        scratch_(scratch) {}

  void search() noexcept {
    start();
    best_error_ = V::all(0.0F);
    for (int round = 0; round < kRounds; ++round) {
      const V error = choose_codes(round + 1 < kRounds);
      const auto better = less(error, best_error_);
      keep(better, round == 0, error);
      if (round + 1 < kRounds) {
        refit();
      }
    }
  }

  void write(const TileRows& rows, CodedTile& out) const noexcept {
    V::nearest_half(best_scale_, out.super_scale);
    V::nearest_half(best_minimum_, out.super_minimum);
    for (std::size_t g = 0; g < groups_; ++g) {
      const V scale_code = V::load(best_scale_codes_ + kLanes * g);
      const V minimum_code = V::load(best_minimum_codes_ + kLanes * g);
      store_bytes(scale_code, out.scale_codes + kLanes * g);
      store_bytes(minimum_code, out.minimum_codes + kLanes * g);
      const std::size_t first = g * coding_.group_size;
      encode(tile_.weights + kLanes * first, size_of(first),
             parameters(best_scale_, best_minimum_, scale_code, minimum_code), coding_.bit_width,
             first, rows);
    }
  }

 private:
  static constexpr int kRounds = 3;

  // The codes that are tried around those of the last round: each alone one up or down, and both
  // together, which moves the lowest level and leaves the highest.
  struct Step {
    float scale, minimum;
  };
  static constexpr Step kSteps[] = {{0.0F, 0.0F},  {1.0F, 0.0F}, {-1.0F, 0.0F}, {0.0F, 1.0F},
                                    {0.0F, -1.0F}, {1.0F, 1.0F}, {-1.0F, -1.0F}};

  std::size_t size_of(std::size_t first) const noexcept {
    const std::size_t left = tile_.n - first;
    return left < coding_.group_size ? left : coding_.group_size;
  }

  // W^ = (super_scale * scale_code) * code - (super_minimum * minimum_code)
  static Affine<V> parameters(V super_scale, V super_minimum, V scale_code,
                              V minimum_code) noexcept {
    return {super_scale * scale_code, V::all(0.0F) - super_minimum * minimum_code};
  }

  static void store_bytes(V codes, std::uint8_t* out) noexcept {
    std::uint32_t words[kLanes];
    V::store_bits(V::with_bits(V::no_bits(), codes, 0), words);
    for (std::size_t row = 0; row < kLanes; ++row) {
      out[row] = static_cast<std::uint8_t>(words[row]);
    }
  }

  // Fits every group by itself; the largest scale and the largest minimum get the top codes.
  void start() noexcept {
    const V zero = V::all(0.0F);
    V largest_scale = zero;
    V lowest = zero;
    V highest = zero;
    for (std::size_t g = 0; g < groups_; ++g) {
      const std::size_t first = g * coding_.group_size;
      const float* x = tile_.weights + kLanes * first;
      const std::size_t n = size_of(first);
      const Affine<V> p = LeastSquares<V, W>::fit(x, n, weights_.from(first), coding_.bit_width,
                                                  range_of<V>(x, n), scratch_, 0);
      p.scale.store(scale_codes_ + kLanes * g);
      p.minimum.store(minimum_codes_ + kLanes * g);
      largest_scale = max_of(p.scale, largest_scale);
      lowest = min_of(p.minimum, lowest);
      highest = max_of(p.minimum, highest);
    }
    const V limit = V::all(kMaxHalf);
    std::uint16_t half[kLanes];
    scale_ = V::half_not_below(min_of(largest_scale / top_scale_, limit), half);
    // Minima are at or below 0 almost always, or all above it: one sign serves the super-block.
    const auto negative = less(highest, zero - lowest);
    const V extent = min_of(max_of(highest, zero - lowest) / top_minimum_, limit);
    const V magnitude = V::half_not_below(extent, half);
    minimum_ = select(negative, magnitude, zero - magnitude);

    const V inverse_scale = inverse_of(scale_);
    const V inverse_minimum = inverse_of(magnitude);
    for (std::size_t g = 0; g < groups_; ++g) {
      float* scale_code = scale_codes_ + kLanes * g;
      float* minimum_code = minimum_codes_ + kLanes * g;
      const V minimum = V::load(minimum_code);
      const V below = select(negative, zero - minimum, minimum);
      round_even(clamped(V::load(scale_code) * inverse_scale, zero, top_scale_)).store(scale_code);
      round_even(clamped(below * inverse_minimum, zero, top_minimum_)).store(minimum_code);
    }
  }

  // Chooses the best codes near the current ones for every group and returns the error; with `sum`
  // collects the normal equations of the pair.
  V choose_codes(bool sum) noexcept {
    V total = V::all(0.0F);
    normal_ = {total, total, total, total, total};
    for (std::size_t g = 0; g < groups_; ++g) {
      const std::size_t first = g * coding_.group_size;
      const float* x = tile_.weights + kLanes * first;
      const std::size_t n = size_of(first);
      const W weights = weights_.from(first);
      total = total + choose(x, n, weights, scale_codes_ + kLanes * g, minimum_codes_ + kLanes * g);
      if (sum) {
        add_equations(x, n, weights, V::load(scale_codes_ + kLanes * g),
                      V::load(minimum_codes_ + kLanes * g));
      }
    }
    return total;
  }

  V choose(const float* x, std::size_t n, W weights, float* scale_code,
           float* minimum_code) const noexcept {
    const V zero = V::all(0.0F);
    const V scale = V::load(scale_code);
    const V minimum = V::load(minimum_code);
    V best_scale = scale;
    V best_minimum = minimum;
    V best = squared_error(x, n, weights, parameters(scale_, minimum_, scale, minimum), levels_);
    for (std::size_t k = 1; k < sizeof(kSteps) / sizeof(Step); ++k) {
      const V s = clamped(scale + V::all(kSteps[k].scale), zero, top_scale_);
      const V m = clamped(minimum + V::all(kSteps[k].minimum), zero, top_minimum_);
      const V error = squared_error(x, n, weights, parameters(scale_, minimum_, s, m), levels_);
      const auto better = less(error, best);
      best = select(better, error, best);
      best_scale = select(better, s, best_scale);
      best_minimum = select(better, m, best_minimum);
    }
    best_scale.store(scale_code);
    best_minimum.store(minimum_code);
    return best;
  }

  // With u = scale_code * code and v = minimum_code, the pair minimizes
  // sum (x - super_scale * u + super_minimum * v)^2.
  struct NormalEquations {
    V uu, uv, vv, ux, vx;
  };

  void add_equations(const float* x, std::size_t n, W weights, V scale_code,
                     V minimum_code) noexcept {
    const Affine<V> p = parameters(scale_, minimum_, scale_code, minimum_code);
    const CodeSums<V> sums = sums_of_codes(x, n, weights, Coder<V>(p, levels_));
    V sum = V::all(0.0F);
    for (std::size_t i = 0; i < n; ++i) {
      sum = sum + weights.times(V::load(x + kLanes * i), i);
    }
    normal_.uu = normal_.uu + scale_code * scale_code * sums.squares;
    normal_.uv = normal_.uv + scale_code * minimum_code * sums.codes;
    normal_.vv = normal_.vv + minimum_code * minimum_code * V::all(weights.total(n));
    normal_.ux = normal_.ux + scale_code * sums.products;
    normal_.vx = normal_.vx + minimum_code * sum;
  }

  // Solves them and rounds the pair to f16; what they do not determine stays.
  void refit() noexcept {
    const V zero = V::all(0.0F);
    const V product = normal_.uu * normal_.vv;
    const V determinant = product - normal_.uv * normal_.uv;
    const auto regular = less(V::all(kSingular) * product, determinant);
    // Where one of them takes part in no weight, the other is fitted alone.
    const auto no_scale = less(normal_.uu, normal_.vv * V::all(kSingular));
    const auto no_minimum = less(normal_.vv, normal_.uu * V::all(kSingular));
    const V lone_scale = select(no_minimum, normal_.ux / normal_.uu, scale_);
    const V lone_minimum = select(no_scale, zero - normal_.vx / normal_.vv, minimum_);
    const V scale = select(
        regular, (normal_.ux * normal_.vv - normal_.vx * normal_.uv) / determinant, lone_scale);
    const V minimum = select(
        regular, (normal_.ux * normal_.uv - normal_.vx * normal_.uu) / determinant, lone_minimum);
    const V limit = V::all(kMaxHalf);
    std::uint16_t half[kLanes];
    const V rounded = V::nearest_half(min_of(scale, limit), half);
    scale_ = select(less(zero, rounded), rounded, scale_);
    minimum_ = V::nearest_half(clamped(minimum, zero - limit, limit), half);
  }

  void keep(typename V::Mask better, bool first, V error) noexcept {
    const auto choice = [&](V now, V before) { return first ? now : select(better, now, before); };
    best_error_ = choice(error, best_error_);
    best_scale_ = choice(scale_, best_scale_);
    best_minimum_ = choice(minimum_, best_minimum_);
    for (std::size_t i = 0; i < kLanes * groups_; i += kLanes) {
      choice(V::load(scale_codes_ + i), V::load(best_scale_codes_ + i))
          .store(best_scale_codes_ + i);
      choice(V::load(minimum_codes_ + i), V::load(best_minimum_codes_ + i))
          .store(best_minimum_codes_ + i);
    }
  }

  const Tile& tile_;
  W weights_;
  const GroupCoding& coding_;
  V levels_, top_scale_, top_minimum_;
  std::size_t groups_;
  float* scale_codes_;  // [groups, kLanes], whole numbers
  float* minimum_codes_;
  float* best_scale_codes_;
  float* best_minimum_codes_;
  float* scratch_;
  V scale_, minimum_, best_scale_, best_minimum_, best_error_;
  NormalEquations normal_;
};

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

// The kernels of the table.

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

template <class V>
void lsq_q8_on(const Tile& tile, const TileRows& rows, std::uint16_t* scale) noexcept {
  if (tile.importances == nullptr) {
    SignedLeastSquares<V, Equal>::run(tile, {}, rows, scale);
  } else {
    SignedLeastSquares<V, Weighted>::run(tile, {tile.importances}, rows, scale);
  }
}

template <class V, class W>
void lsq_coded_weighted(const Tile& tile, W weights, const GroupCoding& coding, float* scratch,
                        const TileRows& rows, CodedTile& out) noexcept {
  SuperBlock<V, W> block(tile, weights, coding, scratch);
  block.search();
  block.write(rows, out);
}

template <class V>
void lsq_coded_on(const Tile& tile, const GroupCoding& coding, float* scratch, const TileRows& rows,
                  CodedTile& out) noexcept {
  if (tile.importances == nullptr) {
    lsq_coded_weighted<V>(tile, Equal{}, coding, scratch, rows, out);
  } else {
    lsq_coded_weighted<V>(tile, Weighted{tile.importances}, coding, scratch, rows, out);
  }
}

}  // namespace
}  // namespace thermoq
