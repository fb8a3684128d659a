// A row block is cut into R streams, each a run of consecutive rows; a group has one row from each.
// A stream is read from its first entry to its last without a jump, which is what the hardware's
// prefetchers want: R rows that follow one another would break off R streams after every row.
//
// Rows that are narrow enough, and only weighed between dot and axpy, are read once into registers
// (narrow.hpp). Otherwise narrow and very wide rows, and float32 at some widths (make_plan), are
// pipelined: the dot of the next group goes with the axpy of the current (strip.hpp). Otherwise the
// two alternate panel by panel, a panel of a few groups staying in cache; in float64 its axpy
// prefetches the next panel, so that memory does not idle.
#include "kernels/row_pass.hpp"

#include <algorithm>
#include <utility>

#include "implicitgrad/multiversion.hpp"
#include "kernels/narrow.hpp"
#include "kernels/strip.hpp"

namespace implicitgrad::kernels {

namespace {

constexpr index most_columns = 5;  // of V at once: 4 rows × 5 sums leave registers for X and V
constexpr index most_streams = 4;

enum class phase { dot, add, both };

template <class T, int K, int R, phase what>
struct strip_kernel {
  template <int W>
  struct version {
    [[gnu::always_inline]] static void run(const strip_args<T>& args) {
      strip<T, W, K, R, what != phase::add, what != phase::dot>(args);
    }
  };
};

template <class T>
using strip_function = void (*)(const strip_args<T>&);

/// The strips of R rows and K columns.
template <class T>
struct strips {
  strip_function<T> dot, add, both;
};

template <class T, int K, int R>
strips<T> strips_of() {
  return {best_version<strip_kernel<T, K, R, phase::dot>::template version, strip_args<T>>(),
          best_version<strip_kernel<T, K, R, phase::add>::template version, strip_args<T>>(),
          best_version<strip_kernel<T, K, R, phase::both>::template version, strip_args<T>>()};
}

template <class T, int R>
strips<T> strips_for(index k) {
  switch (k) {
    case 1:
      return strips_of<T, 1, R>();
    case 2:
      return strips_of<T, 2, R>();
    case 3:
      return strips_of<T, 3, R>();
    case 4:
      return strips_of<T, 4, R>();
    default:
      return strips_of<T, 5, R>();
  }
}

template <class T>
strips<T> strips_for(index k, index streams) {
  if (streams == 1) return strips_for<T, 1>(k);
  if (streams == 2) return strips_of<T, 1, 2>();
  return strips_for<T, 4>(k);
}

template <class T, int N>
struct narrow_kernel {
  template <int W>
  struct version {
    [[gnu::always_inline]] static void run(const narrow_args<T>& args) { narrow<T, W, N>(args); }
  };
};

/// Two rows, v and out in registers: of 32 at x86-64-v4, of 16 below.
index most_narrow_cols() { return simd_width() == 8 ? 64 : 4 * simd_width(); }

template <class T, int N>
void (*narrow_for(index vectors))(const narrow_args<T>&) {
  if constexpr (N > 1)
    if (vectors < N) return narrow_for<T, N - 1>(vectors);
  return best_version<narrow_kernel<T, N>::template version, narrow_args<T>>();
}

index packed_cols(index cols, index width) { return (cols + width - 1) / width * width; }

/// Calls body(position in packed memory, column of X) for each column, once.
template <class Body>
void for_packed(index cols, index width, index k, index c, Body&& body) {
  const index full = cols / width * width;
  for (index j = 0; j < full; j += width)
    for (index l = 0; l < width; ++l) body(j * k + c * width + l, j + l);
  for (index j = full; j < cols; ++j) body(full * k + c * width + (width - cols + j), j);
}

struct plan {
  index streams;  // R
  bool pipelined;
  index groups;   // in a panel
  index chunks;   // of the columns of V
  bool hardware;  // whether the dots leave prefetching to it; and the axpys, if `quiet`
  bool quiet;
};

template <class T>
plan make_plan(index cols, index k) {
  constexpr index first_level = 40 << 10, second_level = 256 << 10;
  const index row = cols * static_cast<index>(sizeof(T)), vectors = 16 * cols;
  plan result;
  result.chunks = (k + most_columns - 1) / most_columns;
  // float32, as measured: in rows of a few hundred a dot and an axpy of two rows alternate in the
  // first level; in rows of thousands panels stay in the second. Both are better off without
  // prefetches in software, which measured slower.
  const bool few = sizeof(T) == 4 && k == 1 && cols > 96 && cols <= 512;
  // Rows of which four exceed the second level: in a pipeline v and out are read once for both
  // strips.
  const bool wide = k == 1 && row > second_level;
  const bool many = sizeof(T) == 4 && k == 1 && cols >= 2500 && !wide;
  result.quiet = few || many;
  result.hardware = result.quiet || (sizeof(T) == 8 && k == 1 && cols > 64);
  // Long rows of float64 keep memory busy while a panel is read from the cache by prefetching the
  // next: the pipeline measures no faster there, and slower for several vectors.
  result.pipelined =
      wide || (sizeof(T) == 4 ? result.chunks == 1 && !result.quiet : k == 1 && cols <= 64);
  // Two rows where they, the two before, v and out are all in the first level, and four not.
  const bool two = k == 1 && 8 * row + vectors > first_level && 4 * row + vectors <= first_level;
  result.streams = few || (two && !many) ? 2 : most_streams;
  const index bytes = few ? 3200 : many ? 160 << 10 : result.pipelined ? 8 << 10 : second_level;
  result.groups = std::clamp<index>(bytes / (result.streams * row), 1, 64);
  return result;
}

}  // namespace

bool row_pass_fits(index cols) { return cols >= simd_width(); }

template <class T>
index row_pass_workspace(index cols, index k) {
  const plan plan = make_plan<T>(cols, k);
  return 2 * packed_cols(cols, simd_width()) * k + 2 * plan.streams * plan.groups * k + 8;
}

template <class T>
void row_pass(const T* x, index row_stride, index cols, index begin, index end, const double* v,
              index ld, index k, row_function row_op, double* out, double* workspace) {
  const index width = simd_width(), size = packed_cols(cols, width);
  const plan plan = make_plan<T>(cols, k);
  const index streams = plan.streams, length = (end - begin) / streams;
  const auto address = reinterpret_cast<std::size_t>(workspace);
  double* const packed_v = workspace + (64 - address % 64) % 64 / sizeof(double);
  double* const packed_out = packed_v + size * k;
  const index ldr = plan.groups, ldc = streams * plan.groups;
  double *z = packed_out + size * k, *w = z + ldc * k;

  // Columns [first(h), first(h + 1)) of V make up chunk h.
  const auto first = [&](index h) { return h * k / plan.chunks; };
  std::fill_n(packed_v, 2 * size * k, 0.0);
  for (index h = 0; h < plan.chunks; ++h)
    for (index c = first(h); c < first(h + 1); ++c)
      for_packed(cols, width, first(h + 1) - first(h), c - first(h),
                 [&](index at, index j) { packed_v[size * first(h) + at] = v[c * ld + j]; });

  const auto finish = [&] {
    for (index h = 0; h < plan.chunks; ++h)
      for (index c = first(h); c < first(h + 1); ++c)
        for_packed(cols, width, first(h + 1) - first(h), c - first(h),
                   [&](index at, index j) { out[c * ld + j] += packed_out[size * first(h) + at]; });
  };

  if (k == 1 && row_op.weights.d && cols <= most_narrow_cols()) {
    const row_weights& weights = row_op.weights;
    narrow_for<T, 8>(size / width)({x + begin * row_stride, row_stride, end - begin, cols, packed_v,
                                    packed_out, weights.d + begin, weights.shift, weights.total});
    return finish();
  }

  // `next` and `current` are rows of the first stream, relative to `begin`.
  const auto run = [&](phase what, index rows, index apart, index next, index current, index groups,
                       index ahead, double* dots, const double* weights) {
    for (index h = 0; h < plan.chunks; ++h) {
      const index c = first(h);
      const strips<T> kernel = strips_for<T>(first(h + 1) - c, rows);
      const strip_args<T> args{x + (begin + next) * row_stride,
                               x + (begin + current) * row_stride,
                               apart * row_stride,
                               row_stride,
                               groups,
                               cols,
                               h == 0 ? ahead : 0,
                               packed_v + size * c,
                               packed_out + size * c,
                               dots + c * ldc,
                               weights + c * ldc,
                               ldr,
                               ldc};
      (what == phase::dot ? kernel.dot : what == phase::add ? kernel.add : kernel.both)(args);
    }
  };
  const auto apply_row_op = [&](index row, index groups, double* block) {
    for (index r = 0; r < streams; ++r)
      row_op(begin + row + r * length, groups, block + r * ldr, ldc);
  };

  // How far ahead a dot asks for memory, as measured: not at all where the prefetchers keep up.
  constexpr index line = 64 / static_cast<index>(sizeof(T));
  const index dot_ahead = plan.hardware ? 0 : sizeof(T) == 8 ? 32 * line : 64 * line;
  const index panel = plan.groups;
  index count = std::min(panel, length);
  if (count > 0) {
    run(phase::dot, streams, length, 0, 0, count, dot_ahead, w, w);
    apply_row_op(0, count, w);
  }
  for (index at = 0; at < length;) {
    const index next = at + count, coming = std::min(panel, length - next);
    if (plan.pipelined) {
      if (coming > 0) run(phase::both, streams, length, next, at, coming, dot_ahead, z, w);
      if (coming < count)
        run(phase::add, streams, length, 0, at + coming, count - coming, 0, z, w + coming);
    } else {
      run(phase::add, streams, length, 0, at, count, plan.quiet ? 0 : panel * row_stride, z, w);
      if (coming > 0) run(phase::dot, streams, length, next, 0, coming, dot_ahead, z, z);
    }
    if (coming > 0) apply_row_op(next, coming, z);
    std::swap(z, w);
    at = next, count = coming;
  }
  for (index row = streams * length; row < end - begin; ++row) {  // what the streams leave
    run(phase::dot, 1, 0, row, 0, 1, 0, z, z);
    row_op(begin + row, 1, z, ldc);
    run(phase::add, 1, 0, 0, row, 1, 0, z, z);
  }

  finish();
}

template index row_pass_workspace<double>(index, index);
template index row_pass_workspace<float>(index, index);
template void row_pass<double>(const double*, index, index, index, index, const double*, index,
                               index, row_function, double*, double*);
template void row_pass<float>(const float*, index, index, index, index, const double*, index, index,
                              row_function, double*, double*);

}  // namespace implicitgrad::kernels
