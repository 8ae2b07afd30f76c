#include "thermoq/packing.hpp"

#include "parallel.hpp"
#include "row_stretch.hpp"

namespace thermoq {
void pack_codes(const std::uint8_t* codes, std::size_t rows, std::size_t cols, int bit_width,
                std::uint8_t* packed, int threads) {
  check_bit_width(bit_width);
  const KernelTable& kernel = kernels();
  const std::size_t row_bytes = (cols * static_cast<std::size_t>(bit_width) + 7) / 8;
  parallel_for(
      rows, rows * cols, threads, [] { return NoState{}; },
      [&](NoState&, std::size_t row) {
        kernel.pack(codes + row * cols, cols, bit_width, packed + row * row_bytes);
      });
}

void unpack_codes(const std::uint8_t* packed, std::size_t rows, std::size_t cols, int bit_width,
                  std::uint8_t* codes, int threads) {
  check_bit_width(bit_width);
  const KernelTable& kernel = kernels();
  const std::size_t row_bytes = (cols * static_cast<std::size_t>(bit_width) + 7) / 8;
  parallel_for(
      rows, rows * cols, threads, [] { return NoState{}; },
      [&](NoState&, std::size_t row) {
        kernel.unpack(packed + row * row_bytes, cols, bit_width, codes + row * cols);
      });
}

}  // namespace thermoq
