#include "thermoq/spectral.hpp"

#include <cmath>

#include "parallel.hpp"
#include "row_stretch.hpp"

namespace thermoq {
namespace {

// Rows are summed in fixed portions, then portion by portion: the result depends on the shape but
// not on the threads. Each portion holds a partial W^T W v, so matrices of few rows get few.
constexpr std::size_t kMaxPortions = 16;
constexpr std::size_t kMinPortionRows = 16;

std::size_t portions_of(const MatrixView& matrix) noexcept {
  return std::clamp<std::size_t>(matrix.rows / kMinPortionRows, 1, kMaxPortions);
}

// Uniform in [-1, 1), in steps that f32 holds exactly: any platform draws the same (SplitMix64,
// Steele et al. 2014). Not signs: they are orthogonal to the rows of many a constant matrix.
std::vector<float> random_start(std::size_t n, std::uint64_t seed) {
  std::vector<float> start(n);
  for (std::size_t i = 0; i < n; ++i) {
    std::uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    start[i] = static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-23F - 1.0F;
  }
  return start;
}

double norm(const std::vector<float>& v) {
  double sum = 0.0;
  for (const float x : v) {
    sum += static_cast<double>(x) * x;
  }
  return std::sqrt(sum);
}

void scale_by(std::vector<float>& v, double factor) {
  for (float& x : v) {
    x = static_cast<float>(x * factor);
  }
}

// out = W^T (W v), one pass over W.
void multiply_gram(const MatrixView& matrix, const std::vector<float>& v, int threads,
                   std::vector<float>& partials, std::vector<float>& out) {
  const KernelTable& kernel = kernels();
  const std::size_t cols = matrix.cols;
  const std::size_t portions = portions_of(matrix);
  const std::size_t rows_each = (matrix.rows + portions - 1) / portions;
  std::fill(partials.begin(), partials.end(), 0.0F);
  parallel_for(
      portions, matrix.rows * cols, threads, [&] { return std::vector<float>(cols); },
      [&](std::vector<float>& scratch, std::size_t portion) {
        const std::size_t begin = std::min(portion * rows_each, matrix.rows);
        const std::size_t end = std::min(begin + rows_each, matrix.rows);
        for (std::size_t row = begin; row < end; ++row) {
          const float* x =
              load_floats(kernel, matrix.row(row), matrix.type, 0, cols, scratch.data());
          kernel.add_scaled(kernel.dot(x, v.data(), cols), x, cols,
                            partials.data() + portion * cols);
        }
      });
  std::fill(out.begin(), out.end(), 0.0F);
  for (std::size_t portion = 0; portion < portions; ++portion) {
    kernel.add_scaled(1.0F, partials.data() + portion * cols, cols, out.data());
  }
}

}  // namespace

double largest_squared_singular_value(const MatrixView& matrix, double frobenius_norm,
                                      int iterations, std::uint64_t seed, int threads) {
  if (matrix.rows == 0 || matrix.cols == 0 || !(frobenius_norm > 0.0)) {
    return 0.0;
  }
  std::vector<float> v = random_start(matrix.cols, seed);
  std::vector<float> next(matrix.cols);
  std::vector<float> partials(portions_of(matrix) * matrix.cols);
  double ratio = 0.0;  // ||W^T W v|| / (||v|| ||W||_F), at most sigma_1^2 / ||W||_F
  for (int i = 0; i < iterations; ++i) {
    // With ||v|| = 1 / ||W||_F the row products are near 1 and W^T W v is near the weights.
    scale_by(v, 1.0 / (norm(v) * frobenius_norm));
    multiply_gram(matrix, v, threads, partials, next);
    ratio = norm(next);
    if (!(ratio > 0.0)) {
      return 0.0;
    }
    v.swap(next);
  }
  return ratio * frobenius_norm;
}

}  // namespace thermoq
