// Scalar types and views shared by the whole core.
#pragma once

#include <cstddef>

namespace implicitgrad {

using index = std::ptrdiff_t;

/// A block of `cols` vectors of length `rows`, one after the other: column c starts at
/// data + c * rows. Operators and solvers work on such blocks; a single vector is the case cols
/// = 1.
template <class T>
struct block_view {
  T* data;
  index rows;
  index cols;

  T* col(index c) const { return data + c * rows; }
  index size() const { return rows * cols; }
  /// The first `count` columns.
  block_view head(index count) const { return {data, rows, count}; }
  operator block_view<const T>() const { return {data, rows, cols}; }
};

using block = block_view<double>;
using const_block = block_view<const double>;

}  // namespace implicitgrad
