#include "implicitgrad/linear_model.hpp"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

linear_model::linear_model(std::shared_ptr<const DataTerm> data, penalty pen)
    : data_(std::move(data)), penalty_(std::move(pen)) {
  const auto p = static_cast<std::size_t>(data_->features());
  require(penalty_.group.empty() == (penalty_.n_groups == 0) &&
              (penalty_.group.empty() || penalty_.group.size() == p),
          "penalty must have one group label for each column of X");
  for (const index g : penalty_.group)
    require(g >= 0 && g < penalty_.n_groups, "penalty has a group label out of range");
  require(penalty_.fixed >= 0.0 && std::isfinite(penalty_.fixed), "fixed must be finite and >= 0");
  // From one label a column of X to one a penalised entry of θ.
  const std::vector<index> of_columns = std::move(penalty_.group);
  penalty_.group.clear();
  for (const index g : of_columns) penalty_.group.insert(penalty_.group.end(), data_->width(), g);
}

std::shared_ptr<linear_model> make_linear_model(std::shared_ptr<const Matrix> x,
                                                std::vector<double> y, std::vector<double> weights,
                                                std::string loss, penalty pen, bool intercept,
                                                int n_threads) {
  return std::make_shared<linear_model>(
      make_row_term(std::move(x), std::move(y), std::move(weights), std::move(loss), intercept,
                    n_threads),
      std::move(pen));
}

std::shared_ptr<const Linearization> linear_model::linearize(const double* theta,
                                                             const double* lam) const {
  return std::make_shared<const linear_model_linearization>(shared_from_this(), theta, lam, true);
}

std::shared_ptr<const Linearization> linear_model::glance(const double* theta,
                                                          const double* lam) const {
  return std::make_shared<const linear_model_linearization>(shared_from_this(), theta, lam, false);
}

std::shared_ptr<const data_state> linear_model::state_at(const double* theta, bool remember) const {
  {
    const std::lock_guard lock(state_mutex_);
    if (state_ && std::equal(state_theta_.begin(), state_theta_.end(), theta)) return state_;
  }
  auto state = std::make_shared<const data_state>(data_->at(theta));
  if (!remember) return state;
  const std::lock_guard lock(state_mutex_);
  state_theta_.assign(theta, theta + n_theta());
  state_ = state;
  return state;
}

template <class Body>
void linear_model_linearization::for_penalised(Body&& body) const {
  const std::vector<index>& group = model_->penalty_.group;
  if (group.empty()) return;
  const index p = model_->penalised(), q = model_->data_->size();
  for (index c = 0; c < model_->data_->models(); ++c)
    for (index j = 0; j < p; ++j) body(c * q + j, c * p + j, group[j]);
}

linear_model_linearization::linear_model_linearization(std::shared_ptr<const linear_model> model,
                                                       const double* theta, const double* lam,
                                                       bool remember)
    : model_(std::move(model)), theta_(theta, theta + model_->n_theta()) {
  const DataTerm& data = *model_->data_;
  const penalty& pen = model_->penalty_;
  const double share = data.share();

  rates_.resize(static_cast<std::size_t>(pen.n_groups));
  for (index l = 0; l < pen.n_groups; ++l) {
    const double strength = std::exp(lam[l]);
    require(std::isfinite(strength) && strength >= DBL_MIN,
            "lam[" + std::to_string(l) + "] = " + std::to_string(lam[l]) +
                " is out of range: exp(lam) must neither overflow nor underflow");
    rates_[l] = share * strength;
    rate_ = std::max(rate_, rates_[l]);
  }

  data_ = model_->state_at(theta, remember);
  jac_ = data_->jac;
  for (const double value : data_->values) fun_ += share * value;

  // The penalty and what λ does to it.
  const index p = model_->penalised(), q = data.size();
  strength_.assign(static_cast<std::size_t>(p), share * pen.fixed);
  if (pen.n_groups > 0)
    for (index j = 0; j < p; ++j) strength_[j] += rates_[pen.group[j]];
  jac_lam_.assign(static_cast<std::size_t>(pen.n_groups), 0.0);
  if (pen.n_groups > 0) cross_column_.resize(static_cast<std::size_t>(p * data.models()));
  for_penalised([&](index i, index at, index l) {
    cross_column_[at] = rates_[l] * theta[i];
    jac_lam_[l] += 0.5 * cross_column_[at] * theta[i];
  });
  double sum = 0.0;
  for (index c = 0; c < data.models(); ++c)
    for (index j = 0; j < p; ++j) {
      const double value = theta[c * q + j];
      jac_[c * q + j] += strength_[j] * value;
      sum += strength_[j] * value * value;
    }
  fun_ += 0.5 * sum;
}

