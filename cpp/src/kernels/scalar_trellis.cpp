// The trellis kernels in plain C++: what the others have to equal.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "trellis_kernels.hpp"

namespace thermoq {
namespace {

constexpr int kMaxCost = 0xFFFF;
constexpr float kMostValue = 16384.0F;

std::uint16_t saturated(int cost) noexcept {
  return static_cast<std::uint16_t>(std::min(cost, kMaxCost));
}

// The low `count` bytes at `in`, of which those at and behind `end` are 0.
std::uint64_t load_bytes(const std::uint8_t* in, const std::uint8_t* end,
                         std::size_t count) noexcept {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < count && in + i < end; ++i) {
    bits |= static_cast<std::uint64_t>(in[i]) << (8 * i);
  }
  return bits;
}

template <int kBits>
void trace_all(const TrellisPaths& paths) noexcept {
  constexpr int kFan = 1 << kBits;
  const int elder = paths.window_bits - kBits;
  const std::size_t column_size = paths.n << elder;
  for (std::size_t i = paths.n - 1; i > 0; --i) {
    const std::uint16_t* reached = paths.history + ((i - 1) << elder);
    const std::int16_t* values = paths.values + (i - 1) * paths.stride;
    std::uint16_t* windows = paths.windows + i;
    for (std::size_t c = 0; c < paths.columns; ++c, reached += column_size, windows += paths.n) {
      const int known = *windows >> kBits;
      int best = 0;
      for (int oldest = 0; oldest < kFan; ++oldest) {
        const int before = (oldest << elder) | known;
        const int cost =
            saturated(reached[before >> kBits] + trellis_metric(values[c], paths.table[before]));
        // The cost and where it comes from in one number: ties go to the lowest window.
        const int both = (cost << kBits) | oldest;
        best = oldest == 0 ? both : std::min(best, both);
      }
      windows[-1] = static_cast<std::uint16_t>(((best & (kFan - 1)) << elder) | known);
    }
  }
}

}  // namespace

int last_window(const TrellisPaths& paths) noexcept {
  const std::uint16_t* last = paths.costs + ((paths.n & 1) << paths.window_bits);
  return static_cast<int>(std::min_element(last, last + (1 << paths.window_bits)) - last);
}

void trace_back(const TrellisPaths& paths) noexcept {
  switch (paths.bit_width) {
    case 2:
      trace_all<2>(paths);
      return;
    case 3:
      trace_all<3>(paths);
      return;
    default:
      trace_all<4>(paths);
  }
}

void trellis_values_scalar(const float* weights, std::size_t n, float factor,
                           std::int16_t* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const float value = weights[i] * factor;
    const float above = value > -kMostValue ? value : -kMostValue;  // NaN becomes -kMostValue
    out[i] = static_cast<std::int16_t>(std::nearbyintf(above < kMostValue ? above : kMostValue));
  }
}

void trellis_paths_scalar(const TrellisPaths& paths) noexcept {
  const int states = 1 << paths.window_bits;
  const int elder = paths.window_bits - paths.bit_width;
  const int fan = 1 << paths.bit_width;
  for (std::size_t c = 0; c < paths.columns; ++c) {
    std::memset(paths.costs, 0, static_cast<std::size_t>(states) * sizeof *paths.costs);
    int base = 0;  // what every cost of the last step exceeds: taken off, so that none grow large
    for (std::size_t i = 0; i < paths.n; ++i) {
      const std::uint16_t* costs = paths.costs + ((i & 1) << paths.window_bits);
      std::uint16_t* next = paths.costs + ((~i & 1) << paths.window_bits);
      std::uint16_t* reached = paths.history + ((c * paths.n + i) << elder);
      const std::int16_t value = paths.values[i * paths.stride + c];
      int least = kMaxCost;
      for (int bits = 0; bits < 1 << elder; ++bits) {
        int low = costs[bits];
        for (int oldest = 1; oldest < fan; ++oldest) {
          low = std::min<int>(low, costs[(oldest << elder) | bits]);
        }
        low = std::max(low - base, 0);
        least = std::min(least, low);
        reached[bits] = static_cast<std::uint16_t>(low);
        for (int newest = 0; newest < fan; ++newest) {
          const int window = (bits << paths.bit_width) | newest;
          next[window] = saturated(low + trellis_metric(value, paths.table[window]));
        }
      }
      base = least;
    }
    paths.windows[c * paths.n + paths.n - 1] = static_cast<std::uint16_t>(last_window(paths));
  }
  trace_back(paths);
}

void trellis_rows_scalar(const TrellisRows& rows, float* out, std::size_t stride) noexcept {
  const std::uint64_t mask = (std::uint64_t{1} << rows.window_bits) - 1;
  const auto bit_width = static_cast<std::size_t>(rows.bit_width);
  const std::size_t count =
      ((rows.rows - 1) * bit_width + static_cast<std::size_t>(rows.window_bits) + 7) / 8;
  for (std::size_t c = 0; c < rows.cols; ++c) {
    const std::uint64_t bits = load_bytes(rows.codes + c * rows.stream_bytes, rows.end, count);
    for (std::size_t r = 0; r < rows.rows; ++r) {
      out[r * stride + c] = rows.scale[r] * rows.table[(bits >> (r * bit_width)) & mask];
    }
  }
}

}  // namespace thermoq
