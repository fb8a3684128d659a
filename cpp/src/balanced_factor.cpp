#include "implicitgrad/solvers/balanced_factor.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"
#include "implicitgrad/triangular.hpp"

namespace implicitgrad {

double balancing(double value) {
  if (!(value > 0.0 && std::isfinite(value))) return 1.0;
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(1.0, -exponent / 2);
}

bool balanced_factor::factor(index n, std::vector<double> matrix, bool cautious, int n_threads) {
  balance_.resize(static_cast<std::size_t>(n));
  factor_ = std::move(matrix);
  for (index j = 0; j < n; ++j) balance_[j] = balancing(factor_[j * n + j]);
  double largest = 0.0;
  for (index j = 0; j < n; ++j)
    for (index i = j; i < n; ++i) {
      double& entry = factor_[j * n + i];
      entry *= balance_[i] * balance_[j];
      largest = std::isfinite(entry) ? std::max(largest, std::abs(entry)) : HUGE_VAL;
    }
  if (!std::isfinite(largest)) {
    if (cautious) return false;
    // NaN or infinite entries: no preconditioner is to be had.
    std::fill(factor_.begin(), factor_.end(), 0.0);
    std::fill(balance_.begin(), balance_.end(), 1.0);
    for (index j = 0; j < n; ++j) factor_[j * n + j] = 1.0;
  }
  if (cautious) {
    constexpr double resolved = 1e-4;
    poll_interrupt();
    if (!cholesky_decompose(n, factor_.data(), n_threads)) return false;
    std::vector<double> v(static_cast<std::size_t>(n));
    for (index i = 0; i < n; ++i) v[i] = 1.0 + 0.5 * std::sin(1.7 * static_cast<double>(i + 1));
    double growth = 0.0;
    for (int step = 0; step < 3; ++step) {  // inverse iteration
      const double norm = host_space::norm(n, v.data());
      host_space::axpby(n, 1.0 / norm, v.data(), 0.0, v.data());
      cholesky_solve(n, factor_.data(), v.data(), 1);
      growth = host_space::norm(n, v.data());
    }
    return growth <= 1.0 / resolved;
  }
  const std::vector<double> unshifted = factor_;
  for (double shift = 0.0;; shift = std::max(2.0 * shift, DBL_EPSILON * static_cast<double>(n))) {
    poll_interrupt();
    for (index j = 0; j < n; ++j) factor_[j * n + j] += shift;
    if (cholesky_decompose(n, factor_.data(), n_threads)) return true;
    factor_ = unshifted;
  }
}

void balanced_factor::rebalance(double* v, index columns) const {
  const index n = size();
  for (index c = 0; c < columns; ++c)
    for (index i = 0; i < n; ++i) v[c * n + i] *= balance_[i];
}

void balanced_factor::solve(double* v, index columns) const {
  rebalance(v, columns);
  cholesky_solve(size(), factor_.data(), v, columns);
  rebalance(v, columns);
}

void balanced_factor::multiply(double* v) const {
  const index n = size();
  for (index i = 0; i < n; ++i) v[i] /= balance_[i];
  cholesky_product(n, factor_.data(), v);
  for (index i = 0; i < n; ++i) v[i] /= balance_[i];
}

}  // namespace implicitgrad
