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

// out = W^T (W v), one pass over W; with `energy` [rows] also each row's ||x||^2.
void multiply_gram(const MatrixView& matrix, const std::vector<float>& v, int threads,
                   std::vector<float>& partials, std::vector<float>& out,
                   std::vector<float>& energy) {
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
          if (!energy.empty()) {
            energy[row] = kernel.dot(x, x, cols);
          }
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

SquaredNorms squared_norms(const MatrixView& matrix, double magnitude, int iterations,
                           std::uint64_t seed, int threads) {
  if (matrix.rows == 0 || matrix.cols == 0 || !(magnitude > 0.0)) {
    return {};
  }
  const double scale = std::exp2(std::floor(std::log2(magnitude)));
  std::vector<float> v = random_start(matrix.cols, seed);
  std::vector<float> next(matrix.cols);
  std::vector<float> partials(portions_of(matrix) * matrix.cols);
  std::vector<float> energy(matrix.rows);
  SquaredNorms norms;
  for (int i = 0; i < iterations; ++i) {
    // With ||v|| = 1 / scale the row products are near 1 and W^T W v is near the weights.
    scale_by(v, 1.0 / (norm(v) * scale));
    multiply_gram(matrix, v, threads, partials, next, energy);
    for (const float row : energy) {
      norms.frobenius += row;
    }
    energy.clear();
    norms.spectral = norm(next) * scale;
    if (!(norms.spectral > 0.0)) {
      break;
    }
    v.swap(next);
  }
  if (magnitude < static_cast<double>(kTinyMagnitude)) {  // squares have left f32's range
    norms.frobenius = magnitude * magnitude;
  }
  return norms;
}

}  // namespace thermoq
