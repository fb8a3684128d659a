// What a layer of a network does entry by entry, to rows × width pieces that are row-major without
// gaps. T is double or float; transcendental functions are evaluated in double, products in T, and
// sums over rows in double.
#pragma once

#include <string_view>

#include "implicitgrad/types.hpp"

namespace implicitgrad::kernels {

/// Rows of a layer with activation a = φ(z). φ' is kept where a alone does not give it (`slope`,
/// unused otherwise). Cost: a few bytes and flops an entry, all in cache after a matrix product.
template <class T>
struct activation_kernels {
  bool keeps_slope;

  /// z ← φ(z + bias), slope ← φ'(z + bias).
  void (*forward)(index rows, index width, T* z, const T* bias, T* slope);

  /// e ← φ' ∘ e, and sums += Σ_rows e.
  void (*backward)(index rows, index width, T* e, const T* a, const T* slope, double* sums);

  /// The derivatives of both, in a direction in which the bias changes by `bias`:
  /// z ← z + bias, ra ← φ' ∘ z;
  void (*r_forward)(index rows, index width, T* z, const T* bias, const T* a, const T* slope,
                    T* ra);

  /// and e ← φ' ∘ e + φ''/φ' ∘ g ∘ z, where g is the result of `backward`; sums += Σ_rows e.
  void (*r_backward)(index rows, index width, T* e, const T* z, const T* g, const T* a,
                     const T* slope, double* sums);
};

/// "tanh", "softplus", "relu" or "identity". The second derivative of relu is taken to be 0, its
/// first at the kink too.
template <class T>
activation_kernels<T> activation(std::string_view name);

/// Rows of outputs z with weights c, one a row.
template <class T>
struct loss_kernels {
  bool keeps_probabilities;
  bool labels;  // y is one class a row; otherwise one target an output

  /// z ← c ∘ ∂ℓ/∂z at z + bias, p ← what `second` needs; sums += Σ_rows z. Returns Σ c ℓ.
  double (*first)(index rows, index width, T* z, const T* bias, const double* y, const double* c,
                  T* p, double* sums);

  /// z ← c ∘ ∂²ℓ/∂z² (z + bias); sums += Σ_rows z.
  void (*second)(index rows, index width, T* z, const T* bias, const T* p, const double* c,
                 double* sums);
};

/// "softmax": ℓ = log Σ_k e^{z_k} − yᵀz, y being a distribution over the classes or, of `labels`,
/// that of the one class; "squared": ℓ = ½ ‖z − y‖².
template <class T>
loss_kernels<T> output_loss(std::string_view name, bool labels);

/// squares += Σ_rows a².
template <class T>
void add_column_squares(index rows, index width, const T* a, double* squares);

}  // namespace implicitgrad::kernels
