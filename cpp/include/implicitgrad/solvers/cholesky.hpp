// A Cholesky factor as an Operator that applies A⁻¹. CG preconditioned with it converges in one or
// two iterations, recomputes the true residual and refines what rounding left over: that is the
// direct method of this library.
#pragma once

#include <vector>

#include "implicitgrad/operator.hpp"

namespace implicitgrad {

enum class definiteness { positive, singular, indefinite };  // the worst last

/// One symmetric matrix, factored.
class factored_block {
 public:
  /// From A's lower triangle, column-major n × n.
  factored_block(index n, const double* lower, int n_threads);

  void solve(double* v, index columns, bool unscaled = true) const;

  definiteness verdict() const { return verdict_; }
  double curvature_min() const { return curvature_min_; }
  double curvature_max() const { return curvature_max_; }
  const std::vector<double>& matrix_diagonal() const { return diagonal_; }
  double proven_minimum(double slack) const;

 private:
  std::vector<double> start() const;
  double dominant_eigenvalue(double mu) const;
  double smallest_eigenvalue(bool unscaled) const;
  double negative_rayleigh() const;

  index n_;
  int n_threads_;
  std::vector<double> dense_, factor_, diagonal_, scale_;
  definiteness verdict_ = definiteness::positive;
  double curvature_min_ = 0.0, curvature_max_ = 0.0;
};

class cholesky_factor : public Operator {
 public:
  /// Forms A's blocks densely and factors each, scaled to a unit diagonal: order³/3 flops a block
  /// and whatever dense() costs. Where a block is not positive definite, the factor is that of the
  /// scaled matrix plus the smallest multiple of I (among powers of two times the rounding level)
  /// that makes it so, and verdict() says whether A is singular up to rounding or indefinite.
  explicit cholesky_factor(const Operator& a);

  index size() const override { return size_; }
  void apply(const_block v, block out) const override;

  definiteness verdict() const;

  /// Estimates of A's extreme eigenvalues, from inside the spectrum, by a few steps of the power
  /// method and of inverse iteration.
  double curvature_min() const;
  double curvature_max() const;
  std::vector<double> matrix_diagonal() const;

  /// A number that A's smallest eigenvalue is proven to exceed, or 0: the Cholesky factorisation of
  /// A − shift·I runs to its end, which in floating point still proves A ⪰ shift − 4 ε (p + 2) tr A
  /// (S. M. Rump, "Verification of positive definiteness", BIT 46, 2006). `slack` is taken off for
  /// the rounding that A itself was formed with. Cost: order³/3 flops a block, mostly once.
  double proven_minimum(double slack) const;

 private:
  index size_, repeat_;
  std::vector<factored_block> blocks_;
};

}  // namespace implicitgrad
