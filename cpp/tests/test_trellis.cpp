// Trellis codes: every SIMD level gives the scalar kernels' bits on any number of threads, writes
// nothing beyond its buffers (under the sanitizers), and decodes to what it says it lost.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "thermoq/dispatch.hpp"
#include "thermoq/trellis.hpp"

namespace {

using thermoq::FloatType;
using thermoq::MatrixView;
using thermoq::QuantizationError;
using thermoq::TrellisScheme;

struct Result {
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scale;
  std::vector<float> decoded;
  QuantizationError error;
};

bool same(const Result& a, const Result& b) {
  return a.codes == b.codes && a.scale == b.scale && a.decoded == b.decoded &&
         std::memcmp(&a.error, &b.error, sizeof a.error) == 0;
}

std::vector<std::int16_t> table_of(int window_bits) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0F, static_cast<float>(thermoq::kTableUnit));
  std::vector<std::int16_t> table(std::size_t{1} << window_bits);
  for (std::int16_t& entry : table) {
    entry = static_cast<std::int16_t>(std::clamp(normal(random), -16384.0F, 16384.0F));
  }
  return table;
}

Result run(std::vector<float>& weights, std::size_t rows, std::size_t cols,
           const TrellisScheme& scheme, const float* importances, int threads) {
  const std::vector<std::int16_t> table = table_of(scheme.window_bits);
  Result r;
  r.codes.resize(scheme.codes_bytes(rows, cols));
  r.scale.resize(rows * scheme.groups_per_row(cols));
  r.decoded.resize(rows * cols);
  const MatrixView view{reinterpret_cast<const std::uint8_t*>(weights.data()), FloatType::f32, rows,
                        cols};
  r.error = thermoq::quantize_trellis(view, scheme, table.data(), importances, 2,
                                      {r.codes.data(), r.scale.data()}, threads);
  thermoq::dequantize_trellis({r.codes.data(), r.scale.data()}, scheme, table.data(), rows, cols,
                              FloatType::f32, reinterpret_cast<std::uint8_t*>(r.decoded.data()),
                              threads);
  return r;
}

void test_shape(std::size_t rows, std::size_t cols, const TrellisScheme& scheme) {
  std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols));
  std::student_t_distribution<float> heavy(3.0F);
  std::vector<float> weights(rows * cols);
  std::generate(weights.begin(), weights.end(), [&] { return 0.1F * heavy(random); });
  std::vector<float> importances(cols);
  std::generate(importances.begin(), importances.end(),
                [&] { return static_cast<float>(random() % 4); });
  for (const float* each :
       {static_cast<const float*>(nullptr), static_cast<const float*>(importances.data())}) {
    thermoq::set_simd_level("scalar");
    const Result expected = run(weights, rows, cols, scheme, each, 1);
    double lost = 0.0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double difference = static_cast<double>(expected.decoded[i] - weights[i]);
      lost += difference * difference;
    }
    CHECK(std::fabs(lost - expected.error.squared_error) <= 1e-5 * lost, "lost %g, said %g", lost,
          expected.error.squared_error);
    for (const std::string& level : thermoq::available_simd_levels()) {
      thermoq::set_simd_level(level);
      CHECK(same(run(weights, rows, cols, scheme, each, 2), expected), "%zu x %zu, %d bits on %s",
            rows, cols, scheme.bit_width, level.c_str());
    }
  }
}

// The sweep writes as much as it should, the same at every level and for any number of threads.
void test_sweep(std::size_t rows, std::size_t cols, const TrellisScheme& scheme) {
  std::mt19937 random(static_cast<unsigned>(rows + cols));
  std::normal_distribution<float> normal;
  std::vector<float> weights(rows * cols), factor(cols * cols), scale(2 * rows);
  std::generate(weights.begin(), weights.end(), [&] { return normal(random); });
  std::generate(scale.begin(), scale.end(), [&] { return std::fabs(normal(random)); });
  std::vector<std::int32_t> group_of(cols);
  for (std::size_t j = 0; j < cols; ++j) {
    group_of[j] = static_cast<std::int32_t>(random() % 2);
    for (std::size_t k = j; k < cols; ++k) {
      factor[j * cols + k] = k == j ? 2.0F : 0.1F * normal(random);
    }
  }
  const std::vector<std::int16_t> table = table_of(scheme.window_bits);
  const auto run_once = [&](int threads, std::vector<std::uint8_t>& codes) {
    std::vector<float> errors = weights;
    codes.assign(scheme.codes_bytes(rows, cols), 0);
    thermoq::sweep_trellis(errors.data(), rows, cols, factor.data(),
                           {scale.data(), group_of.data(), 2}, scheme, table.data(), codes.data(),
                           threads);
    return errors;
  };
  thermoq::set_simd_level("scalar");
  std::vector<std::uint8_t> expected_codes, codes;
  const std::vector<float> expected = run_once(1, expected_codes);
  for (const std::string& level : thermoq::available_simd_levels()) {
    thermoq::set_simd_level(level);
    CHECK(run_once(2, codes) == expected && codes == expected_codes, "sweep of %zu x %zu on %s",
          rows, cols, level.c_str());
  }
}

void check_refused(const TrellisScheme& scheme, const char* expected) {
  std::string message;
  try {
    thermoq::check(scheme);
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  CHECK(message.find(expected) != std::string::npos, "\"%s\" has no \"%s\"", message.c_str(),
        expected);
}

void test_limits() {
  check_refused({5, 8, 8, 8}, "bit_width: expected 2, 3 or 4, got 5");
  check_refused({2, 7, 8, 8}, "window_bits: expected 8 to 12, got 7");
  check_refused({2, 13, 8, 8}, "window_bits: expected 8 to 12, got 13");
  check_refused({2, 8, 12, 8}, "group_size: expected a multiple of 8, got 12");
  check_refused({2, 8, 8, 12}, "block_rows: expected a multiple of 8 up to 4096, got 12");
  check_refused({2, 8, 8, 0}, "block_rows: expected a multiple of 8 up to 4096, got 0");
}

}  // namespace

int main() {
  test_limits();
  for (int bit_width = 2; bit_width <= 4; ++bit_width) {
    for (int window_bits = thermoq::kMinWindowBits; window_bits <= thermoq::kMaxWindowBits;
         ++window_bits) {
      for (const std::size_t rows : {1U, 7U, 8U, 9U, 35U}) {
        for (const std::size_t cols : {1U, 8U, 19U}) {
          test_shape(rows, cols, {bit_width, window_bits, 8, 16});
        }
      }
    }
  }
  for (const std::size_t rows : {1U, 15U, 16U, 37U}) {
    for (const std::size_t cols : {1U, 5U, 32U}) {
      test_sweep(rows, cols, {2, 8, 8, 16});
      test_sweep(rows, cols, {3, 11, 8, 16});
    }
  }
  test_sweep(1100, 256, {2, 8, 8, 512});
  test_shape(1100, 33, {2, 8, 64, 1024});
  for (const TrellisScheme& scheme :
       {TrellisScheme{2, 8, 512, 256}, TrellisScheme{3, 8, 512, 256}, TrellisScheme{4, 8, 512, 256},
        TrellisScheme{2, 12, 512, 256}}) {
    test_shape(611, 437, scheme);  // enough for tables of pairs
  }
  test_shape(40, 2100, {2, 10, 4096, 1024});
  return thermoq_test::finish("test_trellis");
}
