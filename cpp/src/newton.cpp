#include "implicitgrad/trainers/newton.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <memory>
#include <vector>

#include "implicitgrad/runtime.hpp"
#include "implicitgrad/solvers/cg.hpp"
#include "implicitgrad/solvers/cholesky.hpp"
#include "implicitgrad/solvers/jacobi.hpp"

namespace implicitgrad {

namespace {

double largest(const std::vector<double>& v) {
  double result = 0.0;
  for (const double x : v) result = std::isnan(x) ? x : std::max(result, std::abs(x));
  return result;
}

bool finite(const Linearization& at) {
  if (!std::isfinite(at.fun())) return false;
  return std::all_of(at.jac().begin(), at.jac().end(), [](double g) { return std::isfinite(g); });
}

/// step ≈ −H⁻¹∇f, a descent direction whatever H is.
std::vector<double> newton_step(const Linearization& at, bool direct, double rtol,
                                train_report& report) {
  const Operator& hess = at.hess();
  const index n = hess.size();
  const const_block gradient{at.jac().data(), n, 1};
  std::vector<double> step(static_cast<std::size_t>(n));
  if (direct) {
    // Where H is not positive definite, the factor is that of a shifted H: a damped step.
    cholesky_factor factor(hess);
    report.products += hess.dense_products();
    factor.apply(gradient, {step.data(), n, 1});
  } else {
    std::vector<double> unused(static_cast<std::size_t>(n));
    std::unique_ptr<jacobi_preconditioner> m;
    if (hess.diagonal(unused.data())) m = std::make_unique<jacobi_preconditioner>(hess);
    solve_options options{{rtol}, std::max<index>(100, 2 * n), {}};
    // Met negative curvature, CG returns what it had before: still a descent direction.
    const solve_report solve =
        cg<host_space>(hess, m.get(), gradient, {step.data(), n, 1}, false, options);
    report.products += solve.products;
  }
  for (double& s : step) s = -s;
  if (!(host_space::dot(n, step.data(), at.jac().data()) < 0.0))
    for (index i = 0; i < n; ++i) step[i] = -at.jac()[i];
  return step;
}

}  // namespace

train_report newton(const Objective& f, double* theta, const double* lam,
                    const train_options& options) {
  const index n = f.n_theta();
  train_report report;
  auto at = f.linearize(theta, lam);
  report.evaluations = 1;
  const double start = largest(at->jac());
  std::vector<double> trial(static_cast<std::size_t>(n));

  const auto finish = [&](train_status status) {
    report.status = status;
    report.fun = at->fun();
    report.stationarity = largest(at->jac());
    return report;
  };
  if (!finite(*at)) return finish(train_status::non_finite);

  for (;;) {
    const double gradient = largest(at->jac());
    if (gradient <= options.tol) return finish(train_status::converged);
    if (report.iterations >= options.maxiter) return finish(train_status::iteration_limit);
    poll_interrupt();

    // Inexact far away, tight near the end, so that convergence stays superlinear.
    const double rtol = std::clamp(std::sqrt(gradient / start), 1e-8, 0.1);
    const std::vector<double> step = newton_step(*at, options.direct, rtol, report);
    ++report.iterations;
    const double slope = host_space::dot(n, step.data(), at->jac().data());

    // Rounding in f hides decreases below this; there the gradient's norm decides.
    const double noise = 16.0 * DBL_EPSILON * std::max(std::abs(at->fun()), std::abs(slope));
    std::shared_ptr<const Linearization> next;
    double length = 1.0;
    for (;; length *= 0.5) {
      for (index i = 0; i < n; ++i) trial[i] = theta[i] + length * step[i];
      next = f.linearize(trial.data(), lam);
      ++report.evaluations;
      if (finite(*next)) {
        if (next->fun() <= at->fun() + 1e-4 * length * slope) break;
        if (std::abs(next->fun() - at->fun()) <= noise && largest(next->jac()) <= gradient) break;
      }
      if (length < 1e-12 || -slope * length <= noise) {
        // No visible decrease is left along a descent direction: rounding, if it was a small one.
        const bool at_rounding = options.tol == 0.0 && -slope <= 1e3 * noise;
        return finish(at_rounding ? train_status::converged : train_status::line_search_failed);
      }
    }

    const double moved = length * host_space::norm(n, step.data());
    const double size = host_space::norm(n, trial.data());
    const double progress = largest(next->jac()) / gradient;
    std::copy(trial.begin(), trial.end(), theta);
    at = next;
    if (options.tol == 0.0 && length == 1.0 && moved <= 1e-6 * size)
      return finish(train_status::converged);
    if (options.tol == 0.0 && -slope <= noise && progress > 0.5)
      return finish(train_status::converged);
  }
}

}  // namespace implicitgrad
