#include "implicitgrad/solvers/row_sketch.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

#include "implicitgrad/cost_model.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/row_subset.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"
#include "implicitgrad/triangular.hpp"

namespace implicitgrad {

namespace {

/// The power of two nearest to 1/√value, so that scaling by it rounds nothing.
double balancing(double value) {
  if (!(value > 0.0 && std::isfinite(value))) return 1.0;
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(1.0, -exponent / 2);
}

// Of the packed columns in the dual.
constexpr index buffer_bytes = index{32} << 20;

}  // namespace

row_sketch::row_sketch(std::shared_ptr<const Matrix> x, bool intercept, const double* d, index rows,
                       std::uint64_t seed, int n_threads)
    : intercept_(intercept),
      n_threads_(n_threads),
      n_(x->rows()),
      m_(std::clamp<index>(rows, 1, n_)),
      size_(x->cols() + (intercept ? 1 : 0)) {
  row_sample sample = stratified_rows(d, n_, m_, seed);
  m_ = static_cast<index>(sample.rows.size());
  for (index s = 0; s < m_; ++s) weight_.push_back(std::sqrt(sample.share[s] * d[sample.rows[s]]));
  x_ = m_ == n_ ? std::move(x) : std::make_shared<row_subset>(std::move(x), std::move(sample.rows));

  // A part of the sample shows the size of each column.
  const index seen = std::min<index>(m_, 1024), p = x_->cols();
  std::vector<double> square(static_cast<std::size_t>(size_)), w(static_cast<std::size_t>(seen));
  const double whole = static_cast<double>(m_) / static_cast<double>(seen);
  std::vector<double> partial;
  const index pieces = (seen + 127) / 128;
  partial.assign(static_cast<std::size_t>(pieces * p), 0.0);
  for (index s = 0; s < seen; ++s) w[s] = whole * weight_[s * m_ / seen] * weight_[s * m_ / seen];
  parallel_for(pieces, n_threads_, [&](index b, int) {
    for (index s = b * 128; s < std::min(seen, (b + 1) * 128); ++s)
      x_->accumulate_squares(s * m_ / seen, s * m_ / seen + 1, &w[s], partial.data() + b * p);
  });
  for (index b = 0; b < pieces; ++b)
    for (index j = 0; j < p; ++j) square[j] += partial[b * p + j];
  if (intercept_)
    for (const double root : weight_) square[p] += root * root;
  for (const double s : square) scale_.push_back(balancing(s));
  if (!dual()) form_gram<float>();
}

template <class T>
void row_sketch::form_gram() {
  gram_.resize(static_cast<std::size_t>(size_ * size_));
  weighted_gram<T>(*x_, intercept_, weight_.data(), scale_.data(), gram_.data(), n_threads_);
  in_double_ = sizeof(T) == sizeof(double);
}

namespace {

/// Factors diag(balance) F diag(balance), F's lower triangle given, the balance chosen so that the
/// diagonal is about one. With `cautious`, false where the smallest eigenvalue is below what single
/// precision resolves; without, what is not definite is shifted until it is.
bool factorise(index n, std::vector<double>& matrix, std::vector<double>& balance, bool cautious,
               int n_threads) {
  balance.resize(static_cast<std::size_t>(n));
  for (index j = 0; j < n; ++j) balance[j] = balancing(matrix[j * n + j]);
  double largest = 0.0;
  for (index j = 0; j < n; ++j)
    for (index i = j; i < n; ++i) {
      double& entry = matrix[j * n + i];
      entry *= balance[i] * balance[j];
      largest = std::isfinite(entry) ? std::max(largest, std::abs(entry)) : HUGE_VAL;
    }
  if (!std::isfinite(largest)) {
    if (cautious) return false;
    // NaN or infinite entries: no preconditioner is to be had.
    std::fill(matrix.begin(), matrix.end(), 0.0);
    std::fill(balance.begin(), balance.end(), 1.0);
    for (index j = 0; j < n; ++j) matrix[j * n + j] = 1.0;
  }
  if (cautious) {
    constexpr double resolved = 1e-4;
    poll_interrupt();
    if (!cholesky_decompose(n, matrix.data(), n_threads)) return false;
    std::vector<double> v(static_cast<std::size_t>(n));
    for (index i = 0; i < n; ++i) v[i] = 1.0 + 0.5 * std::sin(1.7 * static_cast<double>(i + 1));
    double growth = 0.0;
    for (int step = 0; step < 3; ++step) {  // inverse iteration
      const double norm = host_space::norm(n, v.data());
      host_space::axpby(n, 1.0 / norm, v.data(), 0.0, v.data());
      cholesky_solve(n, matrix.data(), v.data(), 1);
      growth = host_space::norm(n, v.data());
    }
    return growth <= 1.0 / resolved;
  }
  const std::vector<double> unshifted = matrix;
  for (double shift = 0.0;; shift = std::max(2.0 * shift, DBL_EPSILON * static_cast<double>(n))) {
    poll_interrupt();
    for (index j = 0; j < n; ++j) matrix[j * n + j] += shift;
    if (cholesky_decompose(n, matrix.data(), n_threads)) return true;
    matrix = unshifted;
  }
}

}  // namespace

void row_sketch::factor(const std::vector<double>& strength) {
  strength_ = strength;
  if (intercept_) {
    // In the dual a strength of zero cannot be: the intercept gets its own curvature. That changes
    // the preconditioned Hessian by a matrix of rank one, which costs CG an iteration or two.
    double own = 0.0;
    for (const double root : weight_) own += root * root;
    if (dual() && own == 0.0)  // nothing is known of it
      own = strength.empty() ? 1.0 : *std::max_element(strength.begin(), strength.end());
    strength_.push_back(dual() ? own : 0.0);
  }
  if (dual()) {
    factor_.resize(static_cast<std::size_t>(m_ * m_));
    const bool single = !form_dual_by_columns();
    if (single) form_dual<float>();
    if (!factor_dual(single)) {
      form_dual<double>();
      factor_dual(false);
    }
  } else if (in_double_ || !factor_primal<float>()) {
    if (!in_double_) form_gram<double>();
    factor_primal<double>();
  }
  estimate_curvature();
}

void row_sketch::estimate_curvature() {
  if (dual()) {
    curvature_min_ = *std::min_element(strength_.begin(), strength_.end());
    curvature_max_ = -HUGE_VAL;
    return;
  }
  const index q = size_;
  const auto normalise = [q](std::vector<double>& v) {
    const double norm = host_space::norm(q, v.data());
    host_space::axpby(q, 1.0 / norm, v.data(), 0.0, v.data());
    return norm;
  };
  std::vector<double> v(static_cast<std::size_t>(q)), w(v.size());
  for (index i = 0; i < q; ++i) v[i] = 1.0 + 0.5 * std::sin(1.7 * static_cast<double>(i + 1));
  w = v;
  double growth = 0.0, shrinkage = 0.0;
  for (int step = 0; step < 4; ++step) {
    normalise(v);
    // H ≈ B⁻¹ L Lᵀ B⁻¹, B = diag(balance).
    for (index i = 0; i < q; ++i) v[i] /= balance_[i];
    cholesky_product(q, factor_.data(), v.data());
    for (index i = 0; i < q; ++i) v[i] /= balance_[i];
    growth = host_space::norm(q, v.data());
    normalise(w);
    apply({w.data(), q, 1}, {w.data(), q, 1});
    shrinkage = host_space::norm(q, w.data());
  }
  const double off = exact() ? 1e-4 : 0.3;
  curvature_max_ = (1.0 - off) * growth;
  curvature_min_ = (1.0 + off) / shrinkage;
}

template <class T>
bool row_sketch::factor_primal() {
  factor_ = gram_;
  for (index j = 0; j < size_; ++j) factor_[j * size_ + j] += scale_[j] * scale_[j] * strength_[j];
  const bool done = factorise(size_, factor_, balance_, sizeof(T) == sizeof(float), n_threads_);
  for (index j = 0; j < size_; ++j) balance_[j] *= scale_[j];
  return done;
}

/// Forms K by outer products of the columns, where that is quicker.
bool row_sketch::form_dual_by_columns() {
  const Matrix* columns = x_->transposed();
  if (columns == nullptr || !cost::by_outer_columns(shape_of(*x_, size_, 1, 1))) return false;
  std::vector<double> inverse;
  for (const double s : strength_) inverse.push_back(1.0 / s);
  outer_gram(*columns, false, inverse.data(), factor_.data(), n_threads_);
  const double constant = intercept_ ? inverse.back() : 0.0;
  for (index j = 0; j < m_; ++j)
    for (index i = j; i < m_; ++i) {
      double& entry = factor_[j * m_ + i];
      entry = weight_[i] * weight_[j] * (entry + constant);
    }
  return true;
}

/// K = B Bᵀ, B = A S^{-1/2}, a range of columns at a time: rows are read once for each.
template <class T>
void row_sketch::form_dual() {
  std::fill(factor_.begin(), factor_.end(), 0.0);
  const index p = x_->cols();
  gram_panel<T> panel(m_, size_, buffer_bytes);
  std::vector<double> wide(static_cast<std::size_t>(n_threads_ * p)), root;
  for (const double s : strength_) root.push_back(1.0 / std::sqrt(s));
  for (index first = 0; first < size_; first += panel.depth()) {
    poll_interrupt();
    const index columns = std::min(panel.depth(), size_ - first);
    parallel_for(m_, n_threads_, [&](index i, int slot) {
      double* row = wide.data() + slot * p;
      x_->copy_scaled(i, i + 1, &weight_[i], row, p);
      for (index j = 0; j < columns; ++j) {
        const double entry = first + j < p ? row[first + j] : weight_[i];
        panel.at(j, i) = static_cast<T>(entry * root[first + j]);
      }
    });
    panel.add_to(factor_.data(), columns, n_threads_);
  }
}

/// Adds I to K and factors; false where K was formed in single precision and that does not do.
bool row_sketch::factor_dual(bool single) {
  // What K loses by rounding comes out magnified by its size: v and Aᵀz cancel.
  double largest = 0.0;
  for (index i = 0; i < m_; ++i) largest = std::max(largest, factor_[i * m_ + i]);
  if (single && !(largest < 1e4)) return false;
  for (index i = 0; i < m_; ++i) factor_[i * m_ + i] += 1.0;
  return factorise(m_, factor_, balance_, single, n_threads_);
}

void row_sketch::apply(const_block v, block out) const {
  const index order = dual() ? m_ : size_, k = v.cols;
  const auto solve = [&](double* b) {
    const auto rescale = [&] {
      for (index c = 0; c < k; ++c)
        for (index i = 0; i < order; ++i) b[c * order + i] *= balance_[i];
    };
    rescale();
    cholesky_solve(order, factor_.data(), b, k);
    rescale();
  };
  if (!dual()) {
    std::copy_n(v.data, v.size(), out.data);
    solve(out.data);
    return;
  }

  // z = A S⁻¹v,  z ← (I + K)⁻¹z,  out = S⁻¹(v − Aᵀz): two passes over the sampled rows.
  std::vector<double> shrunk(v.data, v.data + v.size());
  for (index c = 0; c < k; ++c)
    for (index j = 0; j < size_; ++j) shrunk[c * size_ + j] /= strength_[j];
  std::vector<double> z(static_cast<std::size_t>(m_ * k));
  fused_pass(
      *x_, intercept_, {shrunk.data(), size_, k},
      [&](index begin, index count, index, double* panel, index ldz) {
        for (index c = 0; c < k; ++c)
          for (index i = 0; i < count; ++i) {
            z[c * m_ + begin + i] = weight_[begin + i] * panel[c * ldz + i];
            panel[c * ldz + i] = 0.0;
          }
      },
      out, n_threads_);
  solve(z.data());
  fused_pass(
      *x_, intercept_, {shrunk.data(), size_, k},
      [&](index begin, index count, index, double* panel, index ldz) {
        for (index c = 0; c < k; ++c)
          for (index i = 0; i < count; ++i)
            panel[c * ldz + i] = weight_[begin + i] * z[c * m_ + begin + i];
      },
      out, n_threads_);
  for (index c = 0; c < k; ++c)
    for (index j = 0; j < size_; ++j) out.col(c)[j] = (v.col(c)[j] - out.col(c)[j]) / strength_[j];
}

}  // namespace implicitgrad
