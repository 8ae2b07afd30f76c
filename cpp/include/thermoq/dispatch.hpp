// Which instruction set the kernels use, and what this build was made with.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace thermoq {

// The level in use: chosen on first use from the environment variable THERMOQ_SIMD, else the best
// that this build and this CPU have. Throws std::invalid_argument if THERMOQ_SIMD names another.
std::string simd_level();

// Switches the level for the whole process; throws std::invalid_argument as `simd_level` does.
// Every level gives the same bits, so this is for tests and benchmarks.
void set_simd_level(std::string_view level);

// Levels that this build and this CPU have, best first; the last is always "scalar".
std::vector<std::string> available_simd_levels();

// True if the build found OpenMP. Without it everything runs on the calling thread.
bool has_openmp() noexcept;

// The number of threads that `threads = 0` stands for.
int default_threads() noexcept;

// The compiler and its version, for `thermoq --version` and reports.
std::string compiler();

}  // namespace thermoq
