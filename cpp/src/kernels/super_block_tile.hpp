// Least squares with coded group parameters, for lanes of any kind (see lsq_tile.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"
#include "lsq_tile.hpp"

namespace thermoq {
namespace {

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
