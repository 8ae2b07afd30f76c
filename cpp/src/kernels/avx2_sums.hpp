// The error sums of a stretch, in registers. Rules as in avx2_vectors.hpp.
#pragma once

#include "avx2_vectors.hpp"

namespace thermoq {
namespace {

// Sums over one block of a group (see kSumBlock).
struct BlockSums {
  __m256 squared_error = _mm256_setzero_ps();
  __m256 source_energy = _mm256_setzero_ps();
  __m256 max_squared_error = _mm256_setzero_ps();
  __m256i codes = _mm256_setzero_si256();          // 32-bit integers
  __m256i squared_codes = _mm256_setzero_si256();  // 32-bit integers
  __m256i squared_pairs = _mm256_setzero_si256();  // 16-bit integers, to be added to the squares

  void add(__m256 source, __m256 decoded) noexcept {
    const __m256 error = _mm256_sub_ps(decoded, source);
    const __m256 square = _mm256_mul_ps(error, error);
    squared_error = _mm256_add_ps(squared_error, square);
    max_squared_error = _mm256_max_ps(max_squared_error, square);
    source_energy = _mm256_add_ps(source_energy, _mm256_mul_ps(source, source));
  }

  // 32 codes of a byte each. Where they have a sign there is no minimum: only their squares count.
  void add_codes(__m256i bytes) noexcept {
    bytes = _mm256_abs_epi8(bytes);
    codes = _mm256_add_epi32(codes, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    squared_pairs = _mm256_add_epi16(squared_pairs, _mm256_maddubs_epi16(bytes, bytes));
  }

  // At most 8 codes in the lower half. Their squares always go to the same lanes, for which 16 bits
  // are too few.
  void add_few_codes(__m128i few) noexcept {
    const __m256i bytes = _mm256_zextsi128_si256(_mm_abs_epi8(few));
    codes = _mm256_add_epi32(codes, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    squared_codes =
        _mm256_add_epi32(squared_codes, sums_of_pairs(_mm256_maddubs_epi16(bytes, bytes)));
  }

  __m256i all_squared_codes() const noexcept {
    return _mm256_add_epi32(squared_codes, sums_of_pairs(squared_pairs));
  }

  static __m256i sums_of_pairs(__m256i words) noexcept {
    return _mm256_madd_epi16(words, _mm256_set1_epi16(1));
  }
};

inline void add_lanes(__m256 block, double* lanes) noexcept {
  const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(block));
  const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(block, 1));
  _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_loadu_pd(lanes), low));
  _mm256_storeu_pd(lanes + 4, _mm256_add_pd(_mm256_loadu_pd(lanes + 4), high));
}

// Blocks on their way to the double sums, eight at a time.
class PendingBlocks {
 public:
  explicit PendingBlocks(ErrorSums& sums) noexcept : sums_(sums) {}

  void add(const BlockSums& block, std::size_t n, float scale, float minimum) noexcept {
    squared_error_ = _mm256_add_ps(squared_error_, block.squared_error);
    source_energy_ = _mm256_add_ps(source_energy_, block.source_energy);
    max_squared_error_ = _mm256_max_ps(max_squared_error_, block.max_squared_error);
    const __m256i shifted = _mm256_slli_epi32(block.codes, kSquareBits);
    codes_[size_] = _mm256_castsi256_ps(_mm256_add_epi32(shifted, block.all_squared_codes()));
    scale_[size_] = scale;
    minimum_[size_] = minimum;
    count_[size_] = static_cast<float>(n);
    if (++size_ == 8) {
      flush();
    }
  }

  void finish() noexcept {
    const __m256 before = _mm256_loadu_ps(sums_.max_squared_error);
    _mm256_storeu_ps(sums_.max_squared_error, _mm256_max_ps(before, max_squared_error_));
    if (size_ != 0) {
      for (; size_ < 8; ++size_) {
        codes_[size_] = _mm256_setzero_ps();
        scale_[size_] = minimum_[size_] = count_[size_] = 0.0F;
      }
      flush();
    }
  }

 private:
  // A block's sum of squared codes, at most 256 * 15^2 or 32 * 127^2, and its sum of codes, at most
  // 32 * 127, share 32 bits while lanes are added.
  static constexpr int kSquareBits = 20;

  void flush() noexcept {
    add_lanes(squared_error_, sums_.squared_error);
    add_lanes(source_energy_, sums_.source_energy);
    squared_error_ = source_energy_ = _mm256_setzero_ps();
    const __m256i both = _mm256_castps_si256(combine_lanes<integer_sum>(codes_));
    const __m256i codes = _mm256_srli_epi32(both, kSquareBits);
    const __m256i squares = _mm256_and_si256(both, _mm256_set1_epi32((1 << kSquareBits) - 1));
    add_energy(_mm256_castsi256_si128(codes), _mm256_castsi256_si128(squares), 0);
    add_energy(_mm256_extracti128_si256(codes, 1), _mm256_extracti128_si256(squares, 1), 4);
    size_ = 0;
  }

  // One by one: a vector load would have to wait for the four stores before it.
  static __m256d four(const float* x) noexcept {
    return _mm256_cvtps_pd(_mm_setr_ps(x[0], x[1], x[2], x[3]));
  }

  void add_energy(__m128i codes, __m128i squared_codes, std::size_t first) noexcept {
    const __m256d s = four(scale_ + first);
    const __m256d m = four(minimum_ + first);
    const __m256d squares = _mm256_mul_pd(_mm256_mul_pd(s, s), _mm256_cvtepi32_pd(squared_codes));
    const __m256d products =
        _mm256_mul_pd(_mm256_mul_pd(_mm256_add_pd(s, s), m), _mm256_cvtepi32_pd(codes));
    const __m256d constants = _mm256_mul_pd(four(count_ + first), _mm256_mul_pd(m, m));
    const __m256d energy = _mm256_add_pd(_mm256_add_pd(squares, products), constants);
    double* lanes = sums_.decoded_energy + first;
    _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_loadu_pd(lanes), energy));
  }

  __m256 squared_error_ = _mm256_setzero_ps();
  __m256 source_energy_ = _mm256_setzero_ps();
  __m256 max_squared_error_ = _mm256_setzero_ps();
  __m256 codes_[8];
  ErrorSums& sums_;
  std::size_t size_ = 0;
  float scale_[8], minimum_[8], count_[8];
};

}  // namespace
}  // namespace thermoq
