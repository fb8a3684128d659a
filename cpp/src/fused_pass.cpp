#include "implicitgrad/fused_pass.hpp"

#include <cmath>

#include "implicitgrad/blas.hpp"

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

void sandwich(const Matrix& x, bool intercept, const_block d, const_block v, block out,
              int n_threads) {
  const auto weigh = [&](index begin, index count, index, double* z, index ldz) {
    for (index c = 0; c < v.cols; ++c) {
      const double* weight = d.col(c % d.cols) + begin;
      for (index i = 0; i < count; ++i) z[c * ldz + i] *= weight[i];
    }
  };
  fused_pass(x, intercept, v, weigh, out, n_threads);
}

bool all_finite(const Matrix& x, int n_threads) {
  const row_blocks blocks = partition_rows(x.rows(), x.cols());
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

void weighted_squares(const Matrix& x, bool intercept, const double* d, double* out,
                      int n_threads) {
  const index p = x.cols(), size = p + (intercept ? 1 : 0);
  const row_blocks blocks = partition_rows(x.rows(), p);
  const index live = std::min(blocks.count(), max_live_blocks);
  std::vector<double> partial(static_cast<std::size_t>(live * size));
  std::fill_n(out, size, 0.0);
  for (index first = 0; first < blocks.count(); first += live) {
    poll_interrupt();
    const index group = std::min(live, blocks.count() - first);
    std::fill(partial.begin(), partial.end(), 0.0);
    parallel_for(group, n_threads, [&](index i, int) {
      const index begin = blocks.begin(first + i), end = blocks.end(first + i);
      double* sum = partial.data() + i * size;
      x.accumulate_squares(begin, end, d + begin, sum);
      if (intercept)
        for (index r = begin; r < end; ++r) sum[p] += d[r];
    });
    detail::reduce_in_order(partial.data(), group, size, out, n_threads);
  }
}

void weighted_gram(const Matrix& x, bool intercept, const double* d, double* out, int n_threads) {
  // G = Σ over panels of (√D [X 1])ᵀ (√D [X 1]): a panel is scaled into a buffer of about 4 MB and
  // handed to dsyrk, outside of any parallel region. Row-major, it is the transpose BLAS wants.
  constexpr index buffer_entries = index{1} << 19;
  const index n = x.rows(), p = x.cols(), size = p + (intercept ? 1 : 0);
  const index panel = std::min(n, std::max<index>(256, buffer_entries / size));
  constexpr index chunk = 64;
  std::vector<double> buffer(static_cast<std::size_t>(panel * size));
  std::vector<double> root(static_cast<std::size_t>(panel));
  const int lda = static_cast<int>(size);
  const double one = 1.0;
  for (index begin = 0; begin < n; begin += panel) {
    poll_interrupt();
    const index rows = std::min(panel, n - begin);
    const int threads = rows * size < (index{1} << 16) ? 1 : n_threads;
    parallel_for((rows + chunk - 1) / chunk, threads, [&](index i, int) {
      const index from = i * chunk, to = std::min(rows, from + chunk);
      for (index r = from; r < to; ++r) root[r] = std::sqrt(d[begin + r]);
      x.copy_scaled(begin + from, begin + to, root.data() + from, buffer.data() + from * size,
                    size);
      if (intercept)
        for (index r = from; r < to; ++r) buffer[r * size + p] = root[r];
    });
    const int k = static_cast<int>(rows);
    const double beta = begin == 0 ? 0.0 : 1.0;
    blas().dsyrk("L", "N", &lda, &k, &one, buffer.data(), &lda, &beta, out, &lda);
  }
}

}  // namespace implicitgrad
