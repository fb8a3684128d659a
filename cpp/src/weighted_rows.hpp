// A data term on rows as they are: X, the weights of each fold, and the norms that bounds need of
// them.
#pragma once

#include <mutex>
#include <vector>

#include "implicitgrad/data_term.hpp"

namespace implicitgrad {

/// a, or b where that is larger or one of them NaN.
inline double larger(double a, double b) { return b <= a ? a : b; }

class WeightedRows : public DataTerm {
 public:
  bool finite() const override;
  index depth() const override { return x_->rows() + x_->cols(); }
  bool rows_can_be_sampled() const override { return true; }
  double gradient_terms_norm(const data_state& at, double) const override;

 protected:
  /// `weights` is empty or rows × folds, and is scaled so that each column sums to `share`; with
  /// `squares`, the ‖x_i‖², it is one coefficient a row, as it is.
  WeightedRows(std::shared_ptr<const Matrix> x, std::vector<double> weights, bool intercept,
               int n_threads, std::shared_ptr<const std::vector<double>> squares = nullptr);

  index rows() const { return x_->rows(); }
  /// w_i, i = begin, …, of a fold; null where all of them are even().
  const double* weights(index fold, index begin) const {
    return weights_.empty() ? nullptr : weights_.data() + fold * rows() + begin;
  }
  double even() const { return 1.0 / static_cast<double>(rows()); }
  double weight(index fold, index i) const {
    return weights_.empty() ? even() : weights_[static_cast<std::size_t>(fold * rows() + i)];
  }

  /// Of all rows, for the fold where they are largest, rounded up: Σ w_i ‖r_i‖², Σ w_i ‖r_i‖³ (w
  /// with `share`), and √(Σ w_i ‖r_i‖²) without.
  struct norms {
    double square = 0.0, cube = 0.0, root = 0.0;
    std::vector<double> of_rows;  // ‖r_i‖²
  };
  /// Cost: one pass over X, the first time.
  const norms& row_norms() const;

  /// √(share Σ_i w_i x_ij²), one a column of [X 1], fold after fold. Cost: one pass over X, the
  /// first time.
  const std::vector<double>& column_norms() const;

  std::shared_ptr<const Matrix> x_;
  std::shared_ptr<const std::vector<double>> squares_;  // ‖x_i‖², for coefficients as given

 private:
  void measure() const;

  std::vector<double> weights_;
  mutable std::once_flag rows_once_, columns_once_;
  mutable norms norms_;
  mutable std::vector<double> column_norms_;
};

}  // namespace implicitgrad
