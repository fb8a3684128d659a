// Objective: f(θ, λ) as trainers see it, linearised once per point.
#pragma once

#include <memory>
#include <vector>

#include "implicitgrad/operator.hpp"

namespace implicitgrad {

/// f at one (θ, λ): its value, gradient and Hessian in θ.
class Linearization {
 public:
  virtual ~Linearization() = default;
  virtual double fun() const = 0;
  virtual const std::vector<double>& jac() const = 0;
  virtual const Operator& hess() const = 0;
  /// A bound on the 2-norm of the rounding error in jac(); 0 where none is known.
  virtual double gradient_rounding() const { return 0.0; }
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual index n_theta() const = 0;
  virtual index n_lam() const = 0;
  /// theta has n_theta() entries, lam n_lam().
  virtual std::shared_ptr<const Linearization> linearize(const double* theta,
                                                         const double* lam) const = 0;
};

}  // namespace implicitgrad
