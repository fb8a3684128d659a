# Leaf kernels are compiled once per x86-64 level and chosen when the library is loaded. That needs
# ELF ifuncs and a compiler whose target_clones works on templates, so it is probed, not assumed.
#
# IMPLICITGRAD_SIMD fixes one level instead, so that each can be tested on one machine.
set(IMPLICITGRAD_SIMD auto CACHE STRING "auto, baseline, x86-64-v3 or x86-64-v4")
set_property(CACHE IMPLICITGRAD_SIMD PROPERTY STRINGS auto baseline x86-64-v3 x86-64-v4)
if(NOT IMPLICITGRAD_SIMD MATCHES "^(auto|baseline|x86-64-v3|x86-64-v4)$")
  message(FATAL_ERROR "IMPLICITGRAD_SIMD must be auto, baseline, x86-64-v3 or x86-64-v4")
endif()
set(IMPLICITGRAD_MULTIVERSION FALSE)
if(IMPLICITGRAD_SIMD MATCHES "^x86")
  set(IMPLICITGRAD_MARCH ${IMPLICITGRAD_SIMD})
elseif(IMPLICITGRAD_SIMD STREQUAL "auto")
  include(CheckCXXSourceCompiles)
  check_cxx_source_compiles("
    template <class T>
    __attribute__((target_clones(\"default\", \"arch=x86-64-v3\", \"arch=x86-64-v4\")))
    T twice(T x) { return x + x; }
    template double twice<double>(double);
    int main() { return static_cast<int>(twice(0.0)); }"
    IMPLICITGRAD_HAS_TARGET_CLONES)
  set(IMPLICITGRAD_MULTIVERSION ${IMPLICITGRAD_HAS_TARGET_CLONES})
endif()
