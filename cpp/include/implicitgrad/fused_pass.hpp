// One pass over the data: out = [X 1]ᵀ W, where W = row_op(Z) row by row and Z = [X 1] V. It is the
// shape of every product with the data: with row_op = "multiply by d" it is the Hessian product
// Xᵀ(D(Xv)); with the loss's derivative it is the value and the gradient.
//
// Cost model: X is read from memory once (8 n p bytes for float64, 4 n p for float32), 4 k n p
// flops. The partial sums, 8 p k bytes per row block, are written and read once more. A wide sparse
// matrix keeps none, and is read twice.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/runtime.hpp"

namespace implicitgrad {

namespace detail {

/// Adds `blocks` partial sums of length `size` to `out`, in block order.
void reduce_in_order(const double* partial, index blocks, index size, double* out, int n_threads);

/// A block of vectors in the order that a matrix's kernels take: entry (j, c) at
/// j · row + c · column, and `ld` what they are told of it.
template <class Scalar>
struct arranged {
  Scalar* data;
  index size, k, row, column, ld;

  Scalar& at(index j, index c) const { return data[j * row + c * column]; }
};

template <class Scalar>
arranged<Scalar> by_columns(block_view<Scalar> v) {
  return {v.data, v.rows, v.cols, 1, v.rows, v.rows};
}
template <class Scalar>
arranged<Scalar> by_rows(Scalar* data, index size, index k) {
  return {data, size, k, k, 1, k};
}

/// to = from, for the same sizes in different orders.
void rearrange(arranged<const double> from, arranged<double> to, int n_threads);

/// Row blocks with partial sums of their own.
template <class RowOp>
void block_pass(const Matrix& x, bool intercept, arranged<const double> v, RowOp&& row_op,
                arranged<double> out, int n_threads) {
  const index p = x.cols(), k = v.k, size = v.size * k, workspace = x.pass_workspace(k);
  const row_blocks blocks = x.blocks(k);
  const index count = blocks.count(), live = std::min(count, live_blocks(size, n_threads));
  const int threads = static_cast<int>(std::min<index>(n_threads, live));

  std::vector<double> workspaces(static_cast<std::size_t>(threads * workspace));
  const auto run_block = [&](index b, double* data, int slot) {
    arranged<double> sum = out;
    sum.data = data;
    std::fill_n(data, size, 0.0);
    const auto rows = [&](index begin, index n, double* z, index ldz) {
      if (intercept)
        for (index c = 0; c < k; ++c)
          for (index i = 0; i < n; ++i) z[c * ldz + i] += v.at(p, c);
      row_op(begin, n, b, z, ldz);
      if (intercept)
        for (index c = 0; c < k; ++c)
          for (index i = 0; i < n; ++i) sum.at(p, c) += z[c * ldz + i];
    };
    row_weights weights;
    if constexpr (requires { row_op.weights(); })
      if (k == 1 && row_op.weights())
        weights = {row_op.weights(), intercept ? v.at(p, 0) : 0.0,
                   intercept ? &sum.at(p, 0) : nullptr};
    x.pass(blocks.begin(b), blocks.end(b), v.data, v.ld, k, {rows, weights}, data,
           workspaces.data() + slot * workspace);
  };

  if (count == 1) {
    poll_interrupt();
    run_block(0, out.data, 0);
    return;
  }
  std::fill_n(out.data, size, 0.0);
  // Left as it is: each block zeroes its own, on the thread that needs it in cache.
  const auto partial =
      std::make_unique_for_overwrite<double[]>(static_cast<std::size_t>(live * size));
  for (index first = 0; first < count; first += live) {
    poll_interrupt();
    const index group = std::min(live, count - first);
    parallel_for(group, threads,
                 [&](index i, int slot) { run_block(first + i, partial.get() + i * size, slot); });
    reduce_in_order(partial.get(), group, size, out.data, threads);
  }
}

/// Row blocks that are read by rows for Z before they are read by tiles of columns for out.
inline constexpr index chunk_blocks = 64;

/// No partial sums: a tile of out is written by one thread at a time, in the order of the rows.
template <class RowOp>
void tile_pass(const Matrix& x, bool intercept, arranged<const double> v, RowOp&& row_op,
               arranged<double> out, int n_threads) {
  const index p = x.cols(), k = v.k, tiles = x.cut_columns(n_threads);
  const index at_once = x.interleaved(k) ? k : 1;
  const row_blocks blocks = x.blocks(k);
  index chunk_rows = 0;
  for (index b = 0; b < blocks.count(); b += chunk_blocks)
    chunk_rows = std::max(
        chunk_rows, blocks.end(std::min(b + chunk_blocks, blocks.count()) - 1) - blocks.begin(b));
  const auto chunk =
      std::make_unique_for_overwrite<double[]>(static_cast<std::size_t>(chunk_rows * k));
  std::fill_n(out.data, out.size * k, 0.0);
  for (index first = 0; first < blocks.count(); first += chunk_blocks) {
    poll_interrupt();
    const index group = std::min(chunk_blocks, blocks.count() - first);
    const index begin = blocks.begin(first), end = blocks.end(first + group - 1);
    // One sweep for all vectors or, where their rows do not fit into cache, one for each.
    for (index s = 0; s < k; s += at_once)
      parallel_for(group, n_threads, [&](index i, int) {
        const index from = blocks.begin(first + i), to = blocks.end(first + i);
        double* z = chunk.get() + s * chunk_rows + (from - begin);
        x.dot(from, to, &v.at(0, s), v.ld, at_once, z, chunk_rows);
        if (intercept)
          for (index c = 0; c < at_once; ++c)
            for (index r = 0; r < to - from; ++r) z[c * chunk_rows + r] += v.at(p, s + c);
        if (s + at_once == k)
          row_op(from, to - from, first + i, chunk.get() + (from - begin), chunk_rows);
      });
    for (index s = 0; s < k; s += at_once)
      parallel_for(tiles + (intercept ? 1 : 0), n_threads, [&](index t, int) {
        const double* w = chunk.get() + s * chunk_rows;
        if (t < tiles)
          x.accumulate_tile(t, tiles, begin, end, w, chunk_rows, at_once, &out.at(0, s), out.ld);
        else  // the column of ones
          for (index c = 0; c < at_once; ++c)
            for (index r = 0; r < end - begin; ++r) out.at(p, s + c) += w[c * chunk_rows + r];
      });
  }
}

}  // namespace detail

/// row_op(begin, count, block, z, ldz) turns the rows [begin, begin + count) of Z into those of W
/// in place; `block` numbers the row block, so that it can keep partial sums of its own. V and out
/// are (p + intercept) × k; the last row belongs to the column of ones. A row_op that multiplies
/// one column by weights can say so: row_op.weights() points to them.
template <class RowOp>
void fused_pass(const Matrix& x, bool intercept, const_block v, RowOp&& row_op, block out,
                int n_threads) {
  const auto pass = [&](detail::arranged<const double> in, detail::arranged<double> result) {
    if (x.owns_columns(in.k))
      detail::tile_pass(x, intercept, in, row_op, result, n_threads);
    else
      detail::block_pass(x, intercept, in, row_op, result, n_threads);
  };
  if (v.cols == 1 || !x.interleaved(v.cols))
    return pass(detail::by_columns(v), detail::by_columns(out));
  const auto words = static_cast<std::size_t>(v.size());
  const auto in = std::make_unique_for_overwrite<double[]>(words);
  const auto result = std::make_unique_for_overwrite<double[]>(words);
  detail::rearrange(detail::by_columns(v), detail::by_rows(in.get(), v.rows, v.cols), n_threads);
  pass(detail::by_rows<const double>(in.get(), v.rows, v.cols),
       detail::by_rows(result.get(), v.rows, v.cols));
  detail::rearrange(detail::by_rows<const double>(result.get(), v.rows, v.cols),
                    detail::by_columns(out), n_threads);
}

/// out = [X 1]ᵀ (D ∘ ([X 1] V)): the product with the Hessian of a data term, for one or more
/// models at once. D is n × m, a column of weights for `repeat` models each, so that column c of V
/// goes with column (c / repeat) mod m of D. V and out are (p + intercept) × k and do not overlap.
void sandwich(const Matrix& x, bool intercept, const_block d, index repeat, const_block v,
              block out, int n_threads);

/// out_jc = Σ_i d_ic x_ij², the last row Σ_i d_ic if there is an intercept. Cost: one read of X.
void weighted_squares(const Matrix& x, bool intercept, const_block d, block out, int n_threads);

/// The lower triangle of out = [X 1]ᵀ D [X 1] by outer products of the rows, where they have few
/// entries: strips of out's columns are written by one thread at a time, in the order of the rows.
/// Cost: outer_product_terms() jumps; X is read from memory once, a chunk at a time, and from cache
/// once a strip.
void outer_gram(const Matrix& x, bool intercept, const double* d, double* out, int n_threads);

}  // namespace implicitgrad
