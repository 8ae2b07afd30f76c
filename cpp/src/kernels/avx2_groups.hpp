// Ranges and parameters of the groups of a stretch, eight groups at a time: what is done once a
// group costs as much as the group itself if it is done group by group. Rules as in
// avx2_vectors.hpp.
#pragma once

#include "avx2_vectors.hpp"

namespace thermoq {
namespace {

constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
constexpr int kUp = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;
constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

struct EightRanges {
  __m256 low, high;
};

// The range of `in` [n], spread over the lanes of two vectors.
template <class Source>
[[gnu::always_inline]] inline void range_of(const std::uint8_t* in, std::size_t n, __m256& low,
                                            __m256& high) noexcept {
  if (n < kLanes) {
    low = high = load_few<Source>(in, n, true);
    return;
  }
  low = high = Source::load(in, n - kLanes);
  const auto add = [&](std::size_t i) {
    const __m256 v = Source::load(in, i);
    low = _mm256_min_ps(low, v);
    high = _mm256_max_ps(high, v);
  };
  std::size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    add(i);
    add(i + kLanes);
    add(i + 2 * kLanes);
    add(i + 3 * kLanes);
  }
  for (; i + kLanes < n; i += kLanes) {
    add(i);
  }
}

// The first eight groups of `in` [n], or as many as there are, and 0 for the others.
template <class Source>
[[gnu::noinline]] EightRanges ranges_of_any(const std::uint8_t* in, std::size_t n,
                                            std::size_t group_size) noexcept {
  __m256 low[8];
  __m256 high[8];
  for (std::size_t k = 0; k < 8; ++k) {
    low[k] = high[k] = _mm256_setzero_ps();
    const std::size_t begin = k * group_size;
    if (begin < n) {
      range_of<Source>(in + begin * Source::kBytes, smaller(group_size, n - begin), low[k],
                       high[k]);
    }
  }
  return {combine_lanes<smaller_of>(low), combine_lanes<larger_of>(high)};
}

// Eight whole groups.
template <class Source>
[[gnu::always_inline]] inline EightRanges ranges_of_whole(const std::uint8_t* in,
                                                          std::size_t group_size,
                                                          F32 /*source*/) noexcept {
  __m256 low[8];
  __m256 high[8];
  for (std::size_t k = 0; k < 8; ++k) {
    range_of<Source>(in + k * group_size * Source::kBytes, group_size, low[k], high[k]);
  }
  return {combine_lanes<smaller_of>(low), combine_lanes<larger_of>(high)};
}

// Of 16-bit floats without widening them: among numbers of both signs the largest pattern without
// sign is the lowest number, and the largest pattern with sign the highest.
template <class Source>
[[gnu::always_inline]] inline EightRanges ranges_of_whole(const std::uint8_t* in,
                                                          std::size_t group_size,
                                                          SixteenBits<Source> /*source*/) noexcept {
  __m256i low[8];
  __m256i high[8];
  for (std::size_t k = 0; k < 8; ++k) {
    const auto* group = reinterpret_cast<const __m128i*>(in + k * group_size * Source::kBytes);
    const __m256i last = _mm256_broadcastsi128_si256(_mm_loadu_si128(group + group_size / 8 - 1));
    low[k] = high[k] = last;
    for (std::size_t i = 0; i + 16 <= group_size; i += 16) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + i / 8));
      low[k] = _mm256_max_epu16(low[k], v);
      high[k] = _mm256_max_epi16(high[k], v);
    }
  }
  const EightRanges ranges = {Source::widen(combine_sixteen_lanes<larger_unsigned>(low)),
                              Source::widen(combine_sixteen_lanes<larger_signed>(high))};
  const bool both_signs =
      _mm256_movemask_ps(ranges.low) == 0xFF && _mm256_movemask_ps(ranges.high) == 0;
  return both_signs ? ranges : ranges_of_any<Source>(in, 8 * group_size, group_size);
}

inline __m256 magnitudes(__m256 v) noexcept { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), v); }

