// Error-compensated rounding (`hessian`): columns are rounded one after another, and what each
// loses is made up for by those that follow. The Cholesky factor that says how, the fits of group
// parameters and the updates of far columns are the caller's (GPTQ: Frantar et al., arXiv
// 2210.17323).
#pragma once

#include <cstddef>
#include <cstdint>

namespace thermoq {

inline constexpr std::size_t kMaxSweep = 256;  // columns of one sweep

// Columns of a sweep: column j of a row decodes to scale * code + minimum with the parameters of
// group `group_of[j]`, code in [lowest, highest].
struct SweepGrid {
  const float* scale;            // [rows, groups], at least 0
  const float* minimum;          // the same
  const std::int32_t* group_of;  // [n], each in [0, groups)
  std::size_t groups;
  int lowest, highest;
};

// Rounds `weights` [rows, n] column by column. `factor` [n, n] is the upper Cholesky factor U of
// the inverse Gram matrix (H^-1 = U^T U) on these columns. After column j with the scaled error
// e = (w - w^) / U[j, j], column k > j becomes w_k - e * U[j, k]. On return `weights` holds the
// scaled errors, from which the columns behind follow, and `codes` [rows, n] the codes as bytes (in
// two's complement). Rows are independent: nothing depends on `threads`. Throws
// std::invalid_argument for more than kMaxSweep columns and for groups that do not exist.
void sweep(float* weights, std::size_t rows, std::size_t n, const float* factor,
           const SweepGrid& grid, std::uint8_t* codes, int threads);

}  // namespace thermoq
