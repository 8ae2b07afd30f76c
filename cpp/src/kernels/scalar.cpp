// The kernels in plain C++: the definition that every other level has to equal bit for bit.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../half.hpp"
#include "kernels.hpp"

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

// The f32 part of the error sums (see kSumBlock).
class BlockSums {
 public:
  explicit BlockSums(ErrorSums& sums) noexcept : sums_(sums) {}
  ~BlockSums() { flush(); }
  BlockSums(const BlockSums&) = delete;
  BlockSums& operator=(const BlockSums&) = delete;

  void add(float source, float decoded, std::size_t lane) noexcept {
    const float error = decoded - source;
    squared_error_[lane] += error * error;
    source_energy_[lane] += source * source;
    decoded_energy_[lane] += decoded * decoded;
    const float distance = std::fabs(error);
    float& largest = sums_.max_error[lane];
    largest = largest > distance ? largest : distance;
  }

  // To be called after every kSumBlock weights of a group, and at its end.
  void end_block(std::size_t n) noexcept {
    pending_ += n;
    if (pending_ >= kSumBlock) {
      flush();
    }
  }

 private:
  void flush() noexcept {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      sums_.squared_error[lane] += static_cast<double>(squared_error_[lane]);
      sums_.source_energy[lane] += static_cast<double>(source_energy_[lane]);
      sums_.decoded_energy[lane] += static_cast<double>(decoded_energy_[lane]);
      squared_error_[lane] = source_energy_[lane] = decoded_energy_[lane] = 0.0F;
    }
    pending_ = 0;
  }

  ErrorSums& sums_;
  float squared_error_[kLanes] = {};
  float source_energy_[kLanes] = {};
  float decoded_energy_[kLanes] = {};
  std::size_t pending_ = 0;
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

void quantize_group(const float* x, std::size_t n, float levels, std::size_t first_lane,
                    std::uint8_t* codes, std::uint16_t& scale_bits, std::uint16_t& minimum_bits,
                    BlockSums& block, ErrorSums& sums) noexcept {
  float low = x[0];
  float high = x[0];
  for (std::size_t i = 1; i < n; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  add_magnitude(low, high, sums);
  low += 0.0F;  // which of -0 and +0 came first must not show
  const bool constant = low == high;
  minimum_bits = constant ? half_nearest(low) : half_down(low);
  const float minimum = half_to_float(minimum_bits);
  scale_bits = constant ? std::uint16_t{0} : half_up((high - minimum) / levels);
  const float scale = half_to_float(scale_bits);
  const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
  for (std::size_t i = 0; i < n; ++i) {
    const float steps = (x[i] - minimum) * inverse;
    const float code = round_even(steps < levels ? steps : levels);  // NaN becomes `levels`
    codes[i] = static_cast<std::uint8_t>(code);
    block.add(x[i], code * scale + minimum, (first_lane + i) % kLanes);
    if ((i + 1) % kSumBlock == 0 || i + 1 == n) {
      block.end_block(i % kSumBlock + 1);
    }
  }
}

void quantize_affine(const float* x, std::size_t n, std::size_t group_size, int bit_width,
                     Upcoming /*upcoming*/, std::uint8_t* codes, std::uint16_t* scale,
                     std::uint16_t* minimum, ErrorSums& sums) noexcept {
  const auto levels = static_cast<float>((1 << bit_width) - 1);
  BlockSums block(sums);
  std::size_t group = 0;
  for (std::size_t begin = 0; begin < n; begin += group_size, ++group) {
    quantize_group(x + begin, std::min(group_size, n - begin), levels, begin, codes + begin,
                   scale[group], minimum[group], block, sums);
  }
}

void quantize_q8(const float* x, std::size_t n, Upcoming /*upcoming*/, std::int8_t* codes,
                 std::uint16_t* scale, ErrorSums& sums) noexcept {
  constexpr std::size_t kGroup = 32;
  BlockSums block(sums);
  for (std::size_t begin = 0, group = 0; begin < n; begin += kGroup, ++group) {
    const std::size_t end = std::min(begin + kGroup, n);
    float high = 0.0F;
    for (std::size_t i = begin; i < end; ++i) {
      const float magnitude = std::fabs(x[i]);
      high = magnitude > high ? magnitude : high;
    }
    add_magnitude(high, high, sums);
    scale[group] = half_up(high / 127.0F);
    const float step = half_to_float(scale[group]);
    const float inverse = step > 0.0F ? 1.0F / step : 0.0F;
    for (std::size_t i = begin; i < end; ++i) {
      const float steps = x[i] * inverse;
      const float code = round_even(steps < 127.0F ? steps : 127.0F);  // NaN becomes 127
      codes[i] = static_cast<std::int8_t>(code);
      block.add(x[i], static_cast<float>(codes[i]) * step, i % kLanes);
    }
    block.end_block(end - begin);
  }
}

void dequantize_affine(const std::uint8_t* codes, std::size_t n, std::size_t group_size,
                       const std::uint16_t* scale, const std::uint16_t* minimum,
                       float* out) noexcept {
  for (std::size_t begin = 0, group = 0; begin < n; begin += group_size, ++group) {
    const float s = half_to_float(scale[group]);
    const float m = half_to_float(minimum[group]);
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
    widen_f16,   widen_bf16,        narrow_f16,    narrow_bf16, quantize_affine,
    quantize_q8, dequantize_affine, dequantize_q8, pack,        unpack,
    dot,         add_scaled,
};

}  // namespace thermoq
