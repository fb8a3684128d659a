// Rows that fit into registers: out += Σ_i w_i x_i with w_i = d_i (x_iᵀv + shift), for one v.
//
// A row is loaded once and stays in registers from its dot to its axpy, and out does for the whole
// block. Memory never waits for a phase that works on the cache, and a cache line costs the fewest
// instructions, so that the most lines are under way at a time: measured 94 to 96 % of a plain read
// at p = 50, where panels reached 73 %.
//
// Two rows from two streams at a time (see row_pass.cpp): each hides the latency of the other's
// horizontal sum. No prefetches: the hardware's keep up, and those in software measured the same.
//
// Cost for n p entries: X from memory once; 4 n p flops in double, one conversion fewer per entry
// of float32 than a dot and an axpy apart.
#pragma once

#include "kernels/strip.hpp"

namespace implicitgrad::kernels {

template <class T>
struct narrow_args {
  const T* x;
  index row_stride, rows, cols;
  const double* v;  // packed as for a strip, K = 1
  double* out;
  const double* d;
  double shift;
  double* total;  // += Σ w_i, unless null
};

/// R rows, `apart` rows from each other. N = ⌈p / W⌉ vectors hold a row.
template <int R, class T, int W, int N>
[[gnu::always_inline]] inline void narrow_rows(const narrow_args<T>& args, index row, index apart,
                                               const typename lanes<W>::vector (&v)[N],
                                               typename lanes<W>::vector (&out)[N], double& total) {
  using vector = typename lanes<W>::vector;
  const T* const first = args.x + row * args.row_stride;
  vector x[R][N], sum[R] = {};
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j)
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const index column = j == N - 1 ? args.cols - W : j * W;
      x[r][j] = load<W>(first + r * apart * args.row_stride + column);
      sum[r] += x[r][j] * v[j];
    }
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
    const double w = args.d[row + r * apart] * (horizontal_sum<W>(sum[r]) + args.shift);
    total += w;
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) out[j] += x[r][j] * w;
  }
}

template <class T, int W, int N>
[[gnu::always_inline]] inline void narrow(const narrow_args<T>& args) {
  typename lanes<W>::vector v[N], out[N];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) v[j] = load<W>(args.v + j * W), out[j] = load<W>(args.out + j * W);
  double total = 0.0;
  const index length = args.rows / 2;
  for (index i = 0; i < length; ++i) narrow_rows<2, T, W, N>(args, i, length, v, out, total);
  if (args.rows % 2 != 0) narrow_rows<1, T, W, N>(args, args.rows - 1, 0, v, out, total);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j)
    *reinterpret_cast<typename lanes<W>::loose*>(args.out + j * W) = out[j];
  if (args.total) *args.total += total;
}

}  // namespace implicitgrad::kernels
