#include "thermoq/quantize.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <tuple>

#include "bind.hpp"

namespace {

using thermoq::AffineScheme;
using thermoq::FloatType;
using thermoq::QuantizationError;

AffineScheme checked_scheme(int bit_width, py::ssize_t group_size) {
  if (group_size <= 0) {
    throw std::invalid_argument("group_size: expected a multiple of 8, got " +
                                std::to_string(group_size));
  }
  return {bit_width, static_cast<std::size_t>(group_size)};
}

py::ssize_t signed_size(std::size_t size) { return static_cast<py::ssize_t>(size); }

std::tuple<Bytes, Halves, Halves, QuantizationError> quantize_affine(
    const Bytes& source, FloatType type, py::ssize_t rows, py::ssize_t cols, int bit_width,
    py::ssize_t group_size, int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const AffineScheme scheme = checked_scheme(bit_width, group_size);
  const py::ssize_t groups = signed_size(scheme.groups_per_row(view.cols));
  Bytes codes({rows, signed_size(scheme.row_bytes(view.cols))});
  Halves scale({rows, groups});
  Halves minimum({rows, groups});
  const thermoq::AffineCodes out{codes.mutable_data(), scale.mutable_data(),
                                 minimum.mutable_data()};
  QuantizationError error;
  {
    const py::gil_scoped_release unlocked;
    error = thermoq::quantize_affine(view, scheme, out, threads);
  }
  return {codes, scale, minimum, error};
}

std::tuple<SignedBytes, Halves, QuantizationError> quantize_q8(const Bytes& source, FloatType type,
                                                               py::ssize_t rows, py::ssize_t cols,
                                                               int threads) {
  const auto view = matrix_view(source, type, rows, cols);
  const std::size_t groups = (view.cols + thermoq::kQ8GroupSize - 1) / thermoq::kQ8GroupSize;
  SignedBytes codes({rows, cols});
  Halves scale({rows, signed_size(groups)});
  const thermoq::Q8Codes out{codes.mutable_data(), scale.mutable_data()};
  QuantizationError error;
  {
    const py::gil_scoped_release unlocked;
    error = thermoq::quantize_q8(view, out, threads);
  }
  return {codes, scale, error};
}

QuantizationError decoding_error(const Bytes& source, FloatType type, const Floats& decoded,
                                 int threads) {
  if (decoded.ndim() != 2) {
    throw std::invalid_argument("decoded: expected 2 dimensions, got " +
                                std::to_string(decoded.ndim()));
  }
  const auto view = matrix_view(source, type, decoded.shape(0), decoded.shape(1));
  const float* values = decoded.data();
  const py::gil_scoped_release unlocked;
  return thermoq::decoding_error(view, values, threads);
}

Bytes dequantize_affine(const Bytes& codes, const Halves& scale, const Halves& minimum,
                        py::ssize_t rows, py::ssize_t cols, int bit_width, py::ssize_t group_size,
                        FloatType type, int threads) {
  const AffineScheme scheme = checked_scheme(bit_width, group_size);
  const std::size_t row_count = checked(rows, "rows");
  const std::size_t col_count = checked(cols, "cols");
  checked_count(row_count, col_count);
  check_size(codes.size(), row_count * scheme.row_bytes(col_count), "codes");
  check_size(scale.size(), row_count * scheme.groups_per_row(col_count), "scale");
  check_size(minimum.size(), row_count * scheme.groups_per_row(col_count), "minimum");
  Bytes out(signed_size(row_count * col_count * thermoq::bytes_per_element(type)));
  const thermoq::AffineCodesView in{codes.data(), scale.data(), minimum.data()};
  std::uint8_t* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::dequantize_affine(in, scheme, row_count, col_count, type, target, threads);
  }
  return out;
}

Bytes dequantize_q8(const SignedBytes& codes, const Halves& scale, py::ssize_t rows,
                    py::ssize_t cols, FloatType type, int threads) {
  const std::size_t row_count = checked(rows, "rows");
  const std::size_t col_count = checked(cols, "cols");
  const std::size_t groups = (col_count + thermoq::kQ8GroupSize - 1) / thermoq::kQ8GroupSize;
  check_size(codes.size(), checked_count(row_count, col_count), "codes");
  check_size(scale.size(), row_count * groups, "scale");
  Bytes out(signed_size(row_count * col_count * thermoq::bytes_per_element(type)));
  const thermoq::Q8CodesView in{codes.data(), scale.data()};
  std::uint8_t* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::dequantize_q8(in, row_count, col_count, type, target, threads);
  }
  return out;
}

