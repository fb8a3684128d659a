// A randomised Nyström preconditioner: Z. Frangella, J. A. Tropp, M. Udell, "Randomized Nyström
// preconditioning", SIAM Journal on Matrix Analysis and Applications 44 (2023). It needs nothing of
// A but products with a block of random vectors.
//
// On Ã = S A S with a unit diagonal where A's is known (S = I elsewhere), from orthonormal Ω of ℓ
// columns and Y = ÃΩ,
//
//   Ã ≈ Y (ΩᵀY)⁻¹ Yᵀ = Q M Qᵀ,       P⁻¹ = Q M⁻¹ Qᵀ + (I − Q Qᵀ)/c,       c = λmin(M).
//
// Quality: what the sketch captures is at 1 in the preconditioned matrix; the rest of the spectrum
// keeps its shape below about λ_ℓ/c. The condition number falls to about λ_ℓ/λ_n.
#pragma once

#include <cstdint>
#include <vector>

#include "implicitgrad/operator.hpp"
#include "implicitgrad/solvers/cholesky.hpp"

namespace implicitgrad {

class nystrom_preconditioner : public Operator {
 public:
  /// `rank` columns, at most n. With 0 there are 12 (or n), and twice as many as long as doubling
  /// has brought the smallest captured eigenvalue down to a quarter (so that CG takes half as many
  /// iterations), there are fewer than 96 and less than half of n, and the smallest captured
  /// eigenvalue is above ten times the penalty, where that is known.
  /// Without `scaled`, S = I.
  ///
  /// Cost: ℓ products in blocks, 9 n ℓ² flops and ℓ³; with the rank doubled, a third more.
  /// Memory: (3 ℓ + 1) n words, of which ℓ n stay.
  nystrom_preconditioner(const Operator& a, index rank, std::uint64_t seed, bool scaled = true);

  index size() const override { return n_; }
  /// S P⁻¹ S v. Cost: 4 n ℓ + 2 ℓ² flops a column. Where no sketch could be made, S² v.
  void apply(const_block v, block out) const override;

  index rank() const { return rank_; }  // 0 where no sketch could be made
  index products() const { return products_; }

  /// Indefinite where ΩᵀAΩ is, beyond what rounding and the asymmetry of the products explain;
  /// curvature_min() is then a negative Rayleigh quotient of A.
  definiteness verdict() const { return verdict_; }
  double curvature_min() const { return curvature_min_; }
  /// A Rayleigh quotient of A, near its largest if what is captured is most of A.
  double curvature_max() const { return curvature_max_; }

  /// Estimates of the largest and smallest captured eigenvalues of Ã.
  double largest() const { return largest_; }
  double smallest() const { return smallest_; }

 private:
  void sketch(const Operator& a, index columns);
  bool build();
  double penalty(const Operator& a) const;
  void divide(double* w) const;
  double extreme(bool smallest) const;

  index n_, rank_ = 0, products_ = 0;
  int n_threads_;
  std::uint64_t seed_;
  std::vector<double> scale_;
  std::vector<double> pairs_;   // columns ω₁ y₁ ω₂ y₂ …, while the sketch grows
  std::vector<double> basis_;   // Q, n × rank
  std::vector<double> factor_;  // L with M = Lᵀ L, lower triangle, column-major
  definiteness verdict_ = definiteness::positive;
  double curvature_min_ = 0.0, curvature_max_ = 0.0, largest_ = 0.0, smallest_ = 0.0;
};

}  // namespace implicitgrad
