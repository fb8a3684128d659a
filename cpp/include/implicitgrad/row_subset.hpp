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

/// A sample of rows, in increasing order, and what each counts for: Σ_s share_s a(row_s) estimates
/// Σ_i a_i.
struct row_sample {
  std::vector<index> rows;
  std::vector<double> share;
};

/// At most m of the rows 0 … n − 1, all of them for m = n. The line of their weights is cut into m
/// strata and a point drawn from each, so that data in any order is covered evenly; a row's weight
/// is half d_i/Σd and half 1/n, so that the rows which count most are seldom missed and no draw
/// counts for more than 2 n/m.
row_sample stratified_rows(const double* d, index n, index m, std::uint64_t seed);

}  // namespace implicitgrad
