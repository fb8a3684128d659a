#include "implicitgrad/row_subset.hpp"

#include <algorithm>

#include "implicitgrad/random.hpp"

namespace implicitgrad {

namespace {

/// Calls run(from, to, first) for each stretch [from, to) of the subset whose rows are neighbours,
/// the first of them being row `first` of the matrix.
template <class Run>
void for_runs(const std::vector<index>& chosen, index begin, index end, Run&& run) {
  for (index from = begin; from < end;) {
    index to = from + 1;
    while (to < end && chosen[to] == chosen[to - 1] + 1) ++to;
    run(from, to, chosen[from]);
    from = to;
  }
}

}  // namespace

void row_subset::dot(index begin, index end, const double* v, index ld, index k, double* z,
                     index ldz) const {
  for_runs(chosen_, begin, end, [&](index from, index to, index first) {
    x_->dot(first, first + to - from, v, ld, k, z + (from - begin), ldz);
  });
}

void row_subset::accumulate(index begin, index end, const double* w, index ldz, index k,
                            double* out, index ld) const {
  for_runs(chosen_, begin, end, [&](index from, index to, index first) {
    x_->accumulate(first, first + to - from, w + (from - begin), ldz, k, out, ld);
  });
}

void row_subset::accumulate_squares(index begin, index end, const double* w, double* out) const {
  for_runs(chosen_, begin, end, [&](index from, index to, index first) {
    x_->accumulate_squares(first, first + to - from, w + (from - begin), out);
  });
}

void row_subset::row_squares(index begin, index end, double* out) const {
  for_runs(chosen_, begin, end, [&](index from, index to, index first) {
    x_->row_squares(first, first + to - from, out + (from - begin));
  });
}

void row_subset::copy_scaled(index begin, index end, const double* scale, double* out,
                             index ld) const {
  for_runs(chosen_, begin, end, [&](index from, index to, index first) {
    x_->copy_scaled(first, first + to - from, scale + (from - begin), out + (from - begin) * ld,
                    ld);
  });
}

bool row_subset::finite(index begin, index end) const {
  bool all = true;
  for_runs(chosen_, begin, end, [&](index from, index to, index first) {
    all = all && x_->finite(first, first + to - from);
  });
  return all;
}

std::vector<index> stratified_rows(index n, index m, std::uint64_t seed) {
  std::vector<index> rows;
  rows.reserve(static_cast<std::size_t>(m));
  for (index s = 0; s < m; ++s) {
    const index begin = s * n / m, length = (s + 1) * n / m - begin;
    rows.push_back(begin + static_cast<index>(mixed(seed ^ mixed(static_cast<std::uint64_t>(s))) %
                                              static_cast<std::uint64_t>(length)));
  }
  return rows;
}

}  // namespace implicitgrad
