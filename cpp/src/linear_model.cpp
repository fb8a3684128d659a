#include "implicitgrad/linear_model.hpp"

#include <atomic>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <utility>

#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/losses.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

linear_model::linear_model(std::shared_ptr<const Matrix> x, std::vector<double> y,
                           std::vector<double> weights, std::string loss, penalty pen,
                           bool intercept, int n_threads)
    : x_(std::move(x)),
      y_(std::move(y)),
      weights_(std::move(weights)),
      loss_(std::move(loss)),
      penalty_(std::move(pen)),
      intercept_(intercept),
      n_threads_(n_threads) {
  const auto n = static_cast<std::size_t>(x_->rows());
  require(y_.size() == n, "y must have one entry for each row of X");
  require(weights_.empty() || weights_.size() == n,
          "sample_weight must have one entry for each row of X");
  require(
      penalty_.group.empty() == (penalty_.n_groups == 0) &&
          (penalty_.group.empty() || penalty_.group.size() == static_cast<std::size_t>(x_->cols())),
      "penalty must have one group label for each column of X");
  for (const index g : penalty_.group)
    require(g >= 0 && g < penalty_.n_groups, "penalty has a group label out of range");
  require(penalty_.fixed >= 0.0 && std::isfinite(penalty_.fixed), "fixed must be finite and >= 0");
  require(n_threads >= 1, "n_threads must be at least 1");
  visit_loss(loss_, [](auto) {});
  if (!weights_.empty()) {
    const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
    require(total > 0.0 && std::isfinite(total), "sample_weight must have a positive, finite sum");
    for (double& w : weights_) w /= total;
  }
}

const smoothness& linear_model::smooth() const {
  std::call_once(smooth_once_, [this] {
    const index n = x_->rows(), p = x_->cols(), panel = x_->panel_rows();
    const row_blocks blocks = x_->blocks(1);
    std::vector<double> square(static_cast<std::size_t>(blocks.count()));
    std::vector<double> cube(square.size());
    std::vector<double> rows(
        static_cast<std::size_t>(std::min<index>(n_threads_, blocks.count()) * panel));
    poll_interrupt();
    parallel_for(blocks.count(), n_threads_, [&](index b, int slot) {
      double* r = rows.data() + slot * panel;
      for (index begin = blocks.begin(b); begin < blocks.end(b); begin += panel) {
        const index end = std::min(begin + panel, blocks.end(b));
        x_->row_squares(begin, end, r);
        for (index i = begin; i < end; ++i) {
          const double c = weights_.empty() ? 1.0 / static_cast<double>(n) : weights_[i];
          const double s = r[i - begin] + (intercept_ ? 1.0 : 0.0);
          square[b] += c * s;
          cube[b] += c * s * std::sqrt(s);
        }
      }
    });
    // All terms are positive: the relative error of the sums is below this.
    const double up = 1.0 + DBL_EPSILON * static_cast<double>(n + p + 8);
    const double second = up * std::accumulate(square.begin(), square.end(), 0.0);
    const double third = up * std::accumulate(cube.begin(), cube.end(), 0.0);
    smooth_.row_norm = std::sqrt(second) * (1.0 + 4.0 * DBL_EPSILON);
    visit_loss(loss_, [&](auto loss) {
      smooth_.most_first = loss.most_first;
      smooth_.hess = loss.most_second * second;
      smooth_.third = loss.most_third > 0.0 ? loss.most_third * third : 0.0;
    });
  });
  return smooth_;
}

const std::vector<double>& linear_model::column_norms() const {
  std::call_once(columns_once_, [this] {
    const std::size_t n = y_.size();
    const std::vector<double> even(weights_.empty() ? n : 0, 1.0 / static_cast<double>(n));
    column_norms_.resize(static_cast<std::size_t>(n_theta()));
    weighted_squares(*x_, intercept_, weights_.empty() ? even.data() : weights_.data(),
                     column_norms_.data(), n_threads_);
    for (double& c : column_norms_) c = std::sqrt(c);
  });
  return column_norms_;
}

