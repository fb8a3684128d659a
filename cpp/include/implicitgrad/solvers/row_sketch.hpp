// The Hessian of a linear model with its sum over n rows replaced by one over m of them,
//
//   H ≈ Σ_{i in sample} share_i d_i r_i r_iᵀ + diag(strength),      r_i = [x_i 1],
//
// factored: a preconditioner for CG. With m = n it is H itself, up to the precision it is formed
// in.
//
// Quality: m rows of a data set without outliers leave eigenvalues of about (1 ± √(p/m))² in the
// preconditioned Hessian (fewer rows do where the penalty dominates), so that CG gains a factor of
// about √(m/p) an iteration (J. Tropp, "User-friendly tail bounds for sums of random matrices",
// Found. Comput. Math. 12, 2012, bounds how far such a sample can be off).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/solvers/balanced_factor.hpp"
#include "implicitgrad/solvers/hessian_sketch.hpp"

namespace implicitgrad {

class row_sketch : public HessianSketch {
 public:
  /// The sample's part of the Hessian [X 1]ᵀD[X 1]. Keeps a copy of the sampled weights and shares
  /// X. Cost: m p² flops in single precision.
  row_sketch(std::shared_ptr<const Matrix> x, bool intercept, const double* d, index rows,
             std::uint64_t seed, int n_threads);

  /// Adds the strengths, one a feature, and factors: p³/3 flops. Single precision is given up where
  /// the factor shows that it does not resolve the smallest eigenvalues.
  void factor(const std::vector<double>& strength) override;
  std::unique_ptr<HessianSketch> copy() const override {
    return std::make_unique<row_sketch>(*this);
  }

  index size() const override { return size_; }
  /// Cost: 2 p² flops a column.
  void apply(const_block v, block out) const override;

  /// Those of the factored matrix by a few power and inverse iterations, drawn in by what the
  /// sample may be off.
  double curvature_min() const override { return curvature_min_; }
  double curvature_max() const override { return curvature_max_; }

  index rows() const { return m_; }
  bool exact() const override { return m_ == n_; }

 private:
  template <class T>
  void form_gram();
  bool factor_gram(bool cautious);
  void estimate_curvature();

  std::shared_ptr<const Matrix> x_;  // the sampled rows
  bool intercept_;
  int n_threads_;
  index n_, m_, size_;
  std::vector<double> weight_;    // √(share_i d_i), one a sampled row
  std::vector<double> scale_;     // powers of two: A diag(scale) has columns of norm about one
  std::vector<double> gram_;      // diag(scale) AᵀA diag(scale), lower triangle
  bool in_double_ = false;        // precision of gram_
  std::vector<double> strength_;  // with the intercept's
  balanced_factor factor_;        // of the same with the strengths
  double curvature_min_ = 0.0, curvature_max_ = 0.0;
};

}  // namespace implicitgrad