void linear_model_linearization::hessian::apply(const_block v, block out) const {
  const DataTerm& data = *at_.model_->data_;
  data.apply(*at_.data_, v, out);
  const index p = at_.model_->penalised(), q = data.size();
  for (index c = 0; c < v.cols * data.models(); ++c)
    for (index j = 0; j < p; ++j) out.data[c * q + j] += at_.strength_[j] * v.data[c * q + j];
  if (!completed_) return;
  const auto width = static_cast<double>(data.width());
  for (index c = 0; c < v.cols; ++c)
    at_.for_null([&](index first, double tau) {
      const double* of = v.col(c) + first;
      const double mean = std::accumulate(of, of + data.width(), 0.0) / width;
      for (index a = 0; a < data.width(); ++a) out.col(c)[first + a] += tau * mean;
    });
}

bool linear_model_linearization::hessian::diagonal(double* out) const {
  const DataTerm& data = *at_.model_->data_;
  data.squares(*at_.data_, out);
  const index p = at_.model_->penalised(), q = data.size();
  for (index c = 0; c < data.models(); ++c)
    for (index j = 0; j < p; ++j) out[c * q + j] += at_.strength_[j];
  if (completed_)
    at_.for_null([&](index first, double tau) {
      for (index a = 0; a < data.width(); ++a)
        out[first + a] += tau / static_cast<double>(data.width());
    });
  return true;
}

block_structure linear_model_linearization::hessian::blocks() const {
  return {at_.model_->data_->folds(), at_.model_->data_->targets()};
}

void linear_model_linearization::hessian::dense(double* out) const {
  const DataTerm& data = *at_.model_->data_;
  data.dense(*at_.data_, out);
  const index p = at_.model_->penalised(), q = data.size();
  for (index f = 0; f < data.folds(); ++f)
    for (index j = 0; j < p; ++j) out[(f * q + j) * q + j] += at_.strength_[j];
  if (completed_)
    at_.for_null([&](index first, double tau) {
      double* corner = out + first * q + first % q;
      for (index b = 0; b < data.width(); ++b)
        for (index a = b; a < data.width(); ++a)
          corner[b * q + a] += tau / static_cast<double>(data.width());
    });
}

std::shared_ptr<const cholesky_factor> linear_model_linearization::hessian::factor() const {
  const linear_model& m = *at_.model_;
  if (at_.data_->curvature_id != constant_curvature) return Operator::factor();
  std::vector<double> storage;
  {
    const std::lock_guard lock(m.factor_mutex_);
    if (m.factor_ && m.factor_strength_ == at_.strength_) return m.factor_;
    // Nobody else can get hold of it while the lock is held.
    if (m.factor_ && m.factor_.use_count() == 1) {
      std::atomic_thread_fence(std::memory_order_acquire);  // what others read of it is done
      storage = m.factor_->take_storage();
    }
    m.factor_.reset();
  }
  auto factor = std::make_shared<cholesky_factor>(*this, std::move(storage));
  const std::lock_guard lock(m.factor_mutex_);
  m.factor_ = factor;
  m.factor_strength_ = at_.strength_;
  return factor;
}

std::unique_ptr<HessianSketch> linear_model_linearization::sketch(index rows,
                                                                  std::uint64_t seed) const {
  return model_->data_->sketch(*data_, rows, seed);
}

bool linear_model_linearization::degenerate() const {
  const DataTerm& data = *model_->data_;
  return data.width() > 1 &&
         (data.intercept() || std::count(strength_.begin(), strength_.end(), 0.0) > 0);
}

template <class Body>
void linear_model_linearization::for_null(Body&& body) const {
  const DataTerm& data = *model_->data_;
  const index width = data.width(), columns = data.size() / width, p = data.features();
  std::call_once(null_once_, [&] {
    null_ = data.null_curvature(*data_, std::count(strength_.begin(), strength_.end(), 0.0) > 0);
  });
  for (index f = 0; f < data.folds(); ++f)
    for (index j = 0; j < columns; ++j)
      if (j >= p || strength_[j * width] == 0.0)
        body((f * columns + j) * width, null_[f * columns + j]);
}

void linear_model_linearization::project(block v) const {
  if (!degenerate()) return;
  for (index c = 0; c < v.cols; ++c)
    for_null([&](index first, double) {
      centre_classes(model_->data_->width(), {v.col(c) + first, model_->data_->width(), 1});
    });
}

void linear_model_linearization::cross(const_block u, block out) const {
  std::fill_n(out.data, out.size(), 0.0);
  for (index c = 0; c < u.cols; ++c)
    for_penalised(
        [&](index i, index at, index l) { out.col(c)[i] = cross_column_[at] * u.col(c)[l]; });
}

void linear_model_linearization::cross_transpose(const_block q, block out) const {
  std::fill_n(out.data, out.size(), 0.0);
  for (index c = 0; c < q.cols; ++c)
    for_penalised(
        [&](index i, index at, index l) { out.col(c)[l] += cross_column_[at] * q.col(c)[i]; });
}

