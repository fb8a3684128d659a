#include "implicitgrad/fused_pass.hpp"

#include <cmath>
#include <numeric>

namespace implicitgrad {

namespace detail {

void reduce_in_order(const double* partial, index blocks, index size, double* out, int n_threads) {
  constexpr index chunk = 4096;
  parallel_for((size + chunk - 1) / chunk, n_threads, [&](index i, int) {
    const index begin = i * chunk, end = std::min(size, begin + chunk);
    for (index b = 0; b < blocks; ++b) {
      const double* row = partial + b * size;
      for (index j = begin; j < end; ++j) out[j] += row[j];
    }
  });
}

void rearrange(arranged<const double> from, arranged<double> to, int n_threads) {
  constexpr index chunk = index{1} << 14;  // fewer are not worth waking a second thread
  parallel_for((from.size + chunk - 1) / chunk, n_threads, [&](index i, int) {
    for (index j = i * chunk; j < std::min(from.size, (i + 1) * chunk); ++j)
      for (index c = 0; c < from.k; ++c) to.at(j, c) = from.at(j, c);
  });
}

}  // namespace detail

void Matrix::pass(index begin, index end, const double* v, index ld, index k, row_function row_op,
                  double* out, double* workspace) const {
  const index panel = panel_rows();
  for (index from = begin; from < end; from += panel) {
    const index to = std::min(from + panel, end);
    dot(from, to, v, ld, k, workspace, panel);
    row_op(from, to - from, workspace, panel);
    accumulate(from, to, workspace, panel, k, out, ld);
  }
}

namespace {

/// W = D ∘ Z, column c of Z with column (c / repeat) mod m of D.
struct weighing {
  const_block d;
  index repeat, k;

  void operator()(index begin, index count, index, double* z, index ldz) const {
    for (index c = 0; c < k; ++c) {
      const double* weight = d.col(c / repeat % d.cols) + begin;
      for (index i = 0; i < count; ++i) z[c * ldz + i] *= weight[i];
    }
  }
  const double* weights() const { return d.col(0); }
};

}  // namespace

void sandwich(const Matrix& x, bool intercept, const_block d, index repeat, const_block v,
              block out, int n_threads) {
  fused_pass(x, intercept, v, weighing{d, repeat, v.cols}, out, n_threads);
}

bool all_finite(const Matrix& x, int n_threads) {
  const row_blocks blocks = x.blocks(1);
  std::vector<char> good(static_cast<std::size_t>(blocks.count()), 1);
  for (index first = 0; first < blocks.count(); first += max_live_blocks) {
    poll_interrupt();
    const index group = std::min(max_live_blocks, blocks.count() - first);
    parallel_for(group, n_threads, [&](index i, int) {
      good[first + i] = x.finite(blocks.begin(first + i), blocks.end(first + i));
    });
  }
  return std::all_of(good.begin(), good.end(), [](char g) { return g != 0; });
}

namespace {

/// weighted_squares where tiles of columns keep no partial sums.
void tiled_squares(const Matrix& x, bool intercept, const_block d, block out, int n_threads) {
  const row_blocks blocks = x.blocks(1);
  const index tiles = x.cut_columns(n_threads);
  std::fill_n(out.data, out.size(), 0.0);
  for (index first = 0; first < blocks.count(); first += detail::chunk_blocks) {
    poll_interrupt();
    const index last = std::min(first + detail::chunk_blocks, blocks.count()) - 1;
    const index begin = blocks.begin(first), end = blocks.end(last);
    for (index c = 0; c < d.cols; ++c)
      parallel_for(tiles, n_threads, [&](index t, int) {
        x.accumulate_squares_tile(t, tiles, begin, end, d.col(c) + begin, out.col(c));
      });
  }
  if (intercept)
    for (index c = 0; c < d.cols; ++c)
      out.col(c)[x.cols()] = std::accumulate(d.col(c), d.col(c) + x.rows(), 0.0);
}

}  // namespace

void outer_gram(const Matrix& x, bool intercept, const double* d, double* out, int n_threads) {
  constexpr index strips = 16;
  constexpr double worth_threads = 8192.0;  // products: some 10 µs; several classes ask many times
  const int threads = x.outer_product_terms() < worth_threads ? 1 : n_threads;
  const index p = x.cols(), ld = p + (intercept ? 1 : 0);
  // A strip ends where it has its share of the triangle.
  const auto bound = [&](index s) {
    const double rest = 1.0 - static_cast<double>(s) / strips;
    return p - static_cast<index>(static_cast<double>(p) * std::sqrt(rest));
  };
  for (index j = 0; j < ld; ++j) std::fill_n(out + j * ld + j, ld - j, 0.0);
  const index n = x.rows(), chunk = 128 * x.panel_rows();
  for (index begin = 0; begin < n; begin += chunk) {
    poll_interrupt();
    const index end = std::min(n, begin + chunk);
    parallel_for(strips, threads, [&](index s, int) {
      x.accumulate_outer(begin, end, d + begin, bound(s), bound(s + 1), out, ld);
    });
  }
  if (!intercept) return;
  // The last row is dᵀ[X 1].
  std::vector<double> row(static_cast<std::size_t>(ld)), zero(row.size());
  fused_pass(
      x, true, {zero.data(), ld, 1},
      [&](index begin, index count, index, double* z, index) { std::copy_n(d + begin, count, z); },
      {row.data(), ld, 1}, n_threads);
  for (index j = 0; j < ld; ++j) out[j * ld + p] = row[j];
}

void weighted_squares(const Matrix& x, bool intercept, const_block d, block out, int n_threads) {
  if (x.owns_columns(1)) return tiled_squares(x, intercept, d, out, n_threads);
  const index p = x.cols(), panel = d.cols == 1 ? x.rows() : x.panel_rows();
  const row_blocks blocks = x.blocks(1);
  const index live = std::min(blocks.count(), live_blocks(out.size(), n_threads));
  std::vector<double> partial(static_cast<std::size_t>(live * out.size()));
  std::fill_n(out.data, out.size(), 0.0);
  for (index first = 0; first < blocks.count(); first += live) {
    poll_interrupt();
    const index group = std::min(live, blocks.count() - first);
    std::fill(partial.begin(), partial.end(), 0.0);
    parallel_for(group, n_threads, [&](index i, int) {
      const index last = blocks.end(first + i);
      for (index begin = blocks.begin(first + i); begin < last; begin += panel) {
        const index end = std::min(last, begin + panel);
        for (index c = 0; c < d.cols; ++c) {
          double* sum = partial.data() + i * out.size() + c * out.rows;
          x.accumulate_squares(begin, end, d.col(c) + begin, sum);
          if (intercept)
            for (index r = begin; r < end; ++r) sum[p] += d.col(c)[r];
        }
      }
    });
    detail::reduce_in_order(partial.data(), group, out.size(), out.data, n_threads);
  }
}

}  // namespace implicitgrad