std::shared_ptr<const Linearization> linear_model::linearize(const double* theta,
                                                             const double* lam) const {
  return std::make_shared<const linear_model_linearization>(shared_from_this(), theta, lam);
}

linear_model_linearization::linear_model_linearization(std::shared_ptr<const linear_model> model,
                                                       const double* theta, const double* lam)
    : model_(std::move(model)) {
  const linear_model& m = *model_;
  const index n = m.x_->rows(), p = m.x_->cols();
  const penalty& pen = m.penalty_;

  exp_lam_.resize(static_cast<std::size_t>(pen.n_groups));
  for (index l = 0; l < pen.n_groups; ++l) {
    exp_lam_[l] = std::exp(lam[l]);
    rate_ = std::max(rate_, exp_lam_[l]);
    require(std::isfinite(exp_lam_[l]) && exp_lam_[l] >= DBL_MIN,
            "lam[" + std::to_string(l) + "] = " + std::to_string(lam[l]) +
                " is out of range: exp(lam) must neither overflow nor underflow");
  }

  // Value, gradient and curvature of the data term, in one pass over X.
  jac_.resize(static_cast<std::size_t>(m.n_theta()));
  curvature_.resize(static_cast<std::size_t>(n));
  std::vector<double> block_value(static_cast<std::size_t>(m.x_->blocks(1).count()));
  std::vector<double> block_square(block_value.size());
  const double* y = m.y_.data();
  const double* weights = m.weights_.empty() ? nullptr : m.weights_.data();
  const double even = 1.0 / static_cast<double>(n);
  visit_loss(m.loss_, [&](auto loss) {
    static std::atomic<std::uint64_t> last_id{1};
    if (loss.most_third > 0.0) curvature_id_ = ++last_id;
    fused_pass(
        *m.x_, m.intercept_, {theta, m.n_theta(), 1},
        [&](index begin, index count, index b, double* z, index) {
          double sum = 0.0, square = 0.0;
          for (index i = 0; i < count; ++i) {
            const double c = weights ? weights[begin + i] : even;
            const margin_terms t = loss.at(z[i], y[begin + i]);
            sum += c * t.value;
            square += c * t.first * t.first;
            z[i] = c * t.first;
            curvature_[begin + i] = c * t.second;
          }
          block_value[b] += sum;
          block_square[b] += square;
        },
        {jac_.data(), m.n_theta(), 1}, m.n_threads_);
  });
  for (const double value : block_value) fun_ += value;
  // Upwards: all terms are positive, but the margins' rounding is in them, which counts by itself.
  slope_ = std::sqrt(std::accumulate(block_square.begin(), block_square.end(), 0.0)) *
               (1.0 + DBL_EPSILON * static_cast<double>(n + 8)) +
           DBL_MIN;

  // The penalty and what λ does to it.
  theta_.assign(theta, theta + m.n_theta());
  theta_norm_ = host_space::norm(m.n_theta(), theta);
  strength_.assign(static_cast<std::size_t>(p), pen.fixed);
  jac_lam_.assign(static_cast<std::size_t>(pen.n_groups), 0.0);
  if (pen.n_groups > 0) cross_column_.resize(static_cast<std::size_t>(p));
  double sum = 0.0;
  for (index j = 0; j < p; ++j) {
    if (pen.n_groups > 0) {
      const index l = pen.group[j];
      strength_[j] += exp_lam_[l];
      cross_column_[j] = exp_lam_[l] * theta[j];
      jac_lam_[l] += 0.5 * cross_column_[j] * theta[j];
    }
    jac_[j] += strength_[j] * theta[j];
    sum += strength_[j] * theta[j] * theta[j];
  }
  fun_ += 0.5 * sum;
}

void linear_model_linearization::hessian::apply(const_block v, block out) const {
  const linear_model& m = *at_.model_;
  sandwich(*m.x_, m.intercept_, {at_.curvature_.data(), m.x_->rows(), 1}, v, out, m.n_threads_);
  const index p = m.x_->cols();
  for (index c = 0; c < v.cols; ++c)
    for (index j = 0; j < p; ++j) out.col(c)[j] += at_.strength_[j] * v.col(c)[j];
}

