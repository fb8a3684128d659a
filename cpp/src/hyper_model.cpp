#include "implicitgrad/hyper_model.hpp"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

namespace {

std::shared_ptr<const std::vector<double>> squares_of(const Matrix& x, int n_threads) {
  auto squares = std::make_shared<std::vector<double>>(static_cast<std::size_t>(x.rows()));
  const row_blocks blocks = x.blocks(1);
  poll_interrupt();
  parallel_for(blocks.count(), n_threads, [&](index b, int) {
    for (index i = blocks.begin(b); i < blocks.end(b); i += x.panel_rows())
      x.row_squares(i, std::min(i + x.panel_rows(), blocks.end(b)), squares->data() + i);
  });
  return squares;
}

}  // namespace

hyper_model::hyper_model(fixed_rows data, penalty pen, hyper_blocks blocks,
                         std::optional<std::vector<double>> held)
    : data_(std::move(data)),
      penalty_(std::move(pen)),
      blocks_(std::move(blocks)),
      held_(std::move(held)) {
  const index n = data_.x->rows(), entries = static_cast<index>(data_.y.size());
  require(entries == n || (data_.loss == "softmax" && entries == n * data_.classes),
          "y must have one entry for each row of X, or one for each class");
  require(static_cast<index>(data_.coefficients.size()) == n,
          "there must be one coefficient for each row of X");
  blocks_.check(n, entries);
  require(!held_ || static_cast<index>(held_->size()) == penalty_.n_groups,
          "held must have one entry for each group");
  if (!blocks_.inputs) squares_ = squares_of(*data_.x, data_.n_threads);
}

index hyper_model::n_lam() const { return penalty_size() + blocks_.n_lam(); }

bool hyper_model::finite() const {
  if (!squares_) return all_finite(*data_.x, data_.n_threads);
  return std::all_of(squares_->begin(), squares_->end(), [](double s) { return std::isfinite(s); });
}

std::shared_ptr<const hyper_model::rows_at> hyper_model::make_rows(const double* lam) const {
  hyper_rows rows(blocks_, data_.coefficients, lam);
  fixed_rows data = data_;
  data.coefficients = rows.coefficients();
  data.x = rows.inputs(data_.x);
  rows.set_targets(data.y.data());
  const auto squares = squares_ ? squares_ : squares_of(*data.x, data.n_threads);
  auto term = data.loss == "softmax"
                  ? make_softmax_term(data.x, squares, data.y, data.classes, data.coefficients,
                                      data.intercept, data.n_threads)
                  : make_row_term(data.x, squares, data.y, data.coefficients, data.loss,
                                  data.intercept, data.n_threads);
  // Curvatures change with the rows even where the loss's are constant.
  static std::atomic<std::uint64_t> last{std::uint64_t{1} << 63};
  return std::make_shared<rows_at>(
      rows_at{std::move(rows), std::move(data),
              std::make_shared<linear_model>(std::move(term), penalty_), ++last});
}

std::shared_ptr<const hyper_model::rows_at> hyper_model::rows(const double* lam) const {
  {
    const std::lock_guard lock(mutex_);
    if (last_ && last_->rows.is_at(lam)) return last_;
  }
  auto made = make_rows(lam);
  const std::lock_guard lock(mutex_);
  last_ = made;
  return made;
}

std::shared_ptr<const Linearization> hyper_model::at(const double* theta, const double* lam,
                                                     bool remember) const {
  return std::make_shared<const hyper_linearization>(shared_from_this(), rows(lam + penalty_size()),
                                                     theta, held_ ? held_->data() : lam, remember);
}

std::shared_ptr<hyper_model> hyper_model::reweighted(const double* lam) const {
  fixed_rows data = rows(lam + penalty_size())->data;
  std::vector<double> strengths =
      held_ ? *held_ : std::vector<double>(lam, lam + penalty_.n_groups);
  hyper_blocks factors{row_map::each("exp", data.x->rows()), {}, {}};
  return std::make_shared<hyper_model>(std::move(data), penalty_, std::move(factors),
                                       std::move(strengths));
}

hyper_linearization::hyper_linearization(std::shared_ptr<const hyper_model> model,
                                         std::shared_ptr<const hyper_model::rows_at> rows,
                                         const double* theta, const double* lam, bool remember)
    : linear_model_linearization(rows->model, theta, lam, remember),
      model_(std::move(model)),
      at_(std::move(rows)) {}

const BoundedRows& hyper_linearization::rows() const {
  std::call_once(rows_once_, [this] { rows_ = data().loss_rows(state(), theta().data()); });
  return *rows_;
}

std::uint64_t hyper_linearization::curvature_id() const {
  const std::uint64_t id = linear_model_linearization::curvature_id();
  return id == constant_curvature ? at_->number : id;
}

const std::vector<double>& hyper_linearization::jac_lam() const {
  std::call_once(jac_lam_once_, [this] {
    if (rows_at() > 0) all_jac_lam_ = linear_model_linearization::jac_lam();
    all_jac_lam_.resize(static_cast<std::size_t>(model_->n_lam()));
    hyper().jac_lam(rows(), all_jac_lam_.data() + rows_at());
  });
  return all_jac_lam_;
}

