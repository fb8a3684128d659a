// The objective of a linear model,
//
//   f(θ, λ) = Σ_i c_i ℓ(x_iᵀθ [+ b], y_i) + ½ Σ_j (fixed + e^{λ_{group(j)}}) θ_j²,     Σ_i c_i = 1,
//
// the intercept b being the last entry of θ, never penalised. Linearised, it is
//
//   H = [X 1]ᵀ D [X 1] + diag(strength),  d_i = c_i ℓ''_i,     C_jl = e^{λ_l} θ_j  where group(j) =
//   l.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/objective.hpp"
#include "implicitgrad/solvers/kept_preconditioner.hpp"

namespace implicitgrad {

/// How λ enters: feature j is penalised by ½ (fixed + e^{λ_{group[j]}}) θ_j². An empty group means
/// that there is no λ.
struct penalty {
  double fixed = 0.0;
  index n_groups = 0;
  std::vector<index> group;
};

/// Constants of the data term, over all θ, with the rows r_i = [x_i 1] and weights c_i: its Hessian
/// is at most hess · I, hess = sup|second derivative of ℓ| Σ c_i ‖r_i‖², and Lipschitz with the
/// constant third = sup|third derivative of ℓ| Σ c_i ‖r_i‖³.
struct smoothness {
  double hess = 0.0, third = 0.0;
  double row_norm = 0.0;    // √(Σ c_i ‖r_i‖²), at least Σ c_i ‖r_i‖
  double most_first = 0.0;  // sup|first derivative of ℓ|, infinite for the squared loss
};

/// What bounds on the error of a hypergradient need of an objective at one point, all rounded up
/// (but `least`, rounded down).
struct error_terms {
  double hess = 0.0, third = 0.0;  // as in smoothness
  double least = 0.0, most = 0.0;  // of the strengths: H ⪰ least · I; 0 with an intercept
  double cross = 0.0, rate = 0.0;  // ‖C‖₂, and its Lipschitz constant max e^λ
  double reach = 0.0;              // bounds ‖CᵀH⁻¹v‖₂ / √(vᵀH⁻¹v)
  double gradient_rounding = 0.0;  // 2-norm of the rounding error in ∇θf
  double product_rounding = 0.0;   // and in H v, relative to ‖v‖₂
  double gradient_terms = 0.0;     // 2-norm of gradient_terms(), from above
};

class linear_model : public Objective, public std::enable_shared_from_this<linear_model> {
 public:
  /// `weights` is empty (all equal) or one weight ≥ 0 a row, not all zero; they are scaled to
  /// sum 1. For the logistic loss y holds −1 and 1.
  linear_model(std::shared_ptr<const Matrix> x, std::vector<double> y, std::vector<double> weights,
               std::string loss, penalty pen, bool intercept, int n_threads);

  index n_theta() const override { return x_->cols() + (intercept_ ? 1 : 0); }
  index n_lam() const override { return penalty_.n_groups; }

  /// One fused pass over X; O(n) for the loss. Throws where e^λ overflows or underflows.
  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double* lam) const override;

  /// Rounded up. Cost: one pass over X, the first time.
  const smoothness& smooth() const;

  /// √(Σ_i c_i x_ij²), and 1 for an intercept. Cost: one pass over X, the first time.
  const std::vector<double>& column_norms() const;

 private:
  friend class linear_model_linearization;

  std::shared_ptr<const Matrix> x_;
  std::vector<double> y_, weights_;
  std::string loss_;
  penalty penalty_;
  bool intercept_;
  int n_threads_;
  mutable std::once_flag smooth_once_, columns_once_;
  mutable smoothness smooth_;
  mutable std::vector<double> column_norms_;
};

/// Owns what the linear operators need: D, the strengths and ∂strength/∂λ · θ. Never an n × p
/// array.
class linear_model_linearization : public Linearization, public sampled_hessian {
 public:
  linear_model_linearization(std::shared_ptr<const linear_model> model, const double* theta,
                             const double* lam);
  linear_model_linearization(const linear_model_linearization&) = delete;
  linear_model_linearization& operator=(const linear_model_linearization&) = delete;

  double fun() const override { return fun_; }
  const std::vector<double>& jac() const override { return jac_; }
  const Operator& hess() const override { return hess_; }
  problem_shape shape() const override;
  std::unique_ptr<row_sketch> sketch(index rows, std::uint64_t seed) const override;
  std::vector<double> squares() const override;
  std::uint64_t curvature_id() const override { return curvature_id_; }

  /// ∂f/∂λ_l = ½ e^{λ_l} Σ_{j in l} θ_j².
  const std::vector<double>& jac_lam() const { return jac_lam_; }

  /// out = C u, for n_lam × k blocks. Cost: O((n_theta + n_lam) k).
  void cross(const_block u, block out) const;

  /// out = Cᵀ q, for n_theta × k blocks. Cost: O((n_theta + n_lam) k).
  void cross_transpose(const_block q, block out) const;

  error_terms errors() const;

  /// What the terms that ∇f is the sum of amount to, entry by entry, from above: Σ c_i |ℓ'_i x_ij|
  /// is at most √(Σ c_i ℓ'_i²) √(Σ c_i x_ij²) and, `by_row`, √(n Σ (c_i ℓ'_i x_ij)²); strength_j
  /// |θ_j| is added. Cost: O(n_theta); by row, two passes over X.
  std::vector<double> gradient_terms(bool by_row) const;

  /// By how much Cᵀq changes with θ: C(d)ᵀq, as C is linear in θ. d = null stands for θ itself.
  std::vector<double> cross_change(const double* d, const double* q) const;

  /// Bounds ‖C(v)ᵀu‖₂ / √(uᵀHu), C(v) being C with v in the place of θ.
  double reach(const double* v) const;

  /// fixed + e^{λ_{group(j)}}, one a feature: H − diag(strength) is positive semidefinite.
  const std::vector<double>& strength() const override { return strength_; }

  /// ‖ |C|ᵀ|q| ‖₂: the size of the terms whose sum is Cᵀq, which sets its rounding error.
  double cross_scale(const double* q) const;

 private:
  class hessian : public Operator {
   public:
    explicit hessian(const linear_model_linearization& at) : at_(at) {}
    index size() const override { return at_.model_->n_theta(); }
    void apply(const_block v, block out) const override;
    bool diagonal(double* out) const override;
    void dense(double* out) const override;
    index dense_products() const override { return 0; }
    int n_threads() const override { return at_.model_->n_threads_; }
    const sampled_hessian* sampled() const override { return &at_; }

   private:
    const linear_model_linearization& at_;
  };

  hessian hess_{*this};
  std::shared_ptr<const linear_model> model_;
  double fun_ = 0.0;
  std::vector<double> theta_;
  std::vector<double> jac_, jac_lam_;
  std::vector<double> curvature_;     // d, one a row
  std::vector<double> strength_;      // one a feature
  std::vector<double> exp_lam_;       // one a group
  std::vector<double> cross_column_;  // e^{λ_{group(j)}} θ_j, one a feature
  std::uint64_t curvature_id_ = 1;    // always the same for the squared loss
  double slope_ = 0.0;                // √(Σ c_i ℓ'_i²), from above
  double theta_norm_ = 0.0, rate_ = 0.0;
};

}  // namespace implicitgrad
