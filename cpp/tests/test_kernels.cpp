// Every SIMD level gives the scalar kernels' bits: on every size, alignment, tail and kind of data.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "half.hpp"
#include "kernels/kernels.hpp"
#include "thermoq/dispatch.hpp"

namespace {

using thermoq::ErrorSums;
using thermoq::FloatType;
using thermoq::KernelTable;

enum class Data { normal, constant, tiny, huge, far_from_zero, signed_zeros, integers };
constexpr Data kAllData[] = {Data::normal,        Data::constant,     Data::tiny,    Data::huge,
                             Data::far_from_zero, Data::signed_zeros, Data::integers};

std::vector<float> make(Data kind, std::size_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) {
    const float z = normal(random);
    switch (kind) {
      case Data::normal:
        value = z;
        break;
      case Data::constant:
        value = 0.3F;
        break;
      case Data::tiny:
        value = z * 1e-40F;
        break;
      case Data::huge:
        value = std::fmin(std::fmax(z * 3e4F, -65280.0F), 65280.0F);
        break;
      case Data::far_from_zero:
        value = 1000.0F + z * 0.05F;
        break;
      case Data::signed_zeros:
        value = z < 0 ? -0.0F : 0.0F;
        break;
      case Data::integers:
        value = static_cast<float>(static_cast<int>(z * 2));
        break;
    }
  }
  return x;
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

bool same(float a, float b) { return thermoq::float_bits(a) == thermoq::float_bits(b); }

// Sums are of squares: never -0, so equal values have equal bits.
bool same(const ErrorSums& a, const ErrorSums& b) {
  return std::equal(a.squared_error, a.squared_error + thermoq::kLanes, b.squared_error) &&
         std::equal(a.source_energy, a.source_energy + thermoq::kLanes, b.source_energy) &&
         std::equal(a.decoded_energy, a.decoded_energy + thermoq::kLanes, b.decoded_energy) &&
         std::equal(a.max_squared_error, a.max_squared_error + thermoq::kLanes,
                    b.max_squared_error) &&
         same(a.max_magnitude, b.max_magnitude);
}

struct Affine {
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scale, minimum;
  std::vector<std::uint8_t> packed;
  std::vector<float> decoded;
  ErrorSums sums;
};

// Weights of one type, behind `offset` bytes.
struct Source {
  std::vector<std::uint8_t> bytes;
  FloatType type;
  std::size_t n, offset;

