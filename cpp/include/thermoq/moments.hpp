// Means and central moments of pairs of values, by column and by group of rows.
#pragma once

#include <cstddef>

namespace thermoq {

// y and q, each [rows, cols]; the first sizes[0] rows are the first group's, and so on.
struct PairedRows {
  const float* y;
  const float* q;
  const std::size_t* sizes;
  std::size_t groups;
  std::size_t cols;
};

// mean(y), mean(q); then with both about their means: the means of yy, qq, yq, yyyy, yyyq, yyqq,
// yqqq and qqqq.
inline constexpr std::size_t kPairedMoments = 10;

// Writes the moments, in f64, to `out` [kPairedMoments, groups, cols]; 0 for a group without rows.
//
// The same bytes on any number of threads.
void paired_moments(const PairedRows& rows, double* out, int threads);

}  // namespace thermoq
