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

/// ∂ℓ/∂z_a, and what it is rounded to.
struct slope_terms {
  double slope, size;
};

// Targets y of the rows of a chunk: their share of a sum over the classes, Σ_a y_a v_a, and the
// slopes p − y, once all p of the rows have been met.

/// One class a row.
class hard_targets {
 public:
  explicit hard_targets(const double* labels) : labels_(labels) {}

  void begin(index first, index rows) {
    label_ = labels_ + first;
    std::fill_n(miss_, rows, 0.0);
  }
  double share(index i, index a, double v) const { return is(i, a) ? v : 0.0; }
  void meet(index i, index a, double p) { miss_[i] += is(i, a) ? 0.0 : p; }
  slope_terms slope(index i, index a, double p) const {
    const double s = is(i, a) ? -miss_[i] : p;
    return {s, s};
  }

 private:
  bool is(index i, index a) const { return label_[i] == static_cast<double>(a); }

  const double *labels_, *label_ = nullptr;
  double miss_[chunk];
};

/// A distribution over the classes: p_a − y_a = p_a (1 − y_a) − y_a (1 − p_a), where what is left
/// of one is the sum of the others if that is the smaller part.
class soft_targets {
 public:
  soft_targets(const double* shares, index classes) : shares_(shares), classes_(classes) {}

  void begin(index first, index rows) {
    y_ = shares_ + first * classes_;
    std::fill_n(few_p_, rows, 0.0);
    std::fill_n(few_y_, rows, 0.0);
  }
  double share(index i, index a, double v) const { return of(i, a) * v; }
  void meet(index i, index a, double p) {
    const double y = of(i, a);
    few_p_[i] += p > 0.5 ? 0.0 : p;
    few_y_[i] += y > 0.5 ? 0.0 : y;
  }
  slope_terms slope(index i, index a, double p) const {
    const double y = of(i, a);
    const double up = p * (y > 0.5 ? few_y_[i] : 1.0 - y);
    const double down = y * (p > 0.5 ? few_p_[i] : 1.0 - p);
    return {up - down, up + down};
  }

 private:
  double of(index i, index a) const { return y_[i * classes_ + a]; }

  const double *shares_, *y_ = nullptr;
  index classes_;
  double few_p_[chunk], few_y_[chunk];
};

template <class Targets>
IMPLICITGRAD_KERNEL double evaluate(const class_rows& r, Targets targets, double* probability,
                                    double* slopes, double* values) {
  double total = 0.0;
  for_chunks(r, [&](index first, index rows, const double* __restrict c) {
    double most[chunk], best[chunk], others[chunk], gap[chunk];
    const auto z = [&](index a) { return r.z + a * r.ldz + first; };
    const auto p = [&](index a) { return probability + a * r.ldp + first; };
    targets.begin(first, rows);
    for (index i = 0; i < rows; ++i) most[i] = z(0)[i], best[i] = 0.0, others[i] = gap[i] = 0.0;
    for (index a = 1; a < r.classes; ++a) {
      const double* __restrict za = z(a);
      const auto name = static_cast<double>(a);
#pragma omp simd
      for (index i = 0; i < rows; ++i) {
        const bool more = za[i] > most[i];
        best[i] = more ? name : best[i];
        most[i] = more ? za[i] : most[i];
      }
    }
    // `others`: Σ e^{z_a − max} but for the largest, which is 1; `gap`: max − yᵀz.
    for (index a = 0; a < r.classes; ++a) {
      const double* __restrict za = z(a);
      double* __restrict pa = p(a);
      const auto name = static_cast<double>(a);
#pragma omp simd
      for (index i = 0; i < rows; ++i) {
        const double below = za[i] - most[i], e = vector_exp(below);
        pa[i] = e;
        others[i] += best[i] == name ? 0.0 : e;
        gap[i] -= targets.share(i, a, below);
      }
    }
    for (index i = 0; i < rows; ++i) {
      const double value = std::log1p(others[i]) + gap[i];
      if (values) values[first + i] = value;
      total += c[i] * value;
      most[i] = 1.0 / (1.0 + others[i]);
    }
    for (index a = 0; a < r.classes; ++a) {
      double* __restrict pa = p(a);
#pragma omp simd
      for (index i = 0; i < rows; ++i) {
        pa[i] *= most[i];
        targets.meet(i, a, pa[i]);
      }
    }
    for (index a = 0; a < r.classes; ++a) {
      double* __restrict za = z(a);
      const double* __restrict pa = p(a);
      double sum = 0.0;
#pragma omp simd reduction(+ : sum)
      for (index i = 0; i < rows; ++i) {
        const slope_terms t = targets.slope(i, a, pa[i]);
        sum += c[i] * (t.size * t.size);
        za[i] = c[i] * t.slope;
      }
      if (slopes) slopes[a] += sum;
    }
  });
  return total;
}

}  // namespace

double evaluate_softmax(const class_rows& r, const class_targets& y, double* p, double* slopes,
                        double* values) {
  if (y.shares) return evaluate(r, soft_targets(y.first, r.classes), p, slopes, values);
  return evaluate(r, hard_targets(y.first), p, slopes, values);
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
