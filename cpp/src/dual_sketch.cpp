#include "implicitgrad/solvers/dual_sketch.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "implicitgrad/cost_model.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/row_subset.hpp"
#include "implicitgrad/runtime.hpp"

namespace implicitgrad {

namespace {

// Of the packed columns.
constexpr index buffer_bytes = index{32} << 20;

}  // namespace

dual_sketch::dual_sketch(std::shared_ptr<const Matrix> x, bool intercept, const_block d,
                         index targets, index rows, std::uint64_t seed, int n_threads)
    : intercept_(intercept),
      n_threads_(n_threads),
      targets_(targets),
      n_(x->rows()),
      rows_(static_cast<std::size_t>(d.cols)),
      factors_(static_cast<std::size_t>(d.cols)) {
  row_sample sample =
      stratified_rows(mean_of_columns(d).data(), n_, std::clamp<index>(rows, 1, n_), seed);
  m_ = static_cast<index>(sample.rows.size());
  for (index f = 0; f < d.cols; ++f)
    for (index s = 0; s < m_; ++s) {
      weight_.push_back(std::sqrt(sample.share[s] * d.col(f)[sample.rows[s]]));
      if (weight_.back() != 0.0) rows_[f].push_back(s);
    }
  x_ = m_ == n_ ? std::move(x) : std::make_shared<row_subset>(std::move(x), std::move(sample.rows));
}

void dual_sketch::factor(const std::vector<double>& strength) {
  strength_ = strength;
  own_.clear();
  for (index f = 0; f < folds(); ++f) {
    double own = 0.0;
    for (const index s : rows_[f]) own += weight(f)[s] * weight(f)[s];
    if (own == 0.0)  // nothing is known of it
      own = strength.empty() ? 1.0 : *std::max_element(strength.begin(), strength.end());
    own_.push_back(own);
  }
  std::vector<double> k(static_cast<std::size_t>(m_ * m_));
  bool single = !form_by_columns(k);
  if (single) form<float>(k);
  for (index f = 0; f < folds(); ++f)
    if (!factor_fold(f, k, single)) {
      form<double>(k);
      single = false;
      factor_fold(f, k, single);
    }
}

/// K of the features by outer products of the columns of X, where that is quicker.
bool dual_sketch::form_by_columns(std::vector<double>& k) const {
  if (!cost::by_outer_columns(shape_of(*x_, size(), 1, 1))) return false;
  const Matrix* columns = x_->transposed();
  std::vector<double> inverse;
  for (const double s : strength_) inverse.push_back(1.0 / s);
  outer_gram(*columns, false, inverse.data(), k.data(), n_threads_);
  return true;
}

/// The same a range of columns at a time: rows are read once for each.
template <class T>
void dual_sketch::form(std::vector<double>& k) const {
  std::fill(k.begin(), k.end(), 0.0);
  const index p = x_->cols();
  gram_panel<T> panel(m_, p, buffer_bytes);
  std::vector<double> wide(static_cast<std::size_t>(n_threads_ * p)), root;
  for (const double s : strength_) root.push_back(1.0 / std::sqrt(s));
  const double one = 1.0;
  for (index first = 0; first < p; first += panel.depth()) {
    poll_interrupt();
    const index columns = std::min(panel.depth(), p - first);
    parallel_for(m_, n_threads_, [&](index i, int slot) {
      double* row = wide.data() + slot * p;
      x_->copy_scaled(i, i + 1, &one, row, p);
      for (index j = 0; j < columns; ++j)
        panel.at(j, i) = static_cast<T>(row[first + j] * root[first + j]);
    });
    panel.add_to(k.data(), columns, n_threads_);
  }
}

/// Factors I + W K W of the fold's rows; false where K was formed in single precision and that does
/// not do.
bool dual_sketch::factor_fold(index fold, const std::vector<double>& k, bool single) {
  const std::vector<index>& rows = rows_[static_cast<std::size_t>(fold)];
  const auto m = static_cast<index>(rows.size());
  if (m == 0) return true;
  const double* w = weight(fold);
  const double constant = intercept_ ? 1.0 / own_[static_cast<std::size_t>(fold)] : 0.0;
  std::vector<double> matrix(static_cast<std::size_t>(m * m));
  double largest = 0.0;
  for (index j = 0; j < m; ++j) {
    const double* column = k.data() + rows[j] * m_;
    for (index i = j; i < m; ++i)
      matrix[j * m + i] = w[rows[i]] * w[rows[j]] * (column[rows[i]] + constant);
    largest = std::max(largest, matrix[j * m + j]);
    matrix[j * m + j] += 1.0;
  }
  // What K loses by rounding comes out magnified by its size: v and Aᵀz cancel.
  if (single && !(largest < 1e4)) return false;
  return factors_[static_cast<std::size_t>(fold)].factor(m, std::move(matrix), single, n_threads_);
}

double dual_sketch::curvature_min() const {
  double least = HUGE_VAL;
  for (const double s : strength_) least = std::min(least, s);
  if (intercept_)
    for (const double s : own_) least = std::min(least, s);
  return least;
}

double dual_sketch::curvature_max() const { return -HUGE_VAL; }

/// z = A S⁻¹v,  z ← (I + W K W)⁻¹z,  out = S⁻¹(v − Aᵀz): two passes over the sampled rows.
void dual_sketch::apply(const_block v, block out) const {
  const index p = x_->cols(), q = size(), columns = v.cols;
  const auto fold = [&](index c) { return c / targets_ % folds(); };
  const auto shrink = [&](double* x, index c) {
    for (index j = 0; j < p; ++j) x[j] /= strength_[j];
    if (intercept_) x[p] /= own_[static_cast<std::size_t>(fold(c))];
  };
  std::vector<double> shrunk(v.data, v.data + v.size());
  for (index c = 0; c < columns; ++c) shrink(shrunk.data() + c * q, c);
  std::vector<double> z(static_cast<std::size_t>(m_ * columns));
  fused_pass(
      *x_, intercept_, {shrunk.data(), q, columns},
      [&](index begin, index count, index, double* panel, index ldz) {
        for (index c = 0; c < columns; ++c) {
          const double* w = weight(fold(c)) + begin;
          for (index i = 0; i < count; ++i) {
            z[c * m_ + begin + i] = w[i] * panel[c * ldz + i];
            panel[c * ldz + i] = 0.0;
          }
        }
      },
      out, n_threads_);
  for (index f = 0; f < folds(); ++f) {
    const std::vector<index>& rows = rows_[static_cast<std::size_t>(f)];
    std::vector<double> of_fold;
    for (index c = 0; c < columns; ++c)
      if (fold(c) == f)
        for (const index s : rows) of_fold.push_back(z[c * m_ + s]);
    if (of_fold.empty()) continue;
    const auto m = static_cast<index>(rows.size());
    factors_[static_cast<std::size_t>(f)].solve(of_fold.data(),
                                                static_cast<index>(of_fold.size()) / m);
    const double* next = of_fold.data();
    for (index c = 0; c < columns; ++c)
      if (fold(c) == f)
        for (const index s : rows) z[c * m_ + s] = *next++;
  }
  fused_pass(
      *x_, intercept_, {shrunk.data(), q, columns},
      [&](index begin, index count, index, double* panel, index ldz) {
        for (index c = 0; c < columns; ++c) {
          const double* w = weight(fold(c)) + begin;
          for (index i = 0; i < count; ++i) panel[c * ldz + i] = w[i] * z[c * m_ + begin + i];
        }
      },
      out, n_threads_);
  for (index c = 0; c < columns; ++c) {
    for (index j = 0; j < q; ++j) out.col(c)[j] = v.col(c)[j] - out.col(c)[j];
    shrink(out.col(c), c);
  }
}

}  // namespace implicitgrad
