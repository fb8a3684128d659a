// The softmax loss ℓ(z, y) = log Σ_a e^{z_a} − yᵀz over a run of rows, y being a distribution over
// the classes, or e_c for the label c; with p_a = e^{z_a} / Σ_b e^{z_b}:
//
//   ∇ℓ = p − y,      ∇²ℓ v = p ∘ (v − pᵀv)      (diag(p) − ppᵀ, of which nothing is formed).
//
// Nothing cancels where the model is sure of a row: the largest probability is never taken from
// one, and v counts from its value at that class, where it matters: a constant in v changes
// nothing.
#pragma once

#include "implicitgrad/types.hpp"

namespace implicitgrad::kernels {

/// `count` rows of `classes` columns z, `ldz` apart; the probabilities p of the same rows are in
/// columns `ldp` apart; rows have weights c, all `even` if c is null.
struct class_rows {
  index count, classes;
  double* z;
  index ldz, ldp;
  const double* c;
  double even;
};

/// Targets from a row on: a label 0, 1, … as a double for each, or `shares`, row after row.
struct class_targets {
  const double* first;
  bool shares = false;
};

/// p ← the probabilities at the margins z; z ← c ∘ ∇ℓ; slopes_a += Σ_i c_i s_ia² unless that is
/// null, s_ia being |∂ℓ_i/∂z_a| or what that is rounded to; values_i ← ℓ_i unless null; returns
/// Σ_i c_i ℓ_i. Cost: about 60 flops a class and row.
double evaluate_softmax(const class_rows& rows, const class_targets& y, double* p, double* slopes,
                        double* values = nullptr);

/// z ← c ∘ ∇²ℓ z. Cost: 6 flops a class and row, all of it in cache.
void multiply_softmax(const class_rows& rows, const double* p);

/// z ← c ∘ p ∘ (1 − p), the diagonal of ∇²ℓ.
void softmax_diagonal(const class_rows& rows, const double* p);

}  // namespace implicitgrad::kernels
