// Eight floats, one of each of eight rows, in plain C++ (see lsq_tile.hpp). The AVX2 twin is in
// avx2_lanes.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../half.hpp"
#include "kernels.hpp"

namespace thermoq {
namespace {

struct ScalarLanes {
  float lane[kLanes];

  struct Mask {
    bool lane[kLanes];
  };
  struct Word {
    std::uint32_t lane[kLanes];
  };

  template <class Each>
  static ScalarLanes each(const Each& value_of) noexcept {
    ScalarLanes result;
    for (std::size_t i = 0; i < kLanes; ++i) {
      result.lane[i] = value_of(i);
    }
    return result;
  }

  static ScalarLanes all(float value) noexcept {
    return each([&](std::size_t) { return value; });
  }
  static ScalarLanes load(const float* in) noexcept {
    return each([&](std::size_t i) { return in[i]; });
  }
  void store(float* out) const noexcept {
    for (std::size_t i = 0; i < kLanes; ++i) {
      out[i] = lane[i];
    }
  }

  friend ScalarLanes operator+(const ScalarLanes& a, const ScalarLanes& b) noexcept {
    return each([&](std::size_t i) { return a.lane[i] + b.lane[i]; });
  }
  friend ScalarLanes operator-(const ScalarLanes& a, const ScalarLanes& b) noexcept {
    return each([&](std::size_t i) { return a.lane[i] - b.lane[i]; });
  }
  friend ScalarLanes operator*(const ScalarLanes& a, const ScalarLanes& b) noexcept {
    return each([&](std::size_t i) { return a.lane[i] * b.lane[i]; });
  }
  friend ScalarLanes operator/(const ScalarLanes& a, const ScalarLanes& b) noexcept {
    return each([&](std::size_t i) { return a.lane[i] / b.lane[i]; });
  }

  // The second one where they are equal or either is NaN, as SSE has it.
  friend ScalarLanes min_of(const ScalarLanes& a, const ScalarLanes& b) noexcept {
    return each([&](std::size_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  friend ScalarLanes max_of(const ScalarLanes& a, const ScalarLanes& b) noexcept {
    return each([&](std::size_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  friend ScalarLanes magnitude(const ScalarLanes& a) noexcept {
    return each(
        [&](std::size_t i) { return float_from_bits(float_bits(a.lane[i]) & 0x7FFFFFFFU); });
  }

  // Half to even for |a| < 2^22.
  friend ScalarLanes round_even(const ScalarLanes& a) noexcept {
    constexpr float kShift = 0x1.8p23F;
    return each([&](std::size_t i) { return (a.lane[i] + kShift) - kShift; });
  }

  friend Mask less(const ScalarLanes& a, const ScalarLanes& b) noexcept {
    Mask mask;
    for (std::size_t i = 0; i < kLanes; ++i) {
      mask.lane[i] = a.lane[i] < b.lane[i];
    }
    return mask;
  }
  friend ScalarLanes select(const Mask& mask, const ScalarLanes& yes,
                            const ScalarLanes& no) noexcept {
    return each([&](std::size_t i) { return mask.lane[i] ? yes.lane[i] : no.lane[i]; });
  }

  // The f16 numbers nearest to these, not above or not below them, stored and as floats.
  static ScalarLanes nearest_half(const ScalarLanes& a, std::uint16_t* out) noexcept {
    return rounded(a, out, half_nearest);
  }
  static ScalarLanes half_not_above(const ScalarLanes& a, std::uint16_t* out) noexcept {
    return rounded(a, out, half_down);
  }
  static ScalarLanes half_not_below(const ScalarLanes& a, std::uint16_t* out) noexcept {
    return rounded(a, out, half_up);
  }

  // Puts whole numbers from -2^22 to 2^22 into bits `shift` and up, in two's complement.
  static Word no_bits() noexcept { return {}; }
  static Word with_bits(const Word& word, const ScalarLanes& code, int shift) noexcept {
    Word result;
    for (std::size_t i = 0; i < kLanes; ++i) {
      const auto bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(code.lane[i]));
      result.lane[i] = word.lane[i] | (bits << static_cast<unsigned>(shift));
    }
    return result;
  }
  static void store_bits(const Word& word, std::uint32_t* out) noexcept {
    for (std::size_t i = 0; i < kLanes; ++i) {
      out[i] = word.lane[i];
    }
  }

  void add_to(double* sums) const noexcept {
    for (std::size_t i = 0; i < kLanes; ++i) {
      sums[i] += static_cast<double>(lane[i]);
    }
  }

 private:
  template <class Round>
  static ScalarLanes rounded(const ScalarLanes& a, std::uint16_t* out,
                             const Round& round) noexcept {
    return each([&](std::size_t i) {
      out[i] = round(a.lane[i]);
      return half_to_float(out[i]);
    });
  }
};

}  // namespace
}  // namespace thermoq
