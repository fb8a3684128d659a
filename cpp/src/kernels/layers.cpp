#include "kernels/layers.hpp"

#include <algorithm>
#include <cmath>

#include "implicitgrad/elementary.hpp"
#include "implicitgrad/errors.hpp"
#include "implicitgrad/multiversion.hpp"

namespace implicitgrad::kernels {

namespace {

// An activation gives, of z, its value and slope φ'; of value and slope kept, φ' (slope_of) and
// φ''/φ' (bend).

struct tanh_activation {
  static constexpr bool keeps_slope = false;
  static softplus_terms at(double z) { return {vector_tanh(z), 0.0}; }
  template <class T>
  static T slope_of(T a, T) {
    return (T(1) - a) * (T(1) + a);
  }
  template <class T>
  static T bend(T a, T) {
    return T(-2) * a;
  }
};

struct softplus_activation {
  static constexpr bool keeps_slope = true;
  static softplus_terms at(double z) { return vector_softplus(z); }
  template <class T>
  static T slope_of(T, T slope) {
    return slope;
  }
  template <class T>
  static T bend(T, T slope) {
    return T(1) - slope;
  }
};

struct relu_activation {
  static constexpr bool keeps_slope = false;
  static softplus_terms at(double z) { return {z > 0.0 ? z : z == z ? 0.0 : z, 0.0}; }
  template <class T>
  static T slope_of(T a, T) {
    return a > T(0) ? T(1) : T(0);
  }
  template <class T>
  static T bend(T, T) {
    return T(0);
  }
};

struct identity_activation {
  static constexpr bool keeps_slope = false;
  static softplus_terms at(double z) { return {z, 1.0}; }
  template <class T>
  static T slope_of(T, T) {
    return T(1);
  }
  template <class T>
  static T bend(T, T) {
    return T(0);
  }
};

template <class Act, class T>
IMPLICITGRAD_KERNEL void forward(index rows, index width, T* z, const T* bias, T* slope) {
  for (index i = 0; i < rows; ++i) {
    T* row = z + i * width;
    [[maybe_unused]] T* s = slope + i * width;
#pragma omp simd
    for (index j = 0; j < width; ++j) {
      const softplus_terms t = Act::at(static_cast<double>(row[j] + bias[j]));
      row[j] = static_cast<T>(t.value);
      if constexpr (Act::keeps_slope) s[j] = static_cast<T>(t.slope);
    }
  }
}

/// A slope where one is kept.
template <class Act, class T>
T kept(const T* slope, index at) {
  if constexpr (Act::keeps_slope) return slope[at];
  return T(0);
}

template <class Act, class T>
IMPLICITGRAD_KERNEL void backward(index rows, index width, T* e, const T* a, const T* slope,
                                  double* sums) {
  for (index i = 0; i < rows; ++i)
#pragma omp simd
    for (index j = 0; j < width; ++j) {
      const index at = i * width + j;
      e[at] *= Act::slope_of(a[at], kept<Act>(slope, at));
      sums[j] += static_cast<double>(e[at]);
    }
}

template <class Act, class T>
IMPLICITGRAD_KERNEL void r_forward(index rows, index width, T* z, const T* bias, const T* a,
                                   const T* slope, T* ra) {
  for (index i = 0; i < rows; ++i)
#pragma omp simd
    for (index j = 0; j < width; ++j) {
      const index at = i * width + j;
      z[at] += bias[j];
      ra[at] = Act::slope_of(a[at], kept<Act>(slope, at)) * z[at];
    }
}

template <class Act, class T>
IMPLICITGRAD_KERNEL void r_backward(index rows, index width, T* e, const T* z, const T* g,
                                    const T* a, const T* slope, double* sums) {
  for (index i = 0; i < rows; ++i)
#pragma omp simd
    for (index j = 0; j < width; ++j) {
      const index at = i * width + j;
      const T s = kept<Act>(slope, at);
      e[at] = Act::slope_of(a[at], s) * e[at] + Act::bend(a[at], s) * g[at] * z[at];
      sums[j] += static_cast<double>(e[at]);
    }
}

// Softmax, with the largest margin taken out: p_k = e^{z_k} / Σ e^{z}.

template <class T>
IMPLICITGRAD_KERNEL double softmax_first(index rows, index width, T* z, const T* bias,
                                         const double* y, const double* c, T* p, double* sums) {
  double value = 0.0;
  for (index i = 0; i < rows; ++i) {
    T *row = z + i * width, *chance = p + i * width;
    const auto label = static_cast<index>(y[i]);
    double most = -HUGE_VAL, others = 0.0;  // Σ_{k ≠ y} e^{z_k}: 1 − p_y without cancellation
    for (index j = 0; j < width; ++j) {
      row[j] += bias[j];
      most = std::max(most, static_cast<double>(row[j]));
    }
    const double margin = static_cast<double>(row[label]) - most;
#pragma omp simd reduction(+ : others)
    for (index j = 0; j < width; ++j) {
      const double e = vector_exp(static_cast<double>(row[j]) - most);
      chance[j] = static_cast<T>(e);
      others += j == label ? 0.0 : e;
    }
    const double total = others + vector_exp(margin), over = 1.0 / total;
    value += c[i] * (std::log(total) - margin);
    for (index j = 0; j < width; ++j) {
      const double q = static_cast<double>(chance[j]) * over;
      const double g = c[i] * (j == label ? -others * over : q);
      chance[j] = static_cast<T>(q), row[j] = static_cast<T>(g);
      sums[j] += g;
    }
  }
  return value;
}

/// The same of distributions y: p − y = p (1 − y) − y (1 − p), where what is left of one is the sum
/// of the others if that is the smaller part.
template <class T>
IMPLICITGRAD_KERNEL double shares_first(index rows, index width, T* z, const T* bias,
                                        const double* y, const double* c, T* p, double* sums) {
  double value = 0.0;
  for (index i = 0; i < rows; ++i) {
    T *row = z + i * width, *chance = p + i * width;
    const double* share = y + i * width;
    double most = -HUGE_VAL, total = 0.0, gap = 0.0, few_p = 0.0, few_y = 0.0;
    for (index j = 0; j < width; ++j) {
      row[j] += bias[j];
      most = std::max(most, static_cast<double>(row[j]));
    }
#pragma omp simd reduction(+ : total, gap)
    for (index j = 0; j < width; ++j) {
      const double below = static_cast<double>(row[j]) - most, e = vector_exp(below);
      chance[j] = static_cast<T>(e);
      total += e;
      gap -= share[j] * below;
    }
    value += c[i] * (std::log(total) + gap);
    const double over = 1.0 / total;
#pragma omp simd reduction(+ : few_p, few_y)
    for (index j = 0; j < width; ++j) {
      const double q = static_cast<double>(chance[j]) * over;
      few_p += q > 0.5 ? 0.0 : q;
      few_y += share[j] > 0.5 ? 0.0 : share[j];
    }
    for (index j = 0; j < width; ++j) {
      const double q = static_cast<double>(chance[j]) * over, t = share[j];
      const double g = c[i] * (q * (t > 0.5 ? few_y : 1.0 - t) - t * (q > 0.5 ? few_p : 1.0 - q));
      chance[j] = static_cast<T>(q), row[j] = static_cast<T>(g);
      sums[j] += g;
    }
  }
  return value;
}

template <class T>
IMPLICITGRAD_KERNEL void softmax_second(index rows, index width, T* z, const T* bias, const T* p,
                                        const double* c, double* sums) {
  for (index i = 0; i < rows; ++i) {
    T* row = z + i * width;
    const T* chance = p + i * width;
    double mean = 0.0;
#pragma omp simd reduction(+ : mean)
    for (index j = 0; j < width; ++j) {
      row[j] += bias[j];
      mean += static_cast<double>(chance[j]) * static_cast<double>(row[j]);
    }
#pragma omp simd
    for (index j = 0; j < width; ++j) {
      const double r = c[i] * static_cast<double>(chance[j]) * (static_cast<double>(row[j]) - mean);
      row[j] = static_cast<T>(r);
      sums[j] += r;
    }
  }
}

template <class T>
IMPLICITGRAD_KERNEL double squared_first(index rows, index width, T* z, const T* bias,
                                         const double* y, const double* c, T*, double* sums) {
  double value = 0.0;
  for (index i = 0; i < rows; ++i) {
    double square = 0.0;
#pragma omp simd reduction(+ : square)
    for (index j = 0; j < width; ++j) {
      const index at = i * width + j;
      const double r = static_cast<double>(z[at]) + static_cast<double>(bias[j]) - y[at];
      square += r * r;
      z[at] = static_cast<T>(c[i] * r);
      sums[j] += c[i] * r;
    }
    value += 0.5 * c[i] * square;
  }
  return value;
}

template <class T>
IMPLICITGRAD_KERNEL void squared_second(index rows, index width, T* z, const T* bias, const T*,
                                        const double* c, double* sums) {
  for (index i = 0; i < rows; ++i)
#pragma omp simd
    for (index j = 0; j < width; ++j) {
      const index at = i * width + j;
      const double r = c[i] * (static_cast<double>(z[at]) + static_cast<double>(bias[j]));
      z[at] = static_cast<T>(r);
      sums[j] += r;
    }
}

template <class Act, class T>
activation_kernels<T> kernels_of() {
  return {Act::keeps_slope, forward<Act, T>, backward<Act, T>, r_forward<Act, T>,
          r_backward<Act, T>};
}

}  // namespace

template <class T>
activation_kernels<T> activation(std::string_view name) {
  if (name == "tanh") return kernels_of<tanh_activation, T>();
  if (name == "softplus") return kernels_of<softplus_activation, T>();
  if (name == "relu") return kernels_of<relu_activation, T>();
  require(name == "identity", "activation must be 'tanh', 'softplus', 'relu' or 'identity'");
  return kernels_of<identity_activation, T>();
}

template <class T>
loss_kernels<T> output_loss(std::string_view name, bool labels) {
  if (name == "softmax")
    return {true, labels, labels ? softmax_first<T> : shares_first<T>, softmax_second<T>};
  require(name == "squared", "loss must be 'softmax' or 'squared'");
  return {false, false, squared_first<T>, squared_second<T>};
}

template <class T>
IMPLICITGRAD_KERNEL void add_column_squares(index rows, index width, const T* a, double* squares) {
  for (index i = 0; i < rows; ++i)
#pragma omp simd
    for (index j = 0; j < width; ++j) {
      const auto x = static_cast<double>(a[i * width + j]);
      squares[j] += x * x;
    }
}

template activation_kernels<double> activation(std::string_view);
template activation_kernels<float> activation(std::string_view);
template loss_kernels<double> output_loss(std::string_view, bool);
template loss_kernels<float> output_loss(std::string_view, bool);
template void add_column_squares(index, index, const double*, double*);
template void add_column_squares(index, index, const float*, double*);

}  // namespace implicitgrad::kernels
