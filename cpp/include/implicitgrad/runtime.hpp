// What the process gives the core: threads, the SIMD level, a way to ask for Ctrl-C.
#pragma once

namespace implicitgrad {

/// Threads used when n_threads is not given: what OpenMP allows.
int default_threads();

/// "x86-64-v4", "x86-64-v3" or "baseline": the clone of the kernels that this processor runs.
const char* simd_level();

/// The hook throws when the user asked to stop. It is called at most every 50 ms, always from the
/// thread that entered the core and never inside a parallel region.
void set_interrupt_hook(void (*hook)());

/// Gives the hook a chance to throw. Long passes and solver loops call it as they go; inside a
/// parallel region it does nothing.
void poll_interrupt();

}  // namespace implicitgrad
