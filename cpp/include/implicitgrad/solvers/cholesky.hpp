// A Cholesky factor as an Operator that applies A⁻¹. CG preconditioned with it converges in one or
// two iterations, recomputes the true residual and refines what rounding left over: that is the
// direct method of this library.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "implicitgrad/operator.hpp"

namespace implicitgrad {

enum class definiteness { positive, singular, indefinite };  // the worst last

/// One symmetric matrix, factored.
class factored_block {
 public:
  /// `entries` holds A's lower triangle, column-major n × n. It is taken over: the factor replaces
  /// that triangle, and A moves into the other one.
  factored_block(index n, double* entries, int n_threads);

  /// v ← A⁻¹v, or of A scaled to a unit diagonal.
  void solve(double* v, index columns, bool unscaled = true) const;

  /// Below, what cholesky_factor says of all its blocks.
  definiteness verdict() const { return verdict_; }
  double curvature_min() const { return curvature_min_; }
  double curvature_max() const { return curvature_max_; }
  const std::vector<double>& matrix_diagonal() const { return diagonal_; }
  double proven_minimum(double slack) const;

  /// Finds the first three of these. Cost: a dozen products and solves.
  void judge();

 private:
  std::vector<double> start() const;
  double dominant_eigenvalue(double mu) const;
  void smallest_eigenvalues(double& scaled, double& unscaled) const;
  double negative_rayleigh() const;

  index n_;
  int n_threads_;
  double* entries_;
  std::vector<double> diagonal_, scale_;
  double shift_ = 0.0;  // what had to be added to the scaled matrix, in units of rounding
  bool finite_ = true;
  definiteness verdict_ = definiteness::positive;
  double curvature_min_ = 0.0, curvature_max_ = 0.0;
};

class cholesky_factor : public Operator {
 public:
  /// Forms A's blocks densely and factors each, scaled to a unit diagonal: order³/3 flops a block
  /// and whatever dense() costs. Where a block is not positive definite, the factor is that of the
  /// scaled matrix plus the smallest multiple of I (among powers of two times the rounding level)
  /// that makes it so, and verdict() says whether A is singular up to rounding or indefinite.
  /// `storage` is memory to use again.
  explicit cholesky_factor(const Operator& a, std::vector<double> storage = {});

  /// The memory of a factor that nobody uses any more.
  std::vector<double> take_storage() { return std::move(storage_); }

  index size() const override { return size_; }
  void apply(const_block v, block out) const override;

  /// This and the two estimates are found when one of them is first asked for.
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
  template <class Body>
  void for_blocks(Body&& body) const;
  const std::vector<factored_block>& judged() const;

  index size_, order_, repeat_;
  int n_threads_;
  std::vector<double> storage_;
  mutable std::vector<factored_block> blocks_;  // changed only in judged(), once
  mutable std::once_flag judged_;
};

}  // namespace implicitgrad
