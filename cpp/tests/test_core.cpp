// The public functions: the same bytes on any number of threads, exact allocations, odd shapes.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "thermoq/dispatch.hpp"
#include "thermoq/jumps.hpp"
#include "thermoq/markov.hpp"
#include "thermoq/packing.hpp"
#include "thermoq/quantize.hpp"
#include "thermoq/spectral.hpp"

namespace {

using namespace thermoq;

// Exactly sized allocations, so that the address sanitizer sees one byte too many.
struct Quantized {
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scale, minimum;
  QuantizationError error;
};

std::vector<std::uint8_t> source_bytes(FloatType type, std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) {
    value = normal(random);
  }
  std::vector<std::uint8_t> bytes(count * bytes_per_element(type));
  convert(reinterpret_cast<const std::uint8_t*>(x.data()), FloatType::f32, count, type,
          bytes.data(), 1);
  return bytes;
}

Quantized quantize(const MatrixView& source, const AffineScheme& scheme, int threads) {
  const std::size_t groups = source.rows * scheme.groups_per_row(source.cols);
  Quantized q{std::vector<std::uint8_t>(source.rows * scheme.row_bytes(source.cols)),
              std::vector<std::uint16_t>(groups),
              std::vector<std::uint16_t>(groups),
              {}};
  q.error =
      quantize_affine(source, scheme, {q.codes.data(), q.scale.data(), q.minimum.data()}, threads);
  return q;
}

std::vector<float> decode(const Quantized& q, const AffineScheme& scheme, std::size_t rows,
                          std::size_t cols, int threads) {
  std::vector<float> out(rows * cols);
  dequantize_affine({q.codes.data(), q.scale.data(), q.minimum.data()}, scheme, rows, cols,
                    FloatType::f32, reinterpret_cast<std::uint8_t*>(out.data()), threads);
  return out;
}

bool same(const QuantizationError& a, const QuantizationError& b) {
  return a.squared_error == b.squared_error && a.source_energy == b.source_energy &&
         a.decoded_energy == b.decoded_energy && a.max_error == b.max_error &&
         a.max_magnitude == b.max_magnitude;
}

void test_threads_and_levels() {
  for (const FloatType type : {FloatType::f32, FloatType::f16, FloatType::bf16}) {
    for (const std::size_t cols : {1, 7, 8, 63, 64, 65, 130, 2047, 2048, 2049, 4111}) {
      const std::size_t rows = cols > 2000 ? 150 : 37;  // enough for a team, or not
      const auto bytes = source_bytes(type, rows * cols, static_cast<unsigned>(cols));
      const MatrixView source{bytes.data(), type, rows, cols};
      for (const int bit_width : {2, 4}) {
        for (const std::size_t group_size : {8, 24, 64, 3000, 8192}) {
          const AffineScheme scheme{bit_width, group_size};
          set_simd_level("scalar");
          const Quantized expected = quantize(source, scheme, 1);
          const std::vector<float> decoded = decode(expected, scheme, rows, cols, 1);
          for (const std::string& level : available_simd_levels()) {
            set_simd_level(level);
            const Quantized got = quantize(source, scheme, 4);
            CHECK(got.codes == expected.codes && got.scale == expected.scale &&
                      got.minimum == expected.minimum && same(got.error, expected.error),
                  "%s, cols = %zu, group_size = %zu", level.c_str(), cols, group_size);
            CHECK(decode(got, scheme, rows, cols, 3) == decoded, "decode, %s", level.c_str());
          }
        }
      }
      const double norm = 6.0 * std::sqrt(static_cast<double>(cols));
      set_simd_level("scalar");
      const SquaredNorms norms = squared_norms(source, norm, 4, 0, 1);
      for (const std::string& level : available_simd_levels()) {
        set_simd_level(level);
        for (const double magnitude : {norm, 1.01 * norm, 8.0 * norm}) {
          const SquaredNorms again = squared_norms(source, magnitude, 4, 0, 4);
          CHECK(again.spectral == norms.spectral && again.frobenius == norms.frobenius,
                "squared norms, cols = %zu", cols);
        }
      }
    }
  }
}

