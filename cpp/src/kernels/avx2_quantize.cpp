// Quantization with AVX2 and F16C, compiled with -mavx2 -mf16c under the rules of avx2.cpp: no
// std:: templates, and everything but the entry points in an anonymous namespace.
//
// A stretch is gone over twice, first for the ranges of its groups, then for codes and sums. It is
// widened on the fly both times.
#include "avx2_quantize.hpp"

#include "avx2_groups.hpp"

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
