// IMPLICITGRAD_KERNEL marks a leaf kernel: it is compiled for baseline x86-64, x86-64-v3 (AVX2,
// FMA) and x86-64-v4 (AVX-512), and the loader picks the best one the processor has. The full level
// names matter: "avx2" alone would leave out FMA. Empty where CMake's probe found no support.
#pragma once

#ifdef IMPLICITGRAD_MULTIVERSION
#define IMPLICITGRAD_KERNEL \
  __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define IMPLICITGRAD_KERNEL
#endif
