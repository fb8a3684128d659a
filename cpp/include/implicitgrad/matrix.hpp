// Matrix: the data X, n × p, as the kernels see it. A kind of storage implements the few verbs
// below on a panel of rows; everything else (fused passes, Gram, diagonal) is written once on top
// of them.
#pragma once

#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// A borrowed function of (begin, count, z, ldz), which turns the rows [begin, begin + count) of Z
/// into those of W in place. It must outlive the call it is handed to.
class row_function {
 public:
  template <class F>
  row_function(const F& f)  // NOLINT: meant to convert
      : object_(&f), call_([](const void* object, index begin, index count, double* z, index ldz) {
          (*static_cast<const F*>(object))(begin, count, z, ldz);
        }) {}
  void operator()(index begin, index count, double* z, index ldz) const {
    call_(object_, begin, count, z, ldz);
  }

 private:
  const void* object_;
  void (*call_)(const void*, index, index, double*, index);
};

class Matrix {
 public:
  virtual ~Matrix() = default;

  virtual index rows() const = 0;
  virtual index cols() const = 0;

  /// Rows to visit at a time so that a panel, read once from memory, is still in cache when it is
  /// used a second time.
  virtual index panel_rows() const = 0;

  // Below, [begin, end) is a panel of rows of X; V is p × k and out p × k with columns of length
  // `ld` apart; Z and W are (end − begin) × k with columns `ldz` apart.

  /// Z = X[begin:end] V. Cost: reads the panel once; 2 k flops per entry.
  virtual void dot(index begin, index end, const double* v, index ld, index k, double* z,
                   index ldz) const = 0;

  /// out += X[begin:end]ᵀ W. Cost as for dot.
  virtual void accumulate(index begin, index end, const double* w, index ldz, index k, double* out,
                          index ld) const = 0;

  /// out += X[begin:end]ᵀ W with W = row_op(X[begin:end] V), the rows [begin, end) being a whole
  /// row block; row_op sees each row once, in an order that depends on the shape only. V and out
  /// are p × k with columns `ld` apart. Cost: reads X once; 4 k flops per entry.
  virtual void pass(index begin, index end, const double* v, index ld, index k, row_function row_op,
                    double* out, double* workspace) const;

  /// Doubles that `pass` needs as its workspace.
  virtual index pass_workspace(index k) const { return panel_rows() * k; }

  /// out_j += Σ_i w_i x_ij².
  virtual void accumulate_squares(index begin, index end, const double* w, double* out) const = 0;

  /// out_i = Σ_j x_ij², one a row of the panel.
  virtual void row_squares(index begin, index end, double* out) const = 0;

  /// out[i, :p] = scale_i · X[begin + i, :] as doubles, row-major with rows `ld` apart.
  virtual void copy_scaled(index begin, index end, const double* scale, double* out,
                           index ld) const = 0;

  /// Whether every entry of the panel is finite.
  virtual bool finite(index begin, index end) const = 0;
};

/// Whether every entry of X is finite. Cost: one parallel read of X.
bool all_finite(const Matrix& x, int n_threads);

}  // namespace implicitgrad
