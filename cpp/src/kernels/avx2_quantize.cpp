// Quantization with AVX2 and F16C, compiled with -mavx2 -mf16c under the rules of avx2.cpp: no
// std:: templates, and everything but the entry points in an anonymous namespace.
//
// A stretch is gone over twice, first for the ranges of its groups, then for codes and sums. It is
// widened on the fly both times.
#include "avx2_quantize.hpp"

#include "avx2_groups.hpp"
#include "avx2_sums.hpp"

namespace thermoq {
namespace {

template <int kBits>
struct AffineEncoder {
  using Output = std::uint8_t;  // packed codes
  __m256 scale, inverse, minimum;
  __m256 decoded;  // the numbers that codes below 8 stand for

  AffineEncoder(const GroupParameters& p, std::size_t group) noexcept
      : scale(_mm256_set1_ps(p.scale[group])),
        inverse(_mm256_set1_ps(p.inverse[group])),
        minimum(_mm256_set1_ps(p.minimum[group])),
        decoded(arithmetic(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7))) {}

  // Parameters are rounded outwards, so that only NaN would need a clamp, and a matrix with NaN is
  // refused.
  __m256i encode(__m256 x) const noexcept {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(x, minimum), inverse));
  }
  __m256 decode(__m256i code) const noexcept {
    if constexpr (kBits == 2) {
      return _mm256_permutevar8x32_ps(decoded, code);
    } else {
      return arithmetic(_mm256_cvtepi32_ps(code));
    }
  }
  __m256 arithmetic(__m256 code) const noexcept {
    return _mm256_add_ps(_mm256_mul_ps(code, scale), minimum);
  }

  static std::uint8_t* at(std::uint8_t* out, std::size_t i) noexcept { return out + i * kBits / 8; }

  // 32 codes of a byte each, weights 8 k .. 8 k + 3 in dword k and 8 k + 4 .. 8 k + 7 in dword
  // k + 4: neighbours are merged by multiply-adds, then the halves are interleaved.
  static void store(__m256i codes, std::uint8_t* out) noexcept {
    if constexpr (kBits == 2) {
      const __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0401));
      const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00100001));
      const __m256i low_bytes = _mm256_shuffle_epi8(fours, _mm256_set1_epi32(0x0C080400));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out),
                       _mm_unpacklo_epi8(_mm256_castsi256_si128(low_bytes),
                                         _mm256_extracti128_si256(low_bytes, 1)));
    } else {
      const __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001));
      const __m256i low_bytes = _mm256_packus_epi16(pairs, pairs);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                       _mm_unpacklo_epi16(_mm256_castsi256_si128(low_bytes),
                                          _mm256_extracti128_si256(low_bytes, 1)));
    }
  }

  // n <= 8 codes, in the lower half of a vector.
  static void store_few(__m128i codes, std::size_t n, std::uint8_t* out) noexcept {
    __m128i packed = _mm_maddubs_epi16(codes, _mm_set1_epi16(kBits == 2 ? 0x0401 : 0x1001));
    if constexpr (kBits == 2) {
      packed = _mm_madd_epi16(packed, _mm_set1_epi32(0x00100001));
      packed = _mm_packus_epi32(packed, packed);
    }
    const std::int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(packed, packed));
    std::memcpy(out, &bytes, (n * kBits + 7) / 8);
  }
};

struct Q8Encoder {
  using Output = std::int8_t;
  __m256 scale, inverse;

  Q8Encoder(const GroupParameters& p, std::size_t group) noexcept
      : scale(_mm256_set1_ps(p.scale[group])), inverse(_mm256_set1_ps(p.inverse[group])) {}

  __m256i encode(__m256 x) const noexcept { return _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)); }
  __m256 decode(__m256i code) const noexcept {
    return _mm256_mul_ps(_mm256_cvtepi32_ps(code), scale);
  }

  static std::int8_t* at(std::int8_t* out, std::size_t i) noexcept { return out + i; }

  static void store(__m256i codes, std::int8_t* out) noexcept {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(codes, order));
  }

  static void store_few(__m128i codes, std::size_t n, std::int8_t* out) noexcept {
    std::int8_t bytes[8];
    _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), codes);
    std::memcpy(out, bytes, n);
  }
};

