// The objective of linear models: a data term and a penalty,
//
//   f(θ, λ) = share Σ_c [ Σ_i w_ic ℓ(r_iᵀθ_c, y_ic) + ½ Σ_j (fixed + e^{λ_{group(j)}}) θ_cj² ],
//
// for one model or for several that share their rows and their strengths (data_term.hpp); the
// intercept, the last entry of each θ_c, is never penalised; where the data term has several
// entries for each column of X (the classes of softmax), they share its strength. Linearised, it is
//
//   H = XᵀDX + diag(share · strength),     C = share · e^{λ_l} θ_cj  in row (c, j), column l =
//   group(j).
//
// With several entries for a column, f does not change with a constant added to all of a column's
// if the strength is zero: so it is for the intercept. These directions, N, are left out of solves:
// the system is H + N diag(τ) Nᵀ, the τ within H's spectrum.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "implicitgrad/data_term.hpp"
#include "implicitgrad/objective.hpp"
#include "implicitgrad/solvers/cholesky.hpp"
#include "implicitgrad/solvers/kept_preconditioner.hpp"

namespace implicitgrad {

/// How λ enters: feature j is penalised by ½ (fixed + e^{λ_{group[j]}}) θ_j². An empty group means
/// that there is no λ.
struct penalty {
  double fixed = 0.0;
  index n_groups = 0;
  std::vector<index> group;
};

/// What bounds on the error of a hypergradient need of an objective at one point, all rounded up
/// (but `least`, rounded down).
struct error_terms {
  double hess = 0.0, third = 0.0, radius = 0.0;  // as in smoothness
  double least = 0.0, most = 0.0;  // of the strengths: H ⪰ least · I; 0 with an intercept
  double cross = 0.0, rate = 0.0;  // ‖C‖₂, and its Lipschitz constant
  double reach = 0.0;              // bounds ‖CᵀH⁻¹v‖₂ / √(vᵀH⁻¹v)
  double cross_rounding = 0.0;     // 2-norm of the rounding error in C
  double gradient_rounding = 0.0;  // 2-norm of the rounding error in ∇θf
  double product_rounding = 0.0;   // and in H v, relative to ‖v‖₂
  double gradient_terms = 0.0;     // 2-norm of gradient_terms(), from above
};

class linear_model : public Objective, public std::enable_shared_from_this<linear_model> {
 public:
  linear_model(std::shared_ptr<const DataTerm> data, penalty pen);

  const DataTerm& data() const { return *data_; }
  index n_theta() const override { return data_->size() * data_->models(); }
  index n_lam() const override { return penalty_.n_groups; }
  /// The first entries of a model's θ, those that can be penalised.
  index penalised() const { return data_->features() * data_->width(); }

  /// One fused pass over X, and O(n) for the loss; no pass at all where θ is that of the call
  /// before, which optimisers of λ often ask for. Throws where e^λ overflows or underflows.
  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double* lam) const override;

  /// The θ of the call before stays in memory.
  std::shared_ptr<const Linearization> glance(const double* theta,
                                              const double* lam) const override;

 private:
  friend class linear_model_linearization;

  std::shared_ptr<const data_state> state_at(const double* theta, bool remember) const;

  std::shared_ptr<const DataTerm> data_;
  penalty penalty_;
  mutable std::mutex state_mutex_;
  mutable std::vector<double> state_theta_;
  mutable std::shared_ptr<const data_state> state_;
  // Where D is constant, H changes with the strengths only, and the last factor may serve again.
  mutable std::mutex factor_mutex_;
  mutable std::vector<double> factor_strength_;
  mutable std::shared_ptr<cholesky_factor> factor_;
};

/// On rows as they are; the arguments are those of make_row_term.
std::shared_ptr<linear_model> make_linear_model(std::shared_ptr<const Matrix> x,
                                                std::vector<double> y, std::vector<double> weights,
                                                std::string loss, penalty pen, bool intercept,
                                                int n_threads);

/// Owns what the linear operators need: D, the strengths and ∂strength/∂λ · θ. Never an n × p
/// array.
class linear_model_linearization : public HyperLinearization, public sampled_hessian {
 public:
  linear_model_linearization(std::shared_ptr<const linear_model> model, const double* theta,
                             const double* lam, bool remember);
  linear_model_linearization(const linear_model_linearization&) = delete;
  linear_model_linearization& operator=(const linear_model_linearization&) = delete;

