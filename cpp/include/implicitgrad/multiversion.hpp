// Kernels compiled for baseline x86-64, x86-64-v3 (AVX2, FMA) and x86-64-v4 (AVX-512), of which the
// best that the processor has runs. The full level names matter: "avx2" alone would leave out FMA.
//
// IMPLICITGRAD_KERNEL marks a leaf kernel whose loops the compiler vectorises: the loader picks the
// clone. Empty where CMake's probe found no support, or where IMPLICITGRAD_SIMD fixes one level.
// All that a kernel calls is inlined into it (flatten): by itself it would be compiled for the
// baseline, slower and, without fused multiply-add, rounded otherwise.
#pragma once

#ifdef IMPLICITGRAD_MULTIVERSION
#define IMPLICITGRAD_KERNEL \
  __attribute__((flatten, target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define IMPLICITGRAD_KERNEL
#endif

namespace implicitgrad {

/// Doubles in a vector register, at the level the kernels run at: 8, 4 or 2. A kernel written in
/// vectors of that many doubles is a class template Kernel<W> with a static, always inlined `run`.
int simd_width();

#ifdef IMPLICITGRAD_MULTIVERSION
template <template <int> class Kernel, class Args>
__attribute__((target("arch=x86-64-v4"))) void run_v4(const Args& args) {
  Kernel<8>::run(args);
}
template <template <int> class Kernel, class Args>
__attribute__((target("arch=x86-64-v3"))) void run_v3(const Args& args) {
  Kernel<4>::run(args);
}
#endif
#if defined(IMPLICITGRAD_MULTIVERSION) || !defined(__AVX512F__)
inline constexpr int compiled_width =
#ifdef __AVX2__
    4;
#else
    2;
#endif
#else
inline constexpr int compiled_width = 8;
#endif

template <template <int> class Kernel, class Args>
void run_compiled(const Args& args) {
  Kernel<compiled_width>::run(args);
}

/// The kernel for the level of this processor.
template <template <int> class Kernel, class Args>
auto best_version() -> void (*)(const Args&) {
#ifdef IMPLICITGRAD_MULTIVERSION
  const int width = simd_width();
  if (width == 8) return run_v4<Kernel, Args>;
  if (width == 4) return run_v3<Kernel, Args>;
#endif
  return run_compiled<Kernel, Args>;
}

}  // namespace implicitgrad
