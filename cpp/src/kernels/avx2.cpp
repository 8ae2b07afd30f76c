// The kernels with AVX2 and F16C. Compiled with -mavx2 -mf16c, alone: everything but the table is
// in an anonymous namespace and no std:: template is used, so that no function compiled for AVX2
// can be linked into code that runs on other CPUs.
#include <immintrin.h>

#include <cstring>

#include "../half.hpp"
#include "kernels.hpp"

namespace thermoq {
namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
constexpr int kUp = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;

inline std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }
inline float smaller(float a, float b) noexcept { return a < b ? a : b; }
inline float larger(float a, float b) noexcept { return a > b ? a : b; }
inline float magnitude(float value) noexcept {
  return float_from_bits(float_bits(value) & 0x7FFFFFFFU);
}

template <int kMode>
inline std::uint16_t to_half(float value) noexcept {
  return static_cast<std::uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(value), kMode)));
}

inline float from_half(std::uint16_t half) noexcept {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

inline void add_lanes(__m256 block, double* lanes) noexcept {
  const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(block));
  const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(block, 1));
  _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_loadu_pd(lanes), low));
  _mm256_storeu_pd(lanes + 4, _mm256_add_pd(_mm256_loadu_pd(lanes + 4), high));
}

// The f32 part of the error sums in registers (see kSumBlock).
struct BlockSums {
  __m256 squared_error = _mm256_setzero_ps();
  __m256 source_energy = _mm256_setzero_ps();
  __m256 decoded_energy = _mm256_setzero_ps();
  __m256i max_error = _mm256_setzero_si256();  // bits of floats >= 0 compare as integers
  std::size_t pending = 0;

  void add(__m256 source, __m256 decoded) noexcept {
    const __m256 error = _mm256_sub_ps(decoded, source);
    squared_error = _mm256_add_ps(squared_error, _mm256_mul_ps(error, error));
    source_energy = _mm256_add_ps(source_energy, _mm256_mul_ps(source, source));
    decoded_energy = _mm256_add_ps(decoded_energy, _mm256_mul_ps(decoded, decoded));
    const __m256 distance = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), error);
    max_error = _mm256_max_epi32(max_error, _mm256_castps_si256(distance));
  }

  // One element in its lane; +0 in the others changes nothing.
  void add(float source, float decoded, std::size_t lane) noexcept {
    float sources[kLanes] = {};
    float decodeds[kLanes] = {};
    sources[lane] = source;
    decodeds[lane] = decoded;
    add(_mm256_loadu_ps(sources), _mm256_loadu_ps(decodeds));
  }

  void flush(ErrorSums& sums) noexcept {
    add_lanes(squared_error, sums.squared_error);
    add_lanes(source_energy, sums.source_energy);
    add_lanes(decoded_energy, sums.decoded_energy);
    const __m256 largest = _mm256_castsi256_ps(max_error);
    _mm256_storeu_ps(sums.max_error, _mm256_max_ps(_mm256_loadu_ps(sums.max_error), largest));
    squared_error = source_energy = decoded_energy = _mm256_setzero_ps();
    pending = 0;
  }

  void end_block(std::size_t n, ErrorSums& sums) noexcept {
    pending += n;
    if (pending >= kSumBlock) {
      flush(sums);
    }
  }
};

inline void add_magnitude(float low, float high, ErrorSums& sums) noexcept {
  sums.max_magnitude = larger(larger(sums.max_magnitude, magnitude(low)), magnitude(high));
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
    const std::uint16_t half = to_half<kNearest>(in[i]);
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

// The parameters of all groups of a stretch, eight at a time: one by one, each group would wait for
// two divisions and four conversions.
struct GroupParameters {
  float low[kMaxGroups], high[kMaxGroups];  // ranges in, decoded parameters out:
  float scale[kMaxGroups], inverse[kMaxGroups], minimum[kMaxGroups];
};

inline void store_inverse(__m256 scale, float* out) noexcept {
  const __m256 inverse = _mm256_div_ps(_mm256_set1_ps(1.0F), scale);
  const __m256 positive = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ);
  _mm256_storeu_ps(out, _mm256_and_ps(inverse, positive));
}

inline void store_halves(__m128i halves, std::size_t count, std::uint16_t* out) noexcept {
  std::uint16_t all[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(all), halves);
  std::memcpy(out, all, smaller(count, std::size_t{8}) * sizeof(std::uint16_t));
}