  double fun() const override { return fun_; }
  const std::vector<double>& jac() const override { return jac_; }
  const Operator& hess() const override { return hess_; }
  const Operator& system() const override { return degenerate() ? system_ : hess_; }
  double gradient_rounding() const override { return errors().gradient_rounding; }
  problem_shape shape() const override { return model_->data_->shape(); }
  std::unique_ptr<HessianSketch> sketch(index rows, std::uint64_t seed) const override;
  std::vector<double> squares() const override { return model_->data_->mean_squares(*data_); }
  std::uint64_t curvature_id() const override { return data_->curvature_id; }

  /// ∂f/∂λ_l = ½ share e^{λ_l} Σ_c Σ_{j in l} θ_cj².
  const std::vector<double>& jac_lam() const override { return jac_lam_; }

  /// The data term's value for each model, without `share`.
  const std::vector<double>& values() const { return data_->values; }

  /// out = C u, for n_lam × k blocks. Cost: O((n_theta + n_lam) k).
  void cross(const_block u, block out) const override;

  /// out = Cᵀ q, for n_theta × k blocks. Cost: O((n_theta + n_lam) k).
  void cross_transpose(const_block q, block out) const override;

  double bytes() const override;

  bool degenerate() const override;
  void project(block v) const override;

  virtual error_terms errors() const;

  /// What the terms that ∇f is the sum of amount to, entry by entry, from above: those of the data
  /// term (DataTerm::gradient_terms), and strength_j |θ_j|.
  std::vector<double> gradient_terms(bool by_row) const override;

  /// The derivative of Cᵀq along d in θ, ∂C[d]ᵀq; infinite entries where it is not known.
  virtual std::vector<double> cross_change(const double* d, const double* q) const;

  /// Bounds ‖∂C[d]ᵀv‖₂ / √(dᵀHd) for all d.
  virtual double reach(const double* v) const;

  /// The Lipschitz constant of C u in θ: C has one entry a row.
  virtual double response_rate(const double* u) const;

  /// share (fixed + e^{λ_{group(j)}}), one a penalised entry: H less that on its diagonal, the same
  /// for each model, is positive semidefinite.
  const std::vector<double>& strength() const override { return strength_; }

  double cross_scale(const double* q) const override;

  solve_costs costs(double nats) const override;

 protected:
  const DataTerm& data() const { return *model_->data_; }
  const data_state& state() const { return *data_; }
  const std::vector<double>& theta() const { return theta_; }

 private:
  class hessian : public Operator {
   public:
    hessian(const linear_model_linearization& at, bool completed)
        : at_(at), completed_(completed) {}
    index size() const override { return at_.model_->n_theta(); }
    void apply(const_block v, block out) const override;
    bool diagonal(double* out) const override;
    block_structure blocks() const override;
    void dense(double* out) const override;
    index dense_products() const override { return 0; }
    std::shared_ptr<const cholesky_factor> factor() const override;
    int n_threads() const override { return at_.model_->data_->n_threads(); }
    const sampled_hessian* sampled() const override {
      return at_.model_->data_->rows_can_be_sampled() ? &at_ : nullptr;
    }

   private:
    const linear_model_linearization& at_;
    const bool completed_;  // N diag(τ) Nᵀ added
  };

  /// body(first entry, τ) for each run of entries that such a direction adds a constant to.
  template <class Body>
  void for_null(Body&& body) const;

  /// body(entry of θ, feature, group) for every penalised entry.
  template <class Body>
  void for_penalised(Body&& body) const;

  hessian hess_{*this, false}, system_{*this, true};
  std::shared_ptr<const linear_model> model_;
  std::shared_ptr<const data_state> data_;
  double fun_ = 0.0;
  std::vector<double> theta_, jac_, jac_lam_;
  std::vector<double> strength_;      // one a penalised entry of a model
  std::vector<double> rates_;         // share e^{λ_l}, one a group
  std::vector<double> cross_column_;  // share e^{λ_{group(j)}} θ_cj, one a penalised entry of θ
  double rate_ = 0.0;
  mutable std::once_flag null_once_;
  mutable std::vector<double> null_;  // τ, one a column of [X 1], fold after fold
};

}  // namespace implicitgrad
