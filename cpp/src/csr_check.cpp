// Whether index arrays of any content are those of a CSR matrix.
#include <algorithm>

#include "implicitgrad/csr_matrix.hpp"
#include "implicitgrad/multiversion.hpp"

namespace implicitgrad {

namespace {

struct row_findings {
  bool out_of_range = false, not_canonical = false;
};

/// The whole row is read, without leaving early: the loop is then a stream of comparisons.
template <class I>
IMPLICITGRAD_KERNEL row_findings look_at(const I* indptr, const I* indices, index begin, index end,
                                         I cols) {
  row_findings found;
  for (index i = begin; i < end; ++i) {
    const I* row = indices + indptr[i];
    const index length = static_cast<index>(indptr[i + 1] - indptr[i]);
    int outside = 0, unordered = 0;
    for (index e = 0; e < length; ++e) outside |= (row[e] < 0) | (row[e] >= cols);
    for (index e = 1; e < length; ++e) unordered |= row[e] <= row[e - 1];
    found.out_of_range |= outside != 0;
    found.not_canonical |= unordered != 0;
  }
  return found;
}

}  // namespace

template <class I>
csr_verdict check_csr(const I* indptr, const I* indices, index rows, index cols, index available,
                      int n_threads) {
  if (indptr[0] != 0) return {csr_fault::start, 0};
  for (index i = 0; i < rows; ++i)
    if (indptr[i] > indptr[i + 1]) return {csr_fault::decreasing, i};
  const auto count = static_cast<index>(indptr[rows]);
  if (count > available) return {csr_fault::too_long, rows};

  // No index of this type reaches a number of columns that the type cannot hold.
  const auto most = static_cast<index>(std::numeric_limits<I>::max());
  const I limit = static_cast<I>(std::min(cols, most));
  constexpr index chunk = 4096;
  const index chunks = (rows + chunk - 1) / chunk;
  std::vector<row_findings> found(static_cast<std::size_t>(chunks));
  parallel_for(chunks, count < (index{1} << 16) ? 1 : n_threads, [&](index c, int) {
    found[c] = look_at(indptr, indices, c * chunk, std::min(rows, (c + 1) * chunk), limit);
  });
  csr_verdict verdict;
  for (const row_findings& f : found) {
    if (f.out_of_range) {
      const I* bad =
          std::find_if(indices, indices + count, [&](I j) { return j < 0 || j >= limit; });
      return {csr_fault::out_of_range, bad - indices};
    }
    if (f.not_canonical) verdict.fault = csr_fault::not_canonical;
  }
  return verdict;
}

template csr_verdict check_csr(const std::int32_t*, const std::int32_t*, index, index, index, int);
template csr_verdict check_csr(const std::int64_t*, const std::int64_t*, index, index, index, int);

}  // namespace implicitgrad
