// The trellis kernels of both tables.
#pragma once

#include "kernels.hpp"

namespace thermoq {

void trellis_values_scalar(const float* weights, std::size_t n, float factor,
                           std::int16_t* out) noexcept;
void trellis_paths_scalar(const TrellisPaths& paths) noexcept;
void trellis_rows_scalar(const TrellisRows& rows, float* out, std::size_t stride) noexcept;
void trellis_values_avx2(const float* weights, std::size_t n, float factor,
                         std::int16_t* out) noexcept;
void trellis_paths_avx2(const TrellisPaths& paths) noexcept;
void trellis_rows_avx2(const TrellisRows& rows, float* out, std::size_t stride) noexcept;

// The metric of a step: the squared distance in units of 2^15 / kTableUnit^2. Both distances are
// 16-bit numbers, as values and table entries lie within +-2^14.
inline int trellis_metric(std::int16_t value, std::int16_t entry) noexcept {
  const int distance = value - entry;
  return (distance * distance + 0x4000) >> 15;
}

// The window of least cost after the last step: where a path ends. Of equals the lowest.
int last_window(const TrellisPaths& paths) noexcept;

// Follows the paths back from where they end, windows[c, n - 1]. The history tells the cost at
// which each window's elder bits were reached, from which the costs of a step's windows follow; of
// equals the lowest window is taken. All columns go together: each waits for its memory alone.
void trace_back(const TrellisPaths& paths) noexcept;

}  // namespace thermoq
