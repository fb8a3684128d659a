#include "implicitgrad/solvers/kept_preconditioner.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "implicitgrad/solvers/block_cg.hpp"

namespace implicitgrad {

namespace {

// No rate of convergence is believed before this many iterations, or an eighth of what the
// alternative would cost: CG may be slow to start.
constexpr double least_iterations = 3.0;
// What the solves of a training, or of some steps in λ, gain together.
constexpr double lasting_nats = 60.0;

/// What serves one model, for each of several.
class for_each_model : public Operator {
 public:
  for_each_model(std::shared_ptr<const Operator> one, index models)
      : one_(std::move(one)), models_(models) {}
  index size() const override { return one_->size() * models_; }
  void apply(const_block v, block out) const override {
    one_->apply({v.data, one_->size(), v.cols * models_},
                {out.data, one_->size(), v.cols * models_});
  }

 private:
  std::shared_ptr<const Operator> one_;
  index models_;
};

std::shared_ptr<const Operator> for_models(std::shared_ptr<const Operator> one, index models) {
  if (models == 1) return one;
  return std::make_shared<for_each_model>(std::move(one), models);
}

}  // namespace

index kept_preconditioner::rows() const {
  const std::lock_guard lock(mutex_);
  return sketch_ ? plan_.rows : 0;
}

bool kept_preconditioner::strong() const {
  const std::lock_guard lock(mutex_);
  return sketch_ && plan_.rows > 0 && sketch_->complete();
}

kept_preconditioner::choice kept_preconditioner::jacobi(const sampled_hessian& at, double nats) {
  const bool fresh = squares_curvature_ == at.curvature_id();
  if (squares_.empty() || (worn_ && !fresh)) {
    squares_ = at.squares();
    squares_curvature_ = at.curvature_id();
  }
  std::vector<double> diagonal = squares_;
  for (std::size_t j = 0; j < at.strength().size(); ++j) diagonal[j] += at.strength()[j];
  choice with;
  jacobi_preconditioner inverse(std::move(diagonal));
  if (const index classes = at.shape().classes; classes > 1)
    with.inverse = std::make_shared<centred_jacobi>(std::move(inverse), classes, at.strength());
  else
    with.inverse = std::make_shared<jacobi_preconditioner>(std::move(inverse));
  with.each = cost::product(at.shape());
  with.expected = 2.0 * nats;
  if (kind_ != preconditioning::automatic || broken_) return with;
  const sketch_plan plan = best_sketch(at.shape(), nats);
  if (plan.rows > 0) with.alternative = plan.total;
  return with;
}

kept_preconditioner::choice kept_preconditioner::sketched(const sampled_hessian& at,
                                                          const sketch_plan& plan, double nats) {
  if (!sketch_ || plan.rows != plan_.rows || curvature_ == 0) {
    auto fresh = at.sketch(plan.rows, seed_);
    fresh->factor(at.strength());
    sketch_ = std::move(fresh);
    curvature_ = at.curvature_id();
    strength_ = at.strength();
    spent_ = 0.0;
  } else if (strength_ != at.strength()) {
    auto refactored = sketch_->copy();  // others may still use the old one
    refactored->factor(at.strength());
    sketch_ = std::move(refactored);
    strength_ = at.strength();
  }
  plan_ = plan;
  choice with;
  with.inverse = sketch_;
  with.sketched = true;
  with.each = plan.each;
  with.expected = std::ceil(nats / plan.nats) + 1.0;
  const bool fresh = curvature_ == at.curvature_id();
  if (!fresh) with.alternative = plan.total;
  if (fresh && !sketch_->exact()) with.alternative = larger(at, nats).total;
  return with;
}

sketch_plan kept_preconditioner::larger(const sampled_hessian& at, double nats) const {
  const problem_shape shape = at.shape();
  const index rows = 8 * plan_.rows > shape.rows ? shape.rows : 8 * plan_.rows;
  return sketch_of(shape, rows, nats);
}

kept_preconditioner::choice kept_preconditioner::first(const sampled_hessian& at, double nats) {
  const std::lock_guard lock(mutex_);
  const problem_shape shape = at.shape();
  if (kind_ == preconditioning::jacobi || broken_) return jacobi(at, nats);
  if (fixed_rows_ > 0) {
    choice with = sketched(at, sketch_of(shape, fixed_rows_, nats), nats);
    with.alternative = 0.0;
    return with;
  }
  if (kind_ == preconditioning::exact) {
    const sketch_plan plan = sketch_of(shape, shape.rows, nats);
    return plan.rows > 0 ? sketched(at, plan, nats) : jacobi(at, nats);
  }
  // What has been spent so far would have paid for a better one: more is to come.
  const sketch_plan lasting = best_sketch(shape, lasting_nats);
  const bool pays =
      lasting_ && lasting.rows > (sketch_ ? plan_.rows : 0) && spent_ >= lasting.setup;
  if (sketch_) {
    if (worn_ && curvature_ != at.curvature_id()) curvature_ = 0;  // build it anew
    worn_ = false;
    return sketched(at, pays ? lasting : plan_, nats);
  }
  const sketch_plan plan = pays ? lasting : best_sketch(shape, nats);
  if (plan.rows == 0) return jacobi(at, nats);
  const bool at_once = kind_ == preconditioning::sketch || hard_ || pays;
  if (at_once || plan.total <= least_with_diagonal * cost::product(shape))
    return sketched(at, plan, nats);
  return jacobi(at, nats);
}

index kept_preconditioner::prepare(const sampled_hessian& at, double nats) {
  choice with = first(at, nats);
  {
    const std::lock_guard lock(mutex_);
    inverse_ = for_models(std::move(with.inverse), at.shape().models);
  }
  return rows();
}

void kept_preconditioner::apply(const_block v, block out) const {
  std::shared_ptr<const Operator> inverse;
  {
    const std::lock_guard lock(mutex_);
    inverse = inverse_;
  }
  inverse->apply(v, out);
}

kept_preconditioner::choice kept_preconditioner::better(const sampled_hessian& at, double nats) {
  const std::lock_guard lock(mutex_);
  if (!sketch_) {
    hard_ = true;
    return sketched(at, best_sketch(at.shape(), nats), nats);
  }
  if (curvature_ != at.curvature_id()) {
    curvature_ = 0;
    return sketched(at, plan_, nats);
  }
  return sketched(at, larger(at, nats), nats);
}

solve_report kept_preconditioner::solve(const sampled_hessian& at, const_block b, block x,
                                        bool warm, const solve_options& options) {
  const double tightest = *std::min_element(options.rtol.begin(), options.rtol.end());
  double nats = std::log(1.0 / std::clamp(tightest, 1e-16, 0.5));
  solve_report total;
  choice with = first(at, nats);
  for (;;) {
    bool gave_up = false;
    double start = 0.0;
    solve_options here = options;
    here.maxiter = options.maxiter - total.iterations;
    if (with.alternative > 0.0)
      here.give_up = [&](index iteration, double residual) {
        if (iteration == 1) start = residual;
        if (iteration < (with.sketched ? static_cast<index>(1.5 * with.expected) + 2 : 0) ||
            static_cast<double>(iteration) <
                std::max(least_iterations, with.alternative / (8.0 * with.each)))
          return false;
        const double gained = std::log(start / residual) / static_cast<double>(iteration - 1);
        nats = std::max(std::log(residual / tightest), 1.0);
        const double remaining = gained > 0.0 ? nats / gained * with.each : HUGE_VAL;
        return gave_up = remaining > with.alternative;
      };
    const auto inverse = for_models(with.inverse, at.shape().models);
    const solve_report report = cg_for<host_space>(at.system(), inverse.get(), b, x, warm, here);
    total.follow(report);
    if (with.sketched) {
      const auto& sketch = static_cast<const HessianSketch&>(*with.inverse);
      for (const double estimate : {sketch.curvature_min(), sketch.curvature_max()})
        if (std::isfinite(estimate)) total.see_curvature(estimate);
    }
    {
      const std::lock_guard lock(mutex_);
      spent_ += static_cast<double>(report.iterations) * with.each;
      worn_ = static_cast<double>(report.iterations) > 1.5 * with.expected + 2.0;
      inverse_ = inverse;
    }
    if (with.sketched && report.status == solve_status::bad_preconditioner) {
      const std::lock_guard lock(mutex_);
      broken_ = warm = true;
      sketch_.reset();
      with = jacobi(at, nats);
      continue;
    }
    if (!gave_up || total.iterations >= options.maxiter) return total;
    warm = true;
    with = better(at, nats);
  }
}

}  // namespace implicitgrad
