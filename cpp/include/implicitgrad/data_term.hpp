// The data term of one or more linear models that share their rows,
//
//   Σ_c share Σ_i w_ic ℓ(r_iᵀ θ_c, y_ic),      r_i = [x_i 1],   Σ_i w_ic = 1,   share = 1 / folds.
//
// or, for the softmax loss, the same with a θ_c of `width` columns and a vector of margins a row.
//
// Model c = fold · targets + target: a fold is a column of weights (a row that is held out has
// weight zero there), a target a column of Y. θ holds the θ_c one after another. H is block
// diagonal, one block a model, and the models of a fold have the same block where ℓ'' is constant.
//
// There are two ways to hold the rows: as they are (row_term), where a product reads X once for all
// models; and, for least squares, as Gram matrices (gram_term), where nothing depends on n any
// more.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "implicitgrad/cost_model.hpp"
#include "implicitgrad/loss_rows.hpp"
#include "implicitgrad/matrix.hpp"
#include "implicitgrad/operator.hpp"
#include "implicitgrad/solvers/hessian_sketch.hpp"

namespace implicitgrad {

/// Constants of the data term within `radius` of θ, with the rows r_i and weights w_i of the fold
/// where they are largest, `share` included: its Hessian is at most hess · I,
/// hess = Σ w_i sup|ℓ''| ‖r_i‖², and Lipschitz with the constant third = Σ w_i sup|ℓ'''| ‖r_i‖³.
struct smoothness {
  double hess = 0.0, third = 0.0;
  double radius = std::numeric_limits<double>::infinity();
};

/// The curvature_id of a D that does not depend on θ.
inline constexpr std::uint64_t constant_curvature = 1;

/// A data term at one θ.
struct data_state {
  std::vector<double> values;     // of the models, without `share`
  std::vector<double> slopes;     // √(Σ w_i s_i²), s_i what a slope is rounded to; not in Gram form
  std::vector<double> jac;        // size × models
  std::vector<double> curvature;  // D, rows × folds, `share` included; empty in Gram form
  std::vector<double> margins;    // of the rows, where the coefficients are as given
  // Two states of one term with equal numbers have the same D.
  std::uint64_t curvature_id = constant_curvature;
};

class DataTerm {
 public:
  virtual ~DataTerm() = default;

  index features() const { return features_; }
  bool intercept() const { return intercept_; }
  /// Entries of θ for each column of [X 1]: the classes of softmax. Where they are several, a
  /// constant added to all of a column's changes nothing.
  index width() const { return width_; }
  index size() const { return (features_ + (intercept_ ? 1 : 0)) * width_; }  // of one model
  index folds() const { return folds_; }
  index targets() const { return targets_; }
  index models() const { return folds_ * targets_; }
  double share() const { return 1.0 / static_cast<double>(folds_); }
  int n_threads() const { return n_threads_; }

  virtual data_state at(const double* theta) const = 0;

  /// out = Xᵀ D X v for blocks of size · models rows. Cost: reads the data once.
  virtual void apply(const data_state& at, const_block v, block out) const = 0;

  /// The diagonal of XᵀDX, size × models.
  virtual void squares(const data_state& at, double* out) const = 0;

  /// The lower triangles of XᵀDX, column-major size × size, one a fold.
  virtual void dense(const data_state& at, double* out) const = 0;

  virtual problem_shape shape() const = 0;

  /// Rounded up. Cost: one pass over the data, the first time; O(n) where ℓ'' is not bounded.
  virtual smoothness smooth(const data_state& at) const = 0;

  /// Whether the norms of the rows are finite, and with them X. Cost: as of `smooth`.
  virtual bool finite() const = 0;

  /// What the terms that the gradient is the sum of amount to, entry by entry, from above:
  /// Σ w_i s_i |x_ij| is at most √(Σ w_i s_i²) √(Σ w_i x_ij²) and, `by_row`, √(n Σ (w_i s_i
  /// x_ij)²), s_i being |ℓ'_i| or what that is rounded to. Cost: O(size · models); by row, two
  /// passes over X.
  virtual std::vector<double> gradient_terms(const data_state& at, const double* theta,
                                             bool by_row) const = 0;

  /// The 2-norm of those, from above, given ‖θ‖₂.
  virtual double gradient_terms_norm(const data_state& at, double theta_norm) const = 0;

  /// What the rounding of the gradient is relative to: its terms, and the margins that are sums
  /// themselves, whose rounding goes through ℓ''.
  double gradient_scale(const data_state& at, double theta_norm) const {
    return gradient_terms_norm(at, theta_norm) + 2.0 * smooth(at).hess * theta_norm;
  }

