// The Hessians of linear models with fewer rows than columns, factored in the dual. With S =
// diag(strength), W = √D of one model and A = W[X 1],
//
//   (S + AᵀA)⁻¹ = S⁻¹ − S⁻¹Aᵀ (I + A S⁻¹Aᵀ)⁻¹ A S⁻¹      (Woodbury),
//   A S⁻¹Aᵀ = W K W,    K = [X 1] S⁻¹ [X 1]ᵀ,
//
// so that folds, which differ in D alone, share K; each has a factor of its own, of the rows that
// train it. (With a mean of D for all, what a fold leaves out would be off by a factor that grows
// with K: CG would take an iteration for each such row.)
//
// The intercept has a strength here that H has not, the sum of D: that changes the preconditioned
// Hessian by a matrix of rank one, which costs CG an iteration or two.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "implicitgrad/solvers/balanced_factor.hpp"
#include "implicitgrad/solvers/hessian_sketch.hpp"

namespace implicitgrad {

class dual_sketch : public HessianSketch {
 public:
  /// Column c of what it is applied to belongs to the column (c / targets) mod d.cols of d. Keeps a
  /// copy of the weights of the m sampled rows and shares X.
  dual_sketch(std::shared_ptr<const Matrix> x, bool intercept, const_block d, index targets,
              index rows, std::uint64_t seed, int n_threads);

  /// Cost: K, m² p flops in single precision, or of all rows of a sparse X two for each two entries
  /// of a column, in double; and m³/3 a fold. Single precision is given up where a factor shows
  /// that it does not resolve the smallest eigenvalues.
  void factor(const std::vector<double>& strength) override;
  std::unique_ptr<HessianSketch> copy() const override {
    return std::make_unique<dual_sketch>(*this);
  }

  index size() const override { return x_->cols() + (intercept_ ? 1 : 0); }
  /// Cost: 2 m² flops a column, and two reads of the sampled rows.
  void apply(const_block v, block out) const override;

  /// The smallest strength, and no largest (−∞).
  double curvature_min() const override;
  double curvature_max() const override;
  bool exact() const override { return m_ == n_; }

 private:
  index folds() const { return static_cast<index>(factors_.size()); }
  const double* weight(index fold) const { return weight_.data() + fold * m_; }
  bool form_by_columns(std::vector<double>& k) const;
  template <class T>
  void form(std::vector<double>& k) const;
  bool factor_fold(index fold, const std::vector<double>& k, bool single);

  std::shared_ptr<const Matrix> x_;  // the sampled rows
  bool intercept_;
  int n_threads_;
  index targets_, n_, m_;
  std::vector<double> weight_;            // W, m × folds
  std::vector<std::vector<index>> rows_;  // of each fold, those of weight
  std::vector<double> strength_;          // of the features
  std::vector<double> own_;               // of the intercept, one a fold
  std::vector<balanced_factor> factors_;  // of I + W K W, one a fold
};

}  // namespace implicitgrad
