// A matrix of trellis codes: where its rows' streams lie, and how eight rows of it are decoded.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "row_stretch.hpp"
#include "thermoq/trellis.hpp"

namespace thermoq {

struct TrellisLayout {
  const TrellisScheme& scheme;
  std::size_t rows, cols;

  std::size_t blocks() const { return (rows + scheme.block_rows - 1) / scheme.block_rows; }
  std::size_t rows_of(std::size_t block) const {
    return std::min(scheme.block_rows, rows - block * scheme.block_rows);
  }
  std::size_t block_offset(std::size_t block) const {
    return block * cols * scheme.stream_bytes(scheme.block_rows);
  }
  std::size_t row_tiles() const { return (rows + kLanes - 1) / kLanes; }
};

// Eight rows of a block, or what is left of them.
struct RowTile {
  std::size_t first, count;  // of the matrix
  std::size_t block, within;
};

inline RowTile row_tile(const TrellisLayout& layout, std::size_t index) {
  const std::size_t first = index * kLanes;  // blocks are multiples of eight rows
  const std::size_t block = first / layout.scheme.block_rows;
  return {first, std::min(kLanes, layout.rows - first), block,
          first - block * layout.scheme.block_rows};
}

// The columns that are worked on together: at most a group's.
inline std::size_t stretch_of(const TrellisLayout& layout) {
  return std::min({layout.scheme.group_size, kStretch, padded_length(layout.cols)});
}

// Calls visit(group, first column, number of columns) for stretches of at most a group.
template <class Visit>
void for_each_stretch(const TrellisLayout& layout, const Visit& visit) {
  const std::size_t stretch = stretch_of(layout);
  const std::size_t group_size = layout.scheme.group_size;
  for (std::size_t begin = 0, group = 0; begin < layout.cols; begin += group_size, ++group) {
    const std::size_t end = std::min(begin + group_size, layout.cols);
    for (std::size_t first = begin; first < end; first += stretch) {
      visit(group, first, std::min(stretch, end - first));
    }
  }
}

// A table's values, and those of pairs of rows where these stay in the caches and enough `weights`
// are looked up to make them worth it.
struct TrellisLookup {
  std::vector<float> values, pairs;

  TrellisLookup(const std::int16_t* table, const TrellisScheme& scheme, std::size_t weights)
      : values(std::size_t{1} << scheme.window_bits) {
    constexpr int kMostBits = 14;  // of a pair: 128 KiB
    std::transform(table, table + values.size(), values.begin(), [](std::int16_t entry) {
      return static_cast<float>(entry) / static_cast<float>(kTableUnit);
    });
    constexpr std::size_t kLeastUses = 16;
    const std::size_t count = std::size_t{1} << (scheme.window_bits + scheme.bit_width);
    if (count > std::size_t{1} << kMostBits || weights < kLeastUses * count) {
      return;
    }
    pairs.resize(2 * count);
    for (std::size_t i = 0; i < count; ++i) {
      pairs[2 * i] = values[i & (values.size() - 1)];
      pairs[2 * i + 1] = values[i >> scheme.bit_width];
    }
  }

  // Writes the table values of `n` columns of a tile's rows, times the rows' scales.
  void decode(const TrellisLayout& layout, const std::uint8_t* codes, const RowTile& tile,
              std::size_t first, std::size_t n, const float* scale, float* out,
              std::size_t stride) const {
    const TrellisScheme& scheme = layout.scheme;
    const std::size_t stream = scheme.stream_bytes(layout.rows_of(tile.block));
    const auto bits = static_cast<std::size_t>(scheme.bit_width);
    const std::uint8_t* begin = codes + layout.block_offset(tile.block) + first * stream;
    kernels().trellis_rows(
        {begin + tile.within * bits / 8, codes + scheme.codes_bytes(layout.rows, layout.cols),
         stream, n, tile.count, values.data(), pairs.empty() ? nullptr : pairs.data(), scale,
         scheme.bit_width, scheme.window_bits},
        out, stride);
  }
};

}  // namespace thermoq
