// The trellis kernels with AVX2; see avx2.cpp for what this file may not do.
#include <immintrin.h>

#include <cstring>

#include "trellis_kernels.hpp"

namespace thermoq {
namespace {

constexpr int kLanes16 = 16;

inline __m256i load(const void* address) noexcept {
  return _mm256_load_si256(static_cast<const __m256i*>(address));
}

inline void store(void* address, __m256i value) noexcept {
  _mm256_store_si256(static_cast<__m256i*>(address), value);
}

inline int smallest(__m256i values) noexcept {
  const __m128i half =
      _mm_min_epu16(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  return _mm_extract_epi16(_mm_minpos_epu16(half), 0);
}

// Which bytes of 16 costs, of which one half lies in both lanes, go to the windows that follow: a
// cost to each of 2^kBits neighbours. Vector j of 2^kBits takes costs from 16 j / 2^kBits on.
template <int kBits>
struct Spread {
  alignas(32) std::uint8_t bytes[1 << kBits][32];
  constexpr Spread() : bytes{} {
    for (int j = 0; j < 1 << kBits; ++j) {
      for (int lane = 0; lane < kLanes16; ++lane) {
        const int cost = ((j * kLanes16 + lane) >> kBits) % 8;
        bytes[j][2 * lane] = static_cast<std::uint8_t>(2 * cost);
        bytes[j][2 * lane + 1] = static_cast<std::uint8_t>(2 * cost + 1);
      }
    }
  }
};

template <int kBits>
constexpr Spread<kBits> kSpread{};

// Fills the costs and the history of one column.
template <int kBits>
void search(const TrellisPaths& paths, std::size_t column) noexcept {
  constexpr int kFan = 1 << kBits;
  const int elder = 1 << (paths.window_bits - kBits);
  std::memset(paths.costs, 0, (std::size_t{1} << paths.window_bits) * sizeof *paths.costs);
  const std::int16_t* values = paths.values + column;
  std::uint16_t* reached = paths.history + column * paths.n * static_cast<std::size_t>(elder);
  int least = 0;
  for (std::size_t i = 0; i < paths.n; ++i, values += paths.stride, reached += elder) {
    const std::uint16_t* costs = paths.costs + ((i & 1) << paths.window_bits);
    std::uint16_t* next = paths.costs + ((~i & 1) << paths.window_bits);
    const __m256i value = _mm256_set1_epi16(*values);
    const __m256i base = _mm256_set1_epi16(static_cast<short>(least));
    __m256i lowest = _mm256_set1_epi16(-1);
    for (int bits = 0; bits < elder; bits += kLanes16) {
      __m256i low = load(costs + bits);
      for (int oldest = 1; oldest < kFan; ++oldest) {
        low = _mm256_min_epu16(low, load(costs + (oldest * elder + bits)));
      }
      low = _mm256_subs_epu16(low, base);
      lowest = _mm256_min_epu16(lowest, low);
      store(reached + bits, low);
      const __m256i halves[2] = {_mm256_permute2x128_si256(low, low, 0x00),
                                 _mm256_permute2x128_si256(low, low, 0x11)};
      for (int j = 0; j < kFan; ++j) {
        const __m256i mask = load(kSpread<kBits>.bytes[j]);
        const __m256i from = _mm256_shuffle_epi8(halves[2 * j / kFan], mask);
        const int window = (bits << kBits) + j * kLanes16;
        const __m256i distance = _mm256_sub_epi16(value, load(paths.table + window));
        const __m256i metric = _mm256_mulhrs_epi16(distance, distance);
        store(next + window, _mm256_adds_epu16(from, metric));
      }
    }
    least = smallest(lowest);
  }
}

template <int kBits>
void search_all(const TrellisPaths& paths) noexcept {
  for (std::size_t c = 0; c < paths.columns; ++c) {
    search<kBits>(paths, c);
    paths.windows[c * paths.n + paths.n - 1] = static_cast<std::uint16_t>(last_window(paths));
  }
  trace_back(paths);
}

// Eight bytes at `in`, of which those at and behind `end` are 0.
inline std::uint64_t load_bits(const std::uint8_t* in, const std::uint8_t* end) noexcept {
  std::uint64_t bits = 0;
  if (end - in >= 8) {
    std::memcpy(&bits, in, sizeof bits);
  } else {
    std::memcpy(&bits, in, static_cast<std::size_t>(end - in));
  }
  return bits;
}

// The windows of eight rows that begin with these bits.
inline __m256i windows_of(std::uint64_t bits, __m256i low_shifts, __m256i high_shifts,
                          __m256i mask) noexcept {
  const __m256i all = _mm256_set1_epi64x(static_cast<long long>(bits));
  const __m256 low = _mm256_castsi256_ps(_mm256_srlv_epi64(all, low_shifts));
  const __m256 high = _mm256_castsi256_ps(_mm256_srlv_epi64(all, high_shifts));
  // The low words of both: the shifts are such that the rows come out in order.
  const __m256 words = _mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0));
  return _mm256_and_si256(_mm256_castps_si256(words), mask);
}

inline void transpose(__m256 (&v)[8]) noexcept {
  __m256 a[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  __m256 b[8];
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

// Eight columns, each a vector of eight rows, to out.
inline void store_columns(const TrellisRows& rows, __m256 (&columns)[8], float* out,
                          std::size_t stride) noexcept {
  transpose(columns);
  for (std::size_t r = 0; r < rows.rows; ++r) {
    _mm256_storeu_ps(out + r * stride, _mm256_mul_ps(_mm256_set1_ps(rows.scale[r]), columns[r]));
  }
}

// The columns from `c` on, one by one.
void store_rest(const TrellisRows& rows, std::size_t c, float* out, std::size_t stride) noexcept {
  for (; c < rows.cols; ++c) {
    const std::uint64_t bits = load_bits(rows.codes + c * rows.stream_bytes, rows.end);
    for (std::size_t r = 0; r < rows.rows; ++r) {
      const std::uint64_t window = (bits >> (r * static_cast<std::size_t>(rows.bit_width))) &
                                   ((std::uint64_t{1} << rows.window_bits) - 1);
      out[r * stride + c] = rows.scale[r] * rows.table[window];
    }
  }
}

void gather_rows(const TrellisRows& rows, float* out, std::size_t stride) noexcept {
  const long long b = rows.bit_width;
  // shuffle_ps takes words 0 and 2 of each lane of both: rows 0 1 4 5 and 2 3 6 7.
  const __m256i low_shifts = _mm256_setr_epi64x(0, b, 4 * b, 5 * b);
  const __m256i high_shifts = _mm256_setr_epi64x(2 * b, 3 * b, 6 * b, 7 * b);
  const __m256i mask = _mm256_set1_epi32((1 << rows.window_bits) - 1);
  std::size_t c = 0;
  for (; c + 8 <= rows.cols; c += 8) {
    __m256 columns[8];
    for (std::size_t k = 0; k < 8; ++k) {
      const std::uint64_t bits = load_bits(rows.codes + (c + k) * rows.stream_bytes, rows.end);
      const __m256i windows = windows_of(bits, low_shifts, high_shifts, mask);
      columns[k] = _mm256_i32gather_ps(rows.table, windows, 4);
    }
    store_columns(rows, columns, out + c, stride);
  }
  store_rest(rows, c, out, stride);
}

// Two rows at a time: an eight-lane gather takes longer than four loads of pairs.
template <int kBits>
void pair_rows(const TrellisRows& rows, float* out, std::size_t stride) noexcept {
  const std::uint64_t mask = (std::uint64_t{1} << (rows.window_bits + kBits)) - 1;
  const auto two = [&](std::uint64_t low, std::uint64_t high) {
    const auto* first = reinterpret_cast<const __m128i*>(rows.pairs + 2 * (low & mask));
    const auto* second = reinterpret_cast<const __m64*>(rows.pairs + 2 * (high & mask));
    return _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64(first)), second);
  };
  std::size_t c = 0;
  for (; c + 8 <= rows.cols; c += 8) {
    __m256 columns[8];
    for (std::size_t k = 0; k < 8; ++k) {
      const std::uint64_t bits = load_bits(rows.codes + (c + k) * rows.stream_bytes, rows.end);
      columns[k] = _mm256_set_m128(two(bits >> (4 * kBits), bits >> (6 * kBits)),
                                   two(bits, bits >> (2 * kBits)));
    }
    store_columns(rows, columns, out + c, stride);
  }
  store_rest(rows, c, out, stride);
}

}  // namespace

