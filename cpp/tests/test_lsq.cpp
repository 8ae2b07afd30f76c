// Least squares: every SIMD level gives the scalar kernels' bits, writes nothing beyond its
// buffers (under the sanitizers), and decodes to what it says it lost.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "bit_stream.hpp"
#include "check.hpp"
#include "thermoq/dispatch.hpp"
#include "thermoq/lsq.hpp"

namespace {

using thermoq::AffineScheme;
using thermoq::CodedScheme;
using thermoq::FloatType;
using thermoq::MatrixView;
using thermoq::QuantizationError;

// A matrix of any type at an odd address, and importances that are sometimes 0.
struct Source {
  Source(FloatType type, std::size_t rows, std::size_t cols, unsigned seed)
      : bytes(rows * cols * thermoq::bytes_per_element(type) + 1), importances(cols) {
    std::mt19937 random(seed);
    std::student_t_distribution<float> heavy(3.0F);
    for (std::size_t i = 0; i < rows * cols; ++i) {
      const float value = 0.1F * heavy(random);
      std::uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof bits);
      std::uint8_t* target = bytes.data() + 1 + i * thermoq::bytes_per_element(type);
      if (type == FloatType::f32) {
        std::memcpy(target, &bits, sizeof bits);
      } else {  // any finite 16 bits will do
        const auto half = static_cast<std::uint16_t>((bits >> 16) & 0xBFFFU);
        std::memcpy(target, &half, sizeof half);
      }
    }
    std::generate(importances.begin(), importances.end(),
                  [&] { return static_cast<float>(random() % 4); });
    view = {bytes.data() + 1, type, rows, cols};
  }
  std::vector<std::uint8_t> bytes;
  std::vector<float> importances;
  MatrixView view{};
};

struct Result {
  std::vector<std::vector<std::uint8_t>> bytes;
  std::vector<std::vector<std::uint16_t>> halves;
  std::vector<float> decoded;
  QuantizationError error;
};

bool same(const Result& a, const Result& b) {
  return a.bytes == b.bytes && a.halves == b.halves && a.decoded == b.decoded &&
         std::memcmp(&a.error, &b.error, sizeof a.error) == 0;
}

std::uint8_t* bytes_of(std::vector<float>& floats) {
  return reinterpret_cast<std::uint8_t*>(floats.data());
}

Result run(const Source& source, const CodedScheme& scheme, const float* importances, int threads) {
  const auto [data, type, rows, cols] = source.view;
  Result r;
  r.bytes = {std::vector<std::uint8_t>(rows * scheme.row_bytes(cols)),
             std::vector<std::uint8_t>(rows * scheme.scale_bytes(cols)),
             std::vector<std::uint8_t>(rows * scheme.minimum_bytes(cols))};
  r.halves.assign(2, std::vector<std::uint16_t>(rows * scheme.super_blocks_per_row(cols)));
  r.decoded.resize(rows * cols);
  r.error = thermoq::lsq_coded(source.view, scheme, importances,
                               {r.bytes[0].data(), r.bytes[1].data(), r.bytes[2].data(),
                                r.halves[0].data(), r.halves[1].data()},
                               threads);
  thermoq::dequantize_coded({r.bytes[0].data(), r.bytes[1].data(), r.bytes[2].data(),
                             r.halves[0].data(), r.halves[1].data()},
                            scheme, rows, cols, FloatType::f32, bytes_of(r.decoded), threads);
  return r;
}

Result run(const Source& source, const AffineScheme& scheme, const float* importances,
           int threads) {
  const auto [data, type, rows, cols] = source.view;
  Result r;
  r.bytes = {std::vector<std::uint8_t>(rows * scheme.row_bytes(cols))};
  r.halves.assign(2, std::vector<std::uint16_t>(rows * scheme.groups_per_row(cols)));
  r.decoded.resize(rows * cols);
  r.error =
      thermoq::lsq_affine(source.view, scheme, importances,
                          {r.bytes[0].data(), r.halves[0].data(), r.halves[1].data()}, threads);
  thermoq::dequantize_affine({r.bytes[0].data(), r.halves[0].data(), r.halves[1].data()}, scheme,
                             rows, cols, FloatType::f32, bytes_of(r.decoded), threads);
  return r;
}

struct Q8Scheme {};

