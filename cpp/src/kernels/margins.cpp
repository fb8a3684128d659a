#include "kernels/margins.hpp"

#include <algorithm>

#include "implicitgrad/losses.hpp"
#include "implicitgrad/multiversion.hpp"

namespace implicitgrad::kernels {

namespace {

constexpr index lanes = 8;  // of the widest register

/// z, curvature and value of eight rows; of a number known beforehand, lest scalar code does the
/// last few.
template <class Loss>
[[gnu::always_inline]] inline void evaluate_lanes(double* __restrict z, const double* __restrict y,
                                                  const double* __restrict c,
                                                  double* __restrict curvature,
                                                  double* __restrict value) {
#pragma omp simd
  for (index l = 0; l < lanes; ++l) {
    const margin_terms t = Loss::at(z[l], y[l]);
    value[l] = c[l] * t.value;
    z[l] = c[l] * t.first;
    curvature[l] = c[l] * t.second;
  }
}

template <class Loss>
IMPLICITGRAD_KERNEL double evaluate(index count, double* z, const double* y, const double* c,
                                    double even, double* curvature) {
  double all_even[lanes], value[lanes], sum[lanes] = {};
  std::fill_n(all_even, lanes, even);
  const auto weights = [&](index i) { return c ? c + i : all_even; };
  index i = 0;
  for (; i + lanes <= count; i += lanes) {
    evaluate_lanes<Loss>(z + i, y + i, weights(i), curvature + i, value);
    for (index l = 0; l < lanes; ++l) sum[l] += value[l];
  }
  if (const index rest = count - i; rest > 0) {
    double last_z[lanes] = {}, last_y[lanes] = {}, last_c[lanes] = {}, last_curvature[lanes];
    std::copy_n(z + i, rest, last_z);
    std::copy_n(y + i, rest, last_y);
    std::copy_n(weights(i), rest, last_c);
    evaluate_lanes<Loss>(last_z, last_y, last_c, last_curvature, value);
    std::copy_n(last_z, rest, z + i);
    std::copy_n(last_curvature, rest, curvature + i);
    for (index l = 0; l < rest; ++l) sum[l] += value[l];
  }
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

}  // namespace

margin_function evaluate_margins(std::string_view loss) {
  return visit_loss(loss,
                    [](auto functor) -> margin_function { return evaluate<decltype(functor)>; });
}

}  // namespace implicitgrad::kernels