void test_unaligned_source() {
  const std::size_t rows = 5;
  const std::size_t cols = 203;
  const auto bytes = source_bytes(FloatType::f32, rows * cols, 1);
  const AffineScheme scheme{2, 64};
  const Quantized expected = quantize({bytes.data(), FloatType::f32, rows, cols}, scheme, 1);
  for (std::size_t offset = 1; offset < 8; ++offset) {
    std::vector<std::uint8_t> shifted(bytes.size() + offset);
    std::memcpy(shifted.data() + offset, bytes.data(), bytes.size());
    const MatrixView source{shifted.data() + offset, FloatType::f32, rows, cols};
    CHECK(quantize(source, scheme, 2).codes == expected.codes, "offset %zu", offset);
  }
}

void test_constant_group_is_exact() {
  const std::vector<float> x(70, 0.25F);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(x.data());
  const AffineScheme scheme{2, 64};
  const Quantized q = quantize({bytes, FloatType::f32, 1, x.size()}, scheme, 1);
  CHECK(q.error.squared_error == 0.0 && q.error.max_error == 0.0, "constant");
  CHECK(decode(q, scheme, 1, x.size(), 1) == x, "constant decodes to itself");
}

void test_nonfinite_is_counted() {
  std::vector<float> x(100, 1.0F);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  x[77] = std::numeric_limits<float>::infinity();
  x[99] = -std::numeric_limits<float>::infinity();
  const MatrixView source{reinterpret_cast<const std::uint8_t*>(x.data()), FloatType::f32, 2, 50};
  const QuantizationError error = quantize(source, {2, 8}, 2).error;
  CHECK(error.nan_count == 1 && error.infinity_count == 2, "counts");
  std::vector<std::int8_t> codes(100);
  std::vector<std::uint16_t> scale(4);
  const QuantizationError q8 = quantize_q8(source, {codes.data(), scale.data()}, 2);
  CHECK(q8.nan_count == 1 && q8.infinity_count == 2, "q8 counts");
}

void test_bad_schemes_are_refused() {
  for (const AffineScheme scheme : {AffineScheme{3, 64}, AffineScheme{2, 0}, AffineScheme{2, 12}}) {
    bool refused = false;
    try {
      quantize_affine({nullptr, FloatType::f32, 0, 0}, scheme, {}, 1);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    CHECK(refused, "bit_width = %d, group_size = %zu", scheme.bit_width, scheme.group_size);
  }
}

void test_singular_value_of_rank_one() {
  constexpr std::size_t kRows = 40;
  constexpr std::size_t kCols = 30;
  std::vector<float> x(kRows * kCols);
  double energy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t row = i / kCols;
    const std::size_t col = i % kCols;
    x[i] = static_cast<float>((1.0 + static_cast<double>(row)) *
                              std::sin(1.0 + static_cast<double>(col)));
    energy += static_cast<double>(x[i]) * x[i];
  }
  const MatrixView matrix{reinterpret_cast<const std::uint8_t*>(x.data()), FloatType::f32, kRows,
                          kCols};
  const SquaredNorms norms = squared_norms(matrix, std::sqrt(energy), 2, 0, 2);
  const double sigma = norms.spectral;
  CHECK(std::fabs(norms.frobenius / energy - 1.0) < 1e-6, "||W||^2 = %g", norms.frobenius);
  CHECK(std::fabs(sigma / energy - 1.0) < 1e-5, "sigma_1^2 = %g of %g", sigma, energy);
}

