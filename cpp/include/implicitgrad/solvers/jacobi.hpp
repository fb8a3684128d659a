// The diagonal (Jacobi) preconditioner M = diag(A)⁻¹.
#pragma once

#include <vector>

#include "implicitgrad/operator.hpp"

namespace implicitgrad {

class jacobi_preconditioner : public Operator {
 public:
  /// A must know its diagonal. Where an entry is not positive the row is left as it is.
  explicit jacobi_preconditioner(const Operator& a);

  index size() const override { return static_cast<index>(inverse_.size()); }
  void apply(const_block v, block out) const override;
  const std::vector<double>& matrix_diagonal() const { return diagonal_; }

 private:
  std::vector<double> diagonal_, inverse_;
};

}  // namespace implicitgrad
