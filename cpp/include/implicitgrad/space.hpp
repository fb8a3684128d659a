// Space: where the vectors of a solver live, and the few primitives a Krylov method needs there. A
// solver is a template over its Space and touches vectors in no other way, so that the same text
// runs wherever a Space and an Operator for it exist.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <vector>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

template <class S>
concept Space = requires(typename S::vector& owned, index n, double a, const double* x, double* y) {
  { S::make(n) } -> std::same_as<typename S::vector>;  // n zeros
  { S::data(owned) } -> std::same_as<double*>;
  { S::dot(n, x, x) } -> std::convertible_to<double>;  // xᵀx'
  { S::norm(n, x) } -> std::convertible_to<double>;    // ‖x‖₂, safe from overflow
  S::axpby(n, a, x, a, y);                             // y = a x + b y; what is times 0 is not read
  S::copy(n, x, y);                                    // y = x
};

/// Vectors in main memory. Sums run in a fixed order.
struct host_space {
  using vector = std::vector<double>;

  static vector make(index n) { return vector(static_cast<std::size_t>(n)); }
  static double* data(vector& owned) { return owned.data(); }

  static double dot(index n, const double* x, const double* y) {
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (index i = 0; i < n; ++i) sum += x[i] * y[i];
    return sum;
  }

  static double norm(index n, const double* x) {
    double largest = 0.0;
    for (index i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
    // NaN compares false and would be passed over by max; the sum below brings it out.
    constexpr double low = 0x1p-500, high = 0x1p+500;
    if (largest == 0.0 || (largest > low && largest < high)) return std::sqrt(dot(n, x, x));
    if (std::isinf(largest)) return largest;
    int exponent = 0;
    std::frexp(largest, &exponent);
    double sum = 0.0;
    for (index i = 0; i < n; ++i) {
      const double scaled = std::ldexp(x[i], -exponent);
      sum += scaled * scaled;
    }
    return std::ldexp(std::sqrt(sum), exponent);
  }

  static void axpby(index n, double a, const double* x, double b, double* y) {
    if (a == 0.0 && b == 0.0) {  // x may hold NaN
      std::fill_n(y, n, 0.0);
    } else if (b == 0.0) {
      for (index i = 0; i < n; ++i) y[i] = a * x[i];
    } else {
      for (index i = 0; i < n; ++i) y[i] = a * x[i] + b * y[i];
    }
  }

  static void copy(index n, const double* x, double* y) { std::copy_n(x, n, y); }
};

static_assert(Space<host_space>);

}  // namespace implicitgrad
