// The preconditioner of one objective's solves, kept as θ and λ move: an object with an age.
//
// It starts from the diagonal, whose first iterations show whether a sketch of rows will pay,
// unless that costs next to nothing. It is refactored when only the strengths have changed, rebuilt
// when the iteration count says that the curvatures have moved away from those it was built with,
// and given more rows when the iterations spent with it would have paid for them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "implicitgrad/cost_model.hpp"
#include "implicitgrad/operator.hpp"
#include "implicitgrad/solvers/class_sketch.hpp"
#include "implicitgrad/solvers/hessian_sketch.hpp"
#include "implicitgrad/solvers/jacobi.hpp"
#include "implicitgrad/solvers/report.hpp"

namespace implicitgrad {

/// A Hessian Xᵀ D X + diag(strength) of which rows can be sampled; or those of several models that
/// differ in D, one block each, for which sketch and squares are those of a mean D.
class sampled_hessian {
 public:
  virtual ~sampled_hessian() = default;
  virtual const Operator& system() const = 0;
  virtual problem_shape shape() const = 0;
  virtual std::unique_ptr<HessianSketch> sketch(index rows, std::uint64_t seed) const = 0;
  /// Of each penalised entry of a model's θ, the first ones.
  virtual const std::vector<double>& strength() const = 0;
  /// The diagonal of Xᵀ D X, the intercept's entry included. Cost: one read of X.
  virtual std::vector<double> squares() const = 0;
  /// Two Hessians of one objective with equal numbers have the same D.
  virtual std::uint64_t curvature_id() const = 0;
};

/// Which preconditioner a user asks for.
enum class preconditioning { automatic, jacobi, sketch, exact };

class kept_preconditioner {
 public:
  /// rows > 0 fixes the sketch's number of rows, whatever that costs; nothing better is then tried.
  /// `lasting`: many solves are to come, as in a training, and what they cost may pay for a better
  /// one than any of them would on its own.
  explicit kept_preconditioner(preconditioning kind, std::uint64_t seed, index rows = 0,
                               bool lasting = false)
      : kind_(kind), seed_(seed), fixed_rows_(rows), lasting_(lasting) {}

  /// CG on system(), with the preconditioner at hand or a new one; restarts from x with a better
  /// one where the iterations run out of proportion. As cg() in all else.
  solve_report solve(const sampled_hessian& at, const_block b, block x, bool warm,
                     const solve_options& options);

  /// Has the preconditioner ready for a solve with system() that is to gain `nats`, as solve()
  /// would; returns rows().
  index prepare(const sampled_hessian& at, double nats);

  /// Applies what the last solve was preconditioned with, or prepare() made ready.
  void apply(const_block v, block out) const;

  /// Rows of the sketch in use; 0 for Jacobi.
  index rows() const;

  /// Whether that is one whose quality grows with its rows alone.
  bool strong() const;

 private:
  struct choice {
    std::shared_ptr<const Operator> inverse;
    bool sketched = false;
    double each = 0.0;         // seconds an iteration takes
    double expected = 0.0;     // iterations
    double alternative = 0.0;  // seconds in which a better one would do the solve; 0: there is none
  };
  choice first(const sampled_hessian& at, double nats);
  choice better(const sampled_hessian& at, double nats);
  choice jacobi(const sampled_hessian& at, double nats);
  choice sketched(const sampled_hessian& at, const sketch_plan& plan, double nats);
  sketch_plan larger(const sampled_hessian& at, double nats) const;

  const preconditioning kind_;
  const std::uint64_t seed_;
  const index fixed_rows_;
  const bool lasting_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Operator> inverse_;  // in use
  std::vector<double> squares_;              // the diagonal of Xᵀ D X
  std::uint64_t squares_curvature_ = 0;
  std::shared_ptr<const HessianSketch> sketch_;
  sketch_plan plan_;
  std::uint64_t curvature_ = 0;   // that the sketch was built with
  std::vector<double> strength_;  // that it was factored with
  double spent_ = 0.0;            // seconds of iterations since it was built, by the cost model
  bool hard_ = false;             // the diagonal has been found too weak
  bool broken_ = false;           // rounding has made the sketch indefinite: the diagonal it is
  bool worn_ = false;             // the last solve took longer than it should have
};

}  // namespace implicitgrad
