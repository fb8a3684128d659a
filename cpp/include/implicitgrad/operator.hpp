// Operator: a symmetric linear map on blocks of vectors. Hessians, preconditioners (which apply an
// approximate inverse) and factorisations (which apply the exact one) are all Operators; solvers
// know nothing else.
#pragma once

#include "implicitgrad/types.hpp"

namespace implicitgrad {

class sampled_hessian;

class Operator {
 public:
  virtual ~Operator() = default;

  virtual index size() const = 0;

  /// out = A v, for size() × k blocks that do not overlap.
  virtual void apply(const_block v, block out) const = 0;

  /// Writes diag(A) and returns true, or returns false where it is not known.
  virtual bool diagonal(double* out) const {
    static_cast<void>(out);
    return false;
  }

  /// The lower triangle of A, column-major size() × size(). By default A is applied to the columns
  /// of the identity, at size() products.
  virtual void dense(double* out) const;

  /// Threads that work on A may use.
  virtual int n_threads() const { return 1; }

  /// A as a Hessian of which rows can be sampled, or null.
  virtual const sampled_hessian* sampled() const { return nullptr; }

  /// Products with A that dense() costs.
  virtual index dense_products() const { return size(); }
};

}  // namespace implicitgrad
