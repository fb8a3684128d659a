// A Cholesky factor of a symmetric matrix whose rows may be of very different sizes, for sketches:
// what rounding has made indefinite is shifted until it is not.
#pragma once

#include <vector>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// The power of two nearest to 1/√value, so that scaling by it rounds nothing.
double balancing(double value);

class balanced_factor {
 public:
  /// Factors diag(b) A diag(b), A's lower triangle given (column-major n × n), b so that the
  /// diagonal is about one. With `cautious`, false where the smallest eigenvalue is below what
  /// single precision resolves; without, what is not definite is shifted until it is. Where A is
  /// not finite it counts as the identity. Cost: n³/3 flops.
  bool factor(index n, std::vector<double> matrix, bool cautious, int n_threads);

  index size() const { return static_cast<index>(balance_.size()); }

  /// v ← A⁻¹v for each of `columns` vectors. Cost: 2 n² flops each, the factor read twice for four.
  void solve(double* v, index columns) const;

  /// v ← A v. Cost: the factor is read twice.
  void multiply(double* v) const;

 private:
  void rebalance(double* v, index columns) const;

  std::vector<double> balance_, factor_;
};

}  // namespace implicitgrad
