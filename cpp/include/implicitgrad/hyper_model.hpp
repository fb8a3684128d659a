// A linear model some of whose weights, inputs and targets are hyperparameters:
//
//   f(θ, λ) = Σ_i c_i(λ) ℓ(θ; x_i(λ), y_i(λ)) + penalty(θ, λ),
//
// λ being one vector of blocks in the order penalty, weights, inputs, targets. At one λ that is an
// ordinary linear model on rows of its own, which is made once and kept until λ's rows change, with
// all that a model keeps: so H, its sketch and its factor know nothing of this. What is added are
// the derivatives in λ (hyper_rows.hpp).
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "implicitgrad/hyper_rows.hpp"
#include "implicitgrad/linear_model.hpp"

namespace implicitgrad {

/// Rows as given: y for the loss, of so many classes if it is "softmax" (labels, or shares row
/// after row), and the b_i.
struct fixed_rows {
  std::shared_ptr<const Matrix> x;
  std::vector<double> y, coefficients;
  std::string loss;
  index classes = 1;
  bool intercept = false;
  int n_threads = 1;
};

class hyper_model : public Objective, public std::enable_shared_from_this<hyper_model> {
 public:
  /// With `held` strengths, the penalty has a λ of its own that is not part of λ: that.
  hyper_model(fixed_rows data, penalty pen, hyper_blocks blocks,
              std::optional<std::vector<double>> held = {});

  index n_theta() const override {
    return (data_.x->cols() + (data_.intercept ? 1 : 0)) * data_.classes;
  }
  index n_lam() const override;

  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double* lam) const override {
    return at(theta, lam, true);
  }
  std::shared_ptr<const Linearization> glance(const double* theta,
                                              const double* lam) const override {
    return at(theta, lam, false);
  }

  /// Whether X is. Cost: O(n), or where inputs are λ's a read of X.
  bool finite() const;

  /// The model at λ, with e^μ_i as a factor of coefficient i: μ, which is zero for that model, is
  /// the only hyperparameter.
  std::shared_ptr<hyper_model> reweighted(const double* lam) const;

 private:
  friend class hyper_linearization;

  /// The rows at one λ, and the model on them.
  struct rows_at {
    hyper_rows rows;
    fixed_rows data;  // at this λ
    std::shared_ptr<const linear_model> model;
    std::uint64_t number;
  };

  index penalty_size() const { return held_ ? 0 : penalty_.n_groups; }
  std::shared_ptr<const Linearization> at(const double* theta, const double* lam,
                                          bool remember) const;
  std::shared_ptr<const rows_at> rows(const double* lam) const;
  std::shared_ptr<const rows_at> make_rows(const double* lam) const;

  fixed_rows data_;
  penalty penalty_;
  hyper_blocks blocks_;
  std::optional<std::vector<double>> held_;
  std::vector<double> no_lam_;
  std::shared_ptr<const std::vector<double>> squares_;  // ‖x_i‖², where no input is λ's
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const rows_at> last_;
};

class hyper_linearization : public linear_model_linearization {
 public:
  hyper_linearization(std::shared_ptr<const hyper_model> model,
                      std::shared_ptr<const hyper_model::rows_at> rows, const double* theta,
                      const double* lam, bool remember);

  std::uint64_t curvature_id() const override;
  const std::vector<double>& jac_lam() const override;
  void cross(const_block u, block out) const override;
  void cross_transpose(const_block q, block out) const override;
  error_terms errors() const override;
  std::vector<double> cross_change(const double* d, const double* q) const override;
  double reach(const double* v) const override;
  double cross_scale(const double* q) const override;
  double response_rate(const double* u) const override;

 private:
  /// Of the columns of C that belong to the rows: squares of what error_terms has of all of them,
  /// of the size of their terms, and of what bounds ‖∂C[d]ᵀq‖ / (√(dᵀHd) ‖q‖).
  struct limits {
    double cross = 0.0, rate = 0.0, reach = 0.0, bend = 0.0, scale = 0.0;
    void add(const row_sizes& s, const std::vector<double>& gain, const std::vector<double>& c);
  };

  const BoundedRows& rows() const;
  const limits& limit() const;
  const hyper_rows& hyper() const { return at_->rows; }
  const InputMap* inputs() const { return model_->blocks_.inputs.get(); }
  index rows_at() const { return model_->penalty_size(); }  // where the rows' blocks begin in λ

  std::shared_ptr<const hyper_model> model_;
  std::shared_ptr<const hyper_model::rows_at> at_;
  mutable std::once_flag rows_once_, jac_lam_once_, limits_once_;
  mutable std::unique_ptr<BoundedRows> rows_;
  mutable std::vector<double> all_jac_lam_;
  mutable limits limits_;
};

}  // namespace implicitgrad
