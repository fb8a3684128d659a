# Leaf kernels are compiled once per x86-64 level and chosen when the library is loaded. That needs
# ELF ifuncs and a compiler whose target_clones works on templates, so it is probed, not assumed.
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("
  template <class T>
  __attribute__((target_clones(\"default\", \"arch=x86-64-v3\", \"arch=x86-64-v4\")))
  T twice(T x) { return x + x; }
  template double twice<double>(double);
  int main() { return static_cast<int>(twice(0.0)); }"
  IMPLICITGRAD_MULTIVERSION)
