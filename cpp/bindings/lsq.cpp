#include "thermoq/lsq.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <tuple>

#include "bind.hpp"

namespace {

using thermoq::AffineScheme;
using thermoq::CodedScheme;
using thermoq::FloatType;
using thermoq::QuantizationError;

using Importances = std::optional<Floats>;

const float* checked_importances(const Importances& importances, std::size_t cols) {
  if (!importances) {
    return nullptr;
  }
  check_size(importances->size(), cols, "importances");
  return importances->data();
}

CodedScheme coded_scheme(int bit_width, py::ssize_t group_size, py::ssize_t super_block,
                         int scale_bits, int minimum_bits) {
  return {bit_width, checked(group_size, "group_size"), checked(super_block, "super_block"),
          scale_bits, minimum_bits};
}

py::ssize_t count(std::size_t size) { return static_cast<py::ssize_t>(size); }

std::tuple<Bytes, Halves, Halves, QuantizationError> lsq_affine(
    const Bytes& source, FloatType type, py::ssize_t rows, py::ssize_t cols, int bit_width,
    py::ssize_t group_size, const Importances& importances, int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const AffineScheme scheme{bit_width, checked(group_size, "group_size")};
  thermoq::check(scheme);
  const float* weights = checked_importances(importances, view.cols);
  const py::ssize_t groups = count(scheme.groups_per_row(view.cols));
  Bytes codes({rows, count(scheme.row_bytes(view.cols))});
  Halves scale({rows, groups});
  Halves minimum({rows, groups});
  const thermoq::AffineCodes out{codes.mutable_data(), scale.mutable_data(),
                                 minimum.mutable_data()};
  QuantizationError error;
  {
    const py::gil_scoped_release unlocked;
    error = thermoq::lsq_affine(view, scheme, weights, out, threads);
  }
  return {codes, scale, minimum, error};
}

std::tuple<SignedBytes, Halves, QuantizationError> lsq_q8(const Bytes& source, FloatType type,
                                                          py::ssize_t rows, py::ssize_t cols,
                                                          const Importances& importances,
                                                          int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const float* weights = checked_importances(importances, view.cols);
  SignedBytes codes({rows, cols});
  Halves scale({rows, count((view.cols + thermoq::kQ8GroupSize - 1) / thermoq::kQ8GroupSize)});
  const thermoq::Q8Codes out{codes.mutable_data(), scale.mutable_data()};
  QuantizationError error;
  {
    const py::gil_scoped_release unlocked;
    error = thermoq::lsq_q8(view, weights, out, threads);
  }
  return {codes, scale, error};
}

std::tuple<Bytes, Bytes, Bytes, Halves, Halves, QuantizationError> lsq_coded(
    const Bytes& source, FloatType type, py::ssize_t rows, py::ssize_t cols, int bit_width,
    py::ssize_t group_size, py::ssize_t super_block, int scale_bits, int minimum_bits,
    const Importances& importances, int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const CodedScheme scheme =
      coded_scheme(bit_width, group_size, super_block, scale_bits, minimum_bits);
  thermoq::check(scheme);
  const float* weights = checked_importances(importances, view.cols);
  Bytes codes({rows, count(scheme.row_bytes(view.cols))});
  Bytes scale_codes({rows, count(scheme.scale_bytes(view.cols))});
  Bytes minimum_codes({rows, count(scheme.minimum_bytes(view.cols))});
  Halves super_scale({rows, count(scheme.super_blocks_per_row(view.cols))});
  Halves super_minimum({rows, count(scheme.super_blocks_per_row(view.cols))});
  const thermoq::CodedCodes out{codes.mutable_data(), scale_codes.mutable_data(),
                                minimum_codes.mutable_data(), super_scale.mutable_data(),
                                super_minimum.mutable_data()};
  QuantizationError error;
  {
    const py::gil_scoped_release unlocked;
    error = thermoq::lsq_coded(view, scheme, weights, out, threads);
  }
  return {codes, scale_codes, minimum_codes, super_scale, super_minimum, error};
}

Bytes dequantize_coded(const Bytes& codes, const Bytes& scale_codes, const Bytes& minimum_codes,
                       const Halves& super_scale, const Halves& super_minimum, py::ssize_t rows,
                       py::ssize_t cols, int bit_width, py::ssize_t group_size,
                       py::ssize_t super_block, int scale_bits, int minimum_bits, FloatType type,
                       int threads) {
  const CodedScheme scheme =
      coded_scheme(bit_width, group_size, super_block, scale_bits, minimum_bits);
  thermoq::check(scheme);
  const std::size_t row_count = checked(rows, "rows");
  const std::size_t col_count = checked(cols, "cols");
  checked_count(row_count, col_count);
  check_size(codes.size(), row_count * scheme.row_bytes(col_count), "codes");
  check_size(scale_codes.size(), row_count * scheme.scale_bytes(col_count), "scale_codes");
  check_size(minimum_codes.size(), row_count * scheme.minimum_bytes(col_count), "minimum_codes");
  const std::size_t pairs = row_count * scheme.super_blocks_per_row(col_count);
  check_size(super_scale.size(), pairs, "super_scale");
  check_size(super_minimum.size(), pairs, "super_minimum");
  Bytes out(count(row_count * col_count * thermoq::bytes_per_element(type)));
  const thermoq::CodedCodesView in{codes.data(), scale_codes.data(), minimum_codes.data(),
                                   super_scale.data(), super_minimum.data()};
  std::uint8_t* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::dequantize_coded(in, scheme, row_count, col_count, type, target, threads);
  }
  return out;
}

}  // namespace

