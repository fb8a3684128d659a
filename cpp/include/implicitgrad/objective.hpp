// Objective: f(θ, λ) as trainers and hypergradients see it, linearised once per point.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "implicitgrad/kronecker_curvature.hpp"
#include "implicitgrad/operator.hpp"

namespace implicitgrad {

/// f at one (θ, λ), for training: its value, gradient and Hessian in θ.
class Linearization {
 public:
  virtual ~Linearization() = default;
  virtual double fun() const = 0;
  virtual const std::vector<double>& jac() const = 0;
  virtual const Operator& hess() const = 0;

  /// A bound on the 2-norm of the rounding error in jac(); 0 where none is known.
  virtual double gradient_rounding() const { return 0.0; }

  /// What solvers take in its place: H with something added on directions that f is constant in
  /// whatever the data, so that a solve with a right-hand side that is orthogonal to them gives the
  /// least solution. H itself where there are none.
  virtual const Operator& system() const { return hess(); }
};

/// And what λ does to f and to its gradient, C = ∂²f/∂θ∂λ.
class CrossLinearization : public Linearization {
 public:
  virtual const std::vector<double>& jac_lam() const = 0;

  /// out = C u, for n_lam × k blocks.
  virtual void cross(const_block u, block out) const = 0;

  /// out = Cᵀ q, for n_theta × k blocks.
  virtual void cross_transpose(const_block q, block out) const = 0;

  /// Bytes that it holds for itself, as long as it lives.
  virtual double bytes() const = 0;
};

/// What work at one point costs, in seconds of one thread: a product with H, a factor of H and a
/// solve with it, and solves by CG with a sketch and with the diagonal as preconditioner.
struct solve_costs {
  double product, direct, sketched, diagonal;
};

/// And what solves and certificates of hypergradients need.
class HyperLinearization : public CrossLinearization {
 public:
  /// ‖ |C|ᵀ|q| ‖₂: the size of the terms whose sum is Cᵀq, which sets its rounding error.
  virtual double cross_scale(const double* q) const = 0;

  /// What the terms that ∇f is the sum of amount to, entry by entry, from above; closer `by_row`,
  /// at the price of passes over the data, where that is offered.
  virtual std::vector<double> gradient_terms(bool by_row) const = 0;

  /// Whether there are directions, whatever the data, in which f is constant and to which a
  /// right-hand side need not be orthogonal: solvers then want it projected.
  virtual bool degenerate() const { return false; }

  /// Takes off what v has of them.
  virtual void project(block v) const { static_cast<void>(v); }

  /// For a solve that is to gain `nats`.
  virtual solve_costs costs(double nats) const = 0;

  /// A positive semidefinite approximation of H that leaves out the model's own curvature, or null
  /// where that is H.
  virtual const Operator* gauss_newton() const { return nullptr; }

  /// That approximation layer by layer in Kronecker products, or nothing where there are no layers.
  virtual std::optional<kronecker_curvature> kronecker() const { return {}; }
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual index n_theta() const = 0;
  virtual index n_lam() const = 0;
  /// theta has n_theta() entries, lam n_lam().
  virtual std::shared_ptr<const Linearization> linearize(const double* theta,
                                                         const double* lam) const = 0;

  /// The same at a θ to which no call is expected to come back.
  virtual std::shared_ptr<const Linearization> glance(const double* theta,
                                                      const double* lam) const {
    return linearize(theta, lam);
  }
};

}  // namespace implicitgrad
