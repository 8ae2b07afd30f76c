#include "thermoq/packing.hpp"

#include "bind.hpp"

namespace {

Bytes pack_codes(const Bytes& codes, py::ssize_t rows, py::ssize_t cols, int bit_width,
                 int threads) {
  const std::size_t row_count = checked(rows, "rows");
  const std::size_t col_count = checked(cols, "cols");
  check_size(codes.size(), row_count * col_count, "codes");
  Bytes packed({rows, (cols * bit_width + 7) / 8});
  const std::uint8_t* in = codes.data();
  std::uint8_t* out = packed.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::pack_codes(in, row_count, col_count, bit_width, out, threads);
  }
  return packed;
}

Bytes unpack_codes(const Bytes& packed, py::ssize_t rows, py::ssize_t cols, int bit_width,
                   int threads) {
  const std::size_t row_count = checked(rows, "rows");
  const std::size_t col_count = checked(cols, "cols");
  const std::size_t bits = checked(bit_width, "bit_width");
  check_size(packed.size(), row_count * ((col_count * bits + 7) / 8), "packed");
  Bytes codes({rows, cols});
  const std::uint8_t* in = packed.data();
  std::uint8_t* out = codes.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::unpack_codes(in, row_count, col_count, bit_width, out, threads);
  }
  return codes;
}

}  // namespace

void bind_packing(py::module_& m) {
  using py::arg;
  m.def(
      "pack_codes", &pack_codes,
      "Pack codes [rows, cols], one a byte, to [rows, ceil(cols * bit_width / 8)], low bits first.",
      arg("codes").noconvert(), arg("rows"), arg("cols"), arg("bit_width"), arg("threads") = 0);
  m.def("unpack_codes", &unpack_codes, "Undo `pack_codes`: one code a byte, [rows, cols].",
        arg("packed").noconvert(), arg("rows"), arg("cols"), arg("bit_width"), arg("threads") = 0);
}
