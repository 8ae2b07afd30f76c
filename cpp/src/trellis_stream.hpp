// One column of a block: from its values to the best path, and from the path to its stream.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "thermoq/trellis.hpp"

namespace thermoq {

// Memory from a 32-byte boundary on.
template <class T>
class Aligned {
 public:
  explicit Aligned(std::size_t count) : memory_(count + 32 / sizeof(T)) {}
  T* data() noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + ((32 - address % 32) % 32) / sizeof(T);
  }

 private:
  std::vector<T> memory_;
};

// Columns whose paths are traced together: as many as leave the history in the caches.
inline std::size_t columns_together(const TrellisScheme& scheme) noexcept {
  constexpr std::size_t kHistory = std::size_t{1} << 18;  // costs
  const std::size_t column = scheme.block_rows << (scheme.window_bits - scheme.bit_width);
  return std::clamp<std::size_t>(kHistory / column, 1, kMaxPaths);
}

// A thread's memory. `values` holds `columns` columns [block_rows, columns] in the order of the
// steps: the last row first.
struct TrellisWorkspace {
  TrellisWorkspace(const TrellisScheme& used, const std::int16_t* entries, std::size_t num_columns)
      : scheme(used),
        columns(num_columns),
        together(std::min(num_columns, columns_together(used))),
        values(num_columns * used.block_rows),
        windows(together * used.block_rows),
        table(std::size_t{1} << used.window_bits),
        costs(std::size_t{2} << used.window_bits),
        history(together * used.block_rows << (used.window_bits - used.bit_width)) {
    std::copy(entries, entries + (std::size_t{1} << used.window_bits), table.data());
  }

  // Writes the streams of the first `n` columns of `rows` rows.
  void encode(std::size_t rows, std::size_t n, std::uint8_t* out) {
    const std::size_t stream = scheme.stream_bytes(rows);
    for (std::size_t first = 0; first < n; first += together) {
      const std::size_t count = std::min(together, n - first);
      find_paths(first, count, rows);
      for (std::size_t c = 0; c < count; ++c) {
        write_stream(c, rows, out + (first + c) * stream);
      }
    }
  }

  // The windows of columns `first` ..., in the order of the steps.
  void find_paths(std::size_t first, std::size_t count, std::size_t rows) {
    kernels().trellis_paths({values.data() + first, rows, columns, count, table.data(),
                             scheme.bit_width, scheme.window_bits, costs.data(), history.data(),
                             windows.data()});
  }

  // The path of column `c` of those found as a stream: the rows' newest bits from the first row on,
  // then the rest of the last row's window.
  void write_stream(std::size_t c, std::size_t rows, std::uint8_t* out) const {
    const int b = scheme.bit_width;
    const std::uint16_t* path = windows.data() + c * rows;
    std::uint64_t pending = 0;
    int count = 0;
    const auto flush = [&](int least) {
      for (; count >= least && count > 0; count -= 8, pending >>= 8) {
        *out++ = static_cast<std::uint8_t>(pending);
      }
    };
    for (std::size_t r = 0; r + 1 < rows; ++r) {
      const std::uint64_t newest = path[rows - 1 - r] & ((1U << b) - 1U);
      pending |= newest << count;
      count += b;
      flush(8);
    }
    pending |= static_cast<std::uint64_t>(path[0]) << count;
    count += scheme.window_bits;
    flush(1);
  }

  TrellisScheme scheme;
  std::size_t columns, together;
  std::vector<std::int16_t> values;
  std::vector<std::uint16_t> windows;
  Aligned<std::int16_t> table;
  Aligned<std::uint16_t> costs, history;
};

}  // namespace thermoq