std::tuple<Bytes, std::uint64_t> convert(const Bytes& source, FloatType from, FloatType to,
                                         int threads) {
  const auto size = static_cast<std::size_t>(source.size());
  const std::size_t count = size / thermoq::bytes_per_element(from);
  check_size(source.size(), count * thermoq::bytes_per_element(from), "source");
  Bytes out(signed_size(count * thermoq::bytes_per_element(to)));
  const std::uint8_t* in = source.data();
  std::uint8_t* target = out.mutable_data();
  std::uint64_t overflows = 0;
  {
    const py::gil_scoped_release unlocked;
    overflows = thermoq::convert(in, from, count, to, target, threads);
  }
  return {out, overflows};
}

}  // namespace

void bind_quantize(py::module_& m) {
  using py::arg;
  py::native_enum<FloatType>(m, "FloatType", "enum.Enum")
      .value("F32", FloatType::f32)
      .value("F16", FloatType::f16)
      .value("BF16", FloatType::bf16)
      .finalize();
  py::class_<QuantizationError>(m, "QuantizationError")
      .def_readonly("squared_error", &QuantizationError::squared_error)
      .def_readonly("source_energy", &QuantizationError::source_energy)
      .def_readonly("decoded_energy", &QuantizationError::decoded_energy)
      .def_readonly("max_error", &QuantizationError::max_error)
      .def_readonly("max_magnitude", &QuantizationError::max_magnitude)
      .def_readonly("nan_count", &QuantizationError::nan_count)
      .def_readonly("infinity_count", &QuantizationError::infinity_count);
  m.def("decoding_error", &decoding_error,
        R"(How far a decoded matrix [rows, cols] is from its source, bytes of `type`; in f64.

Weights that are not finite are not counted. Raises ValueError for a source of another size.)",
        arg("source").noconvert(), arg("type"), arg("decoded").noconvert(), arg("threads") = 0);
  m.attr("MAX_MAGNITUDE") = static_cast<double>(thermoq::kMaxMagnitude);
  m.attr("Q8_GROUP_SIZE") = thermoq::kQ8GroupSize;
  m.def("quantize_affine", &quantize_affine,
        R"(Quantize a row-major matrix to 2 or 4 bits by round-to-nearest.

source: bytes [rows * cols * itemsize] of `type`. Returns codes
[rows, ceil(cols * bit_width / 8)],
scale and minimum as f16 bits [rows, ceil(cols / group_size)], and the error. Raises ValueError
for a bit width or group size that affine lacks, or a source of another size.)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"), arg("bit_width"),
        arg("group_size"), arg("threads") = 0);
  m.def("quantize_q8", &quantize_q8,
        R"(Quantize a row-major matrix to 8 bits with sign, an f16 scale per 32 weights.

Returns codes [rows, cols], scale as f16 bits [rows, ceil(cols / 32)], and the error.)",
        arg("source").noconvert(), arg("type"), arg("rows"), arg("cols"), arg("threads") = 0);
  m.def("dequantize_affine", &dequantize_affine,
        R"(Decode to bytes [rows * cols * itemsize] of `type`: scale * code + minimum in f32, then
rounded half to even. Raises ValueError for arrays of another size.)",
        arg("codes").noconvert(), arg("scale").noconvert(), arg("minimum").noconvert(), arg("rows"),
        arg("cols"), arg("bit_width"), arg("group_size"), arg("type"), arg("threads") = 0);
  m.def("dequantize_q8", &dequantize_q8,
        R"(Decode to bytes [rows * cols * itemsize] of `type`: scale * code in f32, then rounded
half to even. Raises ValueError for arrays of another size.)",
        arg("codes").noconvert(), arg("scale").noconvert(), arg("rows"), arg("cols"), arg("type"),
        arg("threads") = 0);
  m.def("convert", &convert,
        R"(Rewrite elements of one type as another, rounded half to even. Returns the bytes and how
many finite elements became infinite.)",
        arg("source").noconvert(), arg("from_type"), arg("to_type"), arg("threads") = 0);
}