  const std::uint8_t* data() const { return bytes.data() + offset; }
};

Source make_source(const std::vector<float>& x, FloatType type, std::size_t offset) {
  const std::size_t size = x.size() * thermoq::bytes_per_element(type);
  Source source{std::vector<std::uint8_t>(offset + size), type, x.size(), offset};
  std::uint8_t* out = source.bytes.data() + offset;
  switch (type) {
    case FloatType::f32:
      std::memcpy(out, x.data(), size);
      break;
    case FloatType::f16:
      thermoq::kScalarKernels.narrow_f16(x.data(), x.size(), out);
      break;
    case FloatType::bf16:
      thermoq::kScalarKernels.narrow_bf16(x.data(), x.size(), out);
      break;
  }
  return source;
}

Affine run_affine(const KernelTable& kernel, const Source& source, std::size_t group_size,
                  int bit_width) {
  const std::size_t n = source.n;
  const std::size_t groups = (n + group_size - 1) / group_size;
  const std::size_t bytes = (n * static_cast<std::size_t>(bit_width) + 7) / 8;
  Affine out{std::vector<std::uint8_t>(n),
             std::vector<std::uint16_t>(groups),
             std::vector<std::uint16_t>(groups),
             std::vector<std::uint8_t>(bytes),
             std::vector<float>(n),
             {}};
  kernel.quantize_affine(source.data(), source.type, n, group_size, bit_width,
                         {out.packed.data(), out.scale.data(), out.minimum.data(), out.sums});
  kernel.unpack(out.packed.data(), n, bit_width, out.codes.data());
  std::vector<std::uint8_t> packed(bytes);
  kernel.pack(out.codes.data(), n, bit_width, packed.data());
  CHECK(same(packed, out.packed), "unpack and pack, n = %zu, bits = %d", n, bit_width);
  std::vector<float> scale(groups);
  std::vector<float> minimum(groups);
  std::transform(out.scale.begin(), out.scale.end(), scale.begin(), thermoq::half_to_float);
  std::transform(out.minimum.begin(), out.minimum.end(), minimum.begin(), thermoq::half_to_float);
  kernel.dequantize_affine(out.codes.data(), n, group_size, scale.data(), minimum.data(),
                           out.decoded.data());
  return out;
}

void test_affine(const KernelTable& kernel, const Source& source, std::size_t group_size,
                 int bit_width) {
  const Affine a = run_affine(thermoq::kScalarKernels, source, group_size, bit_width);
  const Affine b = run_affine(kernel, source, group_size, bit_width);
  CHECK(same(a.codes, b.codes) && same(a.scale, b.scale) && same(a.minimum, b.minimum) &&
            same(a.packed, b.packed) && same(a.decoded, b.decoded) && same(a.sums, b.sums),
        "affine, type %d, n = %zu, group_size = %zu, bit_width = %d", static_cast<int>(source.type),
        source.n, group_size, bit_width);
}

struct Q8 {
  std::vector<std::int8_t> codes;
  std::vector<std::uint16_t> scale;
  std::vector<float> decoded;
  ErrorSums sums;
};

Q8 run_q8(const KernelTable& kernel, const Source& source) {
  const std::size_t n = source.n;
  Q8 out{std::vector<std::int8_t>(n),
         std::vector<std::uint16_t>((n + 31) / 32),
         std::vector<float>(n),
         {}};
  kernel.quantize_q8(source.data(), source.type, n, {out.codes.data(), out.scale.data(), out.sums});
  kernel.dequantize_q8(out.codes.data(), n, out.scale.data(), out.decoded.data());
  return out;
}

void test_q8(const KernelTable& kernel, const Source& source) {
  const Q8 a = run_q8(thermoq::kScalarKernels, source);
  const Q8 b = run_q8(kernel, source);
  CHECK(same(a.codes, b.codes) && same(a.scale, b.scale) && same(a.decoded, b.decoded) &&
            same(a.sums, b.sums),
        "q8, type %d, n = %zu", static_cast<int>(source.type), source.n);
}

void test_products(const KernelTable& kernel, const float* x, const float* y, std::size_t n) {
  const float expected = thermoq::kScalarKernels.dot(x, y, n);
  const float got = kernel.dot(x, y, n);
  CHECK(same(expected, got), "dot, n = %zu", n);
  std::vector<float> a(y, y + n);
  std::vector<float> b(y, y + n);
  thermoq::kScalarKernels.add_scaled(0.37F, x, n, a.data());
  kernel.add_scaled(0.37F, x, n, b.data());
  CHECK(same(a, b), "add_scaled, n = %zu", n);
}

void test_quantization(const KernelTable& kernel, const std::vector<float>& x, std::size_t offset) {
  for (const FloatType type : {FloatType::f32, FloatType::f16, FloatType::bf16}) {
    const Source source = make_source(x, type, offset);
    for (const std::size_t group_size : {8, 16, 24, 32, 40, 64, 128, 256, 520}) {
      test_affine(kernel, source, group_size, 2);
      test_affine(kernel, source, group_size, 4);
    }
    test_q8(kernel, source);
  }
}

void test_sizes_and_alignments(const KernelTable& kernel) {
  std::mt19937 random(7);
  for (const Data kind : kAllData) {
    for (std::size_t n = 1; n <= 200; ++n) {
      const std::size_t offset = n % 8;  // every alignment of f32 within a vector
      test_quantization(kernel, make(kind, n, random), offset);
      const std::vector<float> x = make(kind, n + offset, random);
      const std::vector<float> y = make(Data::normal, n, random);
      test_products(kernel, x.data() + offset, y.data(), n);
    }
    for (const std::size_t n : {512, 520, 1031, 2048}) {  // eight groups of 64 and more
      test_quantization(kernel, make(kind, n, random), 1);
    }
  }
}

// All 2^16 inputs one way; the other way every f16 boundary, its neighbours and random bits.
void test_conversions(const KernelTable& kernel) {
  constexpr std::size_t kAll = 65536;
  std::vector<std::uint8_t> bytes(2 * kAll + 1);
  for (std::size_t i = 0; i < kAll; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    std::memcpy(bytes.data() + 1 + 2 * i, &bits, 2);  // at odd addresses
  }
  std::vector<float> a(kAll);
  std::vector<float> b(kAll);
  thermoq::kScalarKernels.widen_f16(bytes.data() + 1, kAll, a.data());
  kernel.widen_f16(bytes.data() + 1, kAll, b.data());
  CHECK(same(a, b), "widen_f16");
  std::vector<float> values;
  for (const float value : a) {
    const std::uint32_t bits = thermoq::float_bits(value);
    for (const std::uint32_t delta : {0U, 1U, 0x0FFFU, 0x1000U, 0x1001U, 0xFFFFFFFFU}) {
      values.push_back(thermoq::float_from_bits(bits + delta));
    }
  }
  thermoq::kScalarKernels.widen_bf16(bytes.data() + 1, kAll, a.data());
  kernel.widen_bf16(bytes.data() + 1, kAll, b.data());
  CHECK(same(a, b), "widen_bf16");
  std::mt19937 random(3);
  for (int i = 0; i < 200000; ++i) {
    values.push_back(thermoq::float_from_bits(static_cast<std::uint32_t>(random())));
  }
  std::vector<std::uint8_t> c(2 * values.size() + 1);
  std::vector<std::uint8_t> d(c.size());
  thermoq::kScalarKernels.narrow_f16(values.data(), values.size(), c.data() + 1);
  kernel.narrow_f16(values.data(), values.size(), d.data() + 1);
  CHECK(same(c, d), "narrow_f16");
  thermoq::kScalarKernels.narrow_bf16(values.data(), values.size(), c.data() + 1);
  kernel.narrow_bf16(values.data(), values.size(), d.data() + 1);
  CHECK(same(c, d), "narrow_bf16");
}

void test_directed_rounding() {
  std::mt19937 random(11);
  for (int i = 0; i < 200000; ++i) {
    const float value =
        thermoq::float_from_bits(static_cast<std::uint32_t>(random()) % 0x47000000U) *
        ((i & 1) != 0 ? -1.0F : 1.0F);
    const float down = thermoq::half_to_float(thermoq::half_down(value));
    const float up = thermoq::half_to_float(thermoq::half_up(value));
    const float nearest = thermoq::half_to_float(thermoq::half_nearest(value));
    CHECK(down <= value && value <= up && (nearest == down || nearest == up),
          "directed rounding of %a: %a %a %a", static_cast<double>(value),
          static_cast<double>(down), static_cast<double>(nearest), static_cast<double>(up));
  }
}

}  // namespace

int main() {
  test_directed_rounding();
  for (const std::string& level : thermoq::available_simd_levels()) {
    thermoq::set_simd_level(level);
    test_sizes_and_alignments(thermoq::kernels());
    test_conversions(thermoq::kernels());
  }
  return thermoq_test::finish("test_kernels");
}
