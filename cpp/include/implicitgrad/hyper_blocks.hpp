// How λ enters by the rows: a map from a block of λ to numbers of the rows (weights, targets), or
// to the inputs of some rows. A map is a value and products with its Jacobian J; it knows no model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// λ ↦ numbers of the rows, one for each or several next to each other: number i is that of entry
/// slot[i], or not λ's where the slot is −1. `transform` is "identity", "sigmoid", "softplus",
/// "exp", "softmax" (n_lam · softmax(λ)) or "shares" (the softmax of each run of `width` entries).
class row_map {
 public:
  row_map(std::string transform, index n_lam, std::vector<index> slot, index width = 1);
  /// An entry of λ for each row.
  static row_map each(std::string transform, index rows);

  index n_lam() const { return n_lam_; }
  index size() const { return static_cast<index>(slot_.size()); }

  /// The map at one λ. Cost of everything here: O(size + n_lam).
  class point {
   public:
    point(const row_map& map, const double* lam);

    /// Overwrites the numbers that are λ's.
    void set(double* rows) const;
    /// out = Jᵀ v.
    void pull(const double* v, double* out) const;
    /// out = J u.
    void push(const double* u, double* out) const;
    /// ‖Jᵀ v‖₂ ≤ ‖gains ∘ v‖₂ for all v.
    std::vector<double> gains() const;

   private:
    /// body(begin) for each run of entries.
    template <class Body>
    void each_run(Body&& body) const;
    /// out = value ∘ (v − valueᵀv / total) on each run; out may be v.
    void multiply_runs(const double* v, double* out) const;

    const row_map& map_;
    std::vector<double> value_, slope_;  // t(λ), and t'(λ) but for softmax
  };

 private:
  std::string transform_;
  index n_lam_;
  std::vector<index> slot_;
  index run_ = 0;       // of a softmax: over how many entries it goes, 0 for another transform,
  double total_ = 1.0;  // and what they sum to
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

/// The rows themselves are λ: row rows[s] is number slot[s] of the `count` that λ holds.
class input_rows : public InputMap {
 public:
  input_rows(std::vector<index> rows, std::vector<index> slot, index count, index width);
  index n_lam() const override { return count_ * width_; }
  const std::vector<index>& rows() const override { return rows_; }
  void value(const double* lam, double* x) const override;
  void pull(const double* lam, const double* m, double* out) const override;
  void push(const double* lam, const double* u, double* out) const override;
  double gain() const override;

 private:
  /// body(s, entry of λ) for each entry of row s.
  template <class Body>
  void each_entry(Body&& body) const;

  std::vector<index> rows_, slot_;
  index count_, width_;
};

}  // namespace implicitgrad
