// Preconditioners made of the Hessian's own rows.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/operator.hpp"

namespace implicitgrad {

/// A factored approximation of a Hessian whose data term has been sketched; or those of several
/// models, for columns that belong to them in turn.
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

/// Of [X 1]ᵀD[X 1] + diag(strength) for models that differ in D, each column of d being of
/// `targets` models that follow each other: from all rows or a sample of them, in the dual where
/// those are fewer than columns, and otherwise of the mean of D.
std::unique_ptr<HessianSketch> make_sketch(std::shared_ptr<const Matrix> x, bool intercept,
                                           const_block d, index targets, index rows,
                                           std::uint64_t seed, int n_threads);

/// One entry a row.
std::vector<double> mean_of_columns(const_block d);

}  // namespace implicitgrad
