#include "implicitgrad/hyper_rows.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/errors.hpp"
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

/// v_i *= s_i, v_i having `width` entries.
void multiply(const std::vector<double>& s, double* v, index width = 1) {
  for (const double each : s)
    for (index j = 0; j < width; ++j) *v++ *= each;
}

/// Row s of an array of `width` columns times c_at[s].
void scale_rows(const std::vector<index>& at, const std::vector<double>& c, index width,
                double* m) {
  for (const index i : at)
    for (index j = 0; j < width; ++j) *m++ *= c[static_cast<std::size_t>(i)];
}

}  // namespace

index hyper_blocks::n_lam() const {
  return (weights ? weights->n_lam() : 0) + (inputs ? inputs->n_lam() : 0) +
         (targets ? targets->n_lam() : 0);
}

void hyper_blocks::check(index rows, index entries) const {
  require(!weights || weights->size() == rows, "weights must have one label for each row of X");
  require(!targets || targets->size() == entries, "targets must have one label for each of y");
  if (inputs)
    for (const index i : inputs->rows())
      require(i >= 0 && i < rows, "inputs names a row out of range");
}

hyper_rows::hyper_rows(const hyper_blocks& blocks, const std::vector<double>& fixed,
                       const double* lam)
    : blocks_(blocks), fixed_(fixed), lam_(lam, lam + blocks.n_lam()), coefficients_(fixed) {
  if (blocks_.weights) {
    std::vector<double> s(fixed.size(), 1.0);
    weights_.emplace(*blocks_.weights, lam_.data()).set(s.data());
    multiply(s, coefficients_.data());
  }
  if (blocks_.targets) targets_.emplace(*blocks_.targets, lam_.data() + targets_at());
}

std::shared_ptr<const Matrix> hyper_rows::inputs(std::shared_ptr<const Matrix> x) const {
  if (!blocks_.inputs) return x;
  const InputMap& map = *blocks_.inputs;
  const index n = x->rows(), p = x->cols();
  const auto own = std::make_shared<own_matrix>(n, p);
  double* to = own->entries.data();
  const std::vector<index>& at = map.rows();
  if (static_cast<index>(at.size()) < n) {
    const std::vector<double> ones(static_cast<std::size_t>(n), 1.0);
    x->copy_scaled(0, n, ones.data(), to, p);
  }
  std::vector<double> rows(at.size() * static_cast<std::size_t>(p));
  map.value(input_lam(), rows.data());
  const double* from = rows.data();
  for (const index i : at) {
    std::copy_n(from, p, to + i * p);
    from += p;
  }
  return {own, &own->view};
}

void hyper_rows::set_targets(double* y) const {
  if (targets_) targets_->set(y);
}

index hyper_rows::inputs_at() const { return blocks_.weights ? blocks_.weights->n_lam() : 0; }

index hyper_rows::targets_at() const {
  return inputs_at() + (blocks_.inputs ? blocks_.inputs->n_lam() : 0);
}

void hyper_rows::jac_lam(const LossRows& rows, double* out) const {
  std::vector<double> v(coefficients_.size());
  if (weights_) {
    rows.values(v.data());
    pull_weights(v, out);
  }
  if (const InputMap* map = blocks_.inputs.get()) {
    const index p = rows.inputs();
    std::vector<double> m(map->rows().size() * static_cast<std::size_t>(p));
    rows.input_slopes(map->rows(), m.data());
    scale_rows(map->rows(), coefficients_, p, m.data());
    map->pull(input_lam(), m.data(), out + inputs_at());
  }
  if (targets_) {
    v.resize(static_cast<std::size_t>(blocks_.targets->size()));
    rows.target_slopes(v.data());
    multiply(coefficients_, v.data(), outputs());
    targets_->pull(v.data(), out + targets_at());
  }
}

void hyper_rows::add_cross(const LossRows& rows, const double* u, index n_theta,
                           double* out) const {
  std::vector<double> v(coefficients_.size()), part(static_cast<std::size_t>(n_theta));
  const auto add = [&] {
    for (index j = 0; j < n_theta; ++j) out[j] += part[static_cast<std::size_t>(j)];
  };
  if (weights_) {
    weights_->push(u, v.data());
    multiply(fixed_, v.data());
    rows.sum(v.data(), part.data());
    add();
  }
  if (const InputMap* map = blocks_.inputs.get()) {
    const index p = rows.inputs();
    std::vector<double> m(map->rows().size() * static_cast<std::size_t>(p));
    map->push(input_lam(), u + inputs_at(), m.data());
    scale_rows(map->rows(), coefficients_, p, m.data());
    rows.input_sum(map->rows(), m.data(), part.data());
    add();
  }
  if (targets_) {
    v.resize(static_cast<std::size_t>(blocks_.targets->size()));
    targets_->push(u + targets_at(), v.data());
    multiply(coefficients_, v.data(), outputs());
    rows.target_sum(v.data(), part.data());
    add();
  }
}

void hyper_rows::cross_transpose(const LossRows& rows, const_block q, block out, index at) const {
  std::vector<double> v;
  const auto room = [&](index entries) {
    v.resize(static_cast<std::size_t>(entries * q.cols));
    return block{v.data(), entries, q.cols};
  };
  if (weights_) {
    const block along = room(static_cast<index>(coefficients_.size()));
    rows.products(q, along);
    for (index c = 0; c < q.cols; ++c) {
      multiply(fixed_, along.col(c));
      weights_->pull(along.col(c), out.col(c) + at);
    }
  }
  if (const InputMap* map = blocks_.inputs.get())
    for (index c = 0; c < q.cols; ++c)
      map->pull(input_lam(), input_products(rows, q.col(c)).data(), out.col(c) + at + inputs_at());
  if (targets_) {
    const block along = room(blocks_.targets->size());
    rows.target_products(q, along);
    for (index c = 0; c < q.cols; ++c) {
      multiply(coefficients_, along.col(c), outputs());
      targets_->pull(along.col(c), out.col(c) + at + targets_at());
    }
  }
}

/// c ∘ ∂(∇θℓᵀq)/∂x of the rows that are λ's.
std::vector<double> hyper_rows::input_products(const LossRows& rows, const double* q) const {
  const InputMap& map = *blocks_.inputs;
  const index p = rows.inputs();
  std::vector<double> m(map.rows().size() * static_cast<std::size_t>(p));
  rows.input_products(map.rows(), q, m.data());
  scale_rows(map.rows(), coefficients_, p, m.data());
  return m;
}

double hyper_rows::input_scale(const LossRows& rows, const double* q) const {
  const InputMap& map = *blocks_.inputs;
  std::vector<double> m = input_products(rows, q), out(static_cast<std::size_t>(map.n_lam()));
  for (double& entry : m) entry = std::abs(entry);
  map.pull(input_lam(), m.data(), out.data());
  return host_space::norm(map.n_lam(), out.data());
}

void hyper_rows::pull_weights(std::vector<double> v, double* out) const {
  multiply(fixed_, v.data());
  weights_->pull(v.data(), out);
}

std::vector<double> hyper_rows::weight_gains() const {
  if (!weights_) return {};
  std::vector<double> gains = weights_->gains();
  multiply(fixed_, gains.data());
  return gains;
}

std::vector<double> hyper_rows::target_gains() const {
  if (!targets_) return {};
  std::vector<double> gains = targets_->gains();
  multiply(coefficients_, gains.data(), outputs());
  return gains;
}

}  // namespace implicitgrad
