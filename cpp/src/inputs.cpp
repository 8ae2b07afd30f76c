#include "thermoq/inputs.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"

namespace thermoq {
namespace {

// Added and taken away, it rounds what is below 2^22 to the nearest whole number, ties to even.
constexpr float kRound = 12582912.0F;  // 1.5 * 2^23

struct Step {
  float scale;
  float low;
  float high;
};

// Clipped before it is rounded: the ends are whole numbers, so that the order does not matter.
template <bool kError>
void quantize_row(const Step& step, const float* x, std::size_t cols, float* out) noexcept {
  const float scale = step.scale;
  const float low = step.low;
  const float high = step.high;
  const float divisor = scale > 0.0F ? scale : 1.0F;
  for (std::size_t c = 0; c < cols; ++c) {
    float code = x[c] / divisor;
    code = code < low ? low : code;
    code = code > high ? high : code;
    const float value = ((code + kRound) - kRound) * scale;
    out[c] = kError ? value - x[c] : value;
  }
}

}  // namespace

void quantize_inputs(const InputRows& inputs, bool error, float* out, int threads) {
  std::vector<Step> steps;
  for (std::size_t g = 0; g < inputs.groups; ++g) {
    const auto zero = static_cast<float>(inputs.zero_point[g]);
    const Step step{static_cast<float>(inputs.scale[g]), -zero, inputs.top - zero};
    steps.insert(steps.end(), inputs.sizes[g], step);
  }
  const auto one = [&](NoState&, std::size_t row) {
    const float* x = inputs.values + row * inputs.cols;
    float* target = out + row * inputs.cols;
    if (error) {
      quantize_row<true>(steps[row], x, inputs.cols, target);
    } else {
      quantize_row<false>(steps[row], x, inputs.cols, target);
    }
  };
  const std::size_t count = steps.size();
  parallel_for(count, count * inputs.cols, threads, [] { return NoState{}; }, one);
}

void group_losses(const ErrorRows& errors, double systematic, double* out) {
  std::vector<double> sums(errors.cols);
  std::vector<double> squares(errors.cols);
  const float* row = errors.values;
  for (std::size_t g = 0; g < errors.groups; ++g) {
    std::fill(sums.begin(), sums.end(), 0.0);
    std::fill(squares.begin(), squares.end(), 0.0);
    for (std::size_t i = 0; i < errors.sizes[g]; ++i, row += errors.cols) {
      for (std::size_t c = 0; c < errors.cols; ++c) {
        const auto d = static_cast<double>(row[c]);
        sums[c] += d;
        squares[c] += d * d;
      }
    }
    double lost = 0.0;
    double alike = 0.0;
    for (std::size_t c = 0; c < errors.cols; ++c) {
      lost += squares[c];
      alike += sums[c] * sums[c];
    }
    const auto count = static_cast<double>(std::max<std::size_t>(errors.sizes[g], 1));
    out[g] = lost + systematic * alike / count;
  }
}

}  // namespace thermoq
