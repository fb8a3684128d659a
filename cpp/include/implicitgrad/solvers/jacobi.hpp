// The diagonal (Jacobi) preconditioner M = diag(A)⁻¹.
#pragma once

#include <memory>
#include <vector>

#include "implicitgrad/operator.hpp"

namespace implicitgrad {

class jacobi_preconditioner : public Operator {
 public:
  /// Where an entry is not positive its row is left as it is.
  explicit jacobi_preconditioner(std::vector<double> diagonal);

  /// For A; null where A does not know its diagonal.
  static std::unique_ptr<jacobi_preconditioner> of(const Operator& a);

  index size() const override { return static_cast<index>(inverse_.size()); }
  void apply(const_block v, block out) const override;
  const std::vector<double>& matrix_diagonal() const { return diagonal_; }

 private:
  std::vector<double> diagonal_, inverse_;
};

}  // namespace implicitgrad
