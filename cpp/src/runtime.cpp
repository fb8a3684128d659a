#include "implicitgrad/runtime.hpp"

#include <omp.h>

#include <atomic>
#include <chrono>
#include <stdexcept>

#include "implicitgrad/multiversion.hpp"

namespace implicitgrad {

namespace {

std::atomic<void (*)()> interrupt_hook{nullptr};

}  // namespace

int default_threads() { return omp_get_max_threads(); }

int simd_width() {
#ifdef IMPLICITGRAD_MULTIVERSION
  static const int width = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return 8;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 4 : 2;
  }();
  return width;
#else
  return compiled_width;
#endif
}

const char* simd_level() {
  const int width = simd_width();
  return width == 8 ? "x86-64-v4" : width == 4 ? "x86-64-v3" : "baseline";
}

void set_interrupt_hook(void (*hook)()) { interrupt_hook = hook; }

void poll_interrupt() {
  using clock = std::chrono::steady_clock;
  thread_local clock::time_point last = clock::now();
  void (*const hook)() = interrupt_hook;
  if (hook == nullptr || omp_in_parallel()) return;
  const clock::time_point now = clock::now();
  if (now - last < std::chrono::milliseconds(50)) return;
  last = now;
  hook();
}

}  // namespace implicitgrad
