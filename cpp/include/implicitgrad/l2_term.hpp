// The squared penalty of a θ of which some entries are penalised, those in `runs`:
//
//   ½ Σ_j (fixed + e^{λ_{group(j)}}) θ_j²        over the penalised entries j.
#pragma once

#include <vector>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// Which entries of θ are penalised, and by which λ.
struct l2_groups {
  struct run {
    index begin, count;
  };
  double fixed = 0.0;
  index n_groups = 0;
  std::vector<run> runs;     // in increasing order
  std::vector<index> group;  // one a penalised entry; empty: with λ, each entry has its own

  index penalised() const;
};

/// That term at one (θ, λ), which it keeps. Cost of everything here: O(n_theta) a vector.
class l2_term {
 public:
  /// Throws where e^λ overflows or underflows. `groups` must outlive the term.
  l2_term(const l2_groups& groups, const double* theta, index n_theta, const double* lam);

  const std::vector<double>& theta() const { return theta_; }
  double fun() const { return fun_; }
  const std::vector<double>& jac_lam() const { return jac_lam_; }

  /// out += diag(strength) v; with v = θ, the gradient.
  void add_product(const double* v, double* out) const;

  /// out = C u and out = Cᵀ q; an entry of θ meets one λ only.
  void cross(const double* u, double* out) const;
  void cross_transpose(const double* q, double* out) const;

  /// ‖ |C|ᵀ|q| ‖₂.
  double cross_scale(const double* q) const;

 private:
  /// body(entry of θ, its e^λ or 0, its group), in order.
  template <class Body>
  void for_penalised(Body&& body) const;

  const l2_groups& groups_;
  std::vector<double> theta_, rates_, jac_lam_;  // e^λ
  double fun_ = 0.0;
};

}  // namespace implicitgrad