void test_jumps() {
  const double scale[] = {1.0, 1.5, 0.0, 0.0, 2.0};
  const double zero_point[] = {128, 128, 0, 0, 10};
  const double weight[] = {1.0};
  const std::int32_t bits[] = {8};
  double jumps[4], zero_jumps[4], scores[4], m[4], mz[4], u[4], uz[4], ms[4];
  Severity severity[4];
  const double before[4] = {};
  const double after[] = {1.0, 1.0, 1.0, 1.0};
  boundary_jumps({scale, zero_point, weight, 1, 5, bits}, {before, after, 1}, 0.3,
                 {jumps, zero_jumps, scores}, {m, mz, u, uz, ms, severity});
  const double expected[] = {0.5, 1.0, 0.0, 1.0};
  for (int i = 0; i < 4; ++i) {
    CHECK(jumps[i] == expected[i], "jump %d = %g", i, jumps[i]);
    CHECK(zero_jumps[i] == 0.0, "a zero scale hides the zero-point, %d", i);
    CHECK(ms[i] == 1.0 - expected[i] / 2, "score %d", i);
  }
  CHECK(severity[0] == Severity::medium && severity[1] == Severity::high &&
            severity[2] == Severity::none,
        "severities");
}

void test_jumps_of_schedules() {
  const double scale[] = {1.0, 2.0};
  const double zero_point[] = {0, 255};
  const double weight[] = {1.0};
  const std::int32_t bits[] = {8};
  double jump, zero_jump, score, m, mz, u, uz, ms;
  Severity severity;
  const double before[] = {0.0, 0.25, 0.5, 0.75};
  const double after[] = {0.25, 0.5, 0.75, 1.0};
  boundary_jumps({scale, zero_point, weight, 1, 2, bits}, {before, after, 4}, 0.3,
                 {&jump, &zero_jump, &score}, {&m, &mz, &u, &uz, &ms, &severity});
  CHECK(jump == 0.25, "scale jump %g", jump);
  // -minimum / scale = 255 * 2f / (1 + f): 0, 102, 170, 218.6, 255
  CHECK(zero_jump == 102.0 / 255.0, "zero-point jump %g", zero_jump);
}

void test_markov_chains() {
  const std::size_t rows = 40000;  // enough for a team
  const std::size_t groups = 5;
  std::mt19937 random(3);
  std::normal_distribution<double> normal;
  std::vector<double> observed(rows * groups), variance(rows * groups), strength(rows);
  for (std::size_t i = 0; i < observed.size(); ++i) {
    observed[i] = normal(random);
    variance[i] = i % 11 == 0 ? 0.0 : std::exp(normal(random));
  }
  for (std::size_t row = 0; row < rows; ++row) {
    strength[row] = row % 7 == 0   ? 0.0
                    : row % 7 == 1 ? std::numeric_limits<double>::infinity()
                                   : std::exp(3 * normal(random));
  }
  const std::vector<std::uint8_t> linked{1, 1, 0, 1};
  const MarkovChains chains{
      observed.data(), variance.data(), strength.data(), linked.data(), rows, groups, true, false};
  std::vector<double> one(observed.size()), many(observed.size());
  solve_markov_chains(chains, one.data(), 1);
  solve_markov_chains(chains, many.data(), 4);
  CHECK(std::memcmp(one.data(), many.data(), one.size() * sizeof(double)) == 0, "threads");
  for (std::size_t row = 0; row < rows; ++row) {
    if (!std::isfinite(strength[row])) {
      continue;
    }
    for (std::size_t g = 0; g < groups; ++g) {  // the gradient of the sum vanishes
      const std::size_t i = row * groups + g;
      double pull = 0.0;
      pull += g + 1 < groups && linked[g] != 0 ? one[i] - one[i + 1] : 0.0;
      pull += g > 0 && linked[g - 1] != 0 ? one[i] - one[i - 1] : 0.0;
      const double rest = one[i] - observed[i] + variance[i] * strength[row] * pull;
      const double size = 1.0 + variance[i] * strength[row];
      CHECK(std::fabs(rest) < 1e-12 * size, "row %zu, group %zu: %g", row, g, rest);
    }
  }
}

}  // namespace

int main() {
  test_threads_and_levels();
  test_unaligned_source();
  test_constant_group_is_exact();
  test_nonfinite_is_counted();
  test_bad_schemes_are_refused();
  test_singular_value_of_rank_one();
  test_jumps();
  test_jumps_of_schedules();
  test_markov_chains();
  return thermoq_test::finish("test_core");
}
