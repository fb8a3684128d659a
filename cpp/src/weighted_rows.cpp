#include "weighted_rows.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/fused_pass.hpp"

namespace implicitgrad {

WeightedRows::WeightedRows(std::shared_ptr<const Matrix> x, std::vector<double> weights,
                           bool intercept, int n_threads,
                           std::shared_ptr<const std::vector<double>> squares)
    : x_(std::move(x)), squares_(std::move(squares)), weights_(std::move(weights)) {
  const index n = rows();
  features_ = x_->cols();
  intercept_ = intercept;
  n_threads_ = n_threads;
  if (!weights_.empty()) folds_ = static_cast<index>(weights_.size()) / n;
  require(weights_.empty() || (folds_ >= 1 && static_cast<index>(weights_.size()) == n * folds_),
          "sample_weight must have one entry for each row of X");
  require(n_threads >= 1, "n_threads must be at least 1");
  for (index f = 0; f < folds_ && !weights_.empty() && !squares_; ++f) {
    double* w = weights_.data() + f * n;
    const double total = std::accumulate(w, w + n, 0.0);
    require(total > 0.0 && std::isfinite(total), "sample_weight must have a positive, finite sum");
    for (index i = 0; i < n; ++i) w[i] = share() * (w[i] / total);
  }
}

bool WeightedRows::finite() const {
  return std::isfinite(row_norms().square) && std::isfinite(row_norms().cube);
}

double WeightedRows::gradient_terms_norm(const data_state& at, double) const {
  double square = 0.0;
  for (const double slope : at.slopes) square += slope * slope;
  return 1.001 * share() * std::sqrt(square) * row_norms().root + DBL_MIN;
}

const WeightedRows::norms& WeightedRows::row_norms() const {
  std::call_once(rows_once_, [this] { measure(); });
  return norms_;
}

const std::vector<double>& WeightedRows::column_norms() const {
  std::call_once(columns_once_, [this] {
    const index n = rows(), q = features_ + (intercept_ ? 1 : 0);
    const std::vector<double> all(static_cast<std::size_t>(weights_.empty() ? n : 0), even());
    const const_block w{weights_.empty() ? all.data() : weights_.data(), n, folds_};
    column_norms_.resize(static_cast<std::size_t>(q * folds_));
    weighted_squares(*x_, intercept_, w, {column_norms_.data(), q, folds_}, n_threads_);
    for (double& c : column_norms_) c = std::sqrt(c);
  });
  return column_norms_;
}

void WeightedRows::measure() const {
  const index n = rows(), p = x_->cols(), panel = x_->panel_rows();
  const row_blocks blocks = x_->blocks(1);
  std::vector<double> square(static_cast<std::size_t>(blocks.count() * folds_));
  std::vector<double> cube(square.size());
  if (squares_) norms_.of_rows = *squares_;
  norms_.of_rows.resize(static_cast<std::size_t>(n));
  double* of_rows = norms_.of_rows.data();
  poll_interrupt();
  parallel_for(blocks.count(), n_threads_, [&](index b, int) {
    for (index begin = blocks.begin(b); begin < blocks.end(b) && !squares_; begin += panel)
      x_->row_squares(begin, std::min(begin + panel, blocks.end(b)), of_rows + begin);
    for (index i = blocks.begin(b); i < blocks.end(b); ++i) {
      if (intercept_) of_rows[i] += 1.0;
      for (index f = 0; f < folds_; ++f) {
        const double s = of_rows[i], w = weight(f, i);
        square[b * folds_ + f] += w * s;
        cube[b * folds_ + f] += w * s * std::sqrt(s);
      }
    }
  });
  const auto most = [&](const std::vector<double>& partial) {
    double result = 0.0;
    for (index f = 0; f < folds_; ++f) {
      double sum = 0.0;
      for (index b = 0; b < blocks.count(); ++b) sum += partial[b * folds_ + f];
      result = larger(result, sum);
    }
    // All terms are positive: the relative error of the sums is below this.
    return result * (1.0 + DBL_EPSILON * static_cast<double>(n + p + 8));
  };
  norms_.square = most(square);
  norms_.cube = most(cube);
  norms_.root = std::sqrt(norms_.square / share()) * (1.0 + 4.0 * DBL_EPSILON);
}

}  // namespace implicitgrad