bool linear_model_linearization::hessian::diagonal(double* out) const {
  const std::vector<double> squares = at_.squares();
  std::copy(squares.begin(), squares.end(), out);
  for (std::size_t j = 0; j < at_.strength_.size(); ++j) out[j] += at_.strength_[j];
  return true;
}

void linear_model_linearization::hessian::dense(double* out) const {
  const linear_model& m = *at_.model_;
  std::vector<double> root;
  root.reserve(at_.curvature_.size());
  for (const double d : at_.curvature_) root.push_back(std::sqrt(d));
  const std::vector<double> ones(static_cast<std::size_t>(size()), 1.0);
  weighted_gram<double>(*m.x_, m.intercept_, root.data(), ones.data(), out, m.n_threads_);
  for (index j = 0; j < m.x_->cols(); ++j) out[j * size() + j] += at_.strength_[j];
}

std::vector<double> linear_model_linearization::squares() const {
  const linear_model& m = *model_;
  std::vector<double> out(static_cast<std::size_t>(m.n_theta()));
  weighted_squares(*m.x_, m.intercept_, curvature_.data(), out.data(), m.n_threads_);
  return out;
}

problem_shape linear_model_linearization::shape() const {
  const Matrix& x = *model_->x_;
  return {x.rows(), model_->n_theta(), x.bytes(), x.outer_product_terms()};
}

std::unique_ptr<row_sketch> linear_model_linearization::sketch(index rows,
                                                               std::uint64_t seed) const {
  const linear_model& m = *model_;
  return std::make_unique<row_sketch>(m.x_, m.intercept_, curvature_.data(), rows, seed,
                                      m.n_threads_);
}

void linear_model_linearization::cross(const_block u, block out) const {
  const std::vector<index>& group = model_->penalty_.group;
  for (index c = 0; c < u.cols; ++c) {
    std::fill_n(out.col(c), out.rows, 0.0);
    for (std::size_t j = 0; j < group.size(); ++j)
      out.col(c)[j] = cross_column_[j] * u.col(c)[group[j]];
  }
}

void linear_model_linearization::cross_transpose(const_block q, block out) const {
  const std::vector<index>& group = model_->penalty_.group;
  for (index c = 0; c < q.cols; ++c) {
    std::fill_n(out.col(c), out.rows, 0.0);
    for (std::size_t j = 0; j < group.size(); ++j)
      out.col(c)[group[j]] += cross_column_[j] * q.col(c)[j];
  }
}

std::vector<double> linear_model_linearization::cross_change(const double* d,
                                                             const double* q) const {
  const std::vector<index>& group = model_->penalty_.group;
  std::vector<double> out(exp_lam_.size());
  for (std::size_t j = 0; j < group.size(); ++j)
    out[group[j]] += (d ? exp_lam_[group[j]] * d[j] : cross_column_[j]) * q[j];
  return out;
}

double linear_model_linearization::reach(const double* v) const {
  // By Σ s_j u_j² ≤ uᵀHu, as the rest of H is semidefinite.
  const std::vector<index>& group = model_->penalty_.group;
  std::vector<double> sum(exp_lam_.size());
  for (std::size_t j = 0; j < group.size(); ++j) {
    const double c = exp_lam_[group[j]] * v[j];
    if (c != 0.0) sum[group[j]] += c / strength_[j] * c;
  }
  return sum.empty() ? 0.0 : std::sqrt(*std::max_element(sum.begin(), sum.end()));
}

