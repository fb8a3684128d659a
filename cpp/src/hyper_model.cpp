#include "implicitgrad/hyper_model.hpp"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <utility>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/errors.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

namespace {

/// A row-major matrix that owns its entries.
struct own_matrix {
  own_matrix(index rows, index cols)
      : entries(static_cast<std::size_t>(rows * cols)),
        view(entries.data(), rows, cols, cols, layout::row_major) {}
  std::vector<double> entries;
  dense_matrix<double> view;
};

std::shared_ptr<const Matrix> with_inputs(const Matrix& x, const InputMap& map, const double* lam) {
  const index n = x.rows(), p = x.cols();
  const auto own = std::make_shared<own_matrix>(n, p);
  double* to = own->entries.data();
  const std::vector<index>& at = map.rows();
  if (static_cast<index>(at.size()) < n) {
    const std::vector<double> ones(static_cast<std::size_t>(n), 1.0);
    x.copy_scaled(0, n, ones.data(), to, p);
  }
  std::vector<double> rows(at.size() * static_cast<std::size_t>(p));
  map.value(lam, rows.data());
  const double* from = rows.data();
  for (const index i : at) {
    std::copy_n(from, p, to + i * p);
    from += p;
  }
  return {own, &own->view};
}

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

void multiply(const std::vector<double>& s, double* v) {
  for (std::size_t i = 0; i < s.size(); ++i) v[i] *= s[i];
}

/// Row s of an array of `width` columns times c_at[s].
void scale_rows(const std::vector<index>& at, const std::vector<double>& c, index width,
                double* m) {
  for (const index i : at)
    for (index j = 0; j < width; ++j) *m++ *= c[static_cast<std::size_t>(i)];
}

}  // namespace

hyper_model::hyper_model(fixed_rows data, penalty pen, hyper_blocks blocks,
                         std::optional<std::vector<double>> held)
    : data_(std::move(data)),
      penalty_(std::move(pen)),
      blocks_(std::move(blocks)),
      held_(std::move(held)) {
  const index n = data_.x->rows();
  require(static_cast<index>(data_.y.size()) == n, "y must have one entry for each row of X");
  require(static_cast<index>(data_.coefficients.size()) == n,
          "there must be one coefficient for each row of X");
  for (const auto* map : {&blocks_.weights, &blocks_.targets})
    require(!*map || (*map)->rows() == n, "a block must have one label for each row of X");
  if (blocks_.inputs)
    for (const index i : blocks_.inputs->rows())
      require(i >= 0 && i < n, "inputs names a row out of range");
  require(!held_ || static_cast<index>(held_->size()) == penalty_.n_groups,
          "held must have one entry for each group");
  if (!blocks_.inputs) squares_ = squares_of(*data_.x, data_.n_threads);
}

index hyper_model::n_lam() const {
  index n = penalty_size();
  if (blocks_.weights) n += blocks_.weights->n_lam();
  if (blocks_.inputs) n += blocks_.inputs->n_lam();
  if (blocks_.targets) n += blocks_.targets->n_lam();
  return n;
}

bool hyper_model::finite() const {
  if (!squares_) return all_finite(*data_.x, data_.n_threads);
  return std::all_of(squares_->begin(), squares_->end(), [](double s) { return std::isfinite(s); });
}

std::shared_ptr<const hyper_model::rows_at> hyper_model::make_rows(const double* lam) const {
  const auto made = std::make_shared<rows_at>();
  made->lam.assign(lam, lam + (n_lam() - penalty_size()));
  made->data = data_;
  made->coefficients = data_.coefficients;
  const double* at = made->lam.data();
  if (blocks_.weights) {
    std::vector<double> s(made->coefficients.size(), 1.0);
    made->weights.emplace(*blocks_.weights, at).set(s.data());
    multiply(s, made->coefficients.data());
    at += blocks_.weights->n_lam();
  }
  auto squares = squares_;
  if (blocks_.inputs) {
    made->data.x = with_inputs(*data_.x, *blocks_.inputs, at);
    squares = squares_of(*made->data.x, data_.n_threads);
    at += blocks_.inputs->n_lam();
  }
  if (blocks_.targets) made->targets.emplace(*blocks_.targets, at).set(made->data.y.data());
  // Curvatures change with the rows even where the loss's are constant.
  static std::atomic<std::uint64_t> last{std::uint64_t{1} << 63};
  made->number = ++last;
  auto term = data_.loss == "softmax"
                  ? make_softmax_term(made->data.x, squares, made->data.y, data_.classes,
                                      made->coefficients, data_.intercept, data_.n_threads)
                  : make_row_term(made->data.x, squares, made->data.y, made->coefficients,
                                  data_.loss, data_.intercept, data_.n_threads);
  made->model = std::make_shared<linear_model>(std::move(term), penalty_);
  return made;
}