inline void affine_parameters(GroupParameters& p, std::size_t groups, float levels,
                              std::uint16_t* scale_bits, std::uint16_t* minimum_bits) noexcept {
  for (std::size_t g = 0; g < groups; g += 8) {
    const __m256 low = _mm256_add_ps(_mm256_loadu_ps(p.low + g), _mm256_setzero_ps());
    const __m256 high = _mm256_loadu_ps(p.high + g);
    const __m256 constant = _mm256_cmp_ps(low, high, _CMP_EQ_OQ);
    const __m128i constant16 =
        _mm_packs_epi32(_mm_castps_si128(_mm256_castps256_ps128(constant)),
                        _mm_castps_si128(_mm256_extractf128_ps(constant, 1)));
    const __m128i minimum16 =
        _mm_blendv_epi8(_mm256_cvtps_ph(low, kDown), _mm256_cvtps_ph(low, kNearest), constant16);
    const __m256 minimum = _mm256_cvtph_ps(minimum16);
    const __m256 step = _mm256_div_ps(_mm256_sub_ps(high, minimum), _mm256_set1_ps(levels));
    const __m128i scale16 = _mm_andnot_si128(constant16, _mm256_cvtps_ph(step, kUp));
    const __m256 scale = _mm256_cvtph_ps(scale16);
    _mm256_storeu_ps(p.minimum + g, minimum);
    _mm256_storeu_ps(p.scale + g, scale);
    store_inverse(scale, p.inverse + g);
    store_halves(minimum16, groups - g, minimum_bits + g);
    store_halves(scale16, groups - g, scale_bits + g);
  }
}

inline void q8_parameters(GroupParameters& p, std::size_t groups,
                          std::uint16_t* scale_bits) noexcept {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  for (std::size_t g = 0; g < groups; g += 8) {
    const __m256 high = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(p.low + g)),
                                      _mm256_andnot_ps(sign, _mm256_loadu_ps(p.high + g)));
    const __m128i scale16 = _mm256_cvtps_ph(_mm256_div_ps(high, _mm256_set1_ps(127.0F)), kUp);
    const __m256 scale = _mm256_cvtph_ps(scale16);
    _mm256_storeu_ps(p.scale + g, scale);
    store_inverse(scale, p.inverse + g);
    store_halves(scale16, groups - g, scale_bits + g);
  }
}

struct AffineEncoder {
  float scale, inverse, minimum, levels;

  // Rounding outwards keeps `steps` within half a step of [0, levels]: only NaN needs a guard, and
  // a matrix with NaN is refused.
  __m256i operator()(__m256 x, BlockSums& block) const noexcept {
    const __m256 from_minimum = _mm256_sub_ps(x, _mm256_set1_ps(minimum));
    const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(from_minimum, _mm256_set1_ps(inverse)));
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(code), _mm256_set1_ps(scale));
    block.add(x, _mm256_add_ps(scaled, _mm256_set1_ps(minimum)));
    return code;
  }

  int one(float x, std::size_t lane, BlockSums& block) const noexcept {
    const int code = _mm_cvtss_si32(_mm_set_ss(smaller((x - minimum) * inverse, levels)));
    block.add(x, static_cast<float>(code) * scale + minimum, lane);
    return code;
  }
};

struct Q8Encoder {
  float scale, inverse;

  __m256i operator()(__m256 x, BlockSums& block) const noexcept {
    const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(inverse)));
    block.add(x, _mm256_mul_ps(_mm256_cvtepi32_ps(code), _mm256_set1_ps(scale)));
    return code;
  }

  int one(float x, std::size_t lane, BlockSums& block) const noexcept {
    const int code = _mm_cvtss_si32(_mm_set_ss(smaller(x * inverse, 127.0F)));
    block.add(x, static_cast<float>(code) * scale, lane);
    return code;
  }
};

inline void fetch(Upcoming upcoming, std::size_t weight) noexcept {
  const std::uintptr_t address = upcoming.address + weight * upcoming.bytes_per_weight;
  _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T0);
}

inline Upcoming from(Upcoming upcoming, std::size_t weight) noexcept {
  return {upcoming.address + weight * upcoming.bytes_per_weight, upcoming.bytes_per_weight};
}

// The last, incomplete vector of a row. Apart from the loops below and with the sums passed by
// value, so that those stay in registers there.
template <class Encoder, class Code>
[[gnu::noinline]] BlockSums encode_tail(const float* x, std::size_t i, std::size_t n,
                                        const Encoder& encode, Code* codes,
                                        BlockSums block) noexcept {
  for (; i < n; ++i) {
    codes[i] = static_cast<Code>(encode.one(x[i], i % kLanes, block));
  }
  return block;
}

// Encodes x [n], n <= kSumBlock, to one byte a code. x starts at lane 0; only at a row's end is n
// no multiple of the vector's width.
template <class Encoder, class Code>
inline void encode_block(const float* x, std::size_t n, const Encoder& encode, Upcoming upcoming,
                         Code* codes, BlockSums& block) noexcept {
  std::size_t i = 0;
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (; i + 32 <= n; i += 32) {
    fetch(upcoming, i);
    fetch(upcoming, i + 16);
    const __m256i a = encode(_mm256_loadu_ps(x + i), block);
    const __m256i b = encode(_mm256_loadu_ps(x + i + 8), block);
    const __m256i c = encode(_mm256_loadu_ps(x + i + 16), block);
    const __m256i d = encode(_mm256_loadu_ps(x + i + 24), block);
    // Codes lie in [-127, 127] or [0, 15]: signed saturation changes neither.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i),
                        _mm256_permutevar8x32_epi32(bytes, order));
  }
  for (; i + 8 <= n; i += 8) {
    const __m256i a = encode(_mm256_loadu_ps(x + i), block);
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i), _mm_packs_epi16(words, words));
  }
  if (i < n) {
    block = encode_tail(x, i, n, encode, codes, block);
  }
}

