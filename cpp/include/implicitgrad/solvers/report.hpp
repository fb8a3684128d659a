// What every solver takes and returns.
#pragma once

#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

enum class solve_status {
  converged,           // every column's true residual is within its tolerance
  iteration_limit,     // maxiter reached, or the asked-for number of terms summed
  negative_curvature,  // a direction with pᵀAp < 0 was met
  singular,            // a direction with pᵀAp = 0 up to rounding was met
  bad_preconditioner,  // a direction with rᵀMr ≤ 0 was met: M is not positive definite
  stagnated,           // the true residual no longer falls: rounding is reached
  non_finite,          // NaN or infinity in b, in a product or in a scalar
  diverged,            // a fixed-point iteration grew
  stopped,             // the monitor asked to stop
};

/// Called after every iteration with the iteration number, the relative residual of the first
/// column and that column of x (scaled as b is); returns true to stop.
using solve_monitor = std::function<bool(index iteration, double residual, const double* x)>;

struct solve_options {
  std::vector<double> rtol;  // one a column, relative to ‖b‖₂, or one for all
  index maxiter = 0;
  solve_monitor monitor;  // x in the solver's Space
  // Asked after every iteration with its number and the first column's residual; true ends the
  // solve as an iteration limit does.
  std::function<bool(index iteration, double residual)> give_up = nullptr;
  // Without, the residual that the recurrence carries along decides, for one product less.
  bool recompute = true;
  // Where set, the first column of x is copied here when its residual falls below this for the
  // first time: what the solve adds afterwards tells the error that it had then.
  double checkpoint_rtol = 0.0;
  double* checkpoint = nullptr;

  double tolerance(index column) const { return rtol.size() == 1 ? rtol[0] : rtol[column]; }
};

struct solve_report {
  solve_status status = solve_status::converged;
  index iterations = 0;
  index products = 0;            // products with A, counted by column
  std::vector<double> residual;  // true ‖b − Ax‖₂ / ‖b‖₂, one a column, recomputed at the end
  // Smallest and largest Rayleigh quotients met (Ritz values where there is no preconditioner):
  // estimates of A's spectrum, inside it up to rounding unless they come from a sketch of A.
  double curvature_min = std::numeric_limits<double>::infinity();
  double curvature_max = -std::numeric_limits<double>::infinity();
  // Condition number of the preconditioned matrix as its Ritz values show it, from below; 1 if
  // unknown.
  double condition = 1.0;
  // Its smallest Ritz value, an estimate of its smallest eigenvalue from above; 0 if unknown.
  double least = 0.0;

  /// Becomes the report of both solves, the later of which went on where this one ended.
  void follow(solve_report later) {
    if (curvature_min <= curvature_max) {
      later.see_curvature(curvature_min);
      later.see_curvature(curvature_max);
    }
    later.iterations += iterations;
    later.products += products;
    *this = std::move(later);
  }

  void see_curvature(double value) {
    if (value < curvature_min) curvature_min = value;
    if (value > curvature_max) curvature_max = value;
  }
};

}  // namespace implicitgrad
