// A Cholesky factor as an Operator that applies A⁻¹. CG preconditioned with it converges in one or two
// iterations, recomputes the true residual and refines what rounding left over: that is the direct
// method of this library.
#pragma once

#include <vector>

#include "implicitgrad/operator.hpp"

namespace implicitgrad {

enum class definiteness { positive, singular, indefinite };

class cholesky_factor : public Operator {
 public:
  /// Forms A densely and factors it: p³/3 flops and whatever dense() costs. Where A is not positive
  /// definite, the factor is that of A + shift·I with the smallest power-of-two shift that works, and
  /// verdict() says whether A is singular up to rounding or indefinite.
  explicit cholesky_factor(const Operator& a);

  index size() const override { return n_; }
  void apply(const_block v, block out) const override;

  definiteness verdict() const { return verdict_; }
  double shift() const { return shift_; }

  /// Estimates of A's extreme eigenvalues, from a few steps of the power method and of inverse
  /// iteration. The first is −shift up to a factor of two where A is indefinite.
  double curvature_min() const { return curvature_min_; }
  double curvature_max() const { return curvature_max_; }
  const std::vector<double>& matrix_diagonal() const { return diagonal_; }

 private:
  index n_;
  std::vector<double> factor_, diagonal_;
  definiteness verdict_ = definiteness::positive;
  double shift_ = 0.0, curvature_min_ = 0.0, curvature_max_ = 0.0;
};

}  // namespace implicitgrad