  /// The depth of those sums.
  virtual index depth() const = 0;

  /// A sketch of the mean over folds of D, which serves all models, or null where rows cannot be
  /// sampled.
  virtual std::unique_ptr<HessianSketch> sketch(const data_state& /*at*/, index /*rows*/,
                                                std::uint64_t /*seed*/) const {
    return nullptr;
  }

  /// The diagonal that belongs to the same mean, `size` entries; empty where there is no sketch.
  virtual std::vector<double> mean_squares(const data_state& /*at*/) const { return {}; }
  virtual bool rows_can_be_sampled() const { return false; }

  /// For a width above one: of H on the entries of each column of [X 1], the average curvature in
  /// the directions that sum to zero; fold after fold. Of the intercept only, but for `all`.
  virtual std::vector<double> null_curvature(const data_state& /*at*/, bool /*all*/) const {
    return {};
  }

  /// The rows one by one, at the θ of `at`, which it borrows; null where they are not at hand.
  virtual std::unique_ptr<BoundedRows> loss_rows(const data_state& /*at*/,
                                                 const double* /*theta*/) const {
    return nullptr;
  }

 protected:
  index features_ = 0, folds_ = 1, targets_ = 1, width_ = 1;
  bool intercept_ = false;
  int n_threads_ = 1;
};

/// The rows as they are. `y` is rows × targets (−1 and 1 for the logistic loss); `weights` is empty
/// (one fold, all rows alike) or rows × folds, no column all zero; its columns are scaled to sum 1.
/// Several targets are for the squared loss.
std::shared_ptr<const DataTerm> make_row_term(std::shared_ptr<const Matrix> x,
                                              std::vector<double> y, std::vector<double> weights,
                                              std::string loss, bool intercept, int n_threads);

/// For coefficients that are hyperparameters, or beside such: w_i as they are, one fold and one
/// target, and rows() at hand. `squares` are the ‖x_i‖², which outlive a change of the
/// coefficients.
std::shared_ptr<const DataTerm> make_row_term(std::shared_ptr<const Matrix> x,
                                              std::shared_ptr<const std::vector<double>> squares,
                                              std::vector<double> y,
                                              std::vector<double> coefficients, std::string loss,
                                              bool intercept, int n_threads);

/// The softmax loss: y holds labels 0 … classes − 1, or for each row, one after another, its
/// distribution over the classes; θ of a fold is W by rows, W (p + intercept) × classes.
std::shared_ptr<const DataTerm> make_softmax_term(std::shared_ptr<const Matrix> x,
                                                  std::vector<double> y, index classes,
                                                  std::vector<double> weights, bool intercept,
                                                  int n_threads);
std::shared_ptr<const DataTerm> make_softmax_term(
    std::shared_ptr<const Matrix> x, std::shared_ptr<const std::vector<double>> squares,
    std::vector<double> y, index classes, std::vector<double> coefficients, bool intercept,
    int n_threads);

/// All that least squares needs to know of some rows: Σ_i w_i [r_i y_i]ᵀ[r_i y_i].
struct gram_sums {
  index features = 0, targets = 0, rows = 0;
  index summed = 0;  // rows whose terms went into the sums, those taken off again included
  bool intercept = false;
  double weight = 0.0;          // Σ w_i
  std::vector<double> gram;     // Σ w_i r_i r_iᵀ, size × size, all of it
  std::vector<double> cross;    // Σ w_i r_i y_i, size × targets
  std::vector<double> squares;  // Σ w_i y_i², one a target
  // What y was reduced by beforehand, one a target: with an intercept, a mean of y, whose square
  // would else drown the rest. It comes off the intercept again.
  std::vector<double> offset;

  index size() const { return features + (intercept ? 1 : 0); }
};

/// Of the rows `chosen` (in increasing order; empty: all), `weights` being one a row of X or empty
/// (all one), y rows × targets, less
/// the offsets (empty: 0). Cost: size² flops a row.
gram_sums sum_gram(const std::shared_ptr<const Matrix>& x, bool intercept,
                   const std::vector<double>& y, const std::vector<double>& weights,
                   const std::vector<index>& chosen, const std::vector<double>& offset,
                   int n_threads);

/// Of the rows of `all` that are not among those of `some`.
gram_sums subtract(const gram_sums& all, const gram_sums& some);

/// Least squares on such sums, one a fold; `target` picks one target, or all of them at −1.
std::shared_ptr<const DataTerm> make_gram_term(std::vector<std::shared_ptr<const gram_sums>> folds,
                                               index target, int n_threads);

}  // namespace implicitgrad
