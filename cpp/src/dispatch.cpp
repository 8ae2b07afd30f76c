#include "thermoq/dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <stdexcept>

#include "kernels/kernels.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef THERMOQ_HAVE_AVX2
#include <cpuid.h>
#endif

namespace thermoq {
namespace {

struct Level {
  const char* name;
  const KernelTable* table;
  bool (*runs_here)() noexcept;
};

#ifdef THERMOQ_HAVE_AVX2
// The builtin also asks whether the system saves the wide registers; not every compiler's knows
// f16c.
bool cpu_has_avx2() noexcept {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  const bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  return __builtin_cpu_supports("avx2") != 0 && has_f16c;
}
#endif

constexpr Level kLevels[] = {
#ifdef THERMOQ_HAVE_AVX2
    {"avx2", &kAvx2Kernels, cpu_has_avx2},
#endif
    {"scalar", &kScalarKernels, []() noexcept { return true; }},
};

std::atomic<const Level*> g_level{nullptr};
std::mutex g_choosing;

const Level& find_level(std::string_view wanted) {
  std::string usable;
  for (const Level& level : kLevels) {
    if (!level.runs_here()) {
      continue;
    }
    if (wanted.empty() || wanted == level.name) {
      return level;
    }
    usable += (usable.empty() ? "" : " or ") + std::string(level.name);
  }
  throw std::invalid_argument("THERMOQ_SIMD: expected " + usable + " on this CPU and build, got '" +
                              std::string(wanted) + "'");
}

const Level& current_level() {
  const Level* level = g_level.load(std::memory_order_acquire);
  if (level == nullptr) {
    const std::lock_guard<std::mutex> lock(g_choosing);
    level = g_level.load(std::memory_order_acquire);
    if (level == nullptr) {
      const char* wanted = std::getenv("THERMOQ_SIMD");
      level = &find_level(wanted == nullptr ? "" : wanted);
      g_level.store(level, std::memory_order_release);
    }
  }
  return *level;
}

}  // namespace

const KernelTable& kernels() { return *current_level().table; }

std::string simd_level() { return current_level().name; }

void set_simd_level(std::string_view level) {
  g_level.store(&find_level(level), std::memory_order_release);
}

std::vector<std::string> available_simd_levels() {
  std::vector<std::string> names;
  for (const Level& level : kLevels) {
    if (level.runs_here()) {
      names.emplace_back(level.name);
    }
  }
  return names;
}

bool has_openmp() noexcept {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

int default_threads() noexcept {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown compiler";
#endif
}

}  // namespace thermoq