inline std::uint32_t reduce_max_unsigned(__m256i v) noexcept {
  __m128i half = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_max_epu32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(1, 0, 3, 2)));
  half = _mm_max_epu32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(2, 3, 0, 1)));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(half));
}

inline std::int32_t reduce_max_signed(__m256i v) noexcept {
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(1, 0, 3, 2)));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(2, 3, 0, 1)));
  return _mm_cvtsi128_si32(half);
}

inline void range_of_floats(const float* x, std::size_t n, float& low, float& high) noexcept {
  low = x[0];
  high = x[0];
  for (std::size_t i = 1; i < n; ++i) {
    low = smaller(x[i], low);
    high = larger(x[i], high);
  }
}

// Minimum and maximum by integer comparisons of the bits, which leave the floating-point adders to
// the encoding: of numbers of both signs, the largest unsigned pattern is the lowest and the
// largest signed pattern the highest.
inline void range_of(const float* x, std::size_t n, float& low, float& high) noexcept {
  if (n % kLanes != 0) {
    range_of_floats(x, n, low, high);
    return;
  }
  const auto* in = reinterpret_cast<const __m256i*>(x);
  __m256i lowest = _mm256_loadu_si256(in);
  __m256i highest = lowest;
  for (std::size_t i = 1; i < n / kLanes; ++i) {
    const __m256i v = _mm256_loadu_si256(in + i);
    lowest = _mm256_max_epu32(lowest, v);
    highest = _mm256_max_epi32(highest, v);
  }
  const std::uint32_t low_bits = reduce_max_unsigned(lowest);
  const std::int32_t high_bits = reduce_max_signed(highest);
  if ((low_bits & 0x80000000U) != 0 && high_bits >= 0) {
    low = float_from_bits(low_bits);
    high = float_from_bits(static_cast<std::uint32_t>(high_bits));
  } else {
    range_of_floats(x, n, low, high);
  }
}

inline std::size_t group_ranges(const float* x, std::size_t n, std::size_t group_size,
                                GroupParameters& p, ErrorSums& sums) noexcept {
  std::size_t group = 0;
  for (std::size_t begin = 0; begin < n; begin += group_size, ++group) {
    range_of(x + begin, smaller(group_size, n - begin), p.low[group], p.high[group]);
    add_magnitude(p.low[group], p.high[group], sums);
  }
  for (std::size_t spare = group; spare % 8 != 0; ++spare) {
    p.low[spare] = p.high[spare] = 0.0F;
  }
  return group;
}

void quantize_affine(const float* x, std::size_t n, std::size_t group_size, int bit_width,
                     Upcoming upcoming, std::uint8_t* codes, std::uint16_t* scale,
                     std::uint16_t* minimum, ErrorSums& sums) noexcept {
  const auto levels = static_cast<float>((1 << bit_width) - 1);
  GroupParameters p;
  const std::size_t groups = group_ranges(x, n, group_size, p, sums);
  affine_parameters(p, groups, levels, scale, minimum);
  BlockSums block;
  for (std::size_t group = 0; group < groups; ++group) {
    const AffineEncoder encode{p.scale[group], p.inverse[group], p.minimum[group], levels};
    const std::size_t end = smaller((group + 1) * group_size, n);
    for (std::size_t i = group * group_size; i < end; i += kSumBlock) {
      const std::size_t count = smaller(kSumBlock, end - i);
      encode_block(x + i, count, encode, from(upcoming, i), codes + i, block);
      block.end_block(count, sums);
    }
  }
  block.flush(sums);
}

void quantize_q8(const float* x, std::size_t n, Upcoming upcoming, std::int8_t* codes,
                 std::uint16_t* scale, ErrorSums& sums) noexcept {
  constexpr std::size_t kGroup = 32;
  GroupParameters p;
  const std::size_t groups = group_ranges(x, n, kGroup, p, sums);
  q8_parameters(p, groups, scale);
  BlockSums block;
  for (std::size_t group = 0; group < groups; ++group) {
    const std::size_t begin = group * kGroup;
    const std::size_t count = smaller(kGroup, n - begin);
    encode_block(x + begin, count, Q8Encoder{p.scale[group], p.inverse[group]},
                 from(upcoming, begin), codes + begin, block);
    block.end_block(count, sums);
  }
  block.flush(sums);
}

void dequantize_affine(const std::uint8_t* codes, std::size_t n, std::size_t group_size,
                       const std::uint16_t* scale, const std::uint16_t* minimum,
                       float* out) noexcept {
  for (std::size_t begin = 0, group = 0; begin < n; begin += group_size, ++group) {
    const float s = from_half(scale[group]);
    const float m = from_half(minimum[group]);
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
    widen_f16,   widen_bf16,        narrow_f16,    narrow_bf16, quantize_affine,
    quantize_q8, dequantize_affine, dequantize_q8, pack,        unpack,
    dot,         add_scaled,
};

}  // namespace thermoq
