#include <algorithm>
#include <atomic>
#include <cmath>

#include "bit_stream.hpp"
#include "parallel.hpp"
#include "row_stretch.hpp"
#include "thermoq/lsq.hpp"

namespace thermoq {
namespace {

void widen_halves(const KernelTable& kernel, const std::uint16_t* in, std::size_t n,
                  float* out) noexcept {
  kernel.widen_f16(reinterpret_cast<const std::uint8_t*>(in), n, out);
}

}  // namespace

void dequantize_affine(const AffineCodesView& in, const AffineScheme& scheme, std::size_t rows,
                       std::size_t cols, FloatType type, std::uint8_t* out, int threads) {
  check_scheme(scheme);
  const KernelTable& kernel = kernels();
  const std::size_t stretch = stretch_length(scheme.group_size, cols);
  const std::size_t groups = scheme.groups_per_row(cols);
  const std::size_t row_bytes = scheme.row_bytes(cols);
  const auto bits = static_cast<std::size_t>(scheme.bit_width);
  parallel_for(
      rows, rows * cols, threads, [&] { return Stretch(stretch); },
      [&](Stretch& scratch, std::size_t row) {
        for (std::size_t first = 0; first < cols; first += stretch) {
          const std::size_t n = std::min(stretch, cols - first);
          const std::size_t group = row * groups + first / scheme.group_size;
          kernel.unpack(in.codes + row * row_bytes + first * bits / 8, n, scheme.bit_width,
                        scratch.codes.data());
          const std::size_t count = (n + scheme.group_size - 1) / scheme.group_size;
          float scale[kMaxGroups];
          float minimum[kMaxGroups];
          widen_halves(kernel, in.scale + group, count, scale);
          widen_halves(kernel, in.minimum + group, count, minimum);
          kernel.dequantize_affine(scratch.codes.data(), n, scheme.group_size, scale, minimum,
                                   scratch.floats.data());
          store_floats(kernel, scratch.floats.data(), n, type,
                       out + (row * cols + first) * bytes_per_element(type));
        }
      });
}

void dequantize_coded(const CodedCodesView& in, const CodedScheme& scheme, std::size_t rows,
                      std::size_t cols, FloatType type, std::uint8_t* out, int threads) {
  check(scheme);
  const KernelTable& kernel = kernels();
  const std::size_t block = std::min(scheme.super_block, padded_length(cols));
  const std::size_t blocks = scheme.super_blocks_per_row(cols);
  const auto bits = static_cast<std::size_t>(scheme.bit_width);
  parallel_for(
      rows, rows * cols, threads, [&] { return Stretch(block); },
      [&](Stretch& scratch, std::size_t row) {
        for (std::size_t first = 0, k = row * blocks; first < cols; first += block, ++k) {
          const std::size_t n = std::min(block, cols - first);
          const std::size_t group = first / scheme.group_size;
          const std::size_t count = (n + scheme.group_size - 1) / scheme.group_size;
          std::uint8_t codes[kMaxSuperBlockGroups];
          float scale[kMaxSuperBlockGroups];
          float minimum[kMaxSuperBlockGroups];
          float pair[2];
          widen_halves(kernel, in.super_scale + k, 1, pair);
          widen_halves(kernel, in.super_minimum + k, 1, pair + 1);
          unpack_bits(in.scale_codes + row * scheme.scale_bytes(cols), group, count,
                      scheme.scale_bits, codes);
          std::transform(codes, codes + count, scale,
                         [&](std::uint8_t code) { return pair[0] * static_cast<float>(code); });
          unpack_bits(in.minimum_codes + row * scheme.minimum_bytes(cols), group, count,
                      scheme.minimum_bits, codes);
          std::transform(codes, codes + count, minimum, [&](std::uint8_t code) {
            return 0.0F - pair[1] * static_cast<float>(code);
          });
          kernel.unpack(in.codes + row * scheme.row_bytes(cols) + first * bits / 8, n,
                        scheme.bit_width, scratch.codes.data());
          kernel.dequantize_affine(scratch.codes.data(), n, scheme.group_size, scale, minimum,
                                   scratch.floats.data());
          store_floats(kernel, scratch.floats.data(), n, type,
                       out + (row * cols + first) * bytes_per_element(type));
        }
      });
}

void dequantize_q8(const Q8CodesView& in, std::size_t rows, std::size_t cols, FloatType type,
                   std::uint8_t* out, int threads) {
  const KernelTable& kernel = kernels();
  const std::size_t groups = (cols + kQ8GroupSize - 1) / kQ8GroupSize;
  parallel_for(
      rows, rows * cols, threads, [] { return Stretch(kStretch); },
      [&](Stretch& scratch, std::size_t row) {
        for (std::size_t first = 0; first < cols; first += kStretch) {
          const std::size_t n = std::min(kStretch, cols - first);
          kernel.dequantize_q8(in.codes + row * cols + first, n,
                               in.scale + row * groups + first / kQ8GroupSize,
                               scratch.floats.data());
          store_floats(kernel, scratch.floats.data(), n, type,
                       out + (row * cols + first) * bytes_per_element(type));
        }
      });
}

std::uint64_t convert(const std::uint8_t* in, FloatType from, std::size_t count, FloatType to,
                      std::uint8_t* out, int threads) {
  const KernelTable& kernel = kernels();
  std::atomic<std::uint64_t> overflows{0};
  parallel_for((count + kStretch - 1) / kStretch, count, threads,
               [] { return std::vector<float>(2 * kStretch); },
               [&](std::vector<float>& scratch, std::size_t stretch) {
                 const std::size_t first = stretch * kStretch;
                 const std::size_t n = std::min(kStretch, count - first);
                 const float* x = load_floats(kernel, in, from, first, n, scratch.data());
                 std::uint8_t* target = out + first * bytes_per_element(to);
                 store_floats(kernel, x, n, to, target);
                 const float* back =
                     load_floats(kernel, target, to, 0, n, scratch.data() + kStretch);
                 std::uint64_t lost = 0;
                 for (std::size_t i = 0; i < n; ++i) {
                   lost += std::isfinite(x[i]) && !std::isfinite(back[i]) ? 1U : 0U;
                 }
                 overflows += lost;
               });
  return overflows;
}

}  // namespace thermoq