Result run(const Source& source, const Q8Scheme& /*scheme*/, const float* importances,
           int threads) {
  const auto [data, type, rows, cols] = source.view;
  const std::size_t groups = (cols + thermoq::kQ8GroupSize - 1) / thermoq::kQ8GroupSize;
  Result r;
  r.bytes = {std::vector<std::uint8_t>(rows * cols)};
  r.halves = {std::vector<std::uint16_t>(rows * groups)};
  r.decoded.resize(rows * cols);
  auto* codes = reinterpret_cast<std::int8_t*>(r.bytes[0].data());
  r.error = thermoq::lsq_q8(source.view, importances, {codes, r.halves[0].data()}, threads);
  thermoq::dequantize_q8({codes, r.halves[0].data()}, rows, cols, FloatType::f32,
                         bytes_of(r.decoded), threads);
  return r;
}

template <class Scheme>
void test_scheme(const Scheme& scheme, const char* name) {
  for (const FloatType type : {FloatType::f32, FloatType::f16, FloatType::bf16}) {
    for (const std::size_t cols : {1U, 7U, 8U, 33U, 100U, 260U}) {
      const Source source(type, 11, cols, static_cast<unsigned>(cols));
      for (const float* importances : {static_cast<const float*>(nullptr),
                                       static_cast<const float*>(source.importances.data())}) {
        thermoq::set_simd_level("scalar");
        const Result expected = run(source, scheme, importances, 1);
        double energy = 0.0;
        for (const float x : expected.decoded) {
          energy += static_cast<double>(x) * static_cast<double>(x);
        }
        CHECK(std::fabs(energy - expected.error.decoded_energy) <= 1e-5 * energy,
              "%s: decoded energy %g, said %g", name, energy, expected.error.decoded_energy);
        for (const std::string& level : thermoq::available_simd_levels()) {
          thermoq::set_simd_level(level);
          CHECK(same(run(source, scheme, importances, 2), expected), "%s on %s, %zu columns", name,
                level.c_str(), cols);
        }
      }
    }
  }
}

void test_bit_streams() {
  std::mt19937 random(1);
  for (int bits = 1; bits <= 8; ++bits) {
    for (std::size_t n = 0; n < 40; ++n) {
      std::vector<std::uint8_t> codes(n);
      std::generate(codes.begin(), codes.end(), [&] {
        return static_cast<std::uint8_t>(random() % (1U << static_cast<unsigned>(bits)));
      });
      std::vector<std::uint8_t> packed((n * static_cast<std::size_t>(bits) + 7) / 8);
      thermoq::pack_bits(codes.data(), n, bits, packed.data());
      for (std::size_t first = 0; first <= n; ++first) {
        std::vector<std::uint8_t> back(n - first);
        thermoq::unpack_bits(packed.data(), first, n - first, bits, back.data());
        CHECK(std::equal(back.begin(), back.end(),
                         codes.begin() + static_cast<std::ptrdiff_t>(first)),
              "%zu codes of %d bits from %zu", n, bits, first);
      }
    }
  }
}

template <class Scheme>
void check_refused(const Scheme& scheme, const char* expected) {
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
  check_refused(AffineScheme{3, 64}, "bit_width: expected 2 or 4, got 3");
  check_refused(AffineScheme{2, 12}, "group_size: expected a multiple of 8, got 12");
  check_refused(AffineScheme{2, 65544}, "group_size: expected at most 65536");
  check_refused(CodedScheme{2, 16, 24, 4, 4}, "super_block: expected a multiple of group_size");
  check_refused(CodedScheme{2, 16, 0, 4, 4}, "got 0");
  check_refused(CodedScheme{2, 8, 2056, 4, 4}, "at most 256 groups");
  check_refused(CodedScheme{2, 16, 256, 0, 4}, "scale_bits: expected 1 to 8, got 0");
  check_refused(CodedScheme{2, 16, 256, 4, 9}, "minimum_bits: expected 1 to 8, got 9");
}

}  // namespace

int main() {
  test_bit_streams();
  test_limits();
  test_scheme(AffineScheme{2, 16}, "affine 2");
  test_scheme(AffineScheme{4, 40}, "affine 4");
  test_scheme(Q8Scheme{}, "q8");
  test_scheme(CodedScheme{2, 16, 64, 4, 4}, "coded 2");
  test_scheme(CodedScheme{4, 32, 256, 6, 6}, "coded 4");
  test_scheme(CodedScheme{2, 24, 48, 3, 7}, "coded 2, odd");
  return thermoq_test::finish("test_lsq");
}
