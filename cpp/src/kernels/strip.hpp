// The leaf kernels of a row-major pass: strips of R rows by all p columns.
//
//   dot:    z_rc  = Σ_j x_rj v_jc        axpy:    out_jc += Σ_r x_rj w_rc
//
// A fused strip does the axpy of one group of rows (just read, still in cache) and the dot of the
// next in one loop over the columns: memory is read at an even pace, and never waits for a phase
// that only works on the cache. R rows share each load of V and of out.
//
// Cost of a fused strip, for R p entries: X from memory once and from the cache once, V and out
// (16 p K bytes) from the cache; 4 K R p flops in double, whatever T is.
//
// V and out are packed for the width W of the vectors (see row_pass.cpp): vector j of column c is
// at (j K + c) W. Where W does not divide p, the last vector holds the columns p − W .. p − 1, with
// zeros in V where it overlaps its predecessor: no masks, and no entry is read beyond the row.
#pragma once

#include "implicitgrad/types.hpp"

namespace implicitgrad::kernels {

template <class T>
struct strip_args {
  const T* next;     // row 0 of the first group to dot
  const T* current;  // of the first group to add
  index row_stride;  // between the R rows of a group
  index step;        // between groups
  index groups;      // how many, one after the other
  index cols;        // p >= W
  index ahead;       // entries to prefetch ahead of the strip, 0 for none
  const double* v;
  double* out;
  double* z;  // of group g, row r, column c: z[g + r * ldr + c * ldc]
  const double* w;
  index ldr, ldc;
};

template <int W>
struct lanes {
  typedef double vector __attribute__((vector_size(8 * W)));
  typedef double loose __attribute__((vector_size(8 * W), aligned(8), may_alias));
};

template <int W>
[[gnu::always_inline]] inline typename lanes<W>::vector load(const double* p) {
  return *reinterpret_cast<const typename lanes<W>::loose*>(p);
}

/// Element by element: the compiler makes one widening load of it, which it does not of a
/// conversion between vector types that are lowered before the level is known.
template <int W>
[[gnu::always_inline]] inline typename lanes<W>::vector load(const float* p) {
  if constexpr (W == 8)
    return typename lanes<W>::vector{p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]};
  else if constexpr (W == 4)
    return typename lanes<W>::vector{p[0], p[1], p[2], p[3]};
  else
    return typename lanes<W>::vector{p[0], p[1]};
}

template <int W>
[[gnu::always_inline]] inline double horizontal_sum(typename lanes<W>::vector s) {
  if constexpr (W == 8) {
    s += __builtin_shufflevector(s, s, 4, 5, 6, 7, 0, 1, 2, 3);
    s += __builtin_shufflevector(s, s, 2, 3, 0, 1, 6, 7, 4, 5);
  }
  if constexpr (W == 4) s += __builtin_shufflevector(s, s, 2, 3, 0, 1);
  return s[0] + s[1];
}

template <class T, int W, int K, int R, bool dots, bool adds>
[[gnu::always_inline]] inline void strip(const strip_args<T>& args) {
  using vector = typename lanes<W>::vector;
  const index p = args.cols, stride = args.row_stride, full = p / W, ahead = args.ahead;
  const double* const v = args.v;
  double* const out = args.out;
  for (index g = 0; g < args.groups; ++g) {
    const T* const next = args.next + g * args.step;
    const T* const current = args.current + g * args.step;
    vector sum[R][K] = {}, weight[R][K] = {};
    if constexpr (adds)
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < K; ++c) weight[r][c] += args.w[g + r * args.ldr + c * args.ldc];

    const auto visit = [&](index j, index column) __attribute__((always_inline)) {
      vector x[R];
      if constexpr (dots) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) x[r] = load<W>(next + r * stride + column);
#pragma GCC unroll 8
        for (int c = 0; c < K; ++c) {
          const vector vc = load<W>(v + (j * K + c) * W);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) sum[r][c] += x[r] * vc;
        }
      }
      if constexpr (adds) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) x[r] = load<W>(current + r * stride + column);
#pragma GCC unroll 8
        for (int c = 0; c < K; ++c) {
          double* const o = out + (j * K + c) * W;
          vector total = load<W>(o);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) total += x[r] * weight[r][c];
          *reinterpret_cast<typename lanes<W>::loose*>(o) = total;
        }
      }
    };

    index j = 0;
    if (ahead > 0) {
      constexpr int line = 64 / (W * static_cast<int>(sizeof(T)));  // vectors in a cache line
      const T* const soon = (dots ? next : current) + ahead;
      for (; j + line <= full; j += line) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) __builtin_prefetch(soon + r * stride + j * W, 0, 2);
#pragma GCC unroll 8
        for (int l = 0; l < line; ++l) visit(j + l, (j + l) * W);
      }
    }
    for (; j < full; ++j) visit(j, j * W);
    if (full * W < p) visit(full, p - W);

    if constexpr (dots)
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < K; ++c)
          args.z[g + r * args.ldr + c * args.ldc] = horizontal_sum<W>(sum[r][c]);
  }
}

}  // namespace implicitgrad::kernels
