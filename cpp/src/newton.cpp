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
#include "implicitgrad/solvers/shifted.hpp"

namespace implicitgrad {

namespace {

// Step lengths below this are not tried: damping the step does better.
constexpr double shortest = 1e-3;
// Of a step by CG: what is left after so many is for the next step.
constexpr index most_products = 20000;

double largest(const std::vector<double>& v) {
  double result = 0.0;
  for (const double x : v) result = std::isnan(x) ? x : std::max(result, std::abs(x));
  return result;
}

bool finite(const Linearization& at) {
  if (!std::isfinite(at.fun())) return false;
  return std::all_of(at.jac().begin(), at.jac().end(), [](double g) { return std::isfinite(g); });
}

/// Whether factoring H anew in each of a handful of iterations costs less than a sketch and the two
/// dozen products that it leaves to do.
bool direct_training(const problem_shape& shape) {
  const sketch_plan plan = best_sketch(shape, 30.0);
  const double products = plan.rows > 0 ? plan.total : 200.0 * cost::product(shape);
  constexpr double little = 1e-3;  // seconds that are not worth a thought
  return 6.0 * direct(shape) <= std::max(products + 6.0 * cost::product(shape), little);
}

struct direction {
  std::vector<double> step;
  // Of H's largest eigenvalue; a factor is asked for it only where it is needed.
  double curvature = 0.0;
  std::shared_ptr<const cholesky_factor> factor = nullptr;
  bool negative = false;  // whether CG met negative curvature

