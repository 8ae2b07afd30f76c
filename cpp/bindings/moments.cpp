#include "thermoq/moments.hpp"

#include "bind.hpp"

namespace {

Doubles paired_moments(const Floats& y, const Floats& q, const Counts& sizes, int threads) {
  if (y.ndim() != 2 || q.ndim() != 2 || y.shape(1) != q.shape(1)) {
    throw std::invalid_argument("y, q: expected [rows, cols] twice, of as many columns");
  }
  const std::vector<std::size_t> counts = group_sizes(sizes, y.shape(0));
  check_size(q.shape(0), static_cast<std::size_t>(y.shape(0)), "q");
  const auto kinds = static_cast<py::ssize_t>(thermoq::kPairedMoments);
  Doubles out({kinds, static_cast<py::ssize_t>(counts.size()), y.shape(1)});
  const thermoq::PairedRows rows{y.data(), q.data(), counts.data(), counts.size(),
                                 static_cast<std::size_t>(y.shape(1))};
  double* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::paired_moments(rows, target, threads);
  }
  return out;
}

}  // namespace

void bind_moments(py::module_& m) {
  using py::arg;
  m.def("paired_moments", &paired_moments,
        R"(Means and central moments of y and q [rows, cols] by column: [10, groups, cols] in f64.

The first sizes[0] rows are the first group's, and so on. mean(y) and mean(q); then, with both
about their means, the means of yy, qq, yq, yyyy, yyyq, yyqq, yqqq and qqqq. All 0 for a group
without rows. The same bytes on any number of threads.)",
        arg("y").noconvert(), arg("q").noconvert(), arg("sizes").noconvert(), arg("threads") = 0);
}
