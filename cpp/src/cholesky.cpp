#include "implicitgrad/solvers/cholesky.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"
#include "implicitgrad/triangular.hpp"

namespace implicitgrad {

namespace {

// Steps of the power methods: at most so many, and no more once an estimate has settled.
constexpr int power_steps = 8;

bool settled(int step, double estimate, double before) {
  return step >= 2 && std::abs(estimate - before) <= 0.02 * std::abs(estimate);
}

/// A larger factor would take more than 16 GB.
index checked(index n) {
  require(n <= 46340, "cholesky is for at most 46340 parameters; use cg");
  return n;
}

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
bool factorise(index n, const std::vector<double>& a, double shift, std::vector<double>& factor,
               int n_threads) {
  poll_interrupt();
  factor = a;
  for (index i = 0; i < n; ++i) factor[i * n + i] += shift;
  return cholesky_decompose(n, factor.data(), n_threads);
}

}  // namespace

factored_block::factored_block(index n, const double* lower, int n_threads)
    : n_(n),
      n_threads_(n_threads),
      dense_(lower, lower + n * n),
      scale_(static_cast<std::size_t>(n)) {
  for (index i = 0; i < n_; ++i) diagonal_.push_back(dense_[i * n_ + i]);

  curvature_max_ = dominant_eigenvalue(0.0);
  const double largest = std::abs(curvature_max_);
  if (!std::isfinite(largest)) {  // NaN or infinite entries: the solve will meet them and say so
    factor_.assign(dense_.size(), 0.0);
    for (index i = 0; i < n_; ++i) factor_[i * n_ + i] = scale_[i] = 1.0;
    return;
  }

  // S A S with s_i ≈ a_ii^{-1/2} has a diagonal of about one; that undoes what scales alone do to
  // the condition. Powers of two round nothing.
  std::vector<double> scaled;
  const auto rescale = [&](auto size_of) {
    scaled = dense_;
    for (index i = 0; i < n_; ++i) {
      int exponent = 0;
      std::frexp(size_of(i), &exponent);
      scale_[i] = std::ldexp(1.0, -exponent / 2);
    }
    bool bounded = true;
    for (index j = 0; j < n_; ++j)
      for (index i = j; i < n_; ++i) {
        double& entry = scaled[j * n_ + i];
        entry *= scale_[i] * scale_[j];
        bounded = bounded && std::abs(entry) <= 4.0;
      }
    return bounded;
  };
  const double typical = largest > 0.0 ? largest : 1.0;
  // |a_ij| ≤ √(a_ii a_jj) in a semidefinite matrix. Where that fails by far, no scaling will help.
  if (!rescale([&](index i) { return diagonal_[i] > 0.0 ? diagonal_[i] : typical; }))
    rescale([&](index) { return typical; });

  const double noise = DBL_EPSILON * static_cast<double>(n_ + 8);
  if (!factorise(n_, scaled, 0.0, factor_, n_threads_)) {
    // The smallest shift, among powers of two times the rounding level, that makes it definite.
    double shift = noise;
    while (!factorise(n_, scaled, shift, factor_, n_threads_)) shift *= 2.0;
    verdict_ = shift <= 16.0 * noise ? definiteness::singular : definiteness::indefinite;
    if (verdict_ == definiteness::singular) return;
    // The power method on A − μI leads to the end of the spectrum that is farther from μ.
    if (curvature_max_ < 0.0) curvature_max_ = dominant_eigenvalue(curvature_max_);
    curvature_min_ = std::min(negative_rayleigh(), dominant_eigenvalue(curvature_max_));
    return;
  }
  if (smallest_eigenvalue(false) <= noise) verdict_ = definiteness::singular;
  curvature_min_ = smallest_eigenvalue(true);
}

/// A start for the power methods: fixed, and with no symmetry.
std::vector<double> factored_block::start() const {
  std::vector<double> v;
  for (index i = 0; i < n_; ++i)
    v.push_back(1.0 + 0.5 * std::sin(1.7 * static_cast<double>(i + 1)));
  return v;
}

/// The eigenvalue farthest from μ, by the power method on A − μI.
double factored_block::dominant_eigenvalue(double mu) const {
  std::vector<double> v = start(), w(v.size());
  double estimate = 0.0;
  for (int step = 0; step < power_steps; ++step) {
    const double norm = host_space::norm(n_, v.data());
    if (!std::isfinite(norm)) return norm;
    if (norm == 0.0) break;
    host_space::axpby(n_, 1.0 / norm, v.data(), 0.0, v.data());
    symmetric_product(n_, dense_.data(), v.data(), w.data());
    if (mu != 0.0) host_space::axpby(n_, -mu, v.data(), 1.0, w.data());
    const double before = std::exchange(estimate, host_space::dot(n_, v.data(), w.data()));
    if (settled(step, estimate, before)) break;
    std::swap(v, w);
  }
  return estimate + mu;
}

/// By inverse iteration, of A or of the scaled matrix.
double factored_block::smallest_eigenvalue(bool unscaled) const {
  std::vector<double> v = start(), w(v.size());
  double estimate = 0.0;
  for (int step = 0; step < power_steps; ++step) {
    const double norm = host_space::norm(n_, v.data());
    if (!(std::isfinite(norm) && norm > 0.0)) break;
    host_space::axpby(n_, 1.0 / norm, v.data(), 0.0, v.data());
    w = v;
    solve(w.data(), 1, unscaled);
    const double before = std::exchange(estimate, 1.0 / host_space::dot(n_, v.data(), w.data()));
    if (settled(step, estimate, before)) break;
    std::swap(v, w);
  }
  return estimate;
}

/// The least Rayleigh quotient of A met on the way to a direction where it is negative, where
/// inverse iteration with the shifted factor leads.
double factored_block::negative_rayleigh() const {
  std::vector<double> v = start(), w(v.size());
  double least = 0.0;
  for (int step = 0; step < 4 * power_steps; ++step) {
    const double norm = host_space::norm(n_, v.data());
    if (!(std::isfinite(norm) && norm > 0.0)) break;
    host_space::axpby(n_, 1.0 / norm, v.data(), 0.0, v.data());
    symmetric_product(n_, dense_.data(), v.data(), w.data());
    least = std::min(least, host_space::dot(n_, v.data(), w.data()));
    solve(v.data(), 1, true);
  }
  return least;
}

double factored_block::proven_minimum(double slack) const {
  if (verdict_ != definiteness::positive) return 0.0;
  double trace = 0.0;
  for (const double d : diagonal_) trace += d;
  const double backward = 4.0 * DBL_EPSILON * static_cast<double>(n_ + 2) * trace;
  std::vector<double> factor;
  for (const double share : {0.9, 0.5, 0.1}) {
    const double shift = share * curvature_min_;
    if (shift > backward + slack && factorise(n_, dense_, -shift, factor, n_threads_))
      return shift - backward - slack;
  }
  return 0.0;
}

void factored_block::solve(double* v, index columns, bool unscaled) const {
  const auto rescale = [&] {
    if (!unscaled) return;
    for (index c = 0; c < columns; ++c)
      for (index i = 0; i < n_; ++i) v[c * n_ + i] *= scale_[i];
  };
  rescale();
  cholesky_solve(n_, factor_.data(), v, columns);
  rescale();
}

cholesky_factor::cholesky_factor(const Operator& a) : size_(a.size()), repeat_(a.blocks().repeat) {
  const index q = checked(a.order()), count = a.blocks().count;
  std::vector<double> dense(static_cast<std::size_t>(count * q * q));
  a.dense(dense.data());
  blocks_.reserve(static_cast<std::size_t>(count));
  for (index b = 0; b < count; ++b)
    blocks_.emplace_back(q, dense.data() + b * q * q, a.n_threads());
}

void cholesky_factor::apply(const_block v, block out) const {
  const index stretch = size_ / static_cast<index>(blocks_.size());
  std::copy_n(v.data, v.size(), out.data);
  for (index c = 0; c < v.cols; ++c)
    for (std::size_t b = 0; b < blocks_.size(); ++b)
      blocks_[b].solve(out.col(c) + static_cast<index>(b) * stretch, repeat_);
}

definiteness cholesky_factor::verdict() const {
  definiteness worst = definiteness::positive;
  for (const factored_block& one : blocks_) worst = std::max(worst, one.verdict());
  return worst;
}

double cholesky_factor::curvature_min() const {
  double least = blocks_.front().curvature_min();
  for (const factored_block& one : blocks_) least = std::min(least, one.curvature_min());
  return least;
}

double cholesky_factor::curvature_max() const {
  double most = blocks_.front().curvature_max();
  for (const factored_block& one : blocks_)
    if (!(one.curvature_max() <= most)) most = one.curvature_max();
  return most;
}

std::vector<double> cholesky_factor::matrix_diagonal() const {
  std::vector<double> diagonal;
  diagonal.reserve(static_cast<std::size_t>(size_));
  for (const factored_block& one : blocks_)
    for (index r = 0; r < repeat_; ++r)
      diagonal.insert(diagonal.end(), one.matrix_diagonal().begin(), one.matrix_diagonal().end());
  return diagonal;
}

double cholesky_factor::proven_minimum(double slack) const {
  double least = HUGE_VAL;
  for (const factored_block& one : blocks_) least = std::min(least, one.proven_minimum(slack));
  return least;
}

std::shared_ptr<const cholesky_factor> Operator::factor() const {
  return std::make_shared<const cholesky_factor>(*this);
}

}  // namespace implicitgrad
