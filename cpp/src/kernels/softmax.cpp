#include "kernels/softmax.hpp"

#include <algorithm>
#include <cmath>

#include "implicitgrad/elementary.hpp"
#include "implicitgrad/multiversion.hpp"

namespace implicitgrad::kernels {

namespace {

constexpr index chunk = 64;  // rows at a time: what is kept of each stays in registers and cache

/// body(first, rows, weights) for each chunk.
template <class Body>
[[gnu::always_inline]] inline void for_chunks(const class_rows& r, Body&& body) {
  double all_even[chunk];
  std::fill_n(all_even, chunk, r.even);
  for (index first = 0; first < r.count; first += chunk)
    body(first, std::min(chunk, r.count - first), r.c ? r.c + first : all_even);
}

}  // namespace

IMPLICITGRAD_KERNEL double evaluate_softmax(const class_rows& r, const double* y,
                                            double* probability, double* slopes) {
  double total = 0.0;
  for_chunks(r, [&](index first, index rows, const double* __restrict c) {
    const double* __restrict label = y + first;
    double most[chunk], best[chunk], at_label[chunk], others[chunk], miss[chunk];
    const auto z = [&](index a) { return r.z + a * r.ldz + first; };
    const auto p = [&](index a) { return probability + a * r.ldp + first; };
    for (index i = 0; i < rows; ++i) {
      most[i] = z(0)[i], best[i] = 0.0, at_label[i] = z(0)[i], others[i] = 0.0, miss[i] = 0.0;
    }
    for (index a = 1; a < r.classes; ++a) {
      const double* __restrict za = z(a);
      const auto name = static_cast<double>(a);
#pragma omp simd
      for (index i = 0; i < rows; ++i) {
        const bool more = za[i] > most[i];
        best[i] = more ? name : best[i];
        most[i] = more ? za[i] : most[i];
        at_label[i] = label[i] == name ? za[i] : at_label[i];
      }
    }
    // `others`: Σ e^{z_a − max} but for the largest, which is 1.
    for (index a = 0; a < r.classes; ++a) {
      const double* __restrict za = z(a);
      double* __restrict pa = p(a);
      const auto name = static_cast<double>(a);
#pragma omp simd
      for (index i = 0; i < rows; ++i) {
        const double e = vector_exp(za[i] - most[i]);
        pa[i] = e;
        others[i] += best[i] == name ? 0.0 : e;
      }
    }
    for (index i = 0; i < rows; ++i) {
      total += c[i] * (std::log1p(others[i]) + (most[i] - at_label[i]));
      most[i] = 1.0 / (1.0 + others[i]);
    }
    for (index a = 0; a < r.classes; ++a) {
      double* __restrict pa = p(a);
      const auto name = static_cast<double>(a);
#pragma omp simd
      for (index i = 0; i < rows; ++i) {
        pa[i] *= most[i];
        miss[i] += label[i] == name ? 0.0 : pa[i];
      }
    }
    for (index a = 0; a < r.classes; ++a) {
      double* __restrict za = z(a);
      const double* __restrict pa = p(a);
      const auto name = static_cast<double>(a);
      double sum = 0.0;
#pragma omp simd reduction(+ : sum)
      for (index i = 0; i < rows; ++i) {
        const double slope = label[i] == name ? -miss[i] : pa[i];
        sum += c[i] * (slope * slope);
        za[i] = c[i] * slope;
      }
      if (slopes) slopes[a] += sum;
    }
  });
  return total;
}

IMPLICITGRAD_KERNEL void multiply_softmax(const class_rows& r, const double* p) {
  for_chunks(r, [&](index first, index rows, const double* __restrict c) {
    double origin[chunk], mean[chunk];
    std::copy_n(r.z + first, rows, origin);
    std::fill_n(mean, rows, 0.0);
    for (index a = 1; a < r.classes; ++a) {
      const double* __restrict za = r.z + a * r.ldz + first;
      const double* __restrict pa = p + a * r.ldp + first;
#pragma omp simd
      for (index i = 0; i < rows; ++i) origin[i] = pa[i] > 0.5 ? za[i] : origin[i];
    }
    for (index a = 0; a < r.classes; ++a) {
      const double* __restrict za = r.z + a * r.ldz + first;
      const double* __restrict pa = p + a * r.ldp + first;
#pragma omp simd
      for (index i = 0; i < rows; ++i) mean[i] += pa[i] * (za[i] - origin[i]);
    }
    for (index a = 0; a < r.classes; ++a) {
      double* __restrict za = r.z + a * r.ldz + first;
      const double* __restrict pa = p + a * r.ldp + first;
#pragma omp simd
      for (index i = 0; i < rows; ++i) za[i] = c[i] * pa[i] * ((za[i] - origin[i]) - mean[i]);
    }
  });
}

IMPLICITGRAD_KERNEL void softmax_diagonal(const class_rows& r, const double* p) {
  for_chunks(r, [&](index first, index rows, const double* __restrict c) {
    double others[chunk];
    std::fill_n(others, rows, 0.0);
    for (index a = 0; a < r.classes; ++a) {
      const double* pa = p + a * r.ldp + first;
#pragma omp simd
      for (index i = 0; i < rows; ++i) others[i] += pa[i] > 0.5 ? 0.0 : pa[i];
    }
    for (index a = 0; a < r.classes; ++a) {
      const double* pa = p + a * r.ldp + first;
      double* za = r.z + a * r.ldz + first;
#pragma omp simd
      for (index i = 0; i < rows; ++i)
        za[i] = c[i] * pa[i] * (pa[i] > 0.5 ? others[i] : 1.0 - pa[i]);
    }
  });
}

}  // namespace implicitgrad::kernels
