#include "implicitgrad/gram.hpp"

#include <algorithm>
#include <vector>

#include "implicitgrad/cost_model.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/multiversion.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/runtime.hpp"

namespace implicitgrad {

namespace {

template <class T>
struct tile_arguments {
  const T* rows;
  const T* columns;
  index count;
  T* out;
};

// A tile of G: one strip of rows, `cols` columns. For each vector k, the strip's registers times a
// broadcast of each column's entry, all accumulators in registers. The number of columns at a time
// is chosen so that they fit: 24 of 32 registers of 512 bits, 12 of 16 of fewer, where a strip is
// worked on in parts.
template <class T, int W>
struct tile_kernel {
  static constexpr int cols = W == 8 ? 8 : 4, wide = W * 8 / static_cast<int>(sizeof(T));
  typedef T reg __attribute__((vector_size(W * 8)));
  typedef T lane __attribute__((vector_size(W * 8), aligned(sizeof(T)), may_alias));

  [[gnu::always_inline]] static inline void run(const tile_arguments<T>& args) {
    constexpr index width = gram_panel<T>::width;
    for (index first = 0; first < gram_panel<T>::tile_cols; first += cols)
      for (index part = 0; part < width; part += 3 * wide) {
        reg sum[cols][3] = {};
        const T* a = args.rows + part;
        const T* b = args.columns + first;
        for (index k = 0; k < args.count; ++k, a += width, b += width) {
          const reg a0 = *reinterpret_cast<const lane*>(a);
          const reg a1 = *reinterpret_cast<const lane*>(a + wide);
          const reg a2 = *reinterpret_cast<const lane*>(a + 2 * wide);
#pragma GCC unroll 8
          for (int c = 0; c < cols; ++c) {
            sum[c][0] += a0 * b[c];
            sum[c][1] += a1 * b[c];
            sum[c][2] += a2 * b[c];
          }
        }
#pragma GCC unroll 8
        for (int c = 0; c < cols; ++c)
#pragma GCC unroll 3
          for (int r = 0; r < 3; ++r)
            *reinterpret_cast<lane*>(args.out + (first + c) * width + part + r * wide) = sum[c][r];
      }
  }
};

template <int W>
using double_tile = tile_kernel<double, W>;
template <int W>
using single_tile = tile_kernel<float, W>;

auto best_tile(const double*) { return best_version<double_tile, tile_arguments<double>>(); }
auto best_tile(const float*) { return best_version<single_tile, tile_arguments<float>>(); }

}  // namespace

template <class T>
gram_panel<T>::gram_panel(index q, index most, index bytes) : order_(q) {
  const index strips = (q + width - 1) / width;
  const index fits = bytes / static_cast<index>(sizeof(T)) / (strips * width);
  depth_ = std::clamp<index>(fits, std::min<index>(most, 32), most);
  data_.resize(static_cast<std::size_t>(strips * depth_ * width));
}

namespace {

template <class T>
IMPLICITGRAD_KERNEL void pack_strips(const double* __restrict v, const double* __restrict scale,
                                     index count, T* __restrict out, index stride) {
  constexpr index width = gram_panel<T>::width;
  index first = 0;
  for (; first + width <= count; first += width, out += stride) {
#pragma omp simd
    for (index i = 0; i < width; ++i) out[i] = static_cast<T>(v[first + i] * scale[first + i]);
  }
  for (index i = 0; first + i < count; ++i)
    out[i] = static_cast<T>(v[first + i] * scale[first + i]);
}

}  // namespace

template <class T>
void gram_panel<T>::pack(index k, const double* v, const double* scale, index count) {
  pack_strips(v, scale, count, data_.data() + k * width, depth_ * width);
}

template <class T>
void gram_panel<T>::tile(index strip, index column, index count, T* out) const {
  static const auto kernel = best_tile(data_.data());
  kernel({data_.data() + strip * depth_ * width,
          data_.data() + column / width * depth_ * width + column % width, count, out});
}

template <class T>
void gram_panel<T>::add_to(double* out, index count, int n_threads) const {
  const index strips = (order_ + width - 1) / width;
  // A strip's tiles are one task; the long ones at the bottom of the triangle come first.
  parallel_for(strips, n_threads, [&](index i, int) {
    const index strip = strips - 1 - i, first = strip * width;
    const index rows = std::min(width, order_ - first);
    alignas(64) T sum[tile_cols * width];
    for (index column = 0; column < std::min(first + width, order_); column += tile_cols) {
      tile(strip, column, count, sum);
      for (index c = 0; c < std::min(tile_cols, order_ - column); ++c) {
        double* into = out + (column + c) * order_ + first;
        for (index r = std::max<index>(0, column + c - first); r < rows; ++r)
          into[r] += static_cast<double>(sum[c * width + r]);
      }
    }
  });
}

namespace {

constexpr index panel_bytes = index{4} << 20;    // shared by the threads: in the last-level cache
constexpr index private_bytes = index{1} << 19;  // of one thread: in the second level
constexpr index chunk = 16;                      // rows that a thread packs at a time

/// Packs the rows [begin, end) of [X 1] as the vectors k, k + 1, … of the panel.
template <class T>
void pack_rows(const Matrix& x, bool intercept, const double* root, const double* scale,
               index begin, index end, gram_panel<T>& panel, index k, double* row) {
  const index p = x.cols();
  for (index i = begin; i < end; ++i, ++k) {
    x.copy_scaled(i, i + 1, root + i, row, p);
    panel.pack(k, row, scale, p);
    if (intercept) panel.at(k, p) = static_cast<T>(root[i] * scale[p]);
  }
}

}  // namespace

template <class T>
void weighted_gram(const Matrix& x, bool intercept, const double* root, const double* scale,
                   double* out, int n_threads) {
  const index n = x.rows(), p = x.cols(), q = p + (intercept ? 1 : 0);
  if (cost::by_outer_products({n, q, x.bytes(), x.outer_product_terms()})) {
    std::vector<double> d;
    for (index i = 0; i < n; ++i) d.push_back(root[i] * root[i]);
    outer_gram(x, intercept, d.data(), out, n_threads);
    for (index j = 0; j < q; ++j)
      for (index i = j; i < q; ++i) out[j * q + i] *= scale[i] * scale[j];
    return;
  }
  for (index j = 0; j < q; ++j) std::fill_n(out + j * q + j, q - j, 0.0);
  constexpr index narrow = 256, least_rows = 1024, most_blocks = 16;
  if (q <= narrow) {
    // Few tiles to share, but small sums: each block of rows has its own.
    const index blocks = std::clamp<index>(n / least_rows, 1, most_blocks);
    std::vector<double> partial(static_cast<std::size_t>((blocks - 1) * q * q));
    poll_interrupt();
    // A body must not throw: what it needs is allocated before.
    const index most = (n + blocks - 1) / blocks;
    std::vector<gram_panel<T>> panels;
    for (index t = 0; t < std::min<index>(n_threads, blocks); ++t)
      panels.emplace_back(q, most, private_bytes);
    std::vector<double> rows(panels.size() * static_cast<std::size_t>(p));
    parallel_for(blocks, n_threads, [&](index b, int slot) {
      const index from = b * n / blocks, to = (b + 1) * n / blocks;
      gram_panel<T>& panel = panels[static_cast<std::size_t>(slot)];
      double* row = rows.data() + slot * p;
      double* sum = b == 0 ? out : partial.data() + (b - 1) * q * q;
      for (index begin = from; begin < to; begin += panel.depth()) {
        const index end = std::min(begin + panel.depth(), to);
        pack_rows(x, intercept, root, scale, begin, end, panel, 0, row);
        panel.add_to(sum, end - begin, 1);
      }
    });
    for (index b = 0; b + 1 < blocks; ++b)
      for (index j = 0; j < q; ++j)
        for (index i = j; i < q; ++i) out[j * q + i] += partial[(b * q + j) * q + i];
    return;
  }
  gram_panel<T> panel(q, n, panel_bytes);
  std::vector<double> wide(static_cast<std::size_t>(n_threads * p));
  for (index begin = 0; begin < n; begin += panel.depth()) {
    poll_interrupt();
    const index rows = std::min(panel.depth(), n - begin);
    parallel_for((rows + chunk - 1) / chunk, n_threads, [&](index i, int slot) {
      const index from = i * chunk, to = std::min(rows, from + chunk);
      pack_rows(x, intercept, root, scale, begin + from, begin + to, panel, from,
                wide.data() + slot * p);
    });
    panel.add_to(out, rows, n_threads);
  }
}

template class gram_panel<double>;
template class gram_panel<float>;
template void weighted_gram<double>(const Matrix&, bool, const double*, const double*, double*,
                                    int);
template void weighted_gram<float>(const Matrix&, bool, const double*, const double*, double*, int);

}  // namespace implicitgrad
