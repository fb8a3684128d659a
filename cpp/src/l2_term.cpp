#include "implicitgrad/l2_term.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

index l2_groups::penalised() const {
  index count = 0;
  for (const run& r : runs) count += r.count;
  return count;
}

template <class Body>
void l2_term::for_penalised(Body&& body) const {
  const bool own = groups_.group.empty(), any = groups_.n_groups > 0;
  index at = 0;
  for (const auto& [begin, count] : groups_.runs)
    for (index i = begin; i < begin + count; ++i, ++at) {
      const index l = own ? at : groups_.group[at];
      body(i, any ? rates_[l] : 0.0, l);
    }
}

l2_term::l2_term(const l2_groups& groups, const double* theta, index n_theta, const double* lam)
    : groups_(groups),
      theta_(theta, theta + n_theta),
      rates_(static_cast<std::size_t>(groups.n_groups)),
      jac_lam_(rates_.size()) {
  for (index l = 0; l < groups.n_groups; ++l) {
    rates_[l] = std::exp(lam[l]);
    if (!(std::isfinite(rates_[l]) && rates_[l] >= DBL_MIN))  // its message takes longer than exp
      require(false, "lam[" + std::to_string(l) + "] = " + std::to_string(lam[l]) +
                         " is out of range: exp(lam) must neither overflow nor underflow");
  }
  for_penalised([&](index i, double rate, index l) {
    const double half = 0.5 * theta[i] * theta[i];
    fun_ += (groups.fixed + rate) * half;
    if (groups.n_groups > 0) jac_lam_[l] += rate * half;
  });
}

void l2_term::add_product(const double* v, double* out) const {
  for_penalised([&](index i, double rate, index) { out[i] += (groups_.fixed + rate) * v[i]; });
}

void l2_term::cross(const double* u, double* out) const {
  std::fill_n(out, theta_.size(), 0.0);
  if (groups_.n_groups == 0) return;
  for_penalised([&](index i, double rate, index l) { out[i] = rate * theta_[i] * u[l]; });
}

void l2_term::cross_transpose(const double* q, double* out) const {
  std::fill_n(out, rates_.size(), 0.0);
  if (groups_.n_groups == 0) return;
  for_penalised([&](index i, double rate, index l) { out[l] += rate * theta_[i] * q[i]; });
}

double l2_term::cross_scale(const double* q) const {
  if (groups_.n_groups == 0) return 0.0;
  std::vector<double> sum(rates_.size());
  for_penalised(
      [&](index i, double rate, index l) { sum[l] += std::abs(rate * theta_[i] * q[i]); });
  return host_space::norm(static_cast<index>(sum.size()), sum.data());
}

}  // namespace implicitgrad