double linear_model_linearization::bytes() const {
  std::size_t words = 0;
  for (const std::vector<double>* held :
       {&theta_, &jac_, &jac_lam_, &rates_, &strength_, &cross_column_, &data_->values,
        &data_->slopes, &data_->jac, &data_->curvature, &data_->margins})
    words += held->size();
  return 8.0 * static_cast<double>(words);
}

std::vector<double> linear_model_linearization::cross_change(const double* d,
                                                             const double* q) const {
  std::vector<double> out(rates_.size());
  for_penalised([&](index i, index, index l) { out[l] += rates_[l] * d[i] * q[i]; });
  return out;
}

double linear_model_linearization::response_rate(const double* u) const {
  double largest = 0.0;
  for (std::size_t l = 0; l < rates_.size(); ++l) largest = std::max(largest, std::abs(u[l]));
  return rate_ * largest * (1.0 + 16.0 * DBL_EPSILON);
}

double linear_model_linearization::reach(const double* v) const {
  // By Σ s_j u_j² ≤ uᵀHu, as the rest of H is semidefinite.
  const index p = model_->penalised();
  std::vector<double> sum(rates_.size());
  for_penalised([&](index i, index at, index l) {
    const double c = rates_[l] * v[i];
    if (c != 0.0) sum[l] += c / strength_[at % p] * c;
  });
  return sum.empty() ? 0.0 : std::sqrt(*std::max_element(sum.begin(), sum.end()));
}

std::vector<double> linear_model_linearization::gradient_terms(bool by_row) const {
  const DataTerm& data = *model_->data_;
  std::vector<double> out = data.gradient_terms(*data_, theta_.data(), by_row);
  const index p = model_->penalised(), q = data.size();
  for (index c = 0; c < data.models(); ++c)
    for (index j = 0; j < p; ++j) out[c * q + j] += strength_[j] * std::abs(theta_[c * q + j]);
  return out;
}

error_terms linear_model_linearization::errors() const {
  const DataTerm& data = *model_->data_;
  const smoothness smooth = data.smooth(*data_);
  constexpr double up = 1.0 + 8.0 * DBL_EPSILON;
  const index n_theta = model_->n_theta(), p = model_->penalised(), q = data.size();
  error_terms e;
  e.hess = smooth.hess * up;
  e.third = smooth.third * up;
  e.radius = smooth.radius;
  const auto [least, most] = std::minmax_element(strength_.begin(), strength_.end());
  e.least = data.intercept() ? 0.0 : *least * (1.0 - 8.0 * DBL_EPSILON);
  e.most = *most * up;
  e.rate = rate_ * up;

  // The columns of C have disjoint supports: ‖C‖ is the largest of their norms. Squares of tiny
  // entries underflow, so that the largest entry is taken out first.
  std::vector<double> pull(theta_.size());
  for (index c = 0; c < data.models(); ++c)
    for (index j = 0; j < p; ++j) pull[c * q + j] = strength_[j] * theta_[c * q + j];
  const double penalty_gradient = host_space::norm(n_theta, pull.data());
  double largest = 0.0;
  for (const double c : cross_column_) largest = std::max(largest, std::abs(c));
  if (largest > 0.0) {
    // The penalised block of H⁻¹ is at most that of diag(strength)⁻¹, with an intercept too: the
    // Schur complement that it is the inverse of is diag(strength) and something semidefinite.
    e.reach = linear_model_linearization::reach(theta_.data());
    std::vector<double> square(jac_lam_.size());
    for_penalised([&](index, index at, index l) {
      const double relative = cross_column_[at] / largest;
      square[l] += relative * relative;
    });
    e.cross = largest * std::sqrt(*std::max_element(square.begin(), square.end())) *
              (1.0 + DBL_EPSILON * static_cast<double>(n_theta + 8));
  }

  const double theta_norm = host_space::norm(n_theta, theta_.data());
  const double depth = DBL_EPSILON * static_cast<double>(data.depth() + 20);
  e.gradient_rounding =
      depth * data.gradient_scale(*data_, theta_norm) + 8.0 * DBL_EPSILON * penalty_gradient;
  e.gradient_terms = data.gradient_terms_norm(*data_, theta_norm) + penalty_gradient;
  // The margins' rounding reaches the curvature by way of the third derivative.
  e.product_rounding =
      2.0 * depth * (smooth.hess + smooth.third * theta_norm) + 8.0 * DBL_EPSILON * e.most;
  return e;
}

double linear_model_linearization::cross_scale(const double* q) const {
  std::vector<double> sum(jac_lam_.size());
  for_penalised([&](index i, index at, index l) { sum[l] += std::abs(cross_column_[at] * q[i]); });
  return host_space::norm(static_cast<index>(sum.size()), sum.data());
}

solve_costs linear_model_linearization::costs(double nats) const {
  const sketch_plan plan = best_sketch(shape(), nats);
  const double product = cost::product(shape());
  return {product, direct(shape()), plan.rows > 0 ? plan.total : HUGE_VAL,
          least_with_diagonal * product};
}

}  // namespace implicitgrad
