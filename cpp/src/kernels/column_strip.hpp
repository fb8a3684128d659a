// The leaf kernels of a column-major pass: a panel of r rows, C columns at a time.
//
//   dot:    z_ic += Σ_j x_ij v_jc        add:    out_jc += Σ_i x_ij w_ic
//
// C columns share each load of z and of w, which stay in the first level. Several vectors go by
// twos, as registers allow, all of them for C columns before the next C: these are then in the
// first level. A fused strip does the add of one panel and the dot of the next, and keeps a copy of
// the next where the current was: one panel of packed memory, whose columns follow one another,
// however far apart those of X are.
//
// Cost of a fused strip, for r p entries: X from memory once, the copy from the cache and into it
// once; 4 k r p flops in double, whatever T is.
#pragma once

#include "kernels/strip.hpp"

namespace implicitgrad::kernels {

template <class T>
struct column_args {
  const T* next;     // of the panel to dot
  index stride;      // between its columns
  const T* current;  // of the panel to add
  index current_stride;
  T* copy;  // of the panel to dot; may be `current`
  index copy_stride;
  index rows, cols, k;
  // Entries from a run in use to that which is prefetched for it, 0 for none: `ahead` for the
  // columns before `turn`, `wrap` for those behind it.
  index ahead, wrap, turn;
  const double* v;  // v_jc at v[j + c * ld]
  double* out;
  index ld;
  double* z;  // z_ic at z[i + c * ldz], readable and writable up to the next multiple of W
  const double* w;
  index ldz;
};

/// The first `count` < W of them, zeros behind.
template <int W, class T>
[[gnu::always_inline]] inline typename lanes<W>::vector load_some(const T* p, index count) {
  typename lanes<W>::vector x = {};
  for (index l = 0; l < count; ++l) x[l] = p[l];
  return x;
}

/// The sums of W vectors, as a vector.
template <int W>
[[gnu::always_inline]] inline typename lanes<W>::vector sums(const typename lanes<W>::vector* a) {
  using vector = typename lanes<W>::vector;
  if constexpr (W == 8) {
    vector b[4], c[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const vector x = a[2 * i], y = a[2 * i + 1];
      b[i] = __builtin_shufflevector(x, y, 0, 8, 2, 10, 4, 12, 6, 14) +
             __builtin_shufflevector(x, y, 1, 9, 3, 11, 5, 13, 7, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const vector x = b[2 * i], y = b[2 * i + 1];
      c[i] = __builtin_shufflevector(x, y, 0, 1, 8, 9, 4, 5, 12, 13) +
             __builtin_shufflevector(x, y, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    return __builtin_shufflevector(c[0], c[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(c[0], c[1], 4, 5, 6, 7, 12, 13, 14, 15);
  } else if constexpr (W == 4) {
    vector b[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
      b[i] = __builtin_shufflevector(a[2 * i], a[2 * i + 1], 0, 4, 2, 6) +
             __builtin_shufflevector(a[2 * i], a[2 * i + 1], 1, 5, 3, 7);
    return __builtin_shufflevector(b[0], b[1], 0, 1, 4, 5) +
           __builtin_shufflevector(b[0], b[1], 2, 3, 6, 7);
  } else {
    return __builtin_shufflevector(a[0], a[1], 0, 2) + __builtin_shufflevector(a[0], a[1], 1, 3);
  }
}

/// The columns j .. j + C − 1 of X with the K columns of V and W from `first` on.
template <class T, int W, int C, int K, bool dots, bool adds, bool copies>
[[gnu::always_inline]] inline void column_group(const column_args<T>& args, index j, index first) {
  using vector = typename lanes<W>::vector;
  using loose = typename lanes<W>::loose;
  typedef T entries __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T)), may_alias));
  const T* const next = args.next + j * args.stride;
  const T* const current = args.current + j * args.current_stride;
  T* const copy = args.copy + j * args.copy_stride;
  double* const out = args.out + j + first * args.ld;
  double* const z = args.z + first * args.ldz;
  const double* const w = args.w + first * args.ldz;
  vector v[K][C] = {}, sum[K * C] = {};
  if constexpr (dots)
#pragma GCC unroll 2
    for (int c = 0; c < K; ++c)
#pragma GCC unroll 8
      for (int q = 0; q < C; ++q) v[c][q] += args.v[j + q + (first + c) * args.ld];

  // `read(p, x)` and `write(from, to)` handle W rows, or those that are left.
  const auto visit = [&](index i, auto read, auto write) __attribute__((always_inline)) {
    vector x[C];
    if constexpr (adds) {
#pragma GCC unroll 8
      for (int q = 0; q < C; ++q) read(current + q * args.current_stride + i, x[q]);
#pragma GCC unroll 2
      for (int c = 0; c < K; ++c) {
        const vector wc = load<W>(w + i + c * args.ldz);
#pragma GCC unroll 8
        for (int q = 0; q < C; ++q) sum[c * C + q] += x[q] * wc;
      }
    }
    if constexpr (dots) {
#pragma GCC unroll 8
      for (int q = 0; q < C; ++q) {
        const T* const from = next + q * args.stride + i;
        read(from, x[q]);
        if constexpr (copies) write(from, copy + q * args.copy_stride + i);
      }
#pragma GCC unroll 2
      for (int c = 0; c < K; ++c) {
        double* const zc = z + i + c * args.ldz;
        vector even = load<W>(zc), odd = {};
#pragma GCC unroll 8
        for (int q = 0; q < C; ++q) (q % 2 == 0 ? even : odd) += x[q] * v[c][q];
        *reinterpret_cast<loose*>(zc) = even + odd;
      }
    }
  };
  const auto full = [&](index i) __attribute__((always_inline)) {
    visit(
        i, [](const T* p, vector& to) __attribute__((always_inline)) { to = load<W>(p); },
        [](const T* from, T* to) __attribute__((always_inline)) {
          *reinterpret_cast<entries*>(to) = *reinterpret_cast<const entries*>(from);
        });
  };

  index i = 0;
  if (const index ahead = j < args.turn ? args.ahead : args.wrap; ahead != 0 && first == 0) {
    constexpr int line = 64 / static_cast<int>(sizeof(T));
    // The last line of what is asked for: the first is the last of the panel before, where a column
    // does not begin with a line.
    const T* const soon = (dots ? next : current) + ahead + line - 1;
    const index stride = dots ? args.stride : args.current_stride;
    for (; i + line <= args.rows; i += line) {
#pragma GCC unroll 8
      for (int q = 0; q < C; ++q) __builtin_prefetch(soon + q * stride + i, 0, dots ? 3 : 2);
#pragma GCC unroll 8
      for (int l = 0; l < line; l += W) full(i + l);
    }
  }
  for (; i + W <= args.rows; i += W) full(i);
  if (const index left = args.rows - i; left > 0)
    visit(
        i,
        [left](const T* p, vector& to)
            __attribute__((always_inline)) { to = load_some<W>(p, left); },
        [left](const T* from, T* to) __attribute__((always_inline)) {
          for (index l = 0; l < left; ++l) to[l] = from[l];
        });

  if constexpr (adds && C % W == 0) {
#pragma GCC unroll 4
    for (int f = 0; f < K * C; f += W)
      *reinterpret_cast<loose*>(out + f % C + f / C * args.ld) += sums<W>(sum + f);
  } else if constexpr (adds && C == 4) {  // half a vector for each column of W
    vector all[W] = {};
#pragma GCC unroll 8
    for (int f = 0; f < K * C; ++f) all[f] = sum[f];
    const vector total = sums<W>(all);
    using half = typename lanes<4>::loose;
    *reinterpret_cast<half*>(out) += __builtin_shufflevector(total, total, 0, 1, 2, 3);
    if constexpr (K == 2)
      *reinterpret_cast<half*>(out + args.ld) += __builtin_shufflevector(total, total, 4, 5, 6, 7);
  } else if constexpr (adds) {
#pragma GCC unroll 8
    for (int f = 0; f < K * C; ++f) out[f % C + f / C * args.ld] += horizontal_sum<W>(sum[f]);
  }
}

/// The columns j .. j + C − 1 with all vectors. The last of them are those that copy: until then
/// the current panel is needed.
template <class T, int W, int C, bool dots, bool adds>
[[gnu::always_inline]] inline void column_vectors(const column_args<T>& args, index j) {
  constexpr bool copies = dots && adds;
  index c = 0;
  for (; c + 2 < args.k; c += 2) column_group<T, W, C, 2, dots, adds, false>(args, j, c);
  if (c + 2 == args.k)
    column_group<T, W, C, 2, dots, adds, copies>(args, j, c);
  else
    column_group<T, W, C, 1, dots, adds, copies>(args, j, c);
}

template <class T, int W, bool dots, bool adds>
[[gnu::always_inline]] inline void column_strip(const column_args<T>& args) {
  index j = 0;
  if (W == 8 && args.k == 1)
    for (; j + 8 <= args.cols; j += 8)
      column_group<T, W, 8, 1, dots, adds, dots && adds>(args, j, 0);
  for (; j + 4 <= args.cols; j += 4) column_vectors<T, W, 4, dots, adds>(args, j);
  for (; j + 2 <= args.cols; j += 2) column_vectors<T, W, 2, dots, adds>(args, j);
  for (; j < args.cols; ++j) column_vectors<T, W, 1, dots, adds>(args, j);
}

}  // namespace implicitgrad::kernels
