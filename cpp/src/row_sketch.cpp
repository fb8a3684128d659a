#include "implicitgrad/solvers/row_sketch.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "implicitgrad/gram.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/row_subset.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

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
  form_gram<float>();
}

template <class T>
void row_sketch::form_gram() {
  gram_.resize(static_cast<std::size_t>(size_ * size_));
  weighted_gram<T>(*x_, intercept_, weight_.data(), scale_.data(), gram_.data(), n_threads_);
  in_double_ = sizeof(T) == sizeof(double);
}

void row_sketch::factor(const std::vector<double>& strength) {
  strength_ = strength;
  if (intercept_) strength_.push_back(0.0);
  if (in_double_ || !factor_gram(true)) {
    if (!in_double_) form_gram<double>();
    factor_gram(false);
  }
  estimate_curvature();
}

/// Of diag(scale) H diag(scale); false with `cautious` where single precision does not do.
bool row_sketch::factor_gram(bool cautious) {
  std::vector<double> matrix = gram_;
  for (index j = 0; j < size_; ++j) matrix[j * size_ + j] += scale_[j] * scale_[j] * strength_[j];
  return factor_.factor(size_, std::move(matrix), cautious, n_threads_);
}

void row_sketch::estimate_curvature() {
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
  for (int step = 0; step < 4; ++step) {  // power and inverse iteration
    normalise(v);
    for (index i = 0; i < q; ++i) v[i] /= scale_[i];
    factor_.multiply(v.data());
    for (index i = 0; i < q; ++i) v[i] /= scale_[i];
    growth = host_space::norm(q, v.data());
    normalise(w);
    apply({w.data(), q, 1}, {w.data(), q, 1});
    shrinkage = host_space::norm(q, w.data());
  }
  const double off = exact() ? 1e-4 : 0.3;
  curvature_max_ = (1.0 - off) * growth;
  curvature_min_ = (1.0 + off) / shrinkage;
}

void row_sketch::apply(const_block v, block out) const {
  const auto rescale = [&] {
    for (index c = 0; c < v.cols; ++c)
      for (index i = 0; i < size_; ++i) out.col(c)[i] *= scale_[i];
  };
  std::copy_n(v.data, v.size(), out.data);
  rescale();
  factor_.solve(out.data, v.cols);
  rescale();
}

}  // namespace implicitgrad
