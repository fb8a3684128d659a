// Dense X, row-major (C order) or column-major (F order), float64 or float32. float32 is read as
// such and widened in registers: half the bytes, double accumulation.
#pragma once

#include <vector>

#include "implicitgrad/matrix.hpp"

namespace implicitgrad {

enum class layout { row_major, column_major };

/// Borrows the data, which must outlive the matrix and must not change.
template <class T>
class dense_matrix : public Matrix {
 public:
  /// `ld` is the distance in entries between rows (row-major) or columns (column-major).
  dense_matrix(const T* data, index rows, index cols, index ld, layout order);

  index rows() const override { return rows_; }
  index cols() const override { return cols_; }
  double bytes() const override { return static_cast<double>(rows_ * cols_ * sizeof(T)); }
  index panel_rows() const override { return panel_rows_; }
  void dot(index begin, index end, const double* v, index ld, index k, double* z,
           index ldz) const override;
  void accumulate(index begin, index end, const double* w, index ldz, index k, double* out,
                  index ld) const override;
  void pass(index begin, index end, const double* v, index ld, index k, row_function row_op,
            double* out, double* workspace) const override;
  index pass_workspace(index k) const override;
  void accumulate_squares(index begin, index end, const double* w, double* out) const override;
  void row_squares(index begin, index end, double* out) const override;
  void copy_scaled(index begin, index end, const double* scale, double* out,
                   index ld) const override;
  bool finite(index begin, index end) const override;

  /// The memory itself, for those who multiply by other means.
  const T* data() const { return data_; }
  index ld() const { return ld_; }
  layout order() const { return order_; }

 private:
  bool in_strips() const;

  const T* data_;
  index rows_, cols_, ld_;
  layout order_;
  index panel_rows_;
  std::vector<double> ones_;  // a weight for each column
};

extern template class dense_matrix<double>;
extern template class dense_matrix<float>;

}  // namespace implicitgrad
