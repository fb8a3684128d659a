// Matrix: the data X, n × p, as the kernels see it. A kind of storage implements the few verbs
// below on a panel of rows; everything else (fused passes, Gram, diagonal) is written once on top
// of them.
#pragma once

#include <limits>

#include "implicitgrad/parallel.hpp"
#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// What a row function does to one column, where it is as simple as w_i = d_i (z_i + shift), with
/// Σ w_i added to `total` unless that is null. A kernel may do it by itself, row by row.
struct row_weights {
  const double* d = nullptr;  // null where it is not
  double shift = 0.0;
  double* total = nullptr;
};

/// A borrowed function of (begin, count, z, ldz), which turns the rows [begin, begin + count) of Z
/// into those of W in place. It must outlive the call it is handed to.
class row_function {
 public:
  template <class F>
  row_function(const F& f, row_weights same = {})  // NOLINT: meant to convert
      : weights(same),
        object_(&f),
        call_([](const void* object, index begin, index count, double* z, index ldz) {
          (*static_cast<const F*>(object))(begin, count, z, ldz);
        }) {}

  const row_weights weights;  // the same function, said in data

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

  /// Bytes that a pass over the data reads.
  virtual double bytes() const { return 8.0 * static_cast<double>(rows() * cols()); }

  /// Rows to visit at a time so that a panel, read once from memory, is still in cache when it is
  /// used a second time.
  virtual index panel_rows() const = 0;

  /// How the rows are cut for products with k vectors: by the shape and the data only.
  virtual row_blocks blocks(index /*k*/) const { return partition_rows(rows(), cols()); }

  /// Whether `dot` and `accumulate` take V and out row-major, entry (j, c) at j · ld + c: for a
  /// matrix that jumps from column to column, so that one jump brings k > 1 values.
  virtual bool interleaved(index /*k*/) const { return false; }

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

  // A matrix that is too wide for partial sums cuts its columns into tiles instead: a tile of out
  // is written by one thread at a time, row after row. Every entry of out is then summed in the
  // order of the rows, however many tiles there are.

  /// Whether products with k vectors go by tiles.
  virtual bool owns_columns(index /*k*/) const { return false; }

  /// Prepares tiles for so many threads; returns their number.
  virtual index cut_columns(int /*n_threads*/) const { return 1; }

  /// `accumulate` for the columns of one tile of `tiles`.
  virtual void accumulate_tile(index /*tile*/, index /*tiles*/, index /*begin*/, index /*end*/,
                               const double* /*w*/, index /*ldz*/, index /*k*/, double* /*out*/,
                               index /*ld*/) const {}

  /// `accumulate_squares` for the columns of one tile of `tiles`.
  virtual void accumulate_squares_tile(index /*tile*/, index /*tiles*/, index /*begin*/,
                                       index /*end*/, const double* /*w*/, double* /*out*/) const {}

  // XᵀDX by outer products of the rows, where rows have few entries.

  /// Products of two entries that takes; infinite where a matrix does not offer it.
  virtual double outer_product_terms() const { return std::numeric_limits<double>::infinity(); }

  /// out_lj += Σ_i w_i x_ij x_il for first ≤ j < last and all l ≥ j; out is column-major.
  virtual void accumulate_outer(index /*begin*/, index /*end*/, const double* /*w*/,
                                index /*first*/, index /*last*/, double* /*out*/,
                                index /*ld*/) const {}

  // And XDXᵀ by those of the columns.

  /// As many of those; infinite where a matrix does not offer it. Cost: a read of the indices, the
  /// first time.
  virtual double outer_column_terms() const { return std::numeric_limits<double>::infinity(); }

  /// Xᵀ as a matrix of its own, made once and kept; null where a matrix does not offer it.
  virtual const Matrix* transposed() const { return nullptr; }
};

/// Whether every entry of X is finite. Cost: one parallel read of X.
bool all_finite(const Matrix& x, int n_threads);

}  // namespace implicitgrad