// Asks for the cache line at `address`, which may lie beyond the end of the matrix. Always inlined:
// GCC 12 takes a function that does nothing else for one without effect and drops its calls.
[[gnu::always_inline]] inline void fetch(std::uintptr_t address) noexcept {
  _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T0);
}

// Eight 32-bit codes as bytes in the lower half of a vector.
inline __m128i narrow(__m256i codes) noexcept {
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  return _mm_packs_epi16(words, _mm_setzero_si128());
}

// The last n < 8 weights of a row. Apart, to keep the loops over whole vectors small.
template <class Source, class Encoder>
[[gnu::noinline]] void encode_tail(const std::uint8_t* in, std::size_t n, const Encoder& encoder,
                                   typename Encoder::Output* out, BlockSums& sums) noexcept {
  const __m256i count = _mm256_set1_epi32(static_cast<std::int32_t>(n));
  const __m256i inside = _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  const __m256 v = load_few<Source>(in, n, false);
  const __m256i code = _mm256_and_si256(encoder.encode(v), inside);
  // Beyond the end source and decoded weight are 0, which changes no sum.
  sums.add(v, _mm256_and_ps(encoder.decode(code), _mm256_castsi256_ps(inside)));
  sums.add_few_codes(narrow(code));
  Encoder::store_few(narrow(code), n, out);
}

// Encodes `in` [n], n <= kSumBlock, from lane 0 on; only at a row's end is n no multiple of the
// vector's width. `upcoming` is as far into the next stretch.
template <class Source, class Encoder>
[[gnu::always_inline]] inline BlockSums encode_block(const std::uint8_t* in, std::size_t n,
                                                     const Encoder& encoder,
                                                     std::uintptr_t upcoming,
                                                     typename Encoder::Output* out) noexcept {
  BlockSums sums;
  const auto encode = [&](std::size_t i) {
    const __m256 v = Source::load(in, i);
    const __m256i code = encoder.encode(v);
    sums.add(v, encoder.decode(code));
    return code;
  };
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    fetch(upcoming + i * Source::kBytes);
    if constexpr (Source::kBytes == 4) {
      fetch(upcoming + i * Source::kBytes + kCacheLine);
    }
    const __m256i a = encode(i);
    const __m256i b = encode(i + 8);
    const __m256i c = encode(i + 16);
    const __m256i d = encode(i + 24);
    // Codes lie in [-127, 127] or [0, 15]: signed saturation changes neither.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    sums.add_codes(bytes);
    Encoder::store(bytes, Encoder::at(out, i));
  }
  for (; i + kLanes <= n; i += kLanes) {
    const __m128i bytes = narrow(encode(i));
    sums.add_few_codes(bytes);
    Encoder::store_few(bytes, kLanes, Encoder::at(out, i));
  }
  if (i < n) {
    encode_tail<Source>(in + i * Source::kBytes, n - i, encoder, Encoder::at(out, i), sums);
  }
  return sums;
}

// Codes and sums of one group.
template <class Source, class Encoder>
[[gnu::always_inline]] inline void encode_group(const std::uint8_t* in, std::size_t n,
                                                const GroupParameters& p, std::size_t group,
                                                std::uintptr_t upcoming,
                                                typename Encoder::Output* out,
                                                PendingBlocks& pending) noexcept {
  const Encoder encoder(p, group);
  for (std::size_t i = 0; i < n; i += kSumBlock) {
    const std::size_t count = smaller(kSumBlock, n - i);
    const std::size_t byte = i * Source::kBytes;
    pending.add(
        encode_block<Source>(in + byte, count, encoder, upcoming + byte, Encoder::at(out, i)),
        count, p.scale[group], p.minimum[group]);
  }
}

