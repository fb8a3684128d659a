// G = Σ_k a_k a_kᵀ from vectors a_k that arrive in panels: the one dense product this library
// needs. Own kernels, because they have the same bits at any thread count, leave no threads of a
// BLAS spinning beside ours, and take each vector as it comes, scaled on the way into the cache.
//
// Cost: q² flops a vector, and nothing from memory but the panel, which stays in cache, and G, read
// and written once a panel.
#pragma once

#include <vector>

#include "implicitgrad/matrix.hpp"

namespace implicitgrad {

/// Vectors of length q packed as the kernel wants them: strips of `width` entries of all vectors.
template <class T>
class gram_panel {
 public:
  /// Entries of a strip, a multiple of every vector register's.
  static constexpr index width = 192 / static_cast<index>(sizeof(T));

  /// A panel of about `bytes` bytes, but for at least 32 vectors and at most `most`.
  gram_panel(index q, index most, index bytes);

  index order() const { return order_; }
  index depth() const { return depth_; }
  /// Entry i of vector k.
  T& at(index k, index i) {
    return data_[static_cast<std::size_t>((i / width * depth_ + k) * width + i % width)];
  }
  /// Copies vector k, its `count` entries multiplied by those of `scale`.
  void pack(index k, const double* v, const double* scale, index count);

  /// Columns of a tile.
  static constexpr index tile_cols = 8;

  /// out[c · width + r] = Σ_{k < count} (entry r of `strip`) (entry column + c), c < tile_cols;
  /// column is a multiple of tile_cols.
  void tile(index strip, index column, index count, T* out) const;

  /// out += Σ_{k < count} a_k a_kᵀ, lower triangle, column-major q × q, on up to n_threads threads.
  void add_to(double* out, index count, int n_threads) const;

 private:
  index order_, depth_;
  std::vector<T> data_;  // zero beyond the order
};

extern template class gram_panel<double>;
extern template class gram_panel<float>;

/// The lower triangle of out = diag(scale) [X 1]ᵀ D [X 1] diag(scale), column-major, from root =
/// √D; the products are formed in T, the sums over panels in double. Cost: n q² flops, X read once.
template <class T>
void weighted_gram(const Matrix& x, bool intercept, const double* root, const double* scale,
                   double* out, int n_threads);

extern template void weighted_gram<double>(const Matrix&, bool, const double*, const double*,
                                           double*, int);
extern template void weighted_gram<float>(const Matrix&, bool, const double*, const double*,
                                          double*, int);

}  // namespace implicitgrad
