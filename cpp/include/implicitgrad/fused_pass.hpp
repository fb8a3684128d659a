// One pass over the data: out = [X 1]ᵀ W, where W = row_op(Z) row by row and Z = [X 1] V. It is the
// shape of every product with the data: with row_op = "multiply by d" it is the Hessian product
// Xᵀ(D(Xv)); with the loss's derivative it is the value and the gradient.
//
// Cost model: X is read from memory once (8 n p bytes for float64, 4 n p for float32), 4 k n p
// flops. The partial sums, 8 p k bytes per row block, are written and read once more.
#pragma once

#include <algorithm>
#include <vector>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/runtime.hpp"

namespace implicitgrad {

namespace detail {

/// Adds `blocks` partial sums of length `size` to `out`, in block order.
void reduce_in_order(const double* partial, index blocks, index size, double* out, int n_threads);

}  // namespace detail

/// row_op(begin, count, block, z, ldz) turns the rows [begin, begin + count) of Z into those of W
/// in place; `block` numbers the row block, so that it can keep partial sums of its own. V and out
/// are (p + intercept) × k; the last row belongs to the column of ones.
template <class RowOp>
void fused_pass(const Matrix& x, bool intercept, const_block v, RowOp&& row_op, block out,
                int n_threads) {
  const index p = x.cols(), k = v.cols, ld = v.rows, workspace = x.pass_workspace(k);
  const row_blocks blocks = partition_rows(x.rows(), p);
  const index count = blocks.count(), live = std::min(count, live_blocks(ld * k));
  const int threads = static_cast<int>(std::min<index>(n_threads, live));

  std::vector<double> workspaces(static_cast<std::size_t>(threads * workspace));
  const auto run_block = [&](index b, double* sum, int slot) {
    std::fill_n(sum, ld * k, 0.0);
    const auto rows = [&](index begin, index n, double* z, index ldz) {
      if (intercept)
        for (index c = 0; c < k; ++c)
          for (index i = 0; i < n; ++i) z[c * ldz + i] += v.col(c)[p];
      row_op(begin, n, b, z, ldz);
      if (intercept)
        for (index c = 0; c < k; ++c)
          for (index i = 0; i < n; ++i) sum[c * ld + p] += z[c * ldz + i];
    };
    x.pass(blocks.begin(b), blocks.end(b), v.data, ld, k, rows, sum,
           workspaces.data() + slot * workspace);
  };

  if (count == 1) {
    poll_interrupt();
    run_block(0, out.data, 0);
    return;
  }
  std::fill_n(out.data, out.size(), 0.0);
  std::vector<double> partial(static_cast<std::size_t>(live * ld * k));
  for (index first = 0; first < count; first += live) {
    poll_interrupt();
    const index group = std::min(live, count - first);
    parallel_for(group, threads, [&](index i, int slot) {
      run_block(first + i, partial.data() + i * ld * k, slot);
    });
    detail::reduce_in_order(partial.data(), group, ld * k, out.data, threads);
  }
}

/// out = [X 1]ᵀ (D ∘ ([X 1] V)): the product with the Hessian of a data term, for one or more
/// models at once. D is n × m, a column of weights for each model, and column c of V belongs to
/// model c mod m. V and out are (p + intercept) × k and do not overlap.
void sandwich(const Matrix& x, bool intercept, const_block d, const_block v, block out,
              int n_threads);

/// out_j = Σ_i d_i x_ij², the last entry Σ_i d_i if there is an intercept. Cost: one read of X.
void weighted_squares(const Matrix& x, bool intercept, const double* d, double* out, int n_threads);

/// The lower triangle of out = [X 1]ᵀ D [X 1], column-major, d ≥ 0. Cost: n p² flops in BLAS, X
/// read once, in panels of a few megabytes.
void weighted_gram(const Matrix& x, bool intercept, const double* d, double* out, int n_threads);

}  // namespace implicitgrad