// The last group of a row.
template <class Source, class Encoder>
[[gnu::noinline]] void encode_ragged(const std::uint8_t* in, std::size_t n,
                                     const GroupParameters& p, std::size_t group,
                                     std::uintptr_t upcoming, typename Encoder::Output* out,
                                     PendingBlocks& pending) noexcept {
  encode_group<Source, Encoder>(in, n, p, group, upcoming, out, pending);
}

// Codes and sums of all groups of a stretch.
template <class Source, class Encoder>
[[gnu::always_inline]] inline void encode_groups(const std::uint8_t* in, std::size_t n,
                                                 std::size_t group_size, const GroupParameters& p,
                                                 typename Encoder::Output* out,
                                                 ErrorSums& sums) noexcept {
  PendingBlocks pending(sums);
  const auto next = reinterpret_cast<std::uintptr_t>(in) + n * Source::kBytes;
  std::size_t group = 0;
  std::size_t i = 0;
  for (; i + group_size <= n; i += group_size, ++group) {
    const std::size_t byte = i * Source::kBytes;
    encode_group<Source, Encoder>(in + byte, group_size, p, group, next + byte, Encoder::at(out, i),
                                  pending);
  }
  if (i < n) {
    const std::size_t byte = i * Source::kBytes;
    encode_ragged<Source, Encoder>(in + byte, n - i, p, group, next + byte, Encoder::at(out, i),
                                   pending);
  }
  pending.finish();
}

// Always inlined, as loops over groups of a constant size come out much faster.
template <class Source, int kBits>
[[gnu::always_inline]] inline void affine(const std::uint8_t* in, std::size_t n,
                                          std::size_t group_size,
                                          const AffineStretch& out) noexcept {
  GroupParameters p;
  affine_parameters<Source>(in, n, group_size, static_cast<float>((1 << kBits) - 1), out, p);
  encode_groups<Source, AffineEncoder<kBits>>(in, n, group_size, p, out.codes, out.sums);
}

template <class Source, int kBits>
void affine_of_any_group_size(const std::uint8_t* in, std::size_t n, std::size_t group_size,
                              const AffineStretch& out) noexcept {
  if (group_size == 64) {  // the default
    affine<Source, kBits>(in, n, 64, out);
  } else if (group_size == 32) {
    affine<Source, kBits>(in, n, 32, out);
  } else {
    affine<Source, kBits>(in, n, group_size, out);
  }
}

template <class Source>
void affine_of_any_width(const std::uint8_t* in, std::size_t n, std::size_t group_size,
                         int bit_width, const AffineStretch& out) noexcept {
  if (bit_width == 2) {
    affine_of_any_group_size<Source, 2>(in, n, group_size, out);
  } else {
    affine_of_any_group_size<Source, 4>(in, n, group_size, out);
  }
}

template <class Source>
void q8(const std::uint8_t* in, std::size_t n, const Q8Stretch& out) noexcept {
  constexpr std::size_t kGroup = 32;
  GroupParameters p;
  q8_parameters<Source>(in, n, kGroup, out, p);
  encode_groups<Source, Q8Encoder>(in, n, kGroup, p, out.codes, out.sums);
}

}  // namespace

void quantize_affine_avx2(const std::uint8_t* in, FloatType type, std::size_t n,
                          std::size_t group_size, int bit_width,
                          const AffineStretch& out) noexcept {
  switch (type) {
    case FloatType::f32:
      return affine_of_any_width<F32>(in, n, group_size, bit_width, out);
    case FloatType::f16:
      return affine_of_any_width<F16>(in, n, group_size, bit_width, out);
    case FloatType::bf16:
      return affine_of_any_width<BF16>(in, n, group_size, bit_width, out);
  }
}

void quantize_q8_avx2(const std::uint8_t* in, FloatType type, std::size_t n,
                      const Q8Stretch& out) noexcept {
  switch (type) {
    case FloatType::f32:
      return q8<F32>(in, n, out);
    case FloatType::f16:
      return q8<F16>(in, n, out);
    case FloatType::bf16:
      return q8<BF16>(in, n, out);
  }
}

}  // namespace thermoq
