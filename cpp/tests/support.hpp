// What the tests share: random numbers that are the same everywhere, matrices with poisoned
// padding, dense operators, and errors measured against what rounding allows.
#pragma once

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/operator.hpp"

namespace implicitgrad::testing {

inline constexpr double nan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double inf = std::numeric_limits<double>::infinity();

/// SplitMix64: the standard library's distributions differ between implementations.
class random_source {
 public:
  explicit random_source(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  double symmetric() { return 2.0 * unit() - 1.0; }                      // [−1, 1)
  std::vector<double> vector(index n) {
    std::vector<double> v(static_cast<std::size_t>(n));
    for (double& x : v) x = symmetric();
    return v;
  }

 private:
  std::uint64_t state_;
};

inline const_block column(const std::vector<double>& v) {
  return {v.data(), static_cast<index>(v.size()), 1};
}
inline block column(std::vector<double>& v) { return {v.data(), static_cast<index>(v.size()), 1}; }
inline const_block as_block(const std::vector<double>& v, index rows) {
  return {v.data(), rows, static_cast<index>(v.size()) / rows};
}
inline block as_block(std::vector<double>& v, index rows) {
  return {v.data(), rows, static_cast<index>(v.size()) / rows};
}

inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
    return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
  });
}

/// The largest error in units of what rounding allows, for sums of `terms` terms whose absolute
/// values add up to `scale`: |Σ̂ − Σ| ≤ terms · ε · Σ|·| holds in any order of summation.
class rounding_check {
 public:
  void add(double got, long double want, long double scale, index terms) {
    const long double allowed =
        static_cast<long double>(terms + 4) * DBL_EPSILON * scale + 4 * DBL_MIN;
    const long double error = std::abs(static_cast<long double>(got) - want);
    worst_ = std::max(worst_, static_cast<double>(error / allowed));
    if (std::isnan(got)) worst_ = inf;
  }
  double worst() const { return worst_; }

 private:
  double worst_ = 0.0;
};

/// A random n × p matrix of T whose rows (or columns) are `padding` entries further apart than they
/// need be. The padding holds NaN, so that a kernel that reads it is found out.
template <class T>
class stored_matrix {
 public:
  stored_matrix(index n, index p, layout storage, index padding, std::uint64_t seed)
      : rows(n),
        cols(p),
        order(storage),
        ld((storage == layout::row_major ? p : n) + padding),
        data_(static_cast<std::size_t>(ld * (storage == layout::row_major ? n : p)),
              std::numeric_limits<T>::quiet_NaN()) {
    random_source random(seed);
    for (index i = 0; i < n; ++i)
      for (index j = 0; j < p; ++j) at(i, j) = static_cast<T>(random.symmetric());
  }

  const index rows, cols;
  const layout order;
  const index ld;

  T& at(index i, index j) {
    return data_[static_cast<std::size_t>(order == layout::row_major ? i * ld + j : j * ld + i)];
  }
  T at(index i, index j) const { return const_cast<stored_matrix*>(this)->at(i, j); }

  /// Entry (i, j) of [X 1].
  long double entry(index i, index j) const {
    return j == cols ? 1.0L : static_cast<long double>(at(i, j));
  }

  dense_matrix<T> view() const { return {data_.data(), rows, cols, ld, order}; }

 private:
  std::vector<T> data_;
};

/// A symmetric matrix as an operator. Sums run column by column, so that a block gives the same
/// bits as its columns one by one.
class dense_operator : public Operator {
 public:
  dense_operator(index n, std::vector<double> entries) : n_(n), entries_(std::move(entries)) {}

  static dense_operator diagonal_matrix(const std::vector<double>& d) {
    const auto n = static_cast<index>(d.size());
    std::vector<double> entries(d.size() * d.size());
    for (index i = 0; i < n; ++i) entries[i * n + i] = d[i];
    return {n, std::move(entries)};
  }

  /// Q diag(eigenvalues) Qᵀ with a random orthogonal Q, a product of reflections.
  static dense_operator with_spectrum(const std::vector<double>& eigenvalues, std::uint64_t seed) {
    const auto n = static_cast<index>(eigenvalues.size());
    std::vector<long double> a(eigenvalues.size() * eigenvalues.size());
    for (index i = 0; i < n; ++i) a[i * n + i] = eigenvalues[i];
    random_source random(seed);
    for (int reflection = 0; reflection < 3; ++reflection) {
      const std::vector<double> u = random.vector(n);
      long double uu = 0;
      for (const double x : u) uu += static_cast<long double>(x) * x;
      for (int side = 0; side < 2; ++side)  // A ← (I − 2uuᵀ/uᵀu) A, then the same on the right
        for (index j = 0; j < n; ++j) {
          const auto entry = [&](index i) -> long double& {
            return side == 0 ? a[j * n + i] : a[i * n + j];
          };
          long double s = 0;
          for (index i = 0; i < n; ++i) s += u[i] * entry(i);
          for (index i = 0; i < n; ++i) entry(i) -= 2 * s / uu * u[i];
        }
    }
    std::vector<double> entries(a.size());
    for (index j = 0; j < n; ++j)
      for (index i = j; i < n; ++i)
        entries[j * n + i] = entries[i * n + j] = static_cast<double>(a[j * n + i]);
    return {n, std::move(entries)};
  }

  index size() const override { return n_; }
  void apply(const_block v, block out) const override {
    ++applications;
    for (index c = 0; c < v.cols; ++c)
      for (index i = 0; i < n_; ++i) {
        double sum = 0.0;
        for (index j = 0; j < n_; ++j) sum += entries_[j * n_ + i] * v.col(c)[j];
        out.col(c)[i] = sum;
      }
  }
  bool diagonal(double* out) const override {
    for (index i = 0; i < n_; ++i) out[i] = entries_[i * n_ + i];
    return true;
  }

  double operator()(index i, index j) const { return entries_[j * n_ + i]; }

  /// ‖b − A x‖₂ / ‖b‖₂ in extended precision.
  double residual(const double* b, const double* x) const {
    long double rest = 0, size = 0;
    for (index i = 0; i < n_; ++i) {
      long double r = b[i];
      for (index j = 0; j < n_; ++j) r -= static_cast<long double>((*this)(i, j)) * x[j];
      rest += r * r;
      size += static_cast<long double>(b[i]) * b[i];
    }
    return static_cast<double>(size > 0 ? std::sqrt(rest / size) : std::sqrt(rest));
  }

  mutable int applications = 0;

 private:
  index n_;
  std::vector<double> entries_;
};

/// n values from `low` to `high`, evenly spaced in the logarithm.
inline std::vector<double> log_spaced(double low, double high, index n) {
  std::vector<double> v(static_cast<std::size_t>(n));
  for (index i = 0; i < n; ++i)
    v[i] = low * std::pow(high / low, static_cast<double>(i) / static_cast<double>(n - 1));
  return v;
}

inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = a.size() == b.size() ? 0.0 : inf;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(a[i] - b[i]);
    worst = d <= worst ? worst : d;  // keeps NaN
    if (std::isnan(d)) return inf;
  }
  return worst;
}

inline std::string describe(index n, index p, layout order, index padding) {
  return std::to_string(n) + " x " + std::to_string(p) +
         (order == layout::row_major ? " row-major" : " column-major") + ", padding " +
         std::to_string(padding);
}

}  // namespace implicitgrad::testing
