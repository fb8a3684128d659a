// Unrolled differentiation: the derivative of g(θ_K, λ), where θ_K comes of K steps of training
//
//   θ_k = θ_{k−1} − step(∇θf(θ_{k−1}, λ)),
//
// by the chain rule through the steps themselves, with nothing assumed of θ_K. One step moves by
// dθ_k = dθ_{k−1} − step′ (H_{k−1} dθ_{k−1} + C_{k−1} dλ), H and C at θ_{k−1}. Carried back from
// ∇θg (reverse mode) that is a product with H and one with Cᵀ a step, however many λ there are;
// carried forward it is a product with H for every λ, and nothing need be remembered.
//
// Reverse mode visits the steps from the last to the first and needs each one's linearisation. A
// tape of all of them takes K r bytes, r those of one (a curvature for each row). Where that is
// more than the budget, the steps are cut into segments of s; of each only the θ (and the rule's
// memory) at its start is kept, c bytes, and its tape is recorded anew when the sweep comes to it
// (but for the last; the first is the one that is shorter where s does not divide K):
//
//   memory  ⌈K/s⌉ c + s r,      at least 2 √(K c r);      cost  K − s linearisations more.
//
// A. Griewank, A. Walther, "Evaluating derivatives", 2nd ed., SIAM 2008, chapter 12; D. Maclaurin,
// D. Duvenaud, R. P. Adams, "Gradient-based hyperparameter optimization through reversible
// learning", ICML 2015; L. Franceschi et al., "Forward and reverse gradient-based hyperparameter
// optimization", ICML 2017.
#pragma once

#include <limits>
#include <vector>

#include "implicitgrad/objective.hpp"
#include "implicitgrad/trainers/step_rule.hpp"

namespace implicitgrad {

/// `diverged`: the steps are seen to grow, as the curvature exceeds what the rule bears.
/// `non_finite`: a NaN or infinity was met; the steps before it are what the report is of.
enum class unroll_status { finished, diverged, non_finite };

struct unroll_options {
  index steps = 0;
  index differentiated = 0;  // the last so many of them; what came before counts as constant
  bool forward = false;
  double memory = 0.0;  // bytes for tape and checkpoints; the least possible if that is more
};

struct unroll_report {
  unroll_status status = unroll_status::finished;
  index steps = 0, linearizations = 0, products = 0;  // of f; products counted by vector
  std::vector<double> theta;                          // θ_K
  double fun = 0.0;                                   // g(θ_K, λ)
  double stationarity = 0.0;                          // ‖∇θf(θ_K, λ)‖₂
  std::vector<double> direct, grad;                   // ∂g/∂λ; dg/dλ
  std::vector<double> grad_theta0;  // dg/dθ_0; empty where not all steps were carried back
  double grad_rate = 0.0;           // dg/dα
  // Rayleigh quotients met: of the mean H along a step, and in the products of a reverse sweep.
  double curvature_min = std::numeric_limits<double>::infinity();
  double curvature_max = -std::numeric_limits<double>::infinity();
  index segment = 0;  // s; 0 in forward mode
};

/// Steps a segment: as many as fit into the budget, with the checkpoints; where not even the least
/// memory does, those that need the least.
index segment_length(index steps, double checkpoint_bytes, double record_bytes, double memory);

/// `f` and `g` linearise to a CrossLinearization; g may have n_lam() = 0.
///
/// Cost: of reverse mode, a linearisation of f and products with H and Cᵀ a step, and the
/// linearisations that the budget makes it repeat; of forward mode, a linearisation, n_lam + 1
/// products with H in one block and one of C with the identity. Memory of the latter, beside the
/// one linearisation: (3 + slots) n_theta (n_lam + 1) + n_lam² words (θ̇, H θ̇ + C, C, the rule's;
/// I).
unroll_report unroll(const Objective& f, const Objective& g, const StepRule& rule,
                     const double* theta0, const double* lam, const unroll_options& options);

}  // namespace implicitgrad
