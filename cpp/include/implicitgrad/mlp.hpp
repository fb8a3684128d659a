// Multilayer perceptrons: with A_0 = X, layer l = 1 … L is
//
//   Z_l = A_{l−1} W_l + 1 b_lᵀ,     A_l = φ(Z_l),     outputs Z_L,
//
//   f(θ, λ) = Σ_i c_i ℓ(z_i, y_i) + ½ Σ_j (fixed + e^{λ_{group(j)}}) W_j²,
//
// θ holding W_1 (row-major), b_1, W_2, …; biases are not penalised.
//
// Linearised once, A_l and the deltas G_l = ∂f/∂Z_l stay in memory: G_L = c ∘ ∂ℓ,
// G_l = φ'(Z_l) ∘ (G_{l+1} W_{l+1}ᵀ), and ∂f/∂W_l = A_{l−1}ᵀ G_l. A product Hv with v = (V_l, u_l)
// is then a pass of the derivatives in that direction alone (B. A. Pearlmutter, "Fast exact
// multiplication by the Hessian", Neural Computation 6, 1994): with RA_0 = 0,
//
//   RZ_l = RA_{l−1} W_l + A_{l−1} V_l + 1 u_lᵀ,     RA_l = φ' ∘ RZ_l,     RG_L = c ∘ ∂²ℓ RZ_L,
//   RG_l = φ' ∘ (RG_{l+1} W_{l+1}ᵀ + G_{l+1} V_{l+1}ᵀ) + φ''/φ' ∘ G_l ∘ RZ_l,
//   (Hv)_{W_l} = RA_{l−1}ᵀ G_l + A_{l−1}ᵀ RG_l,     (Hv)_{b_l} = Σ_rows RG_l.
//
// Without the terms that contain G this is the Gauss-Newton product JᵀΛJv, Λ = c ∘ ∂²ℓ.
//
// Cost of a product: 12 flops per weight and row, 4 in the first layer, and 8 and 4 for
// Gauss-Newton; of a linearisation 6 and 4. Rows go in blocks that stay in cache. Matrix products
// are the BLAS's (blas.hpp), in X's own type: with float32 X, activations, deltas and products are
// float32, sums over blocks of rows, θ and the result float64.
//
// Memory: n (2 Σ hidden + outputs) entries of that type, n Σ hidden more for softplus, n outputs
// for softmax.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "implicitgrad/l2_term.hpp"
#include "implicitgrad/loss_rows.hpp"
#include "implicitgrad/matrix.hpp"
#include "implicitgrad/objective.hpp"

namespace implicitgrad {

struct mlp_architecture {
  std::vector<index> widths;  // columns of X, those of the hidden layers, outputs
  std::string activation, loss;
  l2_groups penalty;  // its runs are set by `lay_out`
  index n_theta = 0;

  /// Where the layers are in θ.
  struct layer {
    index in, out, weights, biases;
  };
  std::vector<layer> layers;

  /// Lays the layers out in θ; throws std::invalid_argument where something does not fit.
  void lay_out();
};

/// Rows of a network. It has the verbs of targets, but for labels.
///
/// Cost, in flops per weight and row (in the first layer): values, none; products 4 (2); sum 4 (2);
/// norms and input_slopes 2 (0 and 2); input_products 10 (8); input_sum 14 (10). Of targets as
/// much, and for target_slopes 2 in the last layer alone.
class NetworkRows : public LossRows {
 public:
  /// ‖∇θℓ_i‖₂.
  virtual void norms(double* out) const = 0;
};

/// A network at one point, which must outlive its rows.
class NetworkLinearization : public HyperLinearization {
 public:
  virtual std::unique_ptr<NetworkRows> loss_rows() const = 0;
};

/// Its linearisations are NetworkLinearization.
///
/// `x` is a dense_matrix<double> or <float>; y has a class 0 … outputs − 1 for each row (softmax),
/// or outputs targets, row-major: for softmax a distribution; `weights` are the c_i.
std::shared_ptr<Objective> make_mlp(std::shared_ptr<const mlp_architecture> architecture,
                                    std::shared_ptr<const Matrix> x, std::vector<double> y,
                                    std::vector<double> weights, int n_threads);

}  // namespace implicitgrad