std::vector<double> linear_model_linearization::gradient_terms(bool by_row) const {
  const linear_model& m = *model_;
  std::vector<double> out;
  if (by_row) {
    const index n = m.x_->rows();
    const double* y = m.y_.data();
    const double* weights = m.weights_.empty() ? nullptr : m.weights_.data();
    const double even = 1.0 / static_cast<double>(n);
    std::vector<double> square(static_cast<std::size_t>(n)), sum(jac_.size());
    visit_loss(m.loss_, [&](auto loss) {
      fused_pass(
          *m.x_, m.intercept_, {theta_.data(), m.n_theta(), 1},
          [&](index begin, index count, index, double* z, index) {
            for (index i = 0; i < count; ++i) {
              z[i] = (weights ? weights[begin + i] : even) * loss.at(z[i], y[begin + i]).first;
              square[begin + i] = static_cast<double>(n) * z[i] * z[i];
            }
          },
          {sum.data(), m.n_theta(), 1}, m.n_threads_);
    });
    out.resize(jac_.size());
    weighted_squares(*m.x_, m.intercept_, square.data(), out.data(), m.n_threads_);
    for (double& t : out) t = std::sqrt(t);
  } else {
    out = m.column_norms();
    for (double& t : out) t *= slope_;
  }
  for (std::size_t j = 0; j < strength_.size(); ++j) out[j] += strength_[j] * std::abs(theta_[j]);
  return out;
}

error_terms linear_model_linearization::errors() const {
  const linear_model& m = *model_;
  const smoothness& smooth = m.smooth();
  const std::vector<index>& group = m.penalty_.group;
  constexpr double up = 1.0 + 8.0 * DBL_EPSILON;
  error_terms e;
  e.hess = smooth.hess;
  e.third = smooth.third;
  const auto [least, most] = std::minmax_element(strength_.begin(), strength_.end());
  e.least = m.intercept_ ? 0.0 : *least * (1.0 - 4.0 * DBL_EPSILON);
  e.most = *most * up;
  e.rate = rate_ * up;

  // The columns of C have disjoint supports: ‖C‖ is the largest of their norms. Squares of tiny
  // entries underflow, so that the largest entry is taken out first.
  const index p = static_cast<index>(strength_.size());
  std::vector<double> pull(strength_.size());
  for (index j = 0; j < p; ++j) pull[j] = strength_[j] * theta_[j];
  const double penalty_gradient = host_space::norm(p, pull.data());
  double largest = 0.0;
  for (const double c : cross_column_) largest = std::max(largest, std::abs(c));
  if (largest > 0.0) {
    // The penalised block of H⁻¹ is at most that of diag(strength)⁻¹, with an intercept too: the
    // Schur complement that it is the inverse of is diag(strength) and something semidefinite.
    e.reach = reach(theta_.data());
    std::vector<double> square(jac_lam_.size());
    for (std::size_t j = 0; j < group.size(); ++j) {
      const double c = cross_column_[j] / largest;
      square[group[j]] += c * c;
    }
    e.cross = largest * std::sqrt(*std::max_element(square.begin(), square.end())) *
              (1.0 + DBL_EPSILON * static_cast<double>(p + 8));
  }

  // ∇f is Σ c_i ℓ'_i r_i + strength ∘ θ: sums over rows of terms whose margins are sums over
  // columns, the margins' own rounding going through ℓ''; and Σ c_i |ℓ'_i| ‖r_i‖ is at most
  // √(Σ c_i ℓ'_i²) √(Σ c_i ‖r_i‖²).
  const double depth = DBL_EPSILON * static_cast<double>(m.x_->rows() + m.x_->cols() + 20);
  const double first = slope_ * smooth.row_norm;
  e.gradient_rounding =
      depth * (first + 2.0 * smooth.hess * theta_norm_) + 8.0 * DBL_EPSILON * penalty_gradient;
  e.gradient_terms = first + penalty_gradient;
  // The margins' rounding reaches the curvature by way of the third derivative.
  e.product_rounding =
      2.0 * depth * (smooth.hess + smooth.third * theta_norm_) + 8.0 * DBL_EPSILON * e.most;
  return e;
}

double linear_model_linearization::cross_scale(const double* q) const {
  const std::vector<index>& group = model_->penalty_.group;
  std::vector<double> sum(jac_lam_.size());
  for (std::size_t j = 0; j < group.size(); ++j) sum[group[j]] += std::abs(cross_column_[j] * q[j]);
  return host_space::norm(static_cast<index>(sum.size()), sum.data());
}

}  // namespace implicitgrad
