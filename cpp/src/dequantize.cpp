#include <atomic>
#include <cmath>

#include "parallel.hpp"
#include "row_stretch.hpp"
#include "thermoq/quantize.hpp"

namespace thermoq {

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
          kernel.dequantize_affine(scratch.codes.data(), n, scheme.group_size, in.scale + group,
                                   in.minimum + group, scratch.floats.data());
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
