// The few lines of a test framework that these tests need.
#pragma once

#include <cstdio>

namespace thermoq_test {

inline int g_checks = 0;
inline int g_failures = 0;

// Prints the verdict and returns the exit status for main.
inline int finish(const char* name) {
  std::printf("%s: %d passed, %d failed\n", name, g_checks - g_failures, g_failures);
  return g_failures == 0 ? 0 : 1;
}

}  // namespace thermoq_test

#define CHECK(condition, ...)                                                   \
  do {                                                                          \
    ++thermoq_test::g_checks;                                                   \
    if (!(condition)) {                                                         \
      ++thermoq_test::g_failures;                                               \
      std::printf("%s:%d: " #condition " does not hold: ", __FILE__, __LINE__); \
      std::printf(__VA_ARGS__);                                                 \
      std::printf("\n");                                                        \
    }                                                                           \
  } while (false)
