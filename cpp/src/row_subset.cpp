#include "implicitgrad/row_subset.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

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

row_sample stratified_rows(const double* d, index n, index m, std::uint64_t seed) {
  row_sample sample;
  if (m >= n) {
    sample.rows.resize(static_cast<std::size_t>(n));
    std::iota(sample.rows.begin(), sample.rows.end(), index{0});
    sample.share.assign(static_cast<std::size_t>(n), 1.0);
    return sample;
  }
  const double total = std::accumulate(d, d + n, 0.0), even = 1.0 / static_cast<double>(n);
  const bool weighted = total > 0.0 && std::isfinite(total);
  const auto strata = static_cast<double>(m);
  double passed = 0.0;  // the weight of the rows before row i
  index s = 0;
  const auto point = [&] {  // in the stratum s
    const std::uint64_t bits = mixed(seed ^ mixed(static_cast<std::uint64_t>(s)));
    return (static_cast<double>(s) + static_cast<double>(bits >> 11) * 0x1p-53) / strata;
  };
  double next = point();
  for (index i = 0; i < n && s < m; ++i) {
    const double weight = weighted ? 0.5 * (d[i] / total + even) : even;
    passed += weight;
    index hits = 0;
    // What rounding leaves of the last strata belongs to the last row.
    while (s < m && (next < passed || i == n - 1)) {
      ++hits;
      if (++s < m) next = point();
    }
    if (hits == 0) continue;
    sample.rows.push_back(i);
    sample.share.push_back(static_cast<double>(hits) / (strata * weight));
  }
  return sample;
}

}  // namespace implicitgrad
