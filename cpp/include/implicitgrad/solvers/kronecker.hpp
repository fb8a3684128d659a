// The inverse of a network's Kronecker curvature, with the penalty, a shift and what the solver's
// system has beside H added in the eigenbasis of the factors, A = U diag(α) Uᵀ, G = V diag(γ) Vᵀ.
// Of these the diagonal there is kept: with S the strengths in the shape of the layer, biases last,
//
//   σ_jk = α_j γ_k + Σ_ab U_aj² S_ab V_bk² + shift,      M⁻¹ W = U [(Uᵀ W V) / σ] Vᵀ
//
// (T. George et al., "Fast approximate natural gradient descent in a Kronecker-factored
// eigenbasis", NeurIPS 2018, take the diagonal of the curvature so). With one strength for all,
// that is A ⊗ G + strength I but for biases.
#pragma once

#include <vector>

#include "implicitgrad/kronecker_curvature.hpp"
#include "implicitgrad/operator.hpp"

namespace implicitgrad {

/// M⁻¹, symmetric and positive definite.
///
/// Cost, with m = in and n = out of each layer: two eigendecompositions to begin with, and
/// 2 mn (m + n) flops for the strengths; 4 mn (m + n) flops a vector. Memory: m² + n² + mn.
class kronecker_preconditioner : public Operator {
 public:
  kronecker_preconditioner(kronecker_curvature curvature, double shift);

  index size() const override { return size_; }
  void apply(const_block v, block out) const override;

  /// Extreme eigenvalues of M.
  double smallest() const { return smallest_; }
  double largest() const { return largest_; }

 private:
  struct layer {
    index begin, in, out;
    std::vector<double> u, v, inverse;  // eigenvectors, one a row; 1/σ
  };
  index size_ = 0;
  std::vector<layer> layers_;
  double smallest_, largest_;
};

}  // namespace implicitgrad
