// Some rows of a matrix, as a matrix: what a sketch of the data is made of.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "implicitgrad/matrix.hpp"

namespace implicitgrad {

/// Shares the matrix it looks into. Rows that follow each other there are handed on together.
class row_subset : public Matrix {
 public:
  /// `chosen` in increasing order.
  row_subset(std::shared_ptr<const Matrix> x, std::vector<index> chosen)
      : x_(std::move(x)), chosen_(std::move(chosen)) {}

  index rows() const override { return static_cast<index>(chosen_.size()); }
  index cols() const override { return x_->cols(); }
  double bytes() const override {
    return x_->bytes() * static_cast<double>(rows()) / static_cast<double>(x_->rows());
  }
  index panel_rows() const override { return x_->panel_rows(); }
  bool interleaved(index k) const override { return x_->interleaved(k); }
  void dot(index begin, index end, const double* v, index ld, index k, double* z,
           index ldz) const override;
  void accumulate(index begin, index end, const double* w, index ldz, index k, double* out,
                  index ld) const override;
  void accumulate_squares(index begin, index end, const double* w, double* out) const override;
  void row_squares(index begin, index end, double* out) const override;
  void copy_scaled(index begin, index end, const double* scale, double* out,
                   index ld) const override;
  bool finite(index begin, index end) const override;

 private:
  std::shared_ptr<const Matrix> x_;
  std::vector<index> chosen_;
};

/// m of the rows 0 … n − 1 in increasing order: one drawn from each of m strata of about equal
/// length, so that data in any order is covered evenly. All of them for m = n.
std::vector<index> stratified_rows(index n, index m, std::uint64_t seed);

}  // namespace implicitgrad
