#include "kernels/margins.hpp"

#include <algorithm>
#include <cmath>

#include "implicitgrad/losses.hpp"
#include "implicitgrad/multiversion.hpp"

namespace implicitgrad::kernels {

namespace {

constexpr index lanes = 8;  // of the widest register
constexpr index few = 6;    // Fewer rows are faster one by one than filled up to eight.

/// Rows whose number is known beforehand, each adding to sums of its own.
template <class Loss, index rows>
[[gnu::always_inline]] inline void evaluate_rows(double* __restrict z, const double* __restrict y,
                                                 const double* __restrict c,
                                                 double* __restrict curvature,
                                                 double* __restrict sum,
                                                 double* __restrict slopes) {
#pragma omp simd
  for (index l = 0; l < rows; ++l) {
    const margin_terms t = Loss::at(z[l], y[l]);
    const double size = std::abs(t.first) + growth_of<Loss>() * t.second;
    sum[l] += c[l] * t.value;
    slopes[l] += c[l] * (size * size);
    z[l] = c[l] * t.first;
    curvature[l] = c[l] * t.second;
  }
}

double total(const double* sum) {
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

template <class Loss>
IMPLICITGRAD_KERNEL margin_sums evaluate(index count, double* z, const double* y, const double* c,
                                         double even, double* curvature) {
  double all_even[lanes], sum[lanes] = {}, slopes[lanes] = {};
  std::fill_n(all_even, lanes, even);
  const auto weights = [&](index i) { return c ? c + i : all_even; };
  index i = 0;
  for (; i + lanes <= count; i += lanes)
    evaluate_rows<Loss, lanes>(z + i, y + i, weights(i), curvature + i, sum, slopes);
  const index rest = count - i;
  if (rest < few) {
    for (index l = 0; l < rest; ++l)
      evaluate_rows<Loss, 1>(z + i + l, y + i + l, weights(i) + l, curvature + i + l, sum + l,
                             slopes + l);
  } else {
    // Filled up with rows z = y = 0 of weight 0, where every loss is finite.
    double last_z[lanes], last_y[lanes], last_c[lanes], last_curvature[lanes];
    const double* w = weights(i);
#pragma omp simd
    for (index l = 0; l < lanes; ++l) {
      last_z[l] = l < rest ? z[i + l] : 0.0;
      last_y[l] = l < rest ? y[i + l] : 0.0;
      last_c[l] = l < rest ? w[l] : 0.0;
    }
    evaluate_rows<Loss, lanes>(last_z, last_y, last_c, last_curvature, sum, slopes);
#pragma omp simd
    for (index l = 0; l < lanes; ++l)
      if (l < rest) z[i + l] = last_z[l], curvature[i + l] = last_curvature[l];
  }
  return {total(sum), total(slopes)};
}

}  // namespace

margin_function evaluate_margins(std::string_view loss) {
  return visit_loss(loss,
                    [](auto functor) -> margin_function { return evaluate<decltype(functor)>; });
}

}  // namespace implicitgrad::kernels
