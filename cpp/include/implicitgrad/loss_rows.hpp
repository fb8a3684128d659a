// The rows of a data term one by one, at one θ: what hyperparameters that enter by the rows
// (weights, targets, inputs; hyper_blocks.hpp) need of a model, and all that they know of it.
// ℓ_i(θ) is the loss of row i, with input x_i and target y_i, without a coefficient. A target is
// one number, or as many as the model has outputs; what belongs to targets has the entries of a row
// next to each other, n · outputs in all.
//
// A model whose rows may be hyperparameters implements these verbs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// How large a vector v_i(θ) of each row may be, for the certificate: ∇θℓ_i; or, of each entry of
/// its target, the derivative of that.
struct row_sizes {
  std::vector<double> size;      // ‖v_i‖ is at most this,
  std::vector<double> rounding;  // and known to ε times so much, beyond a few ε of its size
  std::vector<double> rate;      // its Lipschitz constant in θ, over all θ
  // With h_i = ∇²ℓ_i: |v_iᵀu| ≤ energy_i √(uᵀh_i u), and ‖∂v_i[d]ᵀq‖ ≤ bend_i √(dᵀh_i d) ‖q‖.
  std::vector<double> energy, bend;

  explicit row_sizes(index vectors)
      : size(static_cast<std::size_t>(vectors)),
        rounding(size),
        rate(size),
        energy(size),
        bend(size) {}
};

class LossRows {
 public:
  virtual ~LossRows() = default;

  virtual index rows() const = 0;
  virtual index inputs() const = 0;  // entries of an x_i

  // ℓ_i and ∇θℓ_i.

  virtual void values(double* out) const = 0;
  /// out_i = ∇θℓ_iᵀ q, rows × k for k vectors q. Cost: one pass over the data.
  virtual void products(const_block q, block out) const = 0;
  /// out = Σ_i u_i ∇θℓ_i. Cost: as of products.
  virtual void sum(const double* u, double* out) const = 0;

  // The same of their derivatives in the entries of y_i.

  virtual void target_slopes(double* out) const = 0;
  virtual void target_products(const_block q, block out) const = 0;
  virtual void target_sum(const double* u, double* out) const = 0;

  // And in x_i, of the rows `at`, row-major |at| × inputs().

  virtual void input_slopes(const std::vector<index>& at, double* out) const = 0;
  virtual void input_products(const std::vector<index>& at, const double* q, double* out) const = 0;
  /// out = Σ_i ∂²ℓ_i/∂θ∂x_i u_i.
  virtual void input_sum(const std::vector<index>& at, const double* u, double* out) const = 0;
};

/// Rows of a model of which enough is known to bound errors.
class BoundedRows : public LossRows {
 public:
  /// out_i = dᵀ ∇²ℓ_i q.
  virtual void second_products(const double* d, const double* q, double* out) const = 0;
  virtual row_sizes sizes() const = 0;
  virtual row_sizes target_sizes() const = 0;
  /// Σ_i c_i² ‖∂²ℓ_i/∂θ∂x_i‖² over all rows, from above.
  virtual double input_size(const double* c) const = 0;
};

/// The rows of a linear model: X (n × p), ‖x_i‖², targets and margins, all of which are borrowed.
struct margin_data {
  const Matrix& x;
  const std::vector<double>&squares, &y, &margins;
  std::string loss;
  bool intercept;
  int n_threads;
};
std::unique_ptr<BoundedRows> make_margin_rows(const margin_data& data, const double* theta);

/// Those of the softmax loss, with n × classes margins.
std::unique_ptr<BoundedRows> make_class_rows(const margin_data& data, index classes,
                                             const double* theta);

}  // namespace implicitgrad
