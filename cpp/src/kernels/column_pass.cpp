// A row block is cut into panels of r rows by all p columns: p runs of r entries, a column apart.
// A panel is used twice, for Z and for out, and comes from memory once.
//
// Two ways of it, as measured (make_plan):
//
//   alternate   The dot of a panel, then its add, from the second-level cache. The dots are left to
//               the hardware's prefetchers: 8 columns at a time in runs of 4 KB, they alone reach
//               98 % of a plain read of float64. The adds prefetch the next panel, so that memory
//               does not idle. float64 of up to some thousand columns.
//   pipeline    The dot of the next panel goes with the add of the current in one sweep over the
//               columns, in which the panel is copied to packed memory. What is added is then read
//               in one stream, on few pages and in all sets of the cache, however short the runs;
//               those of the next panel are prefetched some columns ahead. float32, and wide X.
//
// What bounds them (bench/results/roofline.txt): the dots of float32 alone reach 76 to 86 % of a
// plain read; the same loads without the conversions to double reach more, so that it is the
// instructions per cache line, presumably, which leave fewer lines under way. Wide, the packed
// panel of two-line runs (16 p entries of float64) exceeds the second level, and V, out and the
// sums over lanes are paid once for 16 rows: the more so for several vectors.
#include "kernels/column_pass.hpp"

#include <algorithm>
#include <utility>

#include "implicitgrad/multiversion.hpp"
#include "kernels/column_strip.hpp"

namespace implicitgrad::kernels {

namespace {

enum class phase { dot, add, both };

template <class T, phase what>
struct column_kernel {
  template <int W>
  struct version {
    [[gnu::always_inline]] static void run(const column_args<T>& args) {
      column_strip<T, W, what != phase::add, what != phase::dot>(args);
    }
  };
};

template <class T>
void run_strip(phase what, const column_args<T>& args) {
  using type = column_args<T>;
  static const auto dot = best_version<column_kernel<T, phase::dot>::template version, type>();
  static const auto add = best_version<column_kernel<T, phase::add>::template version, type>();
  static const auto both = best_version<column_kernel<T, phase::both>::template version, type>();
  (what == phase::dot ? dot : what == phase::add ? add : both)(args);
}

constexpr index padding = 8;  // zeros behind a column of W, so that whole vectors are read of it

struct plan {
  index rows;  // of a panel
  bool pipelined;
  index columns_ahead;  // from those in use to those prefetched
};

template <class T>
plan make_plan(index cols, index k) {
  constexpr index line = 64 / static_cast<index>(sizeof(T));
  // What is read from the cache, and the panel that follows, in the second level; z and w in the
  // first. Runs of two cache lines at least, and four where each costs a sum over lanes for several
  // vectors: wide panels fall to the third level before they fall to single lines.
  constexpr index panel = 400 << 10, lines_ahead = 128;
  plan result;
  result.rows = std::clamp<index>(panel / (cols * static_cast<index>(sizeof(T))) / line * line,
                                  (k == 1 ? 2 : 4) * line,
                                  std::max(4 * line, (k == 1 ? 512 : 1024 / k) / line * line));
  result.pipelined = sizeof(T) == 4 || cols > 2000;
  const index run = result.rows / line;
  result.columns_ahead = std::min(cols, std::max<index>(8, lines_ahead / run));
  return result;
}

}  // namespace

template <class T>
index column_pass_workspace(index cols, index k) {
  const plan plan = make_plan<T>(cols, k);
  // A page between it and the next thread's.
  constexpr index page = 512;
  const index blocks = (plan.pipelined ? 2 : 1) * (plan.rows + padding) * k + page;
  if (!plan.pipelined) return blocks;
  return blocks + plan.rows * cols * static_cast<index>(sizeof(T) / 4) / 2;  // rows are even
}

template <class T>
void column_pass(const T* x, index stride, index cols, index begin, index end, const double* v,
                 index ld, index k, row_function row_op, double* out, double* workspace) {
  const plan plan = make_plan<T>(cols, k);
  const index most = plan.rows, ldz = most + padding, ahead = plan.columns_ahead;
  const auto address = reinterpret_cast<std::size_t>(workspace);
  double* z = workspace + (64 - address % 64) % 64 / sizeof(double);
  double* w = plan.pipelined ? z + ldz * k : z;
  T* const packed = reinterpret_cast<T*>(w + ldz * k);

  // `next` and `current` are rows of X; of those in the packed panel, `row` is the first to add.
  const auto run = [&](phase what, index next, const T* current, index current_stride, index row,
                       index rows) {
    column_args<T> args{x + next, stride, current, current_stride, packed, most, rows, cols,
                        k,        0,      0,       cols,           v,      out,  ld,   z,
                        w + row,  ldz};
    if (plan.pipelined && what != phase::add) {  // the last columns are followed by the next panel
      args.turn = cols - ahead;
      args.ahead = ahead * stride, args.wrap = args.ahead + most - cols * stride;
    } else if (what == phase::add && current_stride == stride) {
      args.ahead = most;
    }
    run_strip(what, args);
  };
  const auto apply_row_op = [&](index row, index rows) {
    row_op(row, rows, z, ldz);
    for (index c = 0; c < k; ++c) std::fill(z + c * ldz + rows, z + (c + 1) * ldz, 0.0);
  };

  if (!plan.pipelined) {
    for (index at = begin; at < end; at += most) {
      const index rows = std::min(most, end - at);
      std::fill_n(z, ldz * k, 0.0);
      run(phase::dot, at, x, stride, 0, rows);
      apply_row_op(at, rows);
      run(phase::add, at, x + at, stride, 0, rows);
    }
    return;
  }
  index count = std::min(most, end - begin);
  std::fill_n(z, ldz * k, 0.0);
  run(phase::dot, begin, x, stride, 0, count);
  apply_row_op(begin, count);
  const T* current = x + begin;  // where the first panel is; those that follow are copies
  index current_stride = stride;
  for (index next = begin + count;; next += count) {
    std::swap(z, w);
    const index coming = std::min(most, end - next);
    if (coming > 0) {
      std::fill_n(z, ldz * k, 0.0);
      run(phase::both, next, current, current_stride, 0, coming);
    }
    if (coming < count)
      run(phase::add, next, current + coming, current_stride, coming, count - coming);
    if (coming == 0) return;
    apply_row_op(next, coming);
    current = packed, current_stride = most, count = coming;
  }
}

template index column_pass_workspace<double>(index, index);
template index column_pass_workspace<float>(index, index);
template void column_pass<double>(const double*, index, index, index, index, const double*, index,
                                  index, row_function, double*, double*);
template void column_pass<float>(const float*, index, index, index, index, const double*, index,
                                 index, row_function, double*, double*);

}  // namespace implicitgrad::kernels
