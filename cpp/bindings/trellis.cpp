#include "thermoq/trellis.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "bind.hpp"

namespace {

using thermoq::FloatType;
using thermoq::QuantizationError;
using thermoq::TrellisScheme;

using Indices = py::array_t<std::int32_t, py::array::c_style>;
using Shorts = py::array_t<std::int16_t, py::array::c_style>;

TrellisScheme trellis_scheme(int bit_width, int window_bits, py::ssize_t group_size,
                             py::ssize_t block_rows) {
  const TrellisScheme scheme{bit_width, window_bits, checked(group_size, "group_size"),
                             checked(block_rows, "block_rows")};
  thermoq::check(scheme);
  return scheme;
}

void check_table_size(const Shorts& table, int window_bits) {
  check_size(table.size(), std::size_t{1} << window_bits, "table");
}

py::ssize_t count(std::size_t size) { return static_cast<py::ssize_t>(size); }

std::tuple<Bytes, Halves, QuantizationError> quantize_trellis(
    const Bytes& source, FloatType type, py::ssize_t rows, py::ssize_t cols, int bit_width,
    int window_bits, py::ssize_t group_size, py::ssize_t block_rows, const Shorts& table,
    const std::optional<Floats>& importances, int passes, int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const TrellisScheme scheme = trellis_scheme(bit_width, window_bits, group_size, block_rows);
  check_table_size(table, window_bits);
  if (importances) {
    check_size(importances->size(), view.cols, "importances");
  }
  Bytes codes(count(scheme.codes_bytes(view.rows, view.cols)));
  Halves scale({rows, count(scheme.groups_per_row(view.cols))});
  const thermoq::TrellisCodes out{codes.mutable_data(), scale.mutable_data()};
  const float* weights = importances ? importances->data() : nullptr;
  QuantizationError error;
  {
    const py::gil_scoped_release unlocked;
    error = thermoq::quantize_trellis(view, scheme, table.data(), weights, passes, out, threads);
  }
  return {codes, scale, error};
}

Bytes dequantize_trellis(const Bytes& codes, const Halves& scale, py::ssize_t rows,
                         py::ssize_t cols, int bit_width, int window_bits, py::ssize_t group_size,
                         py::ssize_t block_rows, const Shorts& table, FloatType type, int threads) {
  const TrellisScheme scheme = trellis_scheme(bit_width, window_bits, group_size, block_rows);
  check_table_size(table, window_bits);
  const std::size_t row_count = checked(rows, "rows");
  const std::size_t col_count = checked(cols, "cols");
  checked_count(row_count, col_count);
  check_size(codes.size(), scheme.codes_bytes(row_count, col_count), "codes");
  check_size(scale.size(), row_count * scheme.groups_per_row(col_count), "scale");
  Bytes out(count(row_count * col_count * thermoq::bytes_per_element(type)));
  const thermoq::TrellisCodesView in{codes.data(), scale.data()};
  std::uint8_t* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::dequantize_trellis(in, scheme, table.data(), row_count, col_count, type, target,
                                threads);
  }
  return out;
}

Halves first_trellis_scales(const Bytes& source, FloatType type, py::ssize_t rows, py::ssize_t cols,
                            int bit_width, int window_bits, py::ssize_t group_size, int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const TrellisScheme scheme = trellis_scheme(bit_width, window_bits, group_size, 8);
  Halves scale({rows, count(scheme.groups_per_row(view.cols))});
  std::uint16_t* out = scale.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::first_trellis_scales(view, scheme, out, threads);
  }
  return scale;
}

std::tuple<Bytes, Floats> sweep_trellis(const Floats& weights, const Floats& factor,
                                        const Floats& scale, const Indices& group_of, int bit_width,
                                        int window_bits, py::ssize_t block_rows,
                                        const Shorts& table, int threads) {
  if (weights.ndim() != 2 || scale.ndim() != 2) {
    throw std::invalid_argument("weights, scale: expected 2 dimensions");
  }
  const auto rows = static_cast<std::size_t>(weights.shape(0));
  const auto cols = static_cast<std::size_t>(weights.shape(1));
  const auto groups = static_cast<std::size_t>(scale.shape(1));
  const TrellisScheme scheme = trellis_scheme(bit_width, window_bits, 8, block_rows);
  check_table_size(table, window_bits);
  check_size(factor.size(), cols * cols, "factor");
  check_size(scale.size(), rows * groups, "scale");
  check_size(group_of.size(), cols, "group_of");
  Floats errors({weights.shape(0), weights.shape(1)});
  std::copy(weights.data(), weights.data() + weights.size(), errors.mutable_data());
  Bytes codes(count(scheme.codes_bytes(rows, cols)));
  const thermoq::TrellisSweep grid{scale.data(), group_of.data(), groups};
  std::uint8_t* const streams = codes.mutable_data();
  float* const swept = errors.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::sweep_trellis(swept, rows, cols, factor.data(), grid, scheme, table.data(), streams,
                           threads);
  }
  return {codes, errors};
}

}  // namespace

void bind_trellis(py::module_& m) {
  using py::arg;
  m.attr("MAX_TRELLIS_BLOCK") = thermoq::kMaxTrellisBlock;
  m.attr("TRELLIS_TABLE_UNIT") = thermoq::kTableUnit;
  m.def("quantize_trellis", &quantize_trellis,
        R"(Quantize a row-major matrix to 2, 3 or 4 bits by the best path through a trellis.

Returns the codes (the streams of all blocks and columns, one after the other), scale as f16
bits [rows, ceil(cols / group_size)], and the error. table: [2^window_bits] in units of
1 / TRELLIS_TABLE_UNIT. importances: [cols] or None. Raises ValueError for a scheme or a table
outside the limits.)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"), arg("bit_width"),
        arg("window_bits"), arg("group_size"), arg("block_rows"), arg("table").noconvert(),
        arg("importances").noconvert() = py::none(), arg("passes") = 2, arg("threads") = 0);
  m.def("dequantize_trellis", &dequantize_trellis,
        R"(Decode to bytes [rows * cols * itemsize] of `type`: scale * table[window] in f32, then
rounded half to even. Raises ValueError for arrays of another size.)",
        arg("codes").noconvert(), arg("scale").noconvert(), arg("rows"), arg("cols"),
        arg("bit_width"), arg("window_bits"), arg("group_size"), arg("block_rows"),
        arg("table").noconvert(), arg("type"), arg("threads") = 0);
  m.def("first_trellis_scales", &first_trellis_scales,
        R"(Return the scales that quantize_trellis begins with, as f16 bits [rows, groups].)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"), arg("bit_width"),
        arg("window_bits"), arg("group_size"), arg("threads") = 0);
  m.def("sweep_trellis", &sweep_trellis,
        R"(Find the paths of the columns of weights [rows, n] in order, as `sweep` rounds them.

scale [rows, groups] and group_of [n]; factor [n, n] as for `sweep`. Returns the streams of
the n columns, block of rows after block, and the scaled errors [rows, n]. Raises ValueError for
more than MAX_SWEEP columns, groups that do not exist and arrays that do not fit.)",
        arg("weights").noconvert(), arg("factor").noconvert(), arg("scale").noconvert(),
        arg("group_of").noconvert(), arg("bit_width"), arg("window_bits"), arg("block_rows"),
        arg("table").noconvert(), arg("threads") = 0);
}