std::shared_ptr<const hyper_model::rows_at> hyper_model::rows(const double* lam) const {
  {
    const std::lock_guard lock(mutex_);
    if (last_ && std::equal(last_->lam.begin(), last_->lam.end(), lam)) return last_;
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
  const auto here = rows(lam + penalty_size());
  fixed_rows data = here->data;
  data.coefficients = here->coefficients;
  const index n = data.x->rows();
  std::vector<index> each(static_cast<std::size_t>(n));
  for (index i = 0; i < n; ++i) each[i] = i;
  std::vector<double> strengths =
      held_ ? *held_ : std::vector<double>(lam, lam + penalty_.n_groups);
  return std::make_shared<hyper_model>(std::move(data), penalty_,
                                       hyper_blocks{row_map("exp", n, std::move(each)), {}, {}},
                                       std::move(strengths));
}

hyper_linearization::hyper_linearization(std::shared_ptr<const hyper_model> model,
                                         std::shared_ptr<const hyper_model::rows_at> rows,
                                         const double* theta, const double* lam, bool remember)
    : linear_model_linearization(rows->model, theta, lam, remember),
      hyper_(std::move(model)),
      at_(std::move(rows)) {}

index hyper_linearization::inputs_at() const {
  return weights_at() + (blocks().weights ? blocks().weights->n_lam() : 0);
}

index hyper_linearization::targets_at() const {
  return inputs_at() + (blocks().inputs ? blocks().inputs->n_lam() : 0);
}

const LossRows& hyper_linearization::rows() const {
  std::call_once(rows_once_, [this] { rows_ = data().loss_rows(state(), theta().data()); });
  return *rows_;
}

std::uint64_t hyper_linearization::curvature_id() const {
  const std::uint64_t id = linear_model_linearization::curvature_id();
  return id == constant_curvature ? at_->number : id;
}

const std::vector<double>& hyper_linearization::jac_lam() const {
  std::call_once(jac_lam_once_, [this] {
    all_jac_lam_.resize(static_cast<std::size_t>(hyper_->n_lam()));
    double* out = all_jac_lam_.data();
    if (weights_at() > 0)
      std::copy_n(linear_model_linearization::jac_lam().data(), weights_at(), out);
    std::vector<double> v(coefficients().size());
    if (at_->weights) {
      rows().values(v.data());
      multiply(fixed(), v.data());
      at_->weights->pull(v.data(), out + weights_at());
    }
    if (const InputMap* map = blocks().inputs.get()) {
      const index p = rows().inputs();
      std::vector<double> m(map->rows().size() * static_cast<std::size_t>(p));
      rows().input_slopes(map->rows(), m.data());
      scale_rows(map->rows(), coefficients(), p, m.data());
      map->pull(input_lam(), m.data(), out + inputs_at());
    }
    if (at_->targets) {
      rows().target_slopes(v.data());
      multiply(coefficients(), v.data());
      at_->targets->pull(v.data(), out + targets_at());
    }
  });
  return all_jac_lam_;
}

void hyper_linearization::cross(const_block u, block out) const {
  const index n_theta = out.rows;
  std::vector<double> v(coefficients().size()), part(static_cast<std::size_t>(n_theta));
  for (index c = 0; c < u.cols; ++c) {
    double* to = out.col(c);
    const auto add = [&] {
      for (index j = 0; j < n_theta; ++j) to[j] += part[static_cast<std::size_t>(j)];
    };
    std::fill_n(to, n_theta, 0.0);
    if (weights_at() > 0)
      linear_model_linearization::cross({u.col(c), weights_at(), 1}, {to, n_theta, 1});
    if (at_->weights) {
      at_->weights->push(u.col(c) + weights_at(), v.data());
      multiply(fixed(), v.data());
      rows().sum(v.data(), part.data());
      add();
    }
    if (const InputMap* map = blocks().inputs.get()) {
      const index p = rows().inputs();
      std::vector<double> m(map->rows().size() * static_cast<std::size_t>(p));
      map->push(input_lam(), u.col(c) + inputs_at(), m.data());
      scale_rows(map->rows(), coefficients(), p, m.data());
      rows().input_sum(map->rows(), m.data(), part.data());
      add();
    }
    if (at_->targets) {
      at_->targets->push(u.col(c) + targets_at(), v.data());
      multiply(coefficients(), v.data());
      rows().target_sum(v.data(), part.data());
      add();
    }
  }
}

void hyper_linearization::cross_transpose(const_block q, block out) const {
  const auto n = static_cast<index>(coefficients().size());
  std::vector<double> v(static_cast<std::size_t>(n * q.cols));
  const block along{v.data(), n, q.cols};
  if (weights_at() > 0)
    for (index c = 0; c < q.cols; ++c)
      linear_model_linearization::cross_transpose({q.col(c), q.rows, 1},
                                                  {out.col(c), weights_at(), 1});
  if (at_->weights) {
    rows().products(q, along);
    for (index c = 0; c < q.cols; ++c) {
      multiply(fixed(), along.col(c));
      at_->weights->pull(along.col(c), out.col(c) + weights_at());
    }
  }
  if (const InputMap* map = blocks().inputs.get()) {
    for (index c = 0; c < q.cols; ++c)
      map->pull(input_lam(), input_products(q.col(c)).data(), out.col(c) + inputs_at());
  }
  if (at_->targets) {
    rows().target_products(q, along);
    for (index c = 0; c < q.cols; ++c) {
      multiply(coefficients(), along.col(c));
      at_->targets->pull(along.col(c), out.col(c) + targets_at());
    }
  }
}

std::vector<double> hyper_linearization::cross_change(const double* d, const double* q) const {
  std::vector<double> out(static_cast<std::size_t>(hyper_->n_lam()));
  if (weights_at() > 0) {
    const std::vector<double> of_penalty = linear_model_linearization::cross_change(d, q);
    std::copy_n(of_penalty.data(), weights_at(), out.data());
  }
  if (at_->weights) {
    std::vector<double> v(coefficients().size());
    rows().second_products(d, q, v.data());
    multiply(fixed(), v.data());
    at_->weights->pull(v.data(), out.data() + weights_at());
  }
  // That of targets does not change with θ; that of inputs is left to those who look.
  if (blocks().inputs) std::fill(out.begin() + inputs_at(), out.begin() + targets_at(), HUGE_VAL);
  return out;
}

void hyper_linearization::limits::add(const row_sizes& s, const std::vector<double>& gain,
                                      const std::vector<double>& c) {
  const auto square = [](double x) { return x * x; };
  for (std::size_t i = 0; i < c.size(); ++i) {
    if (gain[i] == 0.0) continue;
    cross += square(gain[i] * s.size[i]);
    rate += square(gain[i] * s.rate[i]);
    scale += square(gain[i] * (s.size[i] + s.rounding[i]));
    // Σ_i c_i uᵀh_i u ≤ uᵀHu.
    reach = std::max(reach, square(gain[i] * s.energy[i]) / c[i]);
    bend = std::max(bend, square(gain[i] * s.bend[i]) / c[i]);
  }
}

const hyper_linearization::limits& hyper_linearization::limit() const {
  std::call_once(limits_once_, [this] {
    limits& found = limits_;
    if (at_->weights) {
      std::vector<double> gain = at_->weights->gains();
      multiply(fixed(), gain.data());
      found.add(rows().sizes(), gain, coefficients());
    }
    if (const InputMap* map = blocks().inputs.get()) {
      std::vector<double> c(coefficients().size());
      for (const index i : map->rows()) c[i] = coefficients()[i];
      const double size = rows().input_size(c.data()), gain = map->gain() * map->gain();
      found.cross += size * gain;
      if (std::isfinite(gain)) found.scale += size * gain;
      found.rate = found.reach = found.bend = HUGE_VAL;
    }
    if (at_->targets) {
      std::vector<double> gain = at_->targets->gains();
      multiply(coefficients(), gain.data());
      found.add(rows().target_sizes(), gain, coefficients());
    }
  });
  return limits_;
}

error_terms hyper_linearization::errors() const {
  error_terms e = linear_model_linearization::errors();
  if (weights_at() == 0) e.cross = e.rate = e.reach = 0.0;
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
  const double of_penalty = weights_at() > 0 ? linear_model_linearization::reach(v) : 0.0;
  const double size = host_space::norm(static_cast<index>(theta().size()), v);
  return size == 0.0 ? 0.0 : std::hypot(of_penalty, std::sqrt(limit().bend) * size);
}

double hyper_linearization::cross_scale(const double* q) const {
  const double of_penalty = weights_at() > 0 ? linear_model_linearization::cross_scale(q) : 0.0;
  const double size = host_space::norm(static_cast<index>(theta().size()), q);
  double scale = std::hypot(of_penalty, std::sqrt(limit().scale) * size);
  const InputMap* map = blocks().inputs.get();
  if (map && std::isinf(map->gain())) {
    // As far as products tell: |M| in the place of M.
    std::vector<double> m = input_products(q), out(static_cast<std::size_t>(map->n_lam()));
    for (double& entry : m) entry = std::abs(entry);
    map->pull(input_lam(), m.data(), out.data());
    scale = std::hypot(scale, host_space::norm(map->n_lam(), out.data()));
  }
  return scale;
}

std::vector<double> hyper_linearization::input_products(const double* q) const {
  const InputMap& map = *blocks().inputs;
  const index p = rows().inputs();
  std::vector<double> m(map.rows().size() * static_cast<std::size_t>(p));
  rows().input_products(map.rows(), q, m.data());
  scale_rows(map.rows(), coefficients(), p, m.data());
  return m;
}

double hyper_linearization::response_rate(const double* u) const {
  const index rest = hyper_->n_lam() - weights_at();
  const double of_penalty = weights_at() > 0 ? linear_model_linearization::response_rate(u) : 0.0;
  const double size = host_space::norm(rest, u + weights_at());
  return size == 0.0 ? of_penalty : of_penalty + std::sqrt(limit().rate) * size;
}

}  // namespace implicitgrad
