// Least squares with AVX2 and F16C, compiled with -mavx2 -mf16c under the rules of avx2.cpp.
#include "avx2_lanes.hpp"
#include "avx2_vectors.hpp"
#include "lsq_kernels.hpp"
#include "lsq_tile.hpp"
#include "q8_tile.hpp"
#include "super_block_tile.hpp"
#include "sweep_tile.hpp"

namespace thermoq {
namespace {

// An 8 x 8 transpose: row k of the result holds element k of each of v.
void store_transposed(const __m256 (&v)[kLanes], std::size_t count, float* out) noexcept {
  __m256 pairs[kLanes];
  for (std::size_t k = 0; k < kLanes; k += 2) {
    pairs[k] = _mm256_unpacklo_ps(v[k], v[k + 1]);
    pairs[k + 1] = _mm256_unpackhi_ps(v[k], v[k + 1]);
  }
  __m256 fours[kLanes];
  for (std::size_t k = 0; k < kLanes; k += 4) {
    fours[k] = _mm256_shuffle_ps(pairs[k], pairs[k + 2], 0x44);
    fours[k + 1] = _mm256_shuffle_ps(pairs[k], pairs[k + 2], 0xEE);
    fours[k + 2] = _mm256_shuffle_ps(pairs[k + 1], pairs[k + 3], 0x44);
    fours[k + 3] = _mm256_shuffle_ps(pairs[k + 1], pairs[k + 3], 0xEE);
  }
  for (std::size_t k = 0; k < count; ++k) {
    const __m256 both = k < 4 ? _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x20)
                              : _mm256_permute2f128_ps(fours[k - 4], fours[k], 0x31);
    _mm256_storeu_ps(out + kLanes * k, both);
  }
}

template <class Source>
void load_tile_of(const std::uint8_t* in, std::size_t row_bytes, std::size_t rows, std::size_t n,
                  float* tile) noexcept {
  for (std::size_t i = 0; i < n; i += kLanes) {
    const std::size_t count = smaller(kLanes, n - i);
    __m256 v[kLanes];
    for (std::size_t row = 0; row < kLanes; ++row) {
      const std::uint8_t* x = in + row * row_bytes;
      if (row >= rows) {
        v[row] = _mm256_setzero_ps();
      } else if (count == kLanes) {
        v[row] = Source::load(x, i);
      } else {
        v[row] = load_few<Source>(x + i * Source::kBytes, count, false);
      }
    }
    store_transposed(v, count, tile + kLanes * i);
  }
}

}  // namespace

void load_tile_avx2(const std::uint8_t* in, std::size_t row_bytes, std::size_t rows, FloatType type,
                    std::size_t n, float* tile) noexcept {
  switch (type) {
    case FloatType::f32:
      load_tile_of<F32>(in, row_bytes, rows, n, tile);
      break;
    case FloatType::f16:
      load_tile_of<F16>(in, row_bytes, rows, n, tile);
      break;
    case FloatType::bf16:
      load_tile_of<BF16>(in, row_bytes, rows, n, tile);
      break;
  }
}

void lsq_affine_avx2(const Tile& tile, int bit_width, float* scratch, const TileRows& rows,
                     std::uint16_t* scale, std::uint16_t* minimum) noexcept {
  lsq_affine_on<Avx2Lanes>(tile, bit_width, scratch, rows, scale, minimum);
}

void lsq_q8_avx2(const Tile& tile, const TileRows& rows, std::uint16_t* scale) noexcept {
  lsq_q8_on<Avx2Lanes>(tile, rows, scale);
}

void lsq_coded_avx2(const Tile& tile, const GroupCoding& coding, float* scratch,
                    const TileRows& rows, CodedTile& out) noexcept {
  lsq_coded_on<Avx2Lanes>(tile, coding, scratch, rows, out);
}

void sweep_avx2(const SweepTile& tile) noexcept { sweep_on<Avx2Lanes>(tile); }

}  // namespace thermoq
