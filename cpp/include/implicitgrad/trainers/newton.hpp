// Newton's method with a line search (Nocedal and Wright, Numerical Optimization, 2nd ed.,
// algorithms 3.2 and 7.1): the inner problem θ⋆ = argmin f.
#pragma once

#include <memory>

#include "implicitgrad/objective.hpp"
#include "implicitgrad/solvers/kept_preconditioner.hpp"

namespace implicitgrad {

enum class train_status { converged, iteration_limit, line_search_failed, non_finite };

/// How steps are solved for: by a Cholesky factor, by CG, or by what the cost model finds best
/// (Cholesky where the Hessian is not one of sampled rows).
enum class train_method { automatic, direct, krylov };

struct train_options {
  // Stop at ‖∇f‖_∞ ≤ tol. With tol = 0: go on until a Newton step changes θ by less than a relative
  // 1e-6 (the error after it is its square) or rounding may be all that is left of the gradient.
  double tol = 0.0;
  index maxiter = 200;
  train_method method = train_method::automatic;
  kept_preconditioner* kept = nullptr;  // for CG where rows can be sampled; one of its own if null
};

struct train_report {
  train_status status = train_status::iteration_limit;
  index iterations = 0;
  index evaluations = 0;  // linearisations
  index products = 0;     // Hessian-vector products
  double fun = 0.0;
  double stationarity = 0.0;                // ‖∇f‖_∞
  std::shared_ptr<const Linearization> at;  // f at the θ that was found
};

/// Minimises f(·, λ) from theta, in place. Cost per iteration: one linearisation for each step
/// length tried (mostly one) and the linear solve.
train_report newton(const Objective& f, double* theta, const double* lam,
                    const train_options& options);

}  // namespace implicitgrad
