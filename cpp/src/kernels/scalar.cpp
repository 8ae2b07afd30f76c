// The kernels in plain C++: the definition that every other level has to equal bit for bit.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../half.hpp"
#include "kernels.hpp"
#include "lsq_kernels.hpp"
#include "trellis_kernels.hpp"

namespace thermoq {
namespace {

constexpr std::size_t kDotLanes = 32;

std::uint16_t load_u16(const std::uint8_t* address) noexcept {
  std::uint16_t value = 0;
  std::memcpy(&value, address, sizeof value);
  return value;
}

void store_u16(std::uint16_t value, std::uint8_t* address) noexcept {
  std::memcpy(address, &value, sizeof value);
}

// Half to even for |value| < 2^22, without a call and without reading the rounding mode.
float round_even(float value) noexcept {
  constexpr float kShift = 0x1.8p23F;
  return (value + kShift) - kShift;
}

// The error sums of a stretch (see kSumBlock).
class StretchSums {
 public:
  explicit StretchSums(ErrorSums& sums) noexcept : sums_(sums) {}
  ~StretchSums() { flush(); }
  StretchSums(const StretchSums&) = delete;
  StretchSums& operator=(const StretchSums&) = delete;

  void add(float source, float decoded, std::size_t lane) noexcept {
    const float error = decoded - source;
    const float square = error * error;
    block_.squared_error[lane] += square;
    block_.source_energy[lane] += source * source;
    float& largest = sums_.max_squared_error[lane];
    largest = largest > square ? largest : square;
  }

  // To be called after every kSumBlock weights of a group, and at its end, with their codes.
  template <class Code>
  void end_block(const Code* codes, std::size_t n, float scale, float minimum) noexcept {
    sums_.decoded_energy[blocks_] += decoded_energy(codes, n, scale, minimum);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      pending_.squared_error[lane] += block_.squared_error[lane];
      pending_.source_energy[lane] += block_.source_energy[lane];
    }
    block_ = {};
    if (++blocks_ == kLanes) {
      flush();
    }
  }

 private:
  struct Sums {
    float squared_error[kLanes] = {};
    float source_energy[kLanes] = {};
  };

  template <class Code>
  static double decoded_energy(const Code* codes, std::size_t n, float scale,
                               float minimum) noexcept {
    std::int32_t sum = 0;
    std::int32_t squared_sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
      sum += codes[i];
      squared_sum += codes[i] * codes[i];
    }
    const auto s = static_cast<double>(scale);
    const auto m = static_cast<double>(minimum);
    return ((s * s) * squared_sum + ((s + s) * m) * sum) + static_cast<double>(n) * (m * m);
  }

  void flush() noexcept {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      sums_.squared_error[lane] += static_cast<double>(pending_.squared_error[lane]);
      sums_.source_energy[lane] += static_cast<double>(pending_.source_energy[lane]);
    }
    pending_ = {};
    blocks_ = 0;
  }

  ErrorSums& sums_;
  Sums block_;
  Sums pending_;
  std::size_t blocks_ = 0;
};

void add_magnitude(float low, float high, ErrorSums& sums) noexcept {
  sums.max_magnitude = std::max({sums.max_magnitude, std::fabs(low), std::fabs(high)});
}

void widen_f16(const std::uint8_t* in, std::size_t n, float* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = half_to_float(load_u16(in + 2 * i));
  }
}

void widen_bf16(const std::uint8_t* in, std::size_t n, float* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = bfloat_to_float(load_u16(in + 2 * i));
  }
}

void narrow_f16(const float* in, std::size_t n, std::uint8_t* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    store_u16(half_nearest(in[i]), out + 2 * i);
  }
}

void narrow_bf16(const float* in, std::size_t n, std::uint8_t* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    store_u16(bfloat_nearest(in[i]), out + 2 * i);
  }
}

void pack(const std::uint8_t* codes, std::size_t n, int bit_width, std::uint8_t* packed) noexcept {
  const std::size_t per_byte = 8U / static_cast<unsigned>(bit_width);
  for (std::size_t begin = 0; begin < n; begin += per_byte) {
    unsigned byte = 0;
    for (std::size_t i = begin; i < std::min(begin + per_byte, n); ++i) {
      byte |= static_cast<unsigned>(codes[i]) << ((i - begin) * static_cast<unsigned>(bit_width));
    }
    packed[begin / per_byte] = static_cast<std::uint8_t>(byte);
  }
}

// n <= kSumBlock weights as f32.
const float* load_block(const std::uint8_t* in, FloatType type, std::size_t n,
                        float* buffer) noexcept {
  switch (type) {
    case FloatType::f32:
      std::memcpy(buffer, in, n * sizeof(float));
      break;
    case FloatType::f16:
      widen_f16(in, n, buffer);
      break;
    case FloatType::bf16:
      widen_bf16(in, n, buffer);
      break;
  }
  return buffer;
}

// Calls visit(first, x, n) for every block of `in` [n].
template <class Visit>
void for_each_block(const std::uint8_t* in, FloatType type, std::size_t n,
                    const Visit& visit) noexcept {
  float buffer[kSumBlock];
  for (std::size_t first = 0; first < n; first += kSumBlock) {
    const std::size_t count = std::min(kSumBlock, n - first);
    visit(first, load_block(in + first * bytes_per_element(type), type, count, buffer), count);
  }
}

struct Range {
  float low, high;
};

