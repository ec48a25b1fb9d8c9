#include "threads.h"

#include <unistd.h>

#include "float_environment.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace halve {
namespace {

// About 50 microseconds: longer than the pauses between the products of a decode step, shorter than anybody notices.
constexpr int kSpins = 2000;
// A chunk takes microseconds. Who waits longer waits for a thread that does not run: it may need this very core.
constexpr int kSpinsBeforeYielding = 4000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

Pool::Pool(size_t threads) : process_(getpid()) {
  for (size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
}

Pool::~Pool() {
  if (getpid() != process_) {
    for (std::thread& worker : workers_) worker.detach();
    return;
  }
  closing_ = true;
  calls_.fetch_add(1, std::memory_order_release);
  calls_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool Pool::take() {
  if (left_.load(std::memory_order_relaxed) <= 0) return false;
  const int64_t taken = left_.fetch_sub(1, std::memory_order_acquire);
  if (taken <= 0) return false;
  call_(context_, static_cast<size_t>(taken - 1));
  unfinished_.fetch_sub(1, std::memory_order_release);
  return true;
}

void Pool::share(size_t chunks) {
  unfinished_.store(static_cast<int64_t>(chunks), std::memory_order_relaxed);
  left_.store(static_cast<int64_t>(chunks), std::memory_order_release);
  calls_.fetch_add(1, std::memory_order_release);
  calls_.notify_all();
  while (take()) {
  }
  for (int spin = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spin) {
    if (spin < kSpinsBeforeYielding)
      pause();
    else
      std::this_thread::yield();
  }
}

void Pool::serve() {
  const FloatEnvironment environment;  // a thread begins with that of the thread that made it
  uint32_t served = 0;
  while (true) {
    for (int spin = 0; calls_.load(std::memory_order_acquire) == served && spin < kSpins; ++spin) pause();
    calls_.wait(served, std::memory_order_acquire);
    served = calls_.load(std::memory_order_acquire);
    if (closing_) return;
    while (take()) {
    }
  }
}

}  // namespace halve
