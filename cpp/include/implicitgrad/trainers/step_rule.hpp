// How a gradient becomes a step, x ← x − step(∇f): the one definition of each first-order rule, and
// its derivatives, which unrolled differentiation carries forward (`push`) and back (`pull`).
//
// A rule keeps its memory in `slots()` vectors, all zero before the first step. With t = 1, 2, …
// counting steps, everything entry by entry:
//
//   descent (heavy ball for μ > 0)    v ← μ v + α ∇,                    step = v
//
//   Adam                              m ← β₁ m + (1 − β₁) ∇,            s ← β₂ s + (1 − β₂) ∇²,
//                                     step = α m̂ / (√ŝ + ε),  m̂ = m / (1 − β₁ᵗ), ŝ = s / (1 − β₂ᵗ)
//
// B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Comput.
// Math. Math. Phys. 4 (1964); D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization",
// ICLR 2015, algorithm 1.
#pragma once

#include <memory>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

class StepRule {
 public:
  virtual ~StepRule() = default;

  /// Vectors of memory. Below, `memory` is an n × slots() block.
  virtual index slots() const = 0;

  /// memory ← that after step t, out = the step. Cost: O(n (1 + slots)) here and below.
  virtual void step(index t, const double* gradient, block memory, double* out) const = 0;

  /// The step's derivative along (∇̇, memory˙, α̇): turns the tangent of the memory before the step
  /// into that after it. `memory` is that after the step.
  virtual void push(index t, const double* gradient, const_block memory, const double* gradient_dot,
                    double rate_dot, block memory_dot, double* out_dot) const = 0;

  /// Its adjoint: from those of the x after the step and of the memory after it to those of the
  /// gradient (written) and of the memory before it (in place). Returns that of α.
  virtual double pull(index t, const double* gradient, const_block memory, const double* x_bar,
                      block memory_bar, double* gradient_bar) const = 0;

  /// The curvature beyond which steps on a quadratic grow: 2 (1 + μ) / α; infinite for Adam, whose
  /// steps do not grow with the gradient.
  virtual double most_curvature() const = 0;
};

std::shared_ptr<const StepRule> make_descent(double rate, double momentum);
std::shared_ptr<const StepRule> make_adam(double rate, double beta1, double beta2, double eps);

}  // namespace implicitgrad
