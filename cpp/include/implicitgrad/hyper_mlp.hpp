// A network some of whose weights, inputs and targets are hyperparameters: at one λ an ordinary
// network on rows of its own (mlp.hpp), which is made once and kept until λ's rows change, with the
// derivatives in λ that the rows add (hyper_rows.hpp).
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "implicitgrad/hyper_rows.hpp"
#include "implicitgrad/mlp.hpp"

namespace implicitgrad {

/// Rows as given, y as for make_mlp, and the b_i.
struct network_rows {
  std::shared_ptr<const Matrix> x;
  std::vector<double> y, coefficients;
  int n_threads = 1;
};

class hyper_mlp : public Objective, public std::enable_shared_from_this<hyper_mlp> {
 public:
  /// With `held` strengths, the penalty has a λ of its own that is not part of λ: that.
  hyper_mlp(std::shared_ptr<const mlp_architecture> architecture, network_rows data,
            hyper_blocks blocks, std::optional<std::vector<double>> held = {});

  index n_theta() const override { return architecture_->n_theta; }
  index n_lam() const override { return penalty_size() + blocks_.n_lam(); }
  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double* lam) const override;

  /// The network at λ, with e^μ_i as a factor of coefficient i: μ, which is zero for that network,
  /// is the only hyperparameter.
  std::shared_ptr<hyper_mlp> reweighted(const double* lam) const;

 private:
  friend class hyper_mlp_linearization;

  /// The rows at one λ, and the network on them.
  struct rows_at {
    hyper_rows rows;
    network_rows data;  // at this λ
    std::shared_ptr<const Objective> network;
  };

  index penalty_size() const { return held_ ? 0 : architecture_->penalty.n_groups; }
  std::shared_ptr<const rows_at> rows(const double* lam) const;

  std::shared_ptr<const mlp_architecture> architecture_;
  network_rows data_;
  hyper_blocks blocks_;
  std::optional<std::vector<double>> held_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const rows_at> last_;
};

}  // namespace implicitgrad
