// Eight floats, one of each of eight rows, in an AVX2 register (see lsq_tile.hpp). Only for files
// compiled for AVX2, hence in an anonymous namespace (see avx2.cpp).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"

namespace thermoq {
namespace {

struct Avx2Lanes {
  __m256 v;

  using Mask = __m256;
  using Word = __m256i;

  static Avx2Lanes all(float value) noexcept { return {_mm256_set1_ps(value)}; }
  static Avx2Lanes load(const float* in) noexcept { return {_mm256_loadu_ps(in)}; }
  void store(float* out) const noexcept { _mm256_storeu_ps(out, v); }

  friend Avx2Lanes operator+(Avx2Lanes a, Avx2Lanes b) noexcept {
    return {_mm256_add_ps(a.v, b.v)};
  }
  friend Avx2Lanes operator-(Avx2Lanes a, Avx2Lanes b) noexcept {
    return {_mm256_sub_ps(a.v, b.v)};
  }
  friend Avx2Lanes operator*(Avx2Lanes a, Avx2Lanes b) noexcept {
    return {_mm256_mul_ps(a.v, b.v)};
  }
  friend Avx2Lanes operator/(Avx2Lanes a, Avx2Lanes b) noexcept {
    return {_mm256_div_ps(a.v, b.v)};
  }

  friend Avx2Lanes min_of(Avx2Lanes a, Avx2Lanes b) noexcept { return {_mm256_min_ps(a.v, b.v)}; }
  friend Avx2Lanes max_of(Avx2Lanes a, Avx2Lanes b) noexcept { return {_mm256_max_ps(a.v, b.v)}; }
  friend Avx2Lanes magnitude(Avx2Lanes a) noexcept {
    return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v)};
  }

  friend Avx2Lanes round_even(Avx2Lanes a) noexcept {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }

  friend Mask less(Avx2Lanes a, Avx2Lanes b) noexcept {
    return _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ);
  }
  friend Avx2Lanes select(Mask mask, Avx2Lanes yes, Avx2Lanes no) noexcept {
    return {_mm256_blendv_ps(no.v, yes.v, mask)};
  }

  static Avx2Lanes nearest_half(Avx2Lanes a, std::uint16_t* out) noexcept {
    return stored(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), out);
  }
  static Avx2Lanes half_not_above(Avx2Lanes a, std::uint16_t* out) noexcept {
    return stored(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), out);
  }
  static Avx2Lanes half_not_below(Avx2Lanes a, std::uint16_t* out) noexcept {
    return stored(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC), out);
  }

  static Word no_bits() noexcept { return _mm256_setzero_si256(); }
  static Word with_bits(Word word, Avx2Lanes code, int shift) noexcept {
    const __m256i bits = _mm256_cvtps_epi32(code.v);
    return _mm256_or_si256(word, _mm256_sll_epi32(bits, _mm_cvtsi32_si128(shift)));
  }
  static void store_bits(Word word, std::uint32_t* out) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), word);
  }

  void add_to(double* sums) const noexcept {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), low));
    _mm256_storeu_pd(sums + 4, _mm256_add_pd(_mm256_loadu_pd(sums + 4), high));
  }

 private:
  static Avx2Lanes stored(__m128i halves, std::uint16_t* out) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), halves);
    return {_mm256_cvtph_ps(halves)};
  }
};

}  // namespace
}  // namespace thermoq
