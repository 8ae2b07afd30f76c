// The inner loops, one table a SIMD level. A kernel works on one stretch of a row on one thread: it
// neither allocates nor checks. Every level gives the same bits for the same finite input; sums run
// in eight lanes (element i into lane i mod 8, counted from the stretch's start) to make that
// possible.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thermoq {

inline constexpr std::size_t kLanes = 8;
inline constexpr std::size_t kMaxGroups = 256;  // of one stretch

// Errors are summed in f32 over about this many weights, then in double: as exact as anybody reads
// them, at a third of the cost. Squares of weights below kTinyMagnitude would leave f32's range.
inline constexpr std::size_t kSumBlock = 256;
inline constexpr float kTinyMagnitude = 1e-15F;

struct ErrorSums {
  double squared_error[kLanes] = {};
  double source_energy[kLanes] = {};
  double decoded_energy[kLanes] = {};
  float max_error[kLanes] = {};
  float max_magnitude = 0.0F;
};

// The source of the stretch after this one. A kernel may fetch it into the cache while it computes:
// the range pass reads faster than memory delivers, the encoding slower. An integer, as it may lie
// beyond the end of the matrix.
struct Upcoming {
  std::uintptr_t address = 0;
  std::size_t bytes_per_weight = 0;
};

struct KernelTable {
  // 16-bit floats to f32, from any address.
  void (*widen_f16)(const std::uint8_t* in, std::size_t n, float* out) noexcept;
  void (*widen_bf16)(const std::uint8_t* in, std::size_t n, float* out) noexcept;
  // f32 to 16-bit floats, half to even, to any address.
  void (*narrow_f16)(const float* in, std::size_t n, std::uint8_t* out) noexcept;
  void (*narrow_bf16)(const float* in, std::size_t n, std::uint8_t* out) noexcept;

  // x [n] -> codes [n], one a byte; scale, minimum [ceil(n / group_size)] as f16 bits. At most
  // kMaxGroups groups.
  void (*quantize_affine)(const float* x, std::size_t n, std::size_t group_size, int bit_width,
                          Upcoming upcoming, std::uint8_t* codes, std::uint16_t* scale,
                          std::uint16_t* minimum, ErrorSums& sums) noexcept;
  void (*quantize_q8)(const float* x, std::size_t n, Upcoming upcoming, std::int8_t* codes,
                      std::uint16_t* scale, ErrorSums& sums) noexcept;

  void (*dequantize_affine)(const std::uint8_t* codes, std::size_t n, std::size_t group_size,
                            const std::uint16_t* scale, const std::uint16_t* minimum,
                            float* out) noexcept;
  void (*dequantize_q8)(const std::int8_t* codes, std::size_t n, const std::uint16_t* scale,
                        float* out) noexcept;

  void (*pack)(const std::uint8_t* codes, std::size_t n, int bit_width,
               std::uint8_t* packed) noexcept;
  void (*unpack)(const std::uint8_t* packed, std::size_t n, int bit_width,
                 std::uint8_t* codes) noexcept;

  float (*dot)(const float* a, const float* b, std::size_t n) noexcept;
  void (*add_scaled)(float factor, const float* x, std::size_t n, float* y) noexcept;
};

extern const KernelTable kScalarKernels;
#ifdef THERMOQ_HAVE_AVX2
extern const KernelTable kAvx2Kernels;
#endif

// The table of the level in use (see dispatch.hpp).
const KernelTable& kernels();

}  // namespace thermoq
