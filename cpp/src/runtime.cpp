#include "implicitgrad/runtime.hpp"

#include <omp.h>

#include <atomic>
#include <chrono>
#include <stdexcept>

namespace implicitgrad {

namespace {

std::atomic<void (*)()> interrupt_hook{nullptr};

}  // namespace

int default_threads() { return omp_get_max_threads(); }

const char* simd_level() {
#ifdef IMPLICITGRAD_MULTIVERSION
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return "x86-64-v4";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "x86-64-v3";
#endif
  return "baseline";
}

void set_interrupt_hook(void (*hook)()) { interrupt_hook = hook; }

void poll_interrupt() {
  using clock = std::chrono::steady_clock;
  thread_local clock::time_point last = clock::now();
  void (*const hook)() = interrupt_hook;
  if (hook == nullptr) return;
  const clock::time_point now = clock::now();
  if (now - last < std::chrono::milliseconds(50)) return;
  last = now;
  hook();
}

}  // namespace implicitgrad
