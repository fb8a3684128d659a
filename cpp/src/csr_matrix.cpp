#include "implicitgrad/csr_matrix.hpp"

#include <algorithm>
#include <cmath>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/multiversion.hpp"

namespace implicitgrad {

namespace {

// How far ahead X is prefetched. The jumps keep the hardware's prefetcher from seeing the streams,
// and a product would wait for memory, half of its time or more.
constexpr index ahead_entries = 1024, ahead_rows = 64;

// Doubles that a second-level cache holds: what a column needs to stay there is a share of the
// entries of one in so many.
constexpr index second_level_words = index{1} << 17;

// Kernels over the rows [begin, end), for K vectors of a block whose entries (j, c) are at
// j · step + c. An entry of X is a jump to K neighbouring doubles: what a product costs is these
// jumps, one a pass and entry, not the flops; independent of each other, many are under way at
// once. Indices and data stream by: sizeof(T) + sizeof(I) bytes an entry.

template <class T, class I>
inline __attribute__((always_inline)) void prefetch_entries(const I* indices, const T* data,
                                                            index from, index to) {
  for (index e = from; e < to; e += 64 / sizeof(I)) __builtin_prefetch(indices + e, 0, 2);
  for (index e = from; e < to; e += 64 / sizeof(T)) __builtin_prefetch(data + e, 0, 2);
}

/// z_ic = Σ_j x_ij v_jc. Four partial sums, or K, hide the latency of the additions.
template <int K, class T, class I>
IMPLICITGRAD_KERNEL void rows_dot(const I* indptr, const I* __restrict indices,
                                  const T* __restrict data, index begin, index end,
                                  const double* __restrict v, index step, double* z, index ldz,
                                  index ahead) {
  for (index i = begin; i < end; ++i) {
    index e = static_cast<index>(indptr[i]);
    const index last = static_cast<index>(indptr[i + 1]);
    if (ahead > 0) prefetch_entries(indices, data, e + ahead, last + ahead);
    if constexpr (K == 1) {
      double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (; e + 4 <= last; e += 4) {
        s0 += data[e] * v[indices[e] * step];
        s1 += data[e + 1] * v[indices[e + 1] * step];
        s2 += data[e + 2] * v[indices[e + 2] * step];
        s3 += data[e + 3] * v[indices[e + 3] * step];
      }
      for (; e < last; ++e) s0 += data[e] * v[indices[e] * step];
      z[i - begin] = (s0 + s1) + (s2 + s3);
    } else {
      double s[K] = {};
      for (; e < last; ++e) {
        const double x = data[e];
        const double* __restrict at = v + static_cast<index>(indices[e]) * step;
        for (int c = 0; c < K; ++c) s[c] += x * at[c];
      }
      for (int c = 0; c < K; ++c) z[c * ldz + i - begin] = s[c];
    }
  }
}

/// out_jc += Σ_i x_ij w_ic for the entries of row i from first[i] to last[i], counted from its
/// begin; null stands for all. The columns of a row differ, so that its updates are independent.
template <int K, class T, class I>
IMPLICITGRAD_KERNEL void rows_axpy(const I* indptr, const I* __restrict indices,
                                   const T* __restrict data, const std::uint32_t* first,
                                   const std::uint32_t* last, index begin, index end,
                                   const double* w, index ldz, double* __restrict out, index step,
                                   index ahead, index rows) {
  for (index i = begin; i < end; ++i) {
    const index from = static_cast<index>(indptr[i]) + (first ? first[i] : 0);
    const index to = static_cast<index>(last ? indptr[i] + last[i] : indptr[i + 1]);
    if (const index r = i + ahead; r < rows) {
      const index next = static_cast<index>(indptr[r]) + (first ? first[r] : 0);
      prefetch_entries(indices, data, next,
                       static_cast<index>(last ? indptr[r] + last[r] : indptr[r + 1]));
    }
    double u[K];
    for (int c = 0; c < K; ++c) u[c] = w[c * ldz + i - begin];
    for (index e = from; e < to; ++e) {
      const double x = data[e];
      double* __restrict at = out + static_cast<index>(indices[e]) * step;
      for (int c = 0; c < K; ++c) at[c] += x * u[c];
    }
  }
}

/// out_j += Σ_i w_i x_ij², first and last as above.
template <class T, class I>
IMPLICITGRAD_KERNEL void rows_square_axpy(const I* indptr, const I* __restrict indices,
                                          const T* __restrict data, const std::uint32_t* first,
                                          const std::uint32_t* last, index begin, index end,
                                          const double* w, double* __restrict out, index rows) {
  for (index i = begin; i < end; ++i) {
    const index from = static_cast<index>(indptr[i]) + (first ? first[i] : 0);
    const index to = static_cast<index>(last ? indptr[i] + last[i] : indptr[i + 1]);
    if (const index r = i + ahead_rows; r < rows) {
      const index next = static_cast<index>(indptr[r]) + (first ? first[r] : 0);
      prefetch_entries(indices, data, next,
                       static_cast<index>(last ? indptr[r] + last[r] : indptr[r + 1]));
    }
    for (index e = from; e < to; ++e) {
      const double x = data[e];
      out[indices[e]] += w[i - begin] * x * x;
    }
  }
}

/// out_lj += Σ_i w_i x_ij x_il for first ≤ j < last and l ≥ j. Cost: a jump within a column of out
/// for each product.
template <class T, class I>
IMPLICITGRAD_KERNEL void rows_outer(const I* indptr, const I* __restrict indices,
                                    const T* __restrict data, index begin, index end,
                                    const double* w, index first, index last,
                                    double* __restrict out, index ld) {
  for (index i = begin; i < end; ++i) {
    const index to = static_cast<index>(indptr[i + 1]);
    index a = std::lower_bound(indices + indptr[i], indices + to, first,
                               [](I column, index least) { return column < least; }) -
              indices;
    for (; a < to && indices[a] < last; ++a) {
      const double u = w[i - begin] * data[a];
      double* __restrict column = out + static_cast<index>(indices[a]) * ld;
      for (index b = a; b < to; ++b) column[indices[b]] += u * data[b];
    }
  }
}

template <class T>
IMPLICITGRAD_KERNEL double square_sum(const T* data, index count) {
  double s = 0;
#pragma omp simd reduction(+ : s)
  for (index e = 0; e < count; ++e) {
    const double x = data[e];
    s += x * x;
  }
  return s;
}

/// 0 · x is 0 for a finite x and NaN otherwise; the sum keeps a NaN.
template <class T>
IMPLICITGRAD_KERNEL T zero_sum(const T* data, index count) {
  T s = 0;
#pragma omp simd reduction(+ : s)
  for (index e = 0; e < count; ++e) s += data[e] * T{0};
  return s;
}

/// body.template operator()<K>(first column) for k columns in groups of at most eight.
template <class Body>
void in_groups(index k, Body&& body) {
  for (index c = 0; c < k; c += 8) switch (std::min<index>(k - c, 8)) {
      case 1:
        body.template operator()<1>(c);
        break;
      case 2:
        body.template operator()<2>(c);
        break;
      case 3:
        body.template operator()<3>(c);
        break;
      case 4:
        body.template operator()<4>(c);
        break;
      case 5:
        body.template operator()<5>(c);
        break;
      case 6:
        body.template operator()<6>(c);
        break;
      case 7:
        body.template operator()<7>(c);
        break;
      default:
        body.template operator()<8>(c);
    }
}

/// Rows cut into at most `count` blocks of about equal work: the entries, and a few a row for its
/// own sake.
template <class I>
std::vector<index> even_bounds(const I* indptr, index rows, index count) {
  const auto work = [&](index i) { return static_cast<index>(indptr[i]) + 4 * i; };
  std::vector<index> bounds{0};
  for (index b = 1; b < count; ++b) {
    const double share = static_cast<double>(b) / static_cast<double>(count);
    const auto wanted = static_cast<index>(share * static_cast<double>(work(rows)));
    index low = bounds.back(), high = rows;  // the first row whose work before it is as wanted
    while (low < high) {
      const index middle = low + (high - low) / 2;
      if (work(middle) < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    if (low > bounds.back() && low < rows) bounds.push_back(low);
  }
  bounds.push_back(rows);
  return bounds;
}

}  // namespace

template <class T, class I>
csr_matrix<T, I>::csr_matrix(const I* indptr, const I* indices, const T* data, index rows,
                             index cols, csr_sizes sizes)
    : indptr_(indptr), indices_(indices), data_(data), rows_(rows), cols_(cols), sizes_(sizes) {
  require(rows > 0 && cols > 0, "X must have at least one row and one column");
  const index count = entries(), a_row = count / rows + 1;
  // A panel is used twice and comes from memory once: it stays in the first-level cache.
  constexpr index panel_bytes = index{24} << 10;
  panel_rows_ =
      std::clamp<index>(panel_bytes / (a_row * static_cast<index>(sizeof(T) + sizeof(I))), 4, 512);

  // Narrow: the partial sums of a block, zeroed, written and read, are 24 p bytes beside the 12 or
  // so an entry: a twelfth of them. In fours, so that a few threads have equal shares.
  index blocks = (count / (24 * cols) + 3) / 4 * 4;
  blocks = std::min({std::max<index>(blocks, 4), max_live_blocks,
                     std::max<index>(count / sizes.least_entries, 1)});
  narrow_bounds_ = even_bounds(indptr, rows, std::max(blocks, count >> 22));
  const index least = sizes.block_entries, work = count + 4 * rows;
  wide_bounds_ =
      even_bounds(indptr, rows, work / std::clamp(work / max_live_blocks, least, 8 * least));

  for (index i = 0; i < rows; ++i) {
    const auto length = static_cast<double>(indptr[i + 1] - indptr[i]);
    require(length < 4294967296.0, "X has a row of more than 2^32 - 1 entries");
    outer_terms_ += 0.5 * length * (length + 1.0);
  }
}

template <class T, class I>
row_blocks csr_matrix<T, I>::blocks(index k) const {
  return {rows_, 0, owns_columns(k) ? &wide_bounds_ : &narrow_bounds_};
}

template <class T, class I>
index csr_matrix<T, I>::cut_columns(int n_threads) const {
  if (n_threads == 1 || wide_bounds_.size() == 2) return 1;  // one block is work for one thread
  // One a thread: each end of a tile in a row costs as much as several entries, so that a row
  // should have some in each.
  const index tiles =
      std::min({index{n_threads}, std::max<index>(entries() / rows_ / 4, 8), cols_});
  const std::lock_guard lock(splits_guard_);
  if (!splits_.contains(tiles)) splits_.emplace(tiles, make_splits(tiles, n_threads));
  return tiles;
}

/// Tiles that take about equally long, judged by the entries of some rows. An entry of a popular
/// column finds it in a second-level cache; one that does not waits three times as long.
template <class T, class I>
typename csr_matrix<T, I>::splits csr_matrix<T, I>::make_splits(index tiles, int n_threads) const {
  constexpr index sample = index{1} << 20;
  const index stride = entries() / sample + 1;
  std::vector<std::uint32_t> count(static_cast<std::size_t>(cols_));
  index total = 0;
  for (index i = 0; i < rows_; i += stride)
    for (index e = static_cast<index>(indptr_[i]); e < static_cast<index>(indptr_[i + 1]); ++e)
      ++count[indices_[e]], ++total;
  const auto time = [&, most = total / second_level_words](index j) {
    return index{count[j]} * (count[j] > most ? 1 : 3);
  };
  index whole = 0, sum = 0;
  for (index j = 0; j < cols_; ++j) whole += time(j);
  std::vector<index> bound;  // the first column of each tile but the first
  for (index j = 0; j < cols_ && static_cast<index>(bound.size()) < tiles - 1; ++j) {
    while (sum * tiles > whole * (static_cast<index>(bound.size()) + 1)) bound.push_back(j);
    sum += time(j);
  }
  bound.resize(static_cast<std::size_t>(tiles - 1), cols_);

  splits result(static_cast<std::size_t>((tiles - 1) * rows_));
  constexpr index chunk = 1024;
  parallel_for((rows_ + chunk - 1) / chunk, n_threads, [&](index c, int) {
    for (index i = c * chunk; i < std::min(rows_, (c + 1) * chunk); ++i) {
      const I *begin = indices_ + indptr_[i], *end = indices_ + indptr_[i + 1], *at = begin;
      for (index t = 0; t < tiles - 1; ++t) {
        at = std::lower_bound(at, end, bound[t], [](I j, index least) { return j < least; });
        result[t * rows_ + i] = static_cast<std::uint32_t>(at - begin);
      }
    }
  });
  return result;
}

/// Where tile `tile` begins in the rows, or null for the first tile and the one after the last.
template <class T, class I>
const std::uint32_t* csr_matrix<T, I>::split(index tile, index tiles) const {
  if (tile == 0 || tile == tiles) return nullptr;
  const std::lock_guard lock(splits_guard_);
  return splits_.at(tiles).data() + (tile - 1) * rows_;
}

template <class T, class I>
void csr_matrix<T, I>::dot(index begin, index end, const double* v, index ld, index k, double* z,
                           index ldz) const {
  // A panel has been prefetched by `accumulate` of the one before.
  const index ahead = owns_columns(k) ? ahead_entries : 0;
  if (k == 1) return rows_dot<1>(indptr_, indices_, data_, begin, end, v, 1, z, ldz, ahead);
  in_groups(k, [&]<int K>(index c) {
    rows_dot<K>(indptr_, indices_, data_, begin, end, v + c, ld, z + c * ldz, ldz, ahead);
  });
}

template <class T, class I>
void csr_matrix<T, I>::axpy(const std::uint32_t* first, const std::uint32_t* last, index begin,
                            index end, const double* w, index ldz, index k, double* out, index ld,
                            index ahead) const {
  if (k == 1)
    return rows_axpy<1>(indptr_, indices_, data_, first, last, begin, end, w, ldz, out, 1, ahead,
                        rows_);
  in_groups(k, [&]<int K>(index c) {
    rows_axpy<K>(indptr_, indices_, data_, first, last, begin, end, w + c * ldz, ldz, out + c, ld,
                 ahead, rows_);
  });
}

template <class T, class I>
void csr_matrix<T, I>::accumulate(index begin, index end, const double* w, index ldz, index k,
                                  double* out, index ld) const {
  axpy(nullptr, nullptr, begin, end, w, ldz, k, out, ld, end - begin);
}

template <class T, class I>
void csr_matrix<T, I>::accumulate_tile(index tile, index tiles, index begin, index end,
                                       const double* w, index ldz, index k, double* out,
                                       index ld) const {
  axpy(split(tile, tiles), split(tile + 1, tiles), begin, end, w, ldz, k, out, ld, ahead_rows);
}

template <class T, class I>
void csr_matrix<T, I>::accumulate_squares(index begin, index end, const double* w,
                                          double* out) const {
  accumulate_squares_tile(0, 1, begin, end, w, out);
}

template <class T, class I>
void csr_matrix<T, I>::accumulate_squares_tile(index tile, index tiles, index begin, index end,
                                               const double* w, double* out) const {
  rows_square_axpy(indptr_, indices_, data_, split(tile, tiles), split(tile + 1, tiles), begin, end,
                   w, out, rows_);
}

template <class T, class I>
void csr_matrix<T, I>::accumulate_outer(index begin, index end, const double* w, index first,
                                        index last, double* out, index ld) const {
  rows_outer(indptr_, indices_, data_, begin, end, w, first, last, out, ld);
}

template <class T, class I>
void csr_matrix<T, I>::row_squares(index begin, index end, double* out) const {
  for (index i = begin; i < end; ++i)
    out[i - begin] =
        square_sum(data_ + indptr_[i], static_cast<index>(indptr_[i + 1] - indptr_[i]));
}

template <class T, class I>
void csr_matrix<T, I>::copy_scaled(index begin, index end, const double* scale, double* out,
                                   index ld) const {
  for (index i = begin; i < end; ++i) {
    double* row = out + (i - begin) * ld;
    std::fill_n(row, cols_, 0.0);
    for (I e = indptr_[i]; e < indptr_[i + 1]; ++e) row[indices_[e]] = scale[i - begin] * data_[e];
  }
}

template <class T, class I>
bool csr_matrix<T, I>::finite(index begin, index end) const {
  return zero_sum(data_ + indptr_[begin], static_cast<index>(indptr_[end] - indptr_[begin])) ==
         T{0};
}

template class csr_matrix<double, std::int32_t>;
template class csr_matrix<double, std::int64_t>;
template class csr_matrix<float, std::int32_t>;
template class csr_matrix<float, std::int64_t>;

}  // namespace implicitgrad
