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
#include "implicitgrad/operator.hpp"

namespace implicitgrad {

/// A factored approximation of a Hessian whose data term has been sketched.
class HessianSketch : public Operator {
 public:
  /// Adds the strengths to the sketched data term, and factors.
  virtual void factor(const std::vector<double>& strength) = 0;
  virtual std::unique_ptr<HessianSketch> copy() const = 0;

  /// Estimates of H's extreme eigenvalues, which CG with a good preconditioner does not come to
  /// see; ±∞ where nothing is known.
  virtual double curvature_min() const = 0;
  virtual double curvature_max() const = 0;

  /// Whether all rows are in it.
  virtual bool exact() const = 0;

  /// Whether it is then H itself.
  virtual bool complete() const { return true; }
};

class row_sketch : public HessianSketch {
 public:
  /// The sample's part of the Hessian [X 1]ᵀD[X 1]. Keeps a copy of the sampled weights and shares
  /// X. Cost: m p² flops in single precision where m ≥ p; nothing yet otherwise.
  row_sketch(std::shared_ptr<const Matrix> x, bool intercept, const double* d, index rows,
             std::uint64_t seed, int n_threads);

  /// Adds the strengths, one a feature, and factors: p³/3 flops; or where m < p, in the dual,
  ///
  ///   (S + AᵀA)⁻¹ = S⁻¹ − S⁻¹Aᵀ (I + A S⁻¹Aᵀ)⁻¹ A S⁻¹      (Woodbury),
  ///
  /// m² p flops in single precision and m³/3. Single precision is given up where the factor shows
  /// that it does not resolve the smallest eigenvalues. Of all rows of a sparse X the first is the
  /// product of two entries for each two of a column, in double precision.
  void factor(const std::vector<double>& strength) override;
  std::unique_ptr<HessianSketch> copy() const override {
    return std::make_unique<row_sketch>(*this);
  }

  index size() const override { return size_; }
  /// Cost: 2 p² flops a column; in the dual 2 m², and two reads of the sampled rows.
  void apply(const_block v, block out) const override;

  /// Those of the factored matrix by a few power and inverse iterations, drawn in by what the
  /// sample may be off. In the dual the smallest strength, and no largest (−∞).
  double curvature_min() const override { return curvature_min_; }
  double curvature_max() const override { return curvature_max_; }

  index rows() const { return m_; }
  bool exact() const override { return m_ == n_; }

 private:
  void estimate_curvature();
  bool dual() const { return m_ < size_; }
  template <class T>
  void form_gram();
  template <class T>
  bool factor_primal();
  template <class T>
  void form_dual();
  bool form_dual_by_columns();
  bool factor_dual(bool single);

  std::shared_ptr<const Matrix> x_;  // the sampled rows
  bool intercept_;
  int n_threads_;
  index n_, m_, size_;
  std::vector<double> weight_;    // √(share_i d_i), one a sampled row
  std::vector<double> scale_;     // powers of two: A diag(scale) has columns of norm about one
  std::vector<double> gram_;      // diag(scale) AᵀA diag(scale), lower triangle (primal)
  bool in_double_ = false;        // precision of gram_
  std::vector<double> strength_;  // with the intercept's
  std::vector<double>
      balance_;  // powers of two: rows and columns are scaled by it before factoring
  std::vector<double> factor_;
  double curvature_min_ = 0.0, curvature_max_ = 0.0;
};

}  // namespace implicitgrad
