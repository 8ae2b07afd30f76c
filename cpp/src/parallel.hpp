// Loops over rows on several threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <optional>

#include "thermoq/dispatch.hpp"

namespace thermoq {

// Below this many weights a team costs more than it brings, most of all on a busy machine, where
// every region waits for its last thread to be scheduled.
inline constexpr std::size_t kSerialWeights = std::size_t{1} << 18;

// For loops whose threads need no scratch memory.
struct NoState {};

// Calls body(state, i) for every i in [0, count), each thread with a state of its own made by
// make_state(): scratch memory is allocated once a thread, never once a row. `weights` is how many
// all calls go over, `threads` <= 0 means all. The first exception is rethrown here: one that left
// the OpenMP region would abort the process.
template <class MakeState, class Body>
void parallel_for(std::size_t count, std::size_t weights, int threads, const MakeState& make_state,
                  const Body& body) {
  std::exception_ptr failure;
  const auto guarded = [&failure](const auto& action) noexcept {
    try {
      action();
    } catch (...) {
#ifdef _OPENMP
#pragma omp critical(thermoq_failure)
#endif
      if (!failure) {
        failure = std::current_exception();
      }
    }
  };
  const int wanted = threads > 0 ? threads : default_threads();
  const int team = weights < kSerialWeights ? 1 : wanted;
  const std::size_t portions = 16 * static_cast<std::size_t>(team);
  [[maybe_unused]] const std::size_t portion = std::clamp<std::size_t>(count / portions, 1, 64);
#ifdef _OPENMP
#pragma omp parallel num_threads(team) if (team > 1 && count > 1)
#endif
  {
    std::optional<decltype(make_state())> state;
    guarded([&] { state.emplace(make_state()); });
#ifdef _OPENMP
#pragma omp for schedule(dynamic, portion) nowait
#endif
    for (std::size_t i = 0; i < count; ++i) {
      if (state) {
        guarded([&] { body(*state, i); });
      }
    }
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace thermoq
