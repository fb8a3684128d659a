// Threads, Ctrl-C, fork, and what build_info() reports.
#include "implicitgrad/runtime.hpp"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "arrays.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/space.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// Runs Python's signal handlers; whatever they raise travels on as a C++ exception.
void check_signals() {
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

/// libgomp's pool does not survive fork: a child that enters a parallel region would wait for
/// threads that only exist in its parent. Releasing the pool first makes both start afresh.
void release_threads() { omp_pause_resource_all(omp_pause_hard); }

py::dict build_info() {
  py::dict info;
  info["version"] = IMPLICITGRAD_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  info["compiler"] = "gcc " __VERSION__;
#else
  info["compiler"] = "unknown";
#endif
  info["cxx_standard"] = static_cast<long>(__cplusplus);
  info["simd"] = simd_level();
  info["openmp"] = static_cast<long>(_OPENMP);
  info["threads"] = default_threads();
  return info;
}

}  // namespace

void register_runtime(py::module_& m) {
  set_interrupt_hook(check_signals);
  pthread_atfork(release_threads, nullptr, nullptr);
  m.def("build_info", build_info);
  m.def("default_threads", default_threads);
  // For tests, which want the threads of a loop however short it is.
  m.def("set_patience", [](double seconds) {
    work_burst::patience = std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * seconds));
  });
  m.def("all_finite", [](const block_array& v) {
    return std::all_of(v.data(), v.data() + v.size(), [](double x) { return std::isfinite(x); });
  });
  m.def("within", [](const block_array& v, double low, double high) {
    return std::all_of(v.data(), v.data() + v.size(),
                       [=](double x) { return x >= low && x <= high; });
  });
  // Whether |s_i| ≤ 8 ε |θ_i| for every i: θ − s is θ, up to its own rounding.
  m.def("negligible", [](const block_array& s, const block_array& theta) {
    for (index i = 0; i < s.size(); ++i)
      if (!(std::abs(s.data()[i]) <= 8.0 * DBL_EPSILON * std::abs(theta.data()[i]))) return false;
    return true;
  });
  // ‖v‖₂, safe from overflow and underflow, and NaN where v has one.
  m.def("norm", [](const block_array& v) { return host_space::norm(v.size(), v.data()); });
}

}  // namespace implicitgrad::python
