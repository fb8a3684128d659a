#include "implicitgrad/triangular.hpp"

#include <algorithm>
#include <cmath>

#include "implicitgrad/gram.hpp"
#include "implicitgrad/multiversion.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

namespace {

constexpr index width = gram_panel<double>::width;

/// Columns [begin, end) of the rows [first, first + rows), all of L to their left being done:
/// X ← X L_JJ⁻ᵀ for the triangular block L_JJ of those columns.
IMPLICITGRAD_KERNEL void solve_strip(index n, double* a, index begin, index end, index first,
                                     index rows) {
  for (index c = begin; c < end; ++c) {
    double* __restrict x = a + c * n + first;
    for (index k = begin; k < c; ++k) {
      const double* __restrict done = a + k * n + first;
      const double l = a[k * n + c];
#pragma omp simd
      for (index r = 0; r < rows; ++r) x[r] -= done[r] * l;
    }
    const double pivot = a[c * n + c];
#pragma omp simd
    for (index r = 0; r < rows; ++r) x[r] /= pivot;
  }
}

/// The triangular block itself, unblocked.
bool decompose_block(index n, double* a, index begin, index end) {
  for (index c = begin; c < end; ++c) {
    double* x = a + c * n;
    for (index k = begin; k < c; ++k) {
      const double* done = a + k * n;
      for (index i = c; i < end; ++i) x[i] -= done[i] * done[c];
    }
    if (!(x[c] > 0.0 && std::isfinite(x[c]))) return false;
    const double pivot = x[c] = std::sqrt(x[c]);
    for (index i = c + 1; i < end; ++i) x[i] /= pivot;
  }
  return true;
}

/// Rows [first, first + rows) of X ← X L⁻ᵀ.
IMPLICITGRAD_KERNEL void divide_strip(index n, const double* l, double* a, index ld, index first,
                                      index rows) {
  for (index c = 0; c < n; ++c) {
    double* __restrict x = a + c * ld + first;
    for (index k = 0; k < c; ++k) {
      const double* __restrict done = a + k * ld + first;
      const double factor = l[k * n + c];
#pragma omp simd
      for (index r = 0; r < rows; ++r) x[r] -= done[r] * factor;
    }
    const double pivot = l[c * n + c];
#pragma omp simd
    for (index r = 0; r < rows; ++r) x[r] /= pivot;
  }
}

// K vectors at a time, n apart, so that L is read once for all of them.

template <int K>
IMPLICITGRAD_KERNEL void forward(index n, const double* l, double* __restrict x) {
  for (index j = 0; j < n; ++j) {
    const double* __restrict column = l + j * n;
    double value[K];
    for (int c = 0; c < K; ++c) value[c] = x[c * n + j] /= column[j];
#pragma omp simd
    for (index i = j + 1; i < n; ++i)
#pragma GCC unroll 4
      for (int c = 0; c < K; ++c) x[c * n + i] -= column[i] * value[c];
  }
}

template <int K>
IMPLICITGRAD_KERNEL void backward(index n, const double* l, double* __restrict x) {
  for (index j = n - 1; j >= 0; --j) {
    const double* __restrict column = l + j * n;
    double s0 = 0.0, s1 = 0.0, s2 = 0.0, s3 = 0.0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (index i = j + 1; i < n; ++i) {
      s0 += column[i] * x[i];
      if constexpr (K > 1) s1 += column[i] * x[n + i];
      if constexpr (K > 2) s2 += column[i] * x[2 * n + i];
      if constexpr (K > 3) s3 += column[i] * x[3 * n + i];
    }
    const double sum[4] = {s0, s1, s2, s3};
    for (int c = 0; c < K; ++c) x[c * n + j] = (x[c * n + j] - sum[c]) / column[j];
  }
}

template <int K>
void solve_together(index n, const double* l, double* b) {
  forward<K>(n, l, b);
  backward<K>(n, l, b);
}

IMPLICITGRAD_KERNEL double product_column(const double* __restrict a, index count, double value,
                                          const double* __restrict x, double* __restrict y) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (index i = 0; i < count; ++i) {
    y[i] += a[i] * value;
    sum += a[i] * x[i];
  }
  return sum;
}

}  // namespace

bool cholesky_decompose(index n, double* a, int n_threads) {
  // Left-looking, a strip's width of columns at a time: what L's columns to the left take from them
  // is a product of strips, as in a Gram matrix.
  gram_panel<double> done(n, n, n * (n + width) * static_cast<index>(sizeof(double)));
  const index strips = (n + width - 1) / width;
  const int threads = n < 8 * width ? 1 : n_threads;
  for (index j = 0; j < strips; ++j) {
    poll_interrupt();
    const index begin = j * width, end = std::min(n, begin + width);
    const auto update = [&](index strip) {
      const index first = strip * width, rows = std::min(width, n - first);
      alignas(64) double taken[gram_panel<double>::tile_cols * width];
      for (index c = begin; c < end; c += gram_panel<double>::tile_cols) {
        done.tile(strip, c, begin, taken);
        const index columns = std::min(gram_panel<double>::tile_cols, end - c);
        for (index t = 0; t < columns; ++t) {
          double* x = a + (c + t) * n + first;
          for (index r = std::max<index>(0, c + t - first); r < rows; ++r)
            x[r] -= taken[t * width + r];
        }
      }
    };
    const auto keep = [&](index strip) {
      const index first = strip * width, rows = std::min(width, n - first);
      for (index c = begin; c < end; ++c)
        for (index r = std::max<index>(0, c - first); r < rows; ++r)
          done.at(c, first + r) = a[c * n + first + r];
    };
    update(j);
    if (!decompose_block(n, a, begin, end)) return false;
    keep(j);
    parallel_for(strips - j - 1, threads, [&](index i, int) {
      const index strip = j + 1 + i, first = strip * width;
      update(strip);
      solve_strip(n, a, begin, end, first, std::min(width, n - first));
      keep(strip);
    });
  }
  return true;
}

void cholesky_product(index n, const double* l, double* v) {
  for (index j = 0; j < n; ++j) v[j] = host_space::dot(n - j, l + j * n + j, v + j);
  for (index j = n - 1; j >= 0; --j) {
    const double value = v[j];
    v[j] = 0.0;
    host_space::axpby(n - j, value, l + j * n + j, 1.0, v + j);
  }
}

void cholesky_solve(index n, const double* l, double* b, index columns) {
  index c = 0;
  for (; c + 4 <= columns; c += 4) solve_together<4>(n, l, b + c * n);
  if (c + 2 <= columns) solve_together<2>(n, l, b + c * n), c += 2;
  if (c < columns) solve_together<1>(n, l, b + c * n);
}

void symmetric_product(index n, const double* upper, const double* diagonal, const double* x,
                       double* y) {
  std::fill_n(y, n, 0.0);
  for (index j = 0; j < n; ++j)
    y[j] += diagonal[j] * x[j] + product_column(upper + j * n, j, x[j], x, y);
}

void cholesky_divide(index n, const double* l, double* x, index rows, index ld, int n_threads) {
  constexpr index strip = 256;  // with a hundred columns still in cache
  parallel_for((rows + strip - 1) / strip, n_threads, [&](index i, int) {
    divide_strip(n, l, x, ld, i * strip, std::min(strip, rows - i * strip));
  });
}

}  // namespace implicitgrad
