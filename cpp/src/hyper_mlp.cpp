#include "implicitgrad/hyper_mlp.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

/// The network's own linearisation, with the blocks of the rows added to what belongs to λ.
class hyper_mlp_linearization : public HyperLinearization {
 public:
  hyper_mlp_linearization(std::shared_ptr<const hyper_mlp> model,
                          std::shared_ptr<const hyper_mlp::rows_at> at, const double* theta,
                          const double* lam)
      : model_(std::move(model)),
        at_(std::move(at)),
        own_(std::static_pointer_cast<const NetworkLinearization>(
            at_->network->linearize(theta, lam))) {}

  double fun() const override { return own_->fun(); }
  const std::vector<double>& jac() const override { return own_->jac(); }
  const Operator& hess() const override { return own_->hess(); }
  const Operator& system() const override { return own_->system(); }
  const Operator* gauss_newton() const override { return own_->gauss_newton(); }
  std::optional<kronecker_curvature> kronecker() const override { return own_->kronecker(); }
  std::vector<double> gradient_terms(bool by_row) const override {
    return own_->gradient_terms(by_row);
  }
  solve_costs costs(double nats) const override { return own_->costs(nats); }
  double bytes() const override { return own_->bytes(); }

  const std::vector<double>& jac_lam() const override {
    std::call_once(jac_lam_once_, [this] {
      if (rows_at() > 0) jac_lam_ = own_->jac_lam();
      jac_lam_.resize(static_cast<std::size_t>(model_->n_lam()));
      at_->rows.jac_lam(rows(), jac_lam_.data() + rows_at());
    });
    return jac_lam_;
  }

  void cross(const_block u, block out) const override {
    for (index c = 0; c < u.cols; ++c) {
      const block to{out.col(c), out.rows, 1};
      std::fill_n(to.data, to.rows, 0.0);
      if (rows_at() > 0) own_->cross({u.col(c), rows_at(), 1}, to);
      at_->rows.add_cross(rows(), u.col(c) + rows_at(), to.rows, to.data);
    }
  }

  void cross_transpose(const_block q, block out) const override {
    for (index c = 0; c < q.cols && rows_at() > 0; ++c)
      own_->cross_transpose({q.col(c), q.rows, 1}, {out.col(c), rows_at(), 1});
    at_->rows.cross_transpose(rows(), q, out, rows_at());
  }

  /// Of weights and targets ‖∇θℓ_i‖ ‖q‖ and the like, from above; of inputs as far as products
  /// tell.
  double cross_scale(const double* q) const override {
    const double size = host_space::norm(static_cast<index>(jac().size()), q);
    double scale = rows_at() > 0 ? own_->cross_scale(q) : 0.0;
    if (at_->rows.has_weights()) scale = std::hypot(scale, weights_scale() * size);
    if (model_->blocks_.inputs) scale = std::hypot(scale, at_->rows.input_scale(rows(), q));
    if (at_->rows.has_targets()) {
      const std::vector<double> gains = at_->rows.target_gains();
      std::vector<double> along(gains.size());
      const auto entries = static_cast<index>(along.size());
      rows().target_products({q, static_cast<index>(jac().size()), 1}, {along.data(), entries, 1});
      scale = std::hypot(scale, norm_of(gains, along));
    }
    return scale;
  }

 private:
  index rows_at() const { return model_->penalty_size(); }  // where the rows' blocks begin in λ

  const NetworkRows& rows() const {
    std::call_once(rows_once_, [this] { rows_ = own_->loss_rows(); });
    return *rows_;
  }

  double weights_scale() const {
    std::call_once(scale_once_, [this] {
      std::vector<double> norms(at_->rows.coefficients().size());
      rows().norms(norms.data());
      weights_scale_ = norm_of(at_->rows.weight_gains(), norms);
    });
    return weights_scale_;
  }

  static double norm_of(const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> both(a.size());
    std::transform(a.begin(), a.end(), b.begin(), both.begin(), std::multiplies<>());
    return host_space::norm(static_cast<index>(both.size()), both.data());
  }

  std::shared_ptr<const hyper_mlp> model_;
  std::shared_ptr<const hyper_mlp::rows_at> at_;
  std::shared_ptr<const NetworkLinearization> own_;
  mutable std::once_flag rows_once_, jac_lam_once_, scale_once_;
  mutable std::unique_ptr<NetworkRows> rows_;
  mutable std::vector<double> jac_lam_;
  mutable double weights_scale_ = 0.0;
};

hyper_mlp::hyper_mlp(std::shared_ptr<const mlp_architecture> architecture, network_rows data,
                     hyper_blocks blocks, std::optional<std::vector<double>> held)
    : architecture_(std::move(architecture)),
      data_(std::move(data)),
      blocks_(std::move(blocks)),
      held_(std::move(held)) {
  const index n = data_.x->rows();
  require(static_cast<index>(data_.coefficients.size()) == n,
          "there must be one coefficient for each row of X");
  blocks_.check(n, static_cast<index>(data_.y.size()));
  require(
      !blocks_.targets || static_cast<index>(data_.y.size()) == n * architecture_->widths.back(),
      "targets that are labels are no hyperparameters");
  require(!held_ || static_cast<index>(held_->size()) == architecture_->penalty.n_groups,
          "held must have one entry for each group");
}

std::shared_ptr<const hyper_mlp::rows_at> hyper_mlp::rows(const double* lam) const {
  {
    const std::lock_guard lock(mutex_);
    if (last_ && last_->rows.is_at(lam)) return last_;
  }
  hyper_rows rows(blocks_, data_.coefficients, lam);
  network_rows data = data_;
  data.coefficients = rows.coefficients();
  data.x = rows.inputs(data_.x);
  rows.set_targets(data.y.data());
  auto network = make_mlp(architecture_, data.x, data.y, data.coefficients, data.n_threads);
  auto made = std::make_shared<const rows_at>(
      rows_at{std::move(rows), std::move(data), std::move(network)});
  const std::lock_guard lock(mutex_);
  last_ = made;
  return made;
}

std::shared_ptr<const Linearization> hyper_mlp::linearize(const double* theta,
                                                          const double* lam) const {
  return std::make_shared<const hyper_mlp_linearization>(
      shared_from_this(), rows(lam + penalty_size()), theta, held_ ? held_->data() : lam);
}

std::shared_ptr<hyper_mlp> hyper_mlp::reweighted(const double* lam) const {
  network_rows data = rows(lam + penalty_size())->data;
  std::vector<double> strengths =
      held_ ? *held_ : std::vector<double>(lam, lam + architecture_->penalty.n_groups);
  hyper_blocks factors{row_map::each("exp", data.x->rows()), {}, {}};
  return std::make_shared<hyper_mlp>(architecture_, std::move(data), std::move(factors),
                                     std::move(strengths));
}

}  // namespace implicitgrad