void bind_lsq(py::module_& m) {
  using py::arg;
  m.attr("MAX_LSQ_GROUP") = thermoq::kMaxLsqGroup;
  m.attr("MAX_SUPER_BLOCK_GROUPS") = thermoq::kMaxSuperBlockGroups;
  m.def("lsq_affine", &lsq_affine,
        R"(Quantize a row-major matrix to 2 or 4 bits by least squares.

As quantize_affine; groups hold at most MAX_LSQ_GROUP weights. importances: [cols], finite and
at least 0, or None for equal ones.)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"), arg("bit_width"),
        arg("group_size"), arg("importances").noconvert() = py::none(), arg("threads") = 0);
  m.def("lsq_q8", &lsq_q8,
        R"(Quantize a row-major matrix to 8 bits with sign by least squares. As quantize_q8.)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"),
        arg("importances").noconvert() = py::none(), arg("threads") = 0);
  m.def("lsq_coded", &lsq_coded,
        R"(Quantize a row-major matrix to 2 or 4 bits with coded group parameters, by least squares.

Returns codes [rows, ceil(cols * bit_width / 8)], scale_codes and minimum_codes
[rows, ceil(groups * bits / 8)], super_scale and super_minimum as f16 bits
[rows, ceil(cols / super_block)], and the error. Raises ValueError for a scheme outside the
limits.)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"), arg("bit_width"),
        arg("group_size"), arg("super_block"), arg("scale_bits"), arg("minimum_bits"),
        arg("importances").noconvert() = py::none(), arg("threads") = 0);
  m.def("dequantize_coded", &dequantize_coded,
        R"(Decode to bytes [rows * cols * itemsize] of `type`:
(super_scale * scale_code) * code - super_minimum * minimum_code in f32, then rounded half to
even. Raises ValueError for arrays of another size.)",
        arg("codes").noconvert(), arg("scale_codes").noconvert(), arg("minimum_codes").noconvert(),
        arg("super_scale").noconvert(), arg("super_minimum").noconvert(), arg("rows"), arg("cols"),
        arg("bit_width"), arg("group_size"), arg("super_block"), arg("scale_bits"),
        arg("minimum_bits"), arg("type"), arg("threads") = 0);
}
