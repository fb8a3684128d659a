// Blocks of λ in the rows of a model, at one λ: coefficients c_i = b_i s_i(λ) with a fixed b_i,
// inputs x_i(λ) and targets y_i(λ), in this order in λ. With what the model tells of each row
// (loss_rows.hpp) come the derivatives of Σ_i c_i(λ) ℓ(θ; x_i(λ), y_i(λ)), J being the Jacobian of
// a block's map:
//
//   weights   ∂f/∂λ = Jᵀ(b ∘ ℓ),       Cᵀq = Jᵀ(b ∘ ∇θℓᵀq),            C u = Σ_i b_i (Ju)_i ∇θℓ_i,
//   targets   ∂f/∂λ = Jᵀ(c ∘ ∂ℓ/∂y),   Cᵀq = Jᵀ(c ∘ ∂(∇θℓᵀq)/∂y),      …
//   inputs    ∂f/∂λ = Jᵀ(c ∘ ∂ℓ/∂x),   Cᵀq = Jᵀ(c ∘ ∂(∇θℓᵀq)/∂x),      …
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "implicitgrad/hyper_blocks.hpp"
#include "implicitgrad/loss_rows.hpp"

namespace implicitgrad {

struct hyper_blocks {
  std::optional<row_map> weights;
  std::shared_ptr<const InputMap> inputs;
  std::optional<row_map> targets;

  index n_lam() const;
  /// Throws std::invalid_argument where a block does not fit so many rows and entries of y.
  void check(index rows, index entries) const;
};

class hyper_rows {
 public:
  /// `lam` is that of the blocks; these and the b_i must outlive this.
  hyper_rows(const hyper_blocks& blocks, const std::vector<double>& fixed, const double* lam);

  bool is_at(const double* lam) const { return std::equal(lam_.begin(), lam_.end(), lam); }
  const std::vector<double>& coefficients() const { return coefficients_; }
  /// x with λ's inputs in their rows; x itself where there are none.
  std::shared_ptr<const Matrix> inputs(std::shared_ptr<const Matrix> x) const;
  void set_targets(double* y) const;

  /// Where inputs and targets begin among these blocks.
  index inputs_at() const;
  index targets_at() const;
  const double* input_lam() const { return lam_.data() + inputs_at(); }

  // In the following, u and out have the blocks of λ from a row or entry on.

  void jac_lam(const LossRows& rows, double* out) const;
  /// out += C u.
  void add_cross(const LossRows& rows, const double* u, index n_theta, double* out) const;
  /// Rows [at, …) of out.
  void cross_transpose(const LossRows& rows, const_block q, block out, index at) const;

  /// The size of the terms of the inputs' part of Cᵀq, as far as products tell.
  double input_scale(const LossRows& rows, const double* q) const;

  /// ‖(∂c/∂λ)ᵀ v‖ ≤ ‖gains ∘ v‖ for numbers v_i of the rows; and the same of c_i ∂y_i/∂λ for
  /// numbers of the entries of targets. Empty where these are not λ's.
  std::vector<double> weight_gains() const;
  std::vector<double> target_gains() const;

  bool has_weights() const { return weights_.has_value(); }
  bool has_targets() const { return targets_.has_value(); }
  void pull_weights(std::vector<double> v, double* out) const;  // (∂c/∂λ)ᵀ v

 private:
  std::vector<double> input_products(const LossRows& rows, const double* q) const;
  /// Entries of a target.
  index outputs() const {
    return blocks_.targets->size() / static_cast<index>(coefficients_.size());
  }

  const hyper_blocks& blocks_;
  const std::vector<double>& fixed_;
  std::vector<double> lam_, coefficients_;
  std::optional<row_map::point> weights_, targets_;
};

}  // namespace implicitgrad
