// A network's Gauss-Newton curvature layer by layer, as Kronecker products of small factors.
//
// With ã the inputs of a layer and a one, and g_k the rows of √Λ's derivatives in its
// pre-activations, the layer's block of JᵀΛJ = Σ_i c_i Σ_k (ã ãᵀ) ⊗ (g_k g_kᵀ) (Λ, c as in mlp.hpp)
// is taken to be
//
//   A ⊗ G,    A = Σ_i c_i ã_i ã_iᵀ / Σ_i c_i,    G = Σ_i c_i Σ_k g_ik g_ikᵀ
//
// (J. Martens, R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
// curvature", ICML 2015).
#pragma once

#include <vector>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// One layer: its weights and biases are `in` × `out` entries of θ from `begin` on, row-major.
struct kronecker_block {
  index begin, in, out;
  std::vector<double> a, g;  // lower triangles, column-major
};

struct kronecker_curvature {
  std::vector<kronecker_block> blocks;
  std::vector<double> strength;  // of the penalty, one an entry of θ; 0 for biases
  double gauge = 0.0;            // curvature along the common shift of the last layer's biases
};

}  // namespace implicitgrad