void hyper_linearization::cross(const_block u, block out) const {
  for (index c = 0; c < u.cols; ++c) {
    const block to{out.col(c), out.rows, 1};
    std::fill_n(to.data, to.rows, 0.0);
    if (rows_at() > 0) linear_model_linearization::cross({u.col(c), rows_at(), 1}, to);
    hyper().add_cross(rows(), u.col(c) + rows_at(), to.rows, to.data);
  }
}

void hyper_linearization::cross_transpose(const_block q, block out) const {
  for (index c = 0; c < q.cols && rows_at() > 0; ++c)
    linear_model_linearization::cross_transpose({q.col(c), q.rows, 1}, {out.col(c), rows_at(), 1});
  hyper().cross_transpose(rows(), q, out, rows_at());
}

std::vector<double> hyper_linearization::cross_change(const double* d, const double* q) const {
  std::vector<double> out(static_cast<std::size_t>(model_->n_lam()));
  if (rows_at() > 0) {
    const std::vector<double> of_penalty = linear_model_linearization::cross_change(d, q);
    std::copy_n(of_penalty.data(), rows_at(), out.data());
  }
  double* to = out.data() + rows_at();
  if (hyper().has_weights()) {
    std::vector<double> v(model_->data_.coefficients.size());
    rows().second_products(d, q, v.data());
    hyper().pull_weights(std::move(v), to);
  }
  // That of targets does not change with θ; that of inputs is left to those who look.
  if (inputs()) std::fill(to + hyper().inputs_at(), to + hyper().targets_at(), HUGE_VAL);
  return out;
}

void hyper_linearization::limits::add(const row_sizes& s, const std::vector<double>& gain,
                                      const std::vector<double>& c) {
  const auto square = [](double x) { return x * x; };
  const std::size_t width = gain.size() / c.size();
  for (std::size_t i = 0; i < gain.size(); ++i) {
    if (gain[i] == 0.0) continue;
    cross += square(gain[i] * s.size[i]);
    rate += square(gain[i] * s.rate[i]);
    scale += square(gain[i] * (s.size[i] + s.rounding[i]));
    // Σ_i c_i uᵀh_i u ≤ uᵀHu.
    reach = std::max(reach, square(gain[i] * s.energy[i]) / c[i / width]);
    bend = std::max(bend, square(gain[i] * s.bend[i]) / c[i / width]);
  }
}

const hyper_linearization::limits& hyper_linearization::limit() const {
  std::call_once(limits_once_, [this] {
    limits& found = limits_;
    const std::vector<double>& c = hyper().coefficients();
    if (hyper().has_weights()) found.add(rows().sizes(), hyper().weight_gains(), c);
    if (const InputMap* map = inputs()) {
      std::vector<double> of_inputs(c.size());
      for (const index i : map->rows()) of_inputs[i] = c[i];
      const double size = rows().input_size(of_inputs.data()), gain = map->gain() * map->gain();
      found.cross += size * gain;
      if (std::isfinite(gain)) found.scale += size * gain;
      found.rate = found.reach = found.bend = HUGE_VAL;
    }
    if (hyper().has_targets()) found.add(rows().target_sizes(), hyper().target_gains(), c);
  });
  return limits_;
}

error_terms hyper_linearization::errors() const {
  error_terms e = linear_model_linearization::errors();
  if (rows_at() == 0) e.cross = e.rate = e.reach = 0.0;
  const limits& of_rows = limit();
  const double depth = DBL_EPSILON * static_cast<double>(data().depth() + 20);
  const auto with = [&](double own, double square) {
    return std::hypot(own, std::sqrt(square)) * (1.0 + depth);
  };
  e.cross = with(e.cross, of_rows.cross);
  e.rate = with(e.rate, of_rows.rate);
  e.reach = with(e.reach, of_rows.reach);
  e.cross_rounding = depth * std::sqrt(of_rows.scale) * (1.0 + depth);
  return e;
}

double hyper_linearization::reach(const double* v) const {
  const double of_penalty = rows_at() > 0 ? linear_model_linearization::reach(v) : 0.0;
  const double size = host_space::norm(static_cast<index>(theta().size()), v);
  return size == 0.0 ? 0.0 : std::hypot(of_penalty, std::sqrt(limit().bend) * size);
}

double hyper_linearization::cross_scale(const double* q) const {
  const double of_penalty = rows_at() > 0 ? linear_model_linearization::cross_scale(q) : 0.0;
  const double size = host_space::norm(static_cast<index>(theta().size()), q);
  double scale = std::hypot(of_penalty, std::sqrt(limit().scale) * size);
  if (inputs() && std::isinf(inputs()->gain()))
    scale = std::hypot(scale, hyper().input_scale(rows(), q));  // as far as products tell
  return scale;
}

double hyper_linearization::response_rate(const double* u) const {
  const index rest = model_->n_lam() - rows_at();
  const double of_penalty = rows_at() > 0 ? linear_model_linearization::response_rate(u) : 0.0;
  const double size = host_space::norm(rest, u + rows_at());
  return size == 0.0 ? of_penalty : of_penalty + std::sqrt(limit().rate) * size;
}

}  // namespace implicitgrad