inline float largest_lane(__m256 v) noexcept {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

// Calls visit(first, ranges) for groups first .. first + 7 of `in` [n]; the last ones may not
// exist.
template <class Source, class Visit>
[[gnu::always_inline]] inline void for_each_eight_groups(const std::uint8_t* in, std::size_t n,
                                                         std::size_t group_size, ErrorSums& sums,
                                                         const Visit& visit) noexcept {
  __m256 largest = _mm256_set1_ps(sums.max_magnitude);
  std::size_t first = 0;
  for (std::size_t begin = 0; begin < n; begin += 8 * group_size, first += 8) {
    const std::uint8_t* eight = in + begin * Source::kBytes;
    const EightRanges ranges = n - begin >= 8 * group_size
                                   ? ranges_of_whole<Source>(eight, group_size, Source())
                                   : ranges_of_any<Source>(eight, n - begin, group_size);
    const __m256 magnitude = _mm256_max_ps(magnitudes(ranges.low), magnitudes(ranges.high));
    largest = _mm256_max_ps(largest, magnitude);
    visit(first, ranges);
  }
  sums.max_magnitude = largest_lane(largest);
}

// The decoded parameters of all groups of a stretch.
struct GroupParameters {
  float scale[kMaxGroups], inverse[kMaxGroups], minimum[kMaxGroups];
};

// Stores eight decoded scales, their inverses (0 for 0) and minima.
inline void store_parameters(__m256 scale, __m256 minimum, std::size_t first,
                             GroupParameters& p) noexcept {
  const __m256 inverse = _mm256_div_ps(_mm256_set1_ps(1.0F), scale);
  const __m256 positive = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ);
  _mm256_storeu_ps(p.scale + first, scale);
  _mm256_storeu_ps(p.inverse + first, _mm256_and_ps(inverse, positive));
  _mm256_storeu_ps(p.minimum + first, minimum);
}

// The first `count` of eight halves, or all if there are more.
inline void store_halves(__m128i halves, std::size_t count, std::uint16_t* out) noexcept {
  std::uint16_t all[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(all), halves);
  std::memcpy(out, all, smaller(count, std::size_t{8}) * sizeof(std::uint16_t));
}

template <class Source>
[[gnu::always_inline]] inline void affine_parameters(const std::uint8_t* in, std::size_t n,
                                                     std::size_t group_size, float levels,
                                                     const AffineStretch& out,
                                                     GroupParameters& p) noexcept {
  const std::size_t groups = (n + group_size - 1) / group_size;
  const auto parameters = [&](std::size_t first, const EightRanges& ranges) {
    const __m256 low = _mm256_add_ps(ranges.low, _mm256_setzero_ps());  // -0 becomes +0
    const __m256 constant = _mm256_cmp_ps(low, ranges.high, _CMP_EQ_OQ);
    const __m128i constant16 =
        _mm_packs_epi32(_mm_castps_si128(_mm256_castps256_ps128(constant)),
                        _mm_castps_si128(_mm256_extractf128_ps(constant, 1)));
    const __m128i minimum16 =
        _mm_blendv_epi8(_mm256_cvtps_ph(low, kDown), _mm256_cvtps_ph(low, kNearest), constant16);
    const __m256 minimum = _mm256_cvtph_ps(minimum16);
    const __m256 step = _mm256_div_ps(_mm256_sub_ps(ranges.high, minimum), _mm256_set1_ps(levels));
    const __m128i scale16 = _mm_andnot_si128(constant16, _mm256_cvtps_ph(step, kUp));
    store_parameters(_mm256_cvtph_ps(scale16), minimum, first, p);
    store_halves(minimum16, groups - first, out.minimum + first);
    store_halves(scale16, groups - first, out.scale + first);
  };
  for_each_eight_groups<Source>(in, n, group_size, out.sums, parameters);
}

template <class Source>
[[gnu::always_inline]] inline void q8_parameters(const std::uint8_t* in, std::size_t n,
                                                 std::size_t group_size, const Q8Stretch& out,
                                                 GroupParameters& p) noexcept {
  const std::size_t groups = (n + group_size - 1) / group_size;
  const auto parameters = [&](std::size_t first, const EightRanges& ranges) {
    const __m256 high = _mm256_max_ps(magnitudes(ranges.low), magnitudes(ranges.high));
    const __m128i scale16 = _mm256_cvtps_ph(_mm256_div_ps(high, _mm256_set1_ps(127.0F)), kUp);
    store_parameters(_mm256_cvtph_ps(scale16), _mm256_setzero_ps(), first, p);
    store_halves(scale16, groups - first, out.scale + first);
  };
  for_each_eight_groups<Source>(in, n, group_size, out.sums, parameters);
}

}  // namespace
}  // namespace thermoq
