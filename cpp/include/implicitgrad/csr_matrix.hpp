// Sparse X by rows (CSR): row i holds the entries (indices[e], data[e]) for e in [indptr[i],
// indptr[i + 1]), columns strictly increasing. Indices are int32 or int64, values float64 or
// float32; nothing is copied.
//
// Two ways through the data, chosen by the shape and the entries only:
//
//   narrow   V and out stay in a second-level cache. Rows are cut into a few blocks of equally many
//            entries with partial sums of their own, as for dense X.
//   wide     No partial sums: columns are cut into tiles, and a tile of out is written by one
//            thread at a time. Rows are visited in chunks, first by rows for Z, then by tiles
//            for out. Chunks are large, up to 2^25 entries, and come from memory both times:
//            small ones would stay in cache, but have V and out compete for it, which costs more.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "implicitgrad/matrix.hpp"

namespace implicitgrad {

/// Sizes in entries, or in doubles of V; a test makes them small.
struct csr_sizes {
  index narrow_words = index{1} << 17;  // V no larger than this: X is narrow
  index cached_words = index{1} << 20;  // V no larger than this is interleaved
  // Of X in a row block. Fewer than twice as many are one block, and so one thread's: some 0.1 ms,
  // where a thread that has to wake may take milliseconds.
  index least_entries = index{1} << 16;  // where X is narrow
  index block_entries = index{1} << 16;  // and where it is wide, up to 8 times as many
};

/// Borrows the arrays, which must outlive the matrix, must not change, and must have passed
/// `check_csr`.
template <class T, class I>
class csr_matrix : public Matrix {
 public:
  csr_matrix(const I* indptr, const I* indices, const T* data, index rows, index cols,
             csr_sizes sizes = {});

  index rows() const override { return rows_; }
  index cols() const override { return cols_; }
  index entries() const { return static_cast<index>(indptr_[rows_]); }
  double bytes() const override {
    return static_cast<double>(entries()) * (sizeof(T) + sizeof(I)) +
           static_cast<double>(rows_) * sizeof(I);
  }
  index panel_rows() const override { return panel_rows_; }
  row_blocks blocks(index k) const override;
  bool interleaved(index k) const override {
    return k > 1 && (!owns_columns(k) || cols_ * k <= sizes_.cached_words);
  }
  void dot(index begin, index end, const double* v, index ld, index k, double* z,
           index ldz) const override;
  void accumulate(index begin, index end, const double* w, index ldz, index k, double* out,
                  index ld) const override;
  void accumulate_squares(index begin, index end, const double* w, double* out) const override;
  void row_squares(index begin, index end, double* out) const override;
  void copy_scaled(index begin, index end, const double* scale, double* out,
                   index ld) const override;
  bool finite(index begin, index end) const override;

  bool owns_columns(index k) const override { return cols_ * k > sizes_.narrow_words; }
  index cut_columns(int n_threads) const override;
  void accumulate_tile(index tile, index tiles, index begin, index end, const double* w, index ldz,
                       index k, double* out, index ld) const override;
  void accumulate_squares_tile(index tile, index tiles, index begin, index end, const double* w,
                               double* out) const override;
  double outer_product_terms() const override { return outer_terms_; }
  void accumulate_outer(index begin, index end, const double* w, index first, index last,
                        double* out, index ld) const override;
  double outer_column_terms() const override;
  /// Cost: a copy of X.
  const Matrix* transposed() const override;

 private:
  using splits = std::vector<std::uint32_t>;

  void axpy(const std::uint32_t* first, const std::uint32_t* last, index begin, index end,
            const double* w, index ldz, index k, double* out, index ld, index ahead) const;
  splits make_splits(index tiles, int n_threads) const;
  const std::uint32_t* split(index tile, index tiles) const;

  const I* indptr_;
  const I* indices_;
  const T* data_;
  index rows_, cols_;
  csr_sizes sizes_;
  index panel_rows_;
  double outer_terms_ = 0.0;
  std::vector<index> narrow_bounds_, wide_bounds_;  // of the row blocks

  // Cuts of the columns made so far, by their number of tiles. Tile t + 1 begins in row i at entry
  // splits[t * rows + i], counted from the row's begin: 4 bytes for each row and tile but one.
  mutable std::mutex splits_guard_;
  mutable std::map<index, splits> splits_;

  mutable std::once_flag counted_once_, transposed_once_;
  mutable double outer_column_terms_ = 0.0;
  mutable std::unique_ptr<const Matrix> transposed_;
};

extern template class csr_matrix<double, std::int32_t>;
extern template class csr_matrix<double, std::int64_t>;
extern template class csr_matrix<float, std::int32_t>;
extern template class csr_matrix<float, std::int64_t>;

/// What is wrong with the index arrays of an n × p matrix in CSR form, for arrays of any content.
enum class csr_fault {
  none,
  not_canonical,  // columns of a row out of order or repeated; the arrays fit
  start,          // indptr[0] != 0
  decreasing,     // indptr[at] > indptr[at + 1]
  too_long,       // indptr[n] is larger than the number of indices (or of data)
  out_of_range    // indices[at] < 0 or >= p
};

struct csr_verdict {
  csr_fault fault = csr_fault::none;
  index at = 0;
};

/// `available` is the length of indices and data. Cost: reads indptr and indices once.
template <class I>
csr_verdict check_csr(const I* indptr, const I* indices, index rows, index cols, index available,
                      int n_threads);

extern template csr_verdict check_csr(const std::int32_t*, const std::int32_t*, index, index, index,
                                      int);
extern template csr_verdict check_csr(const std::int64_t*, const std::int64_t*, index, index, index,
                                      int);

}  // namespace implicitgrad
