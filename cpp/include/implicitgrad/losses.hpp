// Losses as functors of one margin z and its target y. All that depends on the loss happens here,
// once per linearisation; everything after it only sees first and second derivatives.
//
// Adding a loss: a functor, and a line in visit_loss.
#pragma once

#include <cmath>
#include <string_view>

#include "implicitgrad/elementary.hpp"
#include "implicitgrad/errors.hpp"

namespace implicitgrad {

/// A loss at one margin: ℓ(z), ℓ'(z), ℓ''(z). The second derivative is exact: it is neither floored
/// nor replaced, since the implicit function theorem needs the true curvature.
struct margin_terms {
  double value, first, second;
};

/// Where the target is a hyperparameter: ∂ℓ/∂y and ∂ℓ'/∂y.
struct target_terms {
  double value, first;
};

/// ℓ(z) = ½ (z − y)².
struct squared_loss {
  static constexpr double most_second = 1.0;  // sup |second derivative|
  static constexpr double most_third = 0.0;   // sup |third derivative|

  static margin_terms at(double z, double y) {
    const double r = z - y;
    return {0.5 * r * r, r, 1.0};
  }
  static target_terms by_target(double z, double y) { return {y - z, -1.0}; }
};

/// ℓ(z) = log(1 + e^{−yz}), y ∈ {−1, 1}. With e = e^{−|z|} no term overflows, and σ(1 − σ) keeps
/// its relative accuracy in saturation.
struct logistic_loss {
  static constexpr double most_second = 0.25;
  static constexpr double most_third = 0.09622504486493764;  // 1 / (6 √3)

  static margin_terms at(double z, double y) {
    const double margin = y * z;
    const double e = vector_exp(-std::abs(z));
    const double u = 1.0 / (1.0 + e);
    const double value = vector_log1p(e) + select_by_sign(margin, -margin, 0.0);
    const double first = -y * select_by_sign(margin, 1.0, e) * u;
    return {value, first, e * u * u};
  }
};

/// ℓ(z) = log(1 + e^z) − y z: the logistic loss of a soft label, y ∈ [0, 1] being the probability
/// of the class 1. Where y is 0 or 1 the tails are as exact as those of logistic_loss.
struct soft_logistic_loss {
  static constexpr double most_second = 0.25;
  static constexpr double most_third = logistic_loss::most_third;

  static margin_terms at(double z, double y) {
    const double e = vector_exp(-std::abs(z));
    const double u = 1.0 / (1.0 + e), v = e * u;
    const double up = select_by_sign(z, v, u), down = select_by_sign(z, u, v);  // σ(z), σ(−z)
    const double value = vector_log1p(e) + select_by_sign(z, -y, 1.0 - y) * z;
    return {value, (1.0 - y) * up - y * down, v * u};
  }
  static target_terms by_target(double z, double) { return {-z, -1.0}; }
};

/// ℓ(z) = e^z − y z, y ≥ 0: counts y of mean e^z, up to a constant.
struct poisson_loss {
  static constexpr double most_second = HUGE_VAL;
  static constexpr double most_third = HUGE_VAL;
  static constexpr double growth = 1.0;

  static margin_terms at(double z, double y) {
    const double mean = vector_exp(z);
    return {mean - y * z, mean - y, mean};
  }
};

/// 0 where ℓ'' is bounded. Otherwise sup |ℓ'''| / ℓ'', so that ℓ''(z + d) ≤ e^{growth |d|} ℓ''(z);
/// ℓ' may then be a small difference of terms as large as growth · ℓ'', which is what it is rounded
/// to.
template <class Loss>
constexpr double growth_of() {
  if constexpr (requires { Loss::growth; }) {
    return Loss::growth;
  } else {
    static_assert(Loss::most_second < HUGE_VAL, "unbounded curvature needs a limit on its growth");
    return 0.0;
  }
}

/// Calls visitor(functor) for the loss of that name.
template <class Visitor>
decltype(auto) visit_loss(std::string_view name, Visitor&& visitor) {
  if (name == "squared") return visitor(squared_loss{});
  if (name == "poisson") return visitor(poisson_loss{});
  if (name == "soft logistic") return visitor(soft_logistic_loss{});
  require(name == "logistic", "loss must be 'squared', 'logistic' or 'poisson'");
  return visitor(logistic_loss{});
}

}  // namespace implicitgrad
