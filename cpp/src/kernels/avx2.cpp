// The kernels with AVX2 and F16C. Compiled with -mavx2 -mf16c, alone: everything but the table is
// in an anonymous namespace and no std:: template is used, so that no function compiled for AVX2
// can be linked into code that runs on other CPUs.
#include <immintrin.h>

#include <cstring>

#include "../half.hpp"
#include "avx2_quantize.hpp"
#include "kernels.hpp"
#include "lsq_kernels.hpp"
#include "trellis_kernels.hpp"

namespace thermoq {
namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

inline std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }

inline std::uint16_t to_half(float value) noexcept {
  return static_cast<std::uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(value), kNearest)));
}

inline float from_half(std::uint16_t half) noexcept {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

void widen_f16(const std::uint8_t* in, std::size_t n, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const auto* address = reinterpret_cast<const __m128i*>(in + 2 * i);
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(address)));
  }
  for (; i < n; ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, in + 2 * i, sizeof half);
    out[i] = from_half(half);
  }
}

void widen_bf16(const std::uint8_t* in, std::size_t n, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const auto* address = reinterpret_cast<const __m128i*>(in + 2 * i);
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(address));
    _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
  }
  for (; i < n; ++i) {
    std::uint16_t bfloat = 0;
    std::memcpy(&bfloat, in + 2 * i, sizeof bfloat);
    out[i] = bfloat_to_float(bfloat);
  }
}

void narrow_f16(const float* in, std::size_t n, std::uint8_t* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), kNearest);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), half);
  }
  for (; i < n; ++i) {
    const std::uint16_t half = to_half(in[i]);
    std::memcpy(out + 2 * i, &half, sizeof half);
  }
}

void narrow_bf16(const float* in, std::size_t n, std::uint8_t* out) noexcept {
  // Integer arithmetic on the bits; the compiler vectorizes it.
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint16_t bfloat = bfloat_nearest(in[i]);
    std::memcpy(out + 2 * i, &bfloat, sizeof bfloat);
  }
}

void dequantize_affine(const std::uint8_t* codes, std::size_t n, std::size_t group_size,
                       const float* scale, const float* minimum, float* out) noexcept {
  for (std::size_t begin = 0, group = 0; begin < n; begin += group_size, ++group) {
    const float s = scale[group];
    const float m = minimum[group];
    const std::size_t end = smaller(begin + group_size, n);
    std::size_t i = begin;
    for (; i + 8 <= end; i += 8) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i));
      const __m256 code = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
      const __m256 scaled = _mm256_mul_ps(code, _mm256_set1_ps(s));
      _mm256_storeu_ps(out + i, _mm256_add_ps(scaled, _mm256_set1_ps(m)));
    }
    for (; i < end; ++i) {
      out[i] = static_cast<float>(codes[i]) * s + m;
    }
  }
}

void dequantize_q8(const std::int8_t* codes, std::size_t n, const std::uint16_t* scale,
                   float* out) noexcept {
  constexpr std::size_t kGroup = 32;
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i));
    const __m256 code = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(code, _mm256_set1_ps(from_half(scale[i / kGroup]))));
  }
  for (; i < n; ++i) {
    out[i] = static_cast<float>(codes[i]) * from_half(scale[i / kGroup]);
  }
}

// 32 codes of one byte to 8 or 16 bytes: neighbours are merged pairwise by multiply-adds.
inline void pack2(__m256i codes, std::uint8_t* packed) noexcept {
  const __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0401));
  const __m256i bytes = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00100001));
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(packed), _mm_packus_epi16(words, words));
}

inline void pack4(__m256i codes, std::uint8_t* packed) noexcept {
  const __m256i bytes = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001));
  const __m128i packed_bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), packed_bytes);
}

void pack(const std::uint8_t* codes, std::size_t n, int bit_width, std::uint8_t* packed) noexcept {
  const auto width = static_cast<std::size_t>(bit_width);
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
    if (bit_width == 2) {
      pack2(v, packed + i / 4);
    } else {
      pack4(v, packed + i / 2);
    }
  }
  kScalarKernels.pack(codes + i, n - i, bit_width, packed + i * width / 8);
}

void unpack(const std::uint8_t* packed, std::size_t n, int bit_width,
            std::uint8_t* codes) noexcept {
  const auto width = static_cast<std::size_t>(bit_width);
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    __m256i v;
    if (bit_width ==
        2) {  // a byte in each 32-bit lane, shifted copies merged, two bits kept a byte
      const auto* address = reinterpret_cast<const __m128i*>(packed + i / 4);
      v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(address));
      v = _mm256_or_si256(v, _mm256_slli_epi32(v, 12));
      v = _mm256_or_si256(v, _mm256_slli_epi32(v, 6));
      v = _mm256_and_si256(v, _mm256_set1_epi8(0x03));
    } else {
      const auto* address = reinterpret_cast<const __m128i*>(packed + i / 2);
      v = _mm256_cvtepu8_epi16(_mm_loadu_si128(address));
      v = _mm256_or_si256(v, _mm256_slli_epi16(v, 4));
      v = _mm256_and_si256(v, _mm256_set1_epi8(0x0F));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), v);
  }
  kScalarKernels.unpack(packed + i * width / 8, n - i, bit_width, codes + i);
}

float dot(const float* a, const float* b, std::size_t n) noexcept {
  constexpr std::size_t kDotLanes = 32;
  __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                    _mm256_setzero_ps()};
  std::size_t i = 0;
  for (; i + kDotLanes <= n; i += kDotLanes) {
    for (std::size_t k = 0; k < 4; ++k) {
      const __m256 product =
          _mm256_mul_ps(_mm256_loadu_ps(a + i + 8 * k), _mm256_loadu_ps(b + i + 8 * k));
      sums[k] = _mm256_add_ps(sums[k], product);
    }
  }
  float lanes[kDotLanes];
  for (std::size_t k = 0; k < 4; ++k) {
    _mm256_storeu_ps(lanes + 8 * k, sums[k]);
  }
  for (; i < n; ++i) {
    lanes[i % kDotLanes] += a[i] * b[i];
  }
  for (std::size_t width = kDotLanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) {
      lanes[lane] += lanes[lane + width];
    }
  }
  return lanes[0];
}

void add_scaled(float factor, const float* x, std::size_t n, float* y) noexcept {
  const __m256 factors = _mm256_set1_ps(factor);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 product = _mm256_mul_ps(factors, _mm256_loadu_ps(x + i));
    _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), product));
  }
  for (; i < n; ++i) {
    y[i] += factor * x[i];
  }
}

}  // namespace

const KernelTable kAvx2Kernels{
    widen_f16,
    widen_bf16,
    narrow_f16,
    narrow_bf16,
    quantize_affine_avx2,
    quantize_q8_avx2,
    dequantize_affine,
    dequantize_q8,
    load_tile_avx2,
    lsq_affine_avx2,
    lsq_q8_avx2,
    lsq_coded_avx2,
    sweep_avx2,
    trellis_values_avx2,
    trellis_paths_avx2,
    trellis_rows_avx2,
    pack,
    unpack,
    dot,
    add_scaled,
};

}  // namespace thermoq
