// How close is the core to the speed of memory? Each operation is timed beside a plain pass (a sum)
// over the same bytes on as many threads, in turn, and the median ratio of the pairs is printed.
//
//   bench_core [million_weights = 64] [threads = 2] [runs = 9] [--json]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "thermoq/dispatch.hpp"
#include "thermoq/quantize.hpp"
#include "thermoq/spectral.hpp"

namespace {

using namespace thermoq;

volatile float g_sink = 0.0F;

// The bound: every byte is read once and added up. Many lanes, so that the pass waits for memory
// and not for the additions before.
void sum_pass(const std::vector<std::uint8_t>& bytes, int threads) {
  constexpr std::size_t kSumLanes = 32;
  constexpr std::size_t kBlockBytes = kSumLanes * sizeof(float);
  const auto blocks = static_cast<std::ptrdiff_t>(bytes.size() / kBlockBytes);
  float total = 0.0F;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(+ : total)
#endif
  {
    float lanes[kSumLanes] = {};
#ifdef _OPENMP
#pragma omp for
#endif
    for (std::ptrdiff_t block = 0; block < blocks; ++block) {
      float x[kSumLanes];
      std::memcpy(x, bytes.data() + kBlockBytes * static_cast<std::size_t>(block), sizeof x);
      for (std::size_t i = 0; i < kSumLanes; ++i) {
        lanes[i] += x[i];
      }
    }
    for (const float lane : lanes) {
      total += lane;
    }
  }
  static_cast<void>(threads);
  g_sink = total;
}

double seconds(const std::function<void()>& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

struct Case {
  const char* name;
  FloatType type;
  double target;  // share of the plain pass's speed; 0 where the project sets none
  std::function<void(const MatrixView&)> run;
};

struct Figures {
  double million_weights_per_s, gb_per_s, sum_gb_per_s;
  double lower, ratio, upper;  // of the plain pass's speed: quartiles and median
};

Figures measure(const Case& c, const MatrixView& matrix, const std::vector<std::uint8_t>& bytes,
                int threads, int runs) {
  c.run(matrix);
  sum_pass(bytes, threads);
  std::vector<double> times, sums, ratios;
  for (int i = 0; i < runs; ++i) {
    sums.push_back(seconds([&] { sum_pass(bytes, threads); }));
    times.push_back(seconds([&] { c.run(matrix); }));
    ratios.push_back(sums.back() / times.back());
  }
  const auto weights = static_cast<double>(matrix.rows * matrix.cols);
  const auto gigabytes = static_cast<double>(bytes.size()) / 1e9;
  const double time = quantile(times, 0.5);
  return {weights / time / 1e6,   gigabytes / time,      gigabytes / quantile(sums, 0.5),
          quantile(ratios, 0.25), quantile(ratios, 0.5), quantile(ratios, 0.75)};
}

void print_row(const Case& c, const Figures& f) {
  std::printf("%-34s %12.0f %8.1f %8.1f %7.0f%% ", c.name, f.million_weights_per_s, f.gb_per_s,
              f.sum_gb_per_s, 100 * f.ratio);
  if (c.target > 0) {
    std::printf("%7.0f%%\n", 100 * c.target);
  } else {
    std::printf("%8s\n", "-");
  }
}

void print_json(const Case& c, const Figures& f, bool first) {
  std::printf(
      "%s\n{\"name\": \"%s\", \"target\": %g, \"million_weights_per_s\": %g, "
      "\"gb_per_s\": %g, \"sum_gb_per_s\": %g, \"lower\": %g, \"ratio\": %g, \"upper\": %g}",
      first ? "[" : ",", c.name, c.target, f.million_weights_per_s, f.gb_per_s, f.sum_gb_per_s,
      f.lower, f.ratio, f.upper);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t millions = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 64;
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2;
  const int runs = argc > 3 ? std::atoi(argv[3]) : 9;
  const bool json = argc > 4 && std::strcmp(argv[4], "--json") == 0;
  const std::size_t cols = 4096;
  const std::size_t rows = millions * 1000000 / cols;
  const std::size_t count = rows * cols;
  std::vector<std::uint8_t> f32(count * 4);
  std::vector<std::uint8_t> bf16(count * 2);
  auto* values = reinterpret_cast<float*>(f32.data());
  std::uint32_t state = 1;
  double energy = 0.0;
  for (std::size_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    values[i] = (static_cast<float>(state >> 8) / 16777216.0F - 0.5F) * 0.1F;
    energy += static_cast<double>(values[i]) * values[i];
  }
  convert(f32.data(), FloatType::f32, count, FloatType::bf16, bf16.data(), 0);
  std::vector<std::uint8_t> codes(count);
  std::vector<std::uint16_t> scale(count / 8), minimum(count / 8);
  const auto affine = [&](int bits) {
    return [&, bits](const MatrixView& m) {
      quantize_affine(m, {bits, 64}, {codes.data(), scale.data(), minimum.data()}, threads);
    };
  };
  const auto q8 = [&](const MatrixView& m) {
    quantize_q8(m, {reinterpret_cast<std::int8_t*>(codes.data()), scale.data()}, threads);
  };
  const auto power = [&](const MatrixView& m) {
    squared_norms(m, std::sqrt(energy), 1, 0, threads);
  };
  const std::vector<Case> cases = {
      {"minmax INT2, f32 source", FloatType::f32, 0.60, affine(2)},
      {"minmax INT2, bf16 source", FloatType::bf16, 0.30, affine(2)},
      {"minmax INT4, f32 source", FloatType::f32, 0.0, affine(4)},
      {"minmax INT4, bf16 source", FloatType::bf16, 0.0, affine(4)},
      {"q8, f32 source", FloatType::f32, 0.0, q8},
      {"q8, bf16 source", FloatType::bf16, 0.0, q8},
      {"power iteration (1), bf16 source", FloatType::bf16, 0.0, power},
  };
  if (!json) {
    std::printf("%zu M weights, %d threads, simd %s, %s, median of %d pairs\n", count / 1000000,
                threads, simd_level().c_str(), compiler().c_str(), runs);
    std::printf("%-34s %12s %8s %8s %8s %8s\n", "operation", "M weights/s", "GB/s", "sum", "ratio",
                "target");
  }
  for (const Case& c : cases) {
    const auto& bytes = c.type == FloatType::f32 ? f32 : bf16;
    const Figures figures = measure(c, {bytes.data(), c.type, rows, cols}, bytes, threads, runs);
    if (json) {
      print_json(c, figures, &c == &cases.front());
    } else {
      print_row(c, figures);
    }
  }
  if (json) {
    std::printf("]\n");
  }
  return 0;
}