  double curvature_max() const { return factor ? factor->curvature_max() : curvature; }
  bool indefinite() const {
    return factor ? factor->verdict() == definiteness::indefinite : negative;
  }
};

/// step ≈ −(H + damping·I)⁻¹∇f, a descent direction whatever H is.
direction newton_step(const std::shared_ptr<const Linearization>& at, double damping, bool direct,
                      double rtol, kept_preconditioner& kept, train_report& report) {
  const std::shared_ptr<const Operator> hess(at, &at->system());
  const shifted_operator damped(hess, damping);
  const Operator& system = damping > 0.0 ? static_cast<const Operator&>(damped) : *hess;
  const index n = system.size();
  const const_block gradient{at->jac().data(), n, 1};
  direction result{std::vector<double>(static_cast<std::size_t>(n))};
  std::vector<double>& step = result.step;
  if (direct) {
    // Where H is not positive definite, the factor is that of a shifted H: a damped step.
    result.factor = system.factor();
    report.products += system.dense_products();
    result.factor->apply(gradient, {step.data(), n, 1});
  } else {
    solve_options options{{rtol}, std::clamp<index>(2 * n, 100, most_products), {}};
    options.recompute = false;  // the next gradient shows what the step was worth
    const block x{step.data(), n, 1};
    solve_report solve;
    if (at->system().sampled() && damping == 0.0) {
      solve = kept.solve(*at->system().sampled(), gradient, x, false, options);
    } else {
      // Met negative curvature, CG returns what it had before: still a descent direction.
      const auto m = jacobi_preconditioner::of(system);
      solve = cg<host_space>(system, m.get(), gradient, x, false, options);
    }
    report.products += solve.products;
    result.curvature = std::max(solve.curvature_max, -solve.curvature_min);
    result.negative = solve.status == solve_status::negative_curvature;
  }
  for (double& s : step) s = -s;
  if (!(host_space::dot(n, step.data(), at->jac().data()) < 0.0)) {
    const double length = result.negative && result.curvature > 0.0 ? 1.0 / result.curvature : 1.0;
    for (index i = 0; i < n; ++i) step[i] = -length * at->jac()[i];
  }
  return result;
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
  double damping = 0.0;

  const auto finish = [&](train_status status) {
    report.status = status;
    report.fun = at->fun();
    report.stationarity = largest(at->jac());
    report.at = at;
    return report;
  };
  if (!finite(*at)) return finish(train_status::non_finite);
  const double beginning = std::abs(at->fun());

  bool direct = options.method == train_method::direct;
  kept_preconditioner own(preconditioning::automatic, 0, 0, true);
  kept_preconditioner& kept = options.kept ? *options.kept : own;
  if (options.method == train_method::automatic)
    direct = !at->system().sampled() || direct_training(at->system().sampled()->shape());

  // Rounding hides any further descent: a goal that was asked for is then out of reach.
  const auto stalled = [&](bool minimum) {
    return finish(options.tol == 0.0 && minimum ? train_status::converged
                                                : train_status::line_search_failed);
  };

  for (;;) {
    const double gradient = largest(at->jac());
    if (gradient <= options.tol) return finish(train_status::converged);
    if (report.iterations >= options.maxiter) return finish(train_status::iteration_limit);
    poll_interrupt();

    // Inexact far away, tight near the end, so that convergence stays superlinear.
    const double rtol = std::clamp(std::sqrt(gradient / start), 1e-8, 0.1);
    const direction found = newton_step(at, damping, direct, rtol, kept, report);
    const std::vector<double>& step = found.step;
    ++report.iterations;
    const double slope = host_space::dot(n, step.data(), at->jac().data());
    if (!std::isfinite(slope)) return finish(train_status::non_finite);
    // The H of sampled rows is that of a convex f; where damping hides what H is, it may be any.
    const auto minimum = [&, damping] {
      return at->hess().sampled() || (damping == 0.0 && !found.indefinite());
    };
    // Where f is zero but for rounding, as for a y that the model explains, no decrease is small
    // beside it; but the gradient is then no larger than rounding can make it. That alone is not
    // enough, as directions of very different scale have gradients of very different size.
    const auto rounded = [&] {
      if (!(gradient <= at->gradient_rounding())) return false;
      const double value = std::abs(at->fun());
      if (-slope <= 1e-11 * std::max(value, beginning)) return true;
      const std::vector<double> zero(static_cast<std::size_t>(n));
      return value <= 1e-24 * std::abs(f.glance(zero.data(), lam)->fun());
    };

    // Rounding in f hides decreases below this; there the gradient's norm decides.
    const double noise = 16.0 * DBL_EPSILON * std::max(std::abs(at->fun()), std::abs(slope));
    std::shared_ptr<const Linearization> next;
    double length = 1.0;
    bool accepted = false;
    for (; !accepted && length > shortest; length *= 0.5) {
      for (index i = 0; i < n; ++i) trial[i] = theta[i] + length * step[i];
      next = f.linearize(trial.data(), lam);
      ++report.evaluations;
      if (!finite(*next)) continue;
      accepted = next->fun() <= at->fun() + 1e-4 * length * slope ||
                 (std::abs(next->fun() - at->fun()) <= noise && largest(next->jac()) <= gradient);
      if (accepted) break;
      if (-slope * length <= noise) break;
    }
    if (!accepted) {
      // A small predicted decrease that cannot be seen is rounding; a large one that is nowhere to
      // be found comes from curvature that is nearly zero, which damping makes up for.
      if (-slope <= 1e3 * noise || rounded()) return stalled(minimum());
      const double curvature = found.curvature_max();
      damping = std::max(100.0 * damping, 1e-8 * curvature);
      if (!(damping <= 1e6 * curvature)) return finish(train_status::line_search_failed);
      continue;
    }

    const double moved = length * host_space::norm(n, step.data());
    const double size = host_space::norm(n, trial.data());
    const double progress = largest(next->jac()) / gradient;
    const bool undamped = damping == 0.0;
    if (damping > 0.0) damping = damping > 1e-8 * found.curvature_max() ? 0.01 * damping : 0.0;
    std::copy(trial.begin(), trial.end(), theta);
    at = next;
    if (undamped && progress > 0.5 && rounded()) return stalled(minimum());
    if (options.tol > 0.0 || !undamped) continue;
    // What the step was off by must be as small as what Newton's method leaves.
    const bool solved = direct || rtol * moved <= 1e-12 * size;
    // The columns of X, and with them θ, may be of very different scale: the predicted decrease has
    // none. (f of a callable may be zero at its minimum.)
    const bool small = moved <= 1e-6 * size && (at->system().sampled() == nullptr ||
                                                -slope <= 1e-11 * std::abs(at->fun()) || rounded());
    if (length == 1.0 && small && solved && minimum()) return finish(train_status::converged);
    if (-slope <= noise && progress > 0.5) return stalled(minimum());
  }
}

}  // namespace implicitgrad
