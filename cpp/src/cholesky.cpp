#include "implicitgrad/solvers/cholesky.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "implicitgrad/blas.hpp"
#include "implicitgrad/errors.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

namespace {

/// y = A x, A's lower triangle stored by columns.
void symmetric_product(index n, const double* a, const double* x, double* y) {
  std::fill_n(y, n, 0.0);
  for (index j = 0; j < n; ++j) {
    const double* column = a + j * n;
    y[j] += column[j] * x[j];
    double s = 0.0;
    for (index i = j + 1; i < n; ++i) {
      y[i] += column[i] * x[j];
      s += column[i] * x[i];
    }
    y[j] += s;
  }
}

/// Factors lower(A) + shift·I into `factor`; false where it is not positive definite.
bool factorise(index n, const std::vector<double>& a, double shift, std::vector<double>& factor) {
  poll_interrupt();
  factor = a;
  for (index i = 0; i < n; ++i) factor[i * n + i] += shift;
  const int size = static_cast<int>(n);
  int info = 0;
  blas().dpotrf("L", &size, factor.data(), &size, &info);
  return info == 0;
}

}  // namespace

cholesky_factor::cholesky_factor(const Operator& a) : n_(a.size()) {
  require(n_ <= 46340, "cholesky is for at most 46340 parameters; use cg");
  std::vector<double> dense(static_cast<std::size_t>(n_ * n_));
  a.dense(dense.data());
  for (index i = 0; i < n_; ++i) diagonal_.push_back(dense[i * n_ + i]);

  // Power method for the largest eigenvalue in magnitude, from a fixed start with no symmetry.
  std::vector<double> v(static_cast<std::size_t>(n_)), w(v.size());
  const auto restart = [&] {
    for (index i = 0; i < n_; ++i) v[i] = 1.0 + 0.5 * std::sin(1.7 * static_cast<double>(i + 1));
  };
  constexpr int steps = 8;
  restart();
  for (int step = 0; step < steps; ++step) {
    const double norm = host_space::norm(n_, v.data());
    if (!(std::isfinite(norm) && norm > 0.0)) break;
    host_space::axpby(n_, 1.0 / norm, v.data(), 0.0, v.data());
    symmetric_product(n_, dense.data(), v.data(), w.data());
    curvature_max_ = host_space::dot(n_, v.data(), w.data());
    std::swap(v, w);
  }
  const double scale = std::max(std::abs(curvature_max_), host_space::norm(n_, v.data()));
  if (!std::isfinite(scale)) {  // A has NaN or infinite entries: the solve will meet them and say so
    factor_.assign(dense.size(), 0.0);
    for (index i = 0; i < n_; ++i) factor_[i * n_ + i] = 1.0;
    return;
  }

  if (!factorise(n_, dense, 0.0, factor_)) {
    // The smallest shift, among powers of two times the rounding level, that makes A definite.
    const double noise = DBL_EPSILON * static_cast<double>(n_ + 8) * (scale > 0.0 ? scale : 1.0);
    shift_ = noise;
    while (!factorise(n_, dense, shift_, factor_)) shift_ *= 2.0;
    verdict_ = shift_ <= 16.0 * noise ? definiteness::singular : definiteness::indefinite;
    curvature_min_ = verdict_ == definiteness::singular ? 0.0 : -shift_;
    return;
  }

  // Inverse iteration for the smallest.
  restart();
  for (int step = 0; step < steps; ++step) {
    const double norm = host_space::norm(n_, v.data());
    if (!(std::isfinite(norm) && norm > 0.0)) break;
    host_space::axpby(n_, 1.0 / norm, v.data(), 0.0, v.data());
    apply({v.data(), n_, 1}, {w.data(), n_, 1});
    curvature_min_ = 1.0 / host_space::dot(n_, v.data(), w.data());
    std::swap(v, w);
  }
}

void cholesky_factor::apply(const_block v, block out) const {
  std::copy_n(v.data, v.size(), out.data);
  const int size = static_cast<int>(n_), columns = static_cast<int>(v.cols);
  int info = 0;
  blas().dpotrs("L", &size, &columns, factor_.data(), &size, out.data, &size, &info);
}

}  // namespace implicitgrad
