#include "thermoq/rotation.hpp"

#include <algorithm>

#include "bind.hpp"

namespace {

using Order = py::array_t<std::int64_t, py::array::c_style>;

void check_matrix(const Floats& data) {
  if (data.ndim() != 2) {
    throw std::invalid_argument("data: expected 2 dimensions, got " + std::to_string(data.ndim()));
  }
}

Floats hadamard(const Floats& data, py::ssize_t block, int threads) {
  check_matrix(data);
  Floats out({data.shape(0), data.shape(1)});
  std::copy(data.data(), data.data() + data.size(), out.mutable_data());
  const auto rows = static_cast<std::size_t>(data.shape(0));
  const auto cols = static_cast<std::size_t>(data.shape(1));
  const std::size_t size = checked(block, "block");
  float* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    thermoq::hadamard(target, rows, cols, size, threads);
  }
  return out;
}

// Whether each of the columns occurs once.
void check_order(const Order& order, std::size_t cols) {
  std::vector<bool> seen(cols);
  for (py::ssize_t j = 0; j < order.size(); ++j) {
    const std::int64_t column = order.data()[j];
    if (column < 0 || static_cast<std::size_t>(column) >= cols ||
        seen[static_cast<std::size_t>(column)]) {
      throw std::invalid_argument("order: expected every column once, got " +
                                  std::to_string(column) + " at place " + std::to_string(j));
    }
    seen[static_cast<std::size_t>(column)] = true;
  }
}

using Turn = void (*)(const float*, std::size_t, std::size_t, const thermoq::RotationView&, float*,
                      int);

Floats turned(Turn turn, const Floats& data, const Order& order, const Floats& signs,
              py::ssize_t block, int threads) {
  check_matrix(data);
  const auto rows = static_cast<std::size_t>(data.shape(0));
  const auto cols = static_cast<std::size_t>(data.shape(1));
  check_size(order.size(), cols, "order");
  check_size(signs.size(), cols, "signs");
  check_order(order, cols);
  const thermoq::RotationView view{order.data(), signs.data(), checked(block, "block")};
  Floats out({data.shape(0), data.shape(1)});
  const float* source = data.data();
  float* target = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    turn(source, rows, cols, view, target, threads);
  }
  return out;
}

Floats rotate(const Floats& data, const Order& order, const Floats& signs, py::ssize_t block,
              int threads) {
  return turned(&thermoq::rotate, data, order, signs, block, threads);
}

Floats unrotate(const Floats& data, const Order& order, const Floats& signs, py::ssize_t block,
                int threads) {
  return turned(&thermoq::unrotate, data, order, signs, block, threads);
}

}  // namespace

void bind_rotation(py::module_& m) {
  using py::arg;
  m.def("hadamard", &hadamard,
        R"(Multiply every `block` columns of data [rows, cols] by the orthogonal Hadamard matrix.

It is its own inverse. Raises ValueError unless block is a power of two that divides cols.)",
        arg("data").noconvert(), arg("block"), arg("threads") = 0);
  m.def("rotate", &rotate,
        R"(Rotate the rows of data [rows, cols].

Column order[j] times its sign comes to place j; then Hadamard blocks as in `hadamard`. Raises
ValueError unless order holds every column once, signs [cols] one for each.)",
        arg("data").noconvert(), arg("order").noconvert(), arg("signs").noconvert(), arg("block"),
        arg("threads") = 0);
  m.def("unrotate", &unrotate, R"(Undo `rotate`, each step in f32; raises as it does.)",
        arg("data").noconvert(), arg("order").noconvert(), arg("signs").noconvert(), arg("block"),
        arg("threads") = 0);
}
