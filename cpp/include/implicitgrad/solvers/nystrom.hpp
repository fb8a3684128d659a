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
#include "implicitgrad/solvers/report.hpp"

namespace implicitgrad {

class nystrom_preconditioner : public Operator {
 public:
  /// `rank` columns, at most n. With 0 there are 12 (or n), and twice as many as long as doubling
  /// has brought the smallest captured eigenvalue down to a quarter (so that CG takes half as many
  /// iterations), the smallest captured eigenvalue is above ten times the penalty, where that is
  /// known, up to 96; solve() may add more, up to 192; but not beyond n/2, nor 2²⁶ numbers. Without
  /// `scaled`, S = I. A must outlive this.
  ///
  /// Cost: ℓ products in blocks, 9 n ℓ² flops and ℓ³; with the rank doubled, a third more.
  /// Memory: 3 ℓ n words, of which ℓ n stay once the rank is final.
  nystrom_preconditioner(const Operator& a, index rank, std::uint64_t seed, bool scaled = true);

  index size() const override { return n_; }
  /// S P⁻¹ S v. Cost: 4 n ℓ + 2 ℓ² flops a column. Where no sketch could be made, S² v.
  void apply(const_block v, block out) const override;

  /// CG on `a`, which is A or near it. Where the rank is free, and the iterations to come would be
  /// more than it has columns (with those made so far as many, and half more), the rank is doubled
  /// and CG goes on from where it is. As cg_for() in all else.
  solve_report solve(const Operator& a, const_block b, block x, bool warm,
                     const solve_options& options);

  index rank() const { return rank_; }          // 0 where no sketch could be made
  index products() const { return products_; }  // of the construction

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
  bool may_grow() const;
  bool sketched(index columns);
  void sketch(index columns);
  bool build();
  double penalty() const;
  void divide(double* w) const;
  double extreme(bool smallest) const;

  const Operator& a_;
  index n_, rank_ = 0, products_ = 0, made_ = 0;
  bool automatic_ = false;
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
