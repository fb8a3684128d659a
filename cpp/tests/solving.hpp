// What the tests of the iterative solvers share: a solution with its report, and tolerances.
#pragma once

#include <utility>
#include <vector>

#include "implicitgrad/solvers/report.hpp"

namespace implicitgrad::testing {

struct solution {
  std::vector<double> x;
  solve_report report;

  explicit operator bool() const { return report.status == solve_status::converged; }
};

inline solve_options within(std::vector<double> rtol, index maxiter = 0,
                            solve_monitor monitor = {}) {
  solve_options options;
  options.rtol = std::move(rtol);
  options.maxiter = maxiter;
  options.monitor = std::move(monitor);
  return options;
}

inline std::vector<double> column(const std::vector<double>& v, index n, index c) {
  return {v.begin() + c * n, v.begin() + (c + 1) * n};
}

}  // namespace implicitgrad::testing
