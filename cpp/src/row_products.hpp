// Products of [X 1] with blocks of vectors, row by row or summed over rows: what the rows of linear
// models are made of.
#pragma once

#include <algorithm>

#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/matrix.hpp"
#include "implicitgrad/runtime.hpp"

namespace implicitgrad {

/// out = [X 1] V. Cost: X is read once for all columns, or once for each where its rows are
/// interleaved; 2 flops an entry and column.
inline void row_products(const Matrix& x, bool intercept, const_block v, block out, int n_threads) {
  const index p = x.cols(), at_once = x.interleaved(v.cols) ? 1 : v.cols;
  const row_blocks blocks = x.blocks(1);
  poll_interrupt();
  parallel_for(blocks.count(), n_threads, [&](index b, int) {
    const index begin = blocks.begin(b), end = blocks.end(b);
    for (index c = 0; c < v.cols; c += at_once)
      x.dot(begin, end, v.col(c), v.rows, at_once, out.col(c) + begin, out.rows);
    if (intercept)
      for (index c = 0; c < v.cols; ++c)
        for (index i = begin; i < end; ++i) out.col(c)[i] += v.col(c)[p];
  });
}

/// out = [X 1]ᵀ W. Cost: X is read once.
inline void row_sums(const Matrix& x, bool intercept, const_block w, block out, int n_threads) {
  const std::vector<double> none(static_cast<std::size_t>(out.size()));
  fused_pass(
      x, intercept, {none.data(), out.rows, out.cols},
      [&](index begin, index count, index, double* z, index ldz) {
        for (index c = 0; c < w.cols; ++c) std::copy_n(w.col(c) + begin, count, z + c * ldz);
      },
      out, n_threads);
}

}  // namespace implicitgrad
