#include "thermoq/moments.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "parallel.hpp"

namespace thermoq {
namespace {

// Columns at a time: their sums stay in registers while the rows go by.
constexpr std::size_t kLanes = 8;

using Sums = std::array<std::array<double, kLanes>, kPairedMoments>;

// The columns from `first` on of `count` rows that lie `stride` apart.
struct Strip {
  const float* y;
  const float* q;
  std::size_t count;
  std::size_t stride;
};

template <std::size_t kWidth>
void add_strip(const Strip& strip, Sums& sums) noexcept {
  double mean_y[kWidth] = {};
  double mean_q[kWidth] = {};
  for (std::size_t i = 0; i < strip.count; ++i) {
    for (std::size_t c = 0; c < kWidth; ++c) {
      mean_y[c] += static_cast<double>(strip.y[i * strip.stride + c]);
      mean_q[c] += static_cast<double>(strip.q[i * strip.stride + c]);
    }
  }
  const auto count = static_cast<double>(strip.count);
  for (std::size_t c = 0; c < kWidth; ++c) {
    mean_y[c] /= count;
    mean_q[c] /= count;
  }
  double yy[kWidth] = {};
  double qq[kWidth] = {};
  double yq[kWidth] = {};
  double yyyy[kWidth] = {};
  double yyyq[kWidth] = {};
  double yyqq[kWidth] = {};
  double yqqq[kWidth] = {};
  double qqqq[kWidth] = {};
  for (std::size_t i = 0; i < strip.count; ++i) {
    for (std::size_t c = 0; c < kWidth; ++c) {
      const double y = static_cast<double>(strip.y[i * strip.stride + c]) - mean_y[c];
      const double q = static_cast<double>(strip.q[i * strip.stride + c]) - mean_q[c];
      const double y2 = y * y;
      const double q2 = q * q;
      const double both = y * q;
      yy[c] += y2;
      qq[c] += q2;
      yq[c] += both;
      yyyy[c] += y2 * y2;
      yyyq[c] += y2 * both;
      yyqq[c] += y2 * q2;
      yqqq[c] += both * q2;
      qqqq[c] += q2 * q2;
    }
  }
  for (std::size_t c = 0; c < kWidth; ++c) {
    const double found[kPairedMoments] = {
        mean_y[c],       mean_q[c],       yy[c] / count,   qq[c] / count,   yq[c] / count,
        yyyy[c] / count, yyyq[c] / count, yyqq[c] / count, yqqq[c] / count, qqqq[c] / count};
    for (std::size_t kind = 0; kind < kPairedMoments; ++kind) {
      sums[kind][c] = found[kind];
    }
  }
}

}  // namespace

void paired_moments(const PairedRows& rows, double* out, int threads) {
  std::vector<std::size_t> starts(rows.groups + 1, 0);
  for (std::size_t g = 0; g < rows.groups; ++g) {
    starts[g + 1] = starts[g] + rows.sizes[g];
  }
  const std::size_t strips = (rows.cols + kLanes - 1) / kLanes;
  const std::size_t plane = rows.groups * rows.cols;
  const auto one = [&](NoState&, std::size_t strip) {
    const std::size_t col = strip * kLanes;
    const std::size_t width = std::min(kLanes, rows.cols - col);
    for (std::size_t g = 0; g < rows.groups; ++g) {
      const std::size_t first = starts[g] * rows.cols + col;
      const Strip part{rows.y + first, rows.q + first, rows.sizes[g], rows.cols};
      Sums sums{};
      if (part.count > 0 && width == kLanes) {
        add_strip<kLanes>(part, sums);
      } else if (part.count > 0) {
        for (std::size_t c = 0; c < width; ++c) {
          Sums single{};
          add_strip<1>({part.y + c, part.q + c, part.count, part.stride}, single);
          for (std::size_t kind = 0; kind < kPairedMoments; ++kind) {
            sums[kind][c] = single[kind][0];
          }
        }
      }
      for (std::size_t kind = 0; kind < kPairedMoments; ++kind) {
        double* target = out + kind * plane + g * rows.cols + col;
        std::copy_n(sums[kind].begin(), width, target);
      }
    }
  };
  parallel_for(strips, starts[rows.groups] * rows.cols, threads, [] { return NoState{}; }, one);
}

}  // namespace thermoq
