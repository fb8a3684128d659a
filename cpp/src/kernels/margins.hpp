// A loss over a run of rows.
#pragma once

#include <string_view>

#include "implicitgrad/types.hpp"

namespace implicitgrad::kernels {

/// For `count` rows of one model with margins z, targets y and weights c, all `even` if c is null:
/// z ← c ∘ ℓ'(z, y), curvature ← c ∘ ℓ''(z, y), and the result is Σ_i c_i ℓ(z_i, y_i) and Σ_i c_i
/// s_i², s_i being what ℓ' is rounded to: |ℓ'|, or |ℓ'| + growth · ℓ'' (losses.hpp). The four
/// arrays do not overlap.
///
/// Cost: 40 bytes a row; for the logistic loss about 70 flops, two of them divisions.
///
/// What a row gives does not depend on the run that it is in. A sum has eight parts, of the rows
/// i ≡ 0 … 7 (mod 8) of the run, at every level of SIMD.
struct margin_sums {
  double value = 0.0, slopes = 0.0;
};
using margin_function = margin_sums (*)(index count, double* z, const double* y, const double* c,
                                        double even, double* curvature);

/// What evaluates the loss of that name.
margin_function evaluate_margins(std::string_view loss);

}  // namespace implicitgrad::kernels