Range range_of(const std::uint8_t* in, FloatType type, std::size_t n) noexcept {
  Range range{};
  for_each_block(in, type, n, [&range](std::size_t first, const float* x, std::size_t count) {
    float low = first == 0 ? x[0] : range.low;
    float high = first == 0 ? x[0] : range.high;
    for (std::size_t i = 0; i < count; ++i) {
      low = x[i] < low ? x[i] : low;
      high = x[i] > high ? x[i] : high;
    }
    range = {low, high};
  });
  return range;
}

void quantize_affine(const std::uint8_t* in, FloatType type, std::size_t n, std::size_t group_size,
                     int bit_width, const AffineStretch& out) noexcept {
  const auto levels = static_cast<float>((1 << bit_width) - 1);
  StretchSums sums(out.sums);
  for (std::size_t begin = 0, group = 0; begin < n; begin += group_size, ++group) {
    const std::size_t size = std::min(group_size, n - begin);
    const std::uint8_t* x_bytes = in + begin * bytes_per_element(type);
    auto [low, high] = range_of(x_bytes, type, size);
    add_magnitude(low, high, out.sums);
    low += 0.0F;  // which of -0 and +0 came first must not show
    const bool constant = low == high;
    out.minimum[group] = constant ? half_nearest(low) : half_down(low);
    const float minimum = half_to_float(out.minimum[group]);
    out.scale[group] = constant ? std::uint16_t{0} : half_up((high - minimum) / levels);
    const float scale = half_to_float(out.scale[group]);
    const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
    std::uint8_t codes[kSumBlock];
    for_each_block(x_bytes, type, size, [&](std::size_t first, const float* x, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        const float steps = (x[i] - minimum) * inverse;
        const float code = round_even(steps < levels ? steps : levels);  // NaN becomes `levels`
        codes[i] = static_cast<std::uint8_t>(code);
        sums.add(x[i], code * scale + minimum, i % kLanes);
      }
      sums.end_block(codes, count, scale, minimum);
      const std::size_t bit = (begin + first) * static_cast<std::size_t>(bit_width);
      pack(codes, count, bit_width, out.codes + bit / 8);
    });
  }
}

void quantize_q8(const std::uint8_t* in, FloatType type, std::size_t n,
                 const Q8Stretch& out) noexcept {
  constexpr std::size_t kGroup = 32;
  StretchSums sums(out.sums);
  for (std::size_t begin = 0, group = 0; begin < n; begin += kGroup, ++group) {
    const std::size_t size = std::min(kGroup, n - begin);
    const std::uint8_t* x_bytes = in + begin * bytes_per_element(type);
    const auto [low, high] = range_of(x_bytes, type, size);
    add_magnitude(low, high, out.sums);
    out.scale[group] = half_up(std::max(std::fabs(low), std::fabs(high)) / 127.0F);
    const float scale = half_to_float(out.scale[group]);
    const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
    std::int8_t* codes = out.codes + begin;
    for_each_block(x_bytes, type, size, [&](std::size_t, const float* x, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        const float steps = x[i] * inverse;
        const float code = round_even(steps < 127.0F ? steps : 127.0F);  // NaN becomes 127
        codes[i] = static_cast<std::int8_t>(code);
        sums.add(x[i], code * scale, i % kLanes);
      }
      sums.end_block(codes, count, scale, 0.0F);
    });
  }
}

void dequantize_affine(const std::uint8_t* codes, std::size_t n, std::size_t group_size,
                       const float* scale, const float* minimum, float* out) noexcept {
  for (std::size_t begin = 0, group = 0; begin < n; begin += group_size, ++group) {
    const float s = scale[group];
    const float m = minimum[group];
    const std::size_t end = std::min(begin + group_size, n);
    for (std::size_t i = begin; i < end; ++i) {
      out[i] = static_cast<float>(codes[i]) * s + m;
    }
  }
}

void dequantize_q8(const std::int8_t* codes, std::size_t n, const std::uint16_t* scale,
                   float* out) noexcept {
  constexpr std::size_t kGroup = 32;
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(codes[i]) * half_to_float(scale[i / kGroup]);
  }
}

void unpack(const std::uint8_t* packed, std::size_t n, int bit_width,
            std::uint8_t* codes) noexcept {
  const std::size_t per_byte = 8U / static_cast<unsigned>(bit_width);
  const unsigned mask = (1U << static_cast<unsigned>(bit_width)) - 1U;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t shift = (i % per_byte) * static_cast<unsigned>(bit_width);
    codes[i] = static_cast<std::uint8_t>((packed[i / per_byte] >> shift) & mask);
  }
}

float dot(const float* a, const float* b, std::size_t n) noexcept {
  float lanes[kDotLanes] = {};
  for (std::size_t i = 0; i < n; ++i) {
    lanes[i % kDotLanes] += a[i] * b[i];
  }
  for (std::size_t width = kDotLanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) {
      lanes[lane] += lanes[lane + width];
    }
  }
  return lanes[0];
}

void add_scaled(float factor, const float* x, std::size_t n, float* y) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    y[i] += factor * x[i];
  }
}

}  // namespace

const KernelTable kScalarKernels{
    widen_f16,
    widen_bf16,
    narrow_f16,
    narrow_bf16,
    quantize_affine,
    quantize_q8,
    dequantize_affine,
    dequantize_q8,
    load_tile_scalar,
    lsq_affine_scalar,
    lsq_q8_scalar,
    lsq_coded_scalar,
    sweep_scalar,
    trellis_values_scalar,
    trellis_paths_scalar,
    trellis_rows_scalar,
    pack,
    unpack,
    dot,
    add_scaled,
};

}  // namespace thermoq
