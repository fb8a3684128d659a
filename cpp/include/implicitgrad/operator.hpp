// Operator: a symmetric linear map on blocks of vectors. Hessians, preconditioners (which apply an
// approximate inverse) and factorisations (which apply the exact one) are all Operators; solvers
// know nothing else.
#pragma once

#include <memory>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

class sampled_hessian;
class cholesky_factor;

/// A block diagonal matrix of equally large blocks: `count` different ones, each `repeat` times in
/// a row.
struct block_structure {
  index count = 1, repeat = 1;
};

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

  /// One block unless A is known to be block diagonal.
  virtual block_structure blocks() const { return {}; }

  /// Rows of a block.
  index order() const { return size() / (blocks().count * blocks().repeat); }

  /// The lower triangles of A's different blocks one after another, each column-major order() ×
  /// order(). By default A is one block and is applied to the columns of the identity, at size()
  /// products.
  virtual void dense(double* out) const;

  /// A's Cholesky factor; an operator may keep it and hand it out again.
  virtual std::shared_ptr<const cholesky_factor> factor() const;

  /// Threads that work on A may use.
  virtual int n_threads() const { return 1; }

  /// A as a Hessian of which rows can be sampled, or null.
  virtual const sampled_hessian* sampled() const { return nullptr; }

  /// Products with A that dense() costs.
  virtual index dense_products() const { return size(); }
};

}  // namespace implicitgrad
