// How λ enters by the rows: a map from a block of λ to one number a row (weights, targets), or to
// the inputs of some rows. A map is a value and products with its Jacobian J; it knows no model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// λ ↦ one number for each of `rows` rows, that of entry slot[i] for row i; rows with slot −1 are
/// not λ's. `transform` is "identity", "sigmoid", "softplus", "exp" or "softmax" (n_lam ·
/// softmax(λ)).
class row_map {
 public:
  row_map(std::string transform, index n_lam, std::vector<index> slot);
  /// An entry of λ for each row.
  static row_map each(std::string transform, index rows);

  index n_lam() const { return n_lam_; }
  index rows() const { return static_cast<index>(slot_.size()); }

  /// The map at one λ. Cost of everything here: O(rows + n_lam).
  class point {
   public:
    point(const row_map& map, const double* lam);

    /// Overwrites the rows that are λ's.
    void set(double* rows) const;
    /// out = Jᵀ v.
    void pull(const double* v, double* out) const;
    /// out = J u.
    void push(const double* u, double* out) const;
    /// ‖Jᵀ v‖₂ ≤ ‖gains ∘ v‖₂ for all v.
    std::vector<double> gains() const;

   private:
    const row_map& map_;
    std::vector<double> value_, slope_;  // t(λ), and t'(λ) but for softmax
  };

 private:
  std::string transform_;
  index n_lam_;
  std::vector<index> slot_;
};

/// λ ↦ the inputs x_i of some rows; the others stay as they are.
class InputMap {
 public:
  virtual ~InputMap() = default;
  virtual index n_lam() const = 0;
  /// The rows that λ determines, in its order. Below, arrays of these are row-major.
  virtual const std::vector<index>& rows() const = 0;
  virtual void value(const double* lam, double* x) const = 0;
  /// out = Jᵀ m.
  virtual void pull(const double* lam, const double* m, double* out) const = 0;
  /// out = J u.
  virtual void push(const double* lam, const double* u, double* out) const = 0;
  /// ‖J‖₂, from above; infinite where it is not known.
  virtual double gain() const = 0;
};

/// The rows themselves are λ.
class input_rows : public InputMap {
 public:
  input_rows(std::vector<index> rows, index width) : rows_(std::move(rows)), width_(width) {}
  index n_lam() const override { return static_cast<index>(rows_.size()) * width_; }
  const std::vector<index>& rows() const override { return rows_; }
  void value(const double* lam, double* x) const override;
  void pull(const double* lam, const double* m, double* out) const override;
  void push(const double* lam, const double* u, double* out) const override;
  double gain() const override { return 1.0; }

 private:
  std::vector<index> rows_;
  index width_;
};

}  // namespace implicitgrad
