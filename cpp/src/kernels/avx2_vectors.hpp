// Weights of any type in vectors of eight, and what vectors have to say together. Only for files
// compiled for AVX2, hence all in an anonymous namespace and without std:: templates (see
// avx2.cpp).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace thermoq {
namespace {

inline std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }

// The sources: eight consecutive weights from element i of unaligned bytes.
struct F32 {
  static constexpr std::size_t kBytes = 4;
  static __m256 load(const std::uint8_t* in, std::size_t i) noexcept {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(in + kBytes * i));
  }
};

template <class Widen>
struct SixteenBits {
  static constexpr std::size_t kBytes = 2;
  static __m256 load(const std::uint8_t* in, std::size_t i) noexcept {
    return Widen::widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + kBytes * i)));
  }
};

struct F16 : SixteenBits<F16> {
  static __m256 widen(__m128i halves) noexcept { return _mm256_cvtph_ps(halves); }
};

struct BF16 : SixteenBits<BF16> {
  static __m256 widen(__m128i bfloats) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bfloats), 16));
  }
};

// Fewer than eight weights; `repeat` fills the vector with the first one, else with 0.
template <class Source>
inline __m256 load_few(const std::uint8_t* in, std::size_t n, bool repeat) noexcept {
  std::uint8_t bytes[kLanes * Source::kBytes] = {};
  for (std::size_t i = 0; i < kLanes; ++i) {
    if (i < n || repeat) {
      std::memcpy(bytes + i * Source::kBytes, in + (i < n ? i : 0) * Source::kBytes,
                  Source::kBytes);
    }
  }
  return Source::load(bytes, 0);
}

inline __m256 smaller_of(__m256 a, __m256 b) noexcept { return _mm256_min_ps(a, b); }
inline __m256 larger_of(__m256 a, __m256 b) noexcept { return _mm256_max_ps(a, b); }
inline __m256 integer_sum(__m256 a, __m256 b) noexcept {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

// Combines the lanes of each of eight vectors: one result a vector, in their order.
template <__m256 (*kCombine)(__m256, __m256) noexcept>
inline __m256 combine_lanes(const __m256 (&v)[8]) noexcept {
  const auto pairs = [](__m256 a, __m256 b) {
    return _mm256_castps_pd(kCombine(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
  };
  const auto fours = [](__m256d a, __m256d b) {
    return kCombine(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  };
  const __m256 front = fours(pairs(v[0], v[1]), pairs(v[2], v[3]));
  const __m256 back = fours(pairs(v[4], v[5]), pairs(v[6], v[7]));
  return kCombine(_mm256_permute2f128_ps(front, back, 0x20),
                  _mm256_permute2f128_ps(front, back, 0x31));
}

inline __m256i larger_unsigned(__m256i a, __m256i b) noexcept { return _mm256_max_epu16(a, b); }
inline __m256i larger_signed(__m256i a, __m256i b) noexcept { return _mm256_max_epi16(a, b); }

// The same for vectors of sixteen lanes.
template <__m256i (*kCombine)(__m256i, __m256i) noexcept>
inline __m128i combine_sixteen_lanes(const __m256i (&v)[8]) noexcept {
  const auto pairs = [](__m256i a, __m256i b) {
    return kCombine(_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
  };
  const auto fours = [](__m256i a, __m256i b) {
    return kCombine(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  };
  const __m256i front = fours(pairs(v[0], v[1]), pairs(v[2], v[3]));
  const __m256i back = fours(pairs(v[4], v[5]), pairs(v[6], v[7]));
  const __m256i all =
      kCombine(_mm256_unpacklo_epi64(front, back), _mm256_unpackhi_epi64(front, back));
  return _mm256_castsi256_si128(
      kCombine(all, _mm256_castsi128_si256(_mm256_extracti128_si256(all, 1))));
}

}  // namespace
}  // namespace thermoq