void trellis_values_avx2(const float* weights, std::size_t n, float factor,
                         std::int16_t* out) noexcept {
  const __m256 most = _mm256_set1_ps(16384.0F);
  const __m256 least = _mm256_set1_ps(-16384.0F);
  const auto rounded = [&](const float* in) {
    const __m256 value = _mm256_mul_ps(_mm256_loadu_ps(in), _mm256_set1_ps(factor));
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, least), most));
  };
  std::size_t i = 0;
  for (; i + kLanes16 <= n; i += kLanes16) {
    const __m256i packed = _mm256_packs_epi32(rounded(weights + i), rounded(weights + i + 8));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
  }
  trellis_values_scalar(weights + i, n - i, factor, out + i);
}

void trellis_paths_avx2(const TrellisPaths& paths) noexcept {
  switch (paths.bit_width) {
    case 2:
      search_all<2>(paths);
      return;
    case 3:
      search_all<3>(paths);
      return;
    default:
      search_all<4>(paths);
  }
}

void trellis_rows_avx2(const TrellisRows& rows, float* out, std::size_t stride) noexcept {
  if (rows.pairs == nullptr) {
    gather_rows(rows, out, stride);
    return;
  }
  switch (rows.bit_width) {
    case 2:
      pair_rows<2>(rows, out, stride);
      return;
    case 3:
      pair_rows<3>(rows, out, stride);
      return;
    default:
      pair_rows<4>(rows, out, stride);
  }
}

}  // namespace thermoq
