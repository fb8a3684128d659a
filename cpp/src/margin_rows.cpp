// Rows of a linear model: ℓ_i = ℓ(z_i, y_i) with z_i = r_iᵀθ, r_i = [x_i 1], θ = [w b]. With
// a = ℓ'(z), d = ℓ''(z), e = ∂ℓ'/∂y,
//
//   ∇θℓ_i = a_i r_i,     ∂/∂y_i ∇θℓ_i = e_i r_i,     ∂/∂x_i (∇θℓ_iᵀq) = d_i (r_iᵀq) w + a_i q_w.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/loss_rows.hpp"
#include "implicitgrad/losses.hpp"
#include "implicitgrad/space.hpp"
#include "row_products.hpp"

namespace implicitgrad {

namespace {

/// Visits the functor of a loss whose target may be a hyperparameter.
template <class Visitor>
void visit_targets(const std::string& loss, Visitor&& visitor) {
  visit_loss(loss, [&](auto functor) {
    if constexpr (requires { functor.by_target(0.0, 0.0); })
      visitor(functor);
    else
      require(false, "targets of this loss cannot be hyperparameters");
  });
}

class margin_rows : public BoundedRows {
 public:
  margin_rows(const margin_data& data, const double* theta)
      : data_(data), theta_(theta, theta + data.x.cols() + (data.intercept ? 1 : 0)) {
    const std::size_t n = data.margins.size();
    first_.resize(n);
    second_.resize(n);
    visit_loss(data_.loss, [&](auto loss) {
      for (std::size_t i = 0; i < n; ++i) {
        const margin_terms t = loss.at(data_.margins[i], data_.y[i]);
        first_[i] = t.first, second_[i] = t.second;
      }
    });
  }

  index rows() const override { return data_.x.rows(); }
  index inputs() const override { return data_.x.cols(); }

  void values(double* out) const override {
    visit_loss(data_.loss, [&](auto loss) {
      for (index i = 0; i < rows(); ++i) out[i] = loss.at(data_.margins[i], data_.y[i]).value;
    });
  }

  void products(const_block q, block out) const override {
    margins_of(q, out);
    scale(first_, out);
  }

  void sum(const double* u, double* out) const override { transposed(first_, u, out); }

  void second_products(const double* d, const double* q, double* out) const override {
    std::vector<double> both(2 * theta_.size()), products(2 * second_.size());
    std::copy_n(d, theta_.size(), both.data());
    std::copy_n(q, theta_.size(), both.data() + theta_.size());
    margins_of({both.data(), size(), 2}, {products.data(), rows(), 2});
    for (index i = 0; i < rows(); ++i) out[i] = second_[i] * products[i] * products[rows() + i];
  }

  row_sizes sizes() const override {
    row_sizes s = sizes_of(first_);
    const double of_theta = host_space::norm(size(), theta_.data());
    visit_loss(data_.loss, [&](auto loss) {
      for (index i = 0; i < rows(); ++i) {
        const double square = row_square(i);
        s.rounding[i] = second_[i] * square * of_theta;  // that of the margin
        s.rate[i] = loss.most_second * square;
        s.bend[i] = std::sqrt(second_[i] * square);
      }
    });
    return s;
  }

  void target_slopes(double* out) const override {
    visit_targets(data_.loss, [&](auto loss) {
      for (index i = 0; i < rows(); ++i)
        out[i] = loss.by_target(data_.margins[i], data_.y[i]).value;
    });
  }

  void target_products(const_block q, block out) const override {
    margins_of(q, out);
    scale(by_target(), out);
  }

  void target_sum(const double* u, double* out) const override { transposed(by_target(), u, out); }

  row_sizes target_sizes() const override { return sizes_of(by_target()); }

  void input_slopes(const std::vector<index>& at, double* out) const override {
    for (const index i : at)
      for (index j = 0; j < inputs(); ++j) *out++ = first_[i] * theta_[j];
  }

  void input_products(const std::vector<index>& at, const double* q, double* out) const override {
    std::vector<double> along(second_.size());
    margins_of({q, size(), 1}, {along.data(), rows(), 1});
    for (const index i : at) {
      const double c = second_[i] * along[i];
      for (index j = 0; j < inputs(); ++j) *out++ = c * theta_[j] + first_[i] * q[j];
    }
  }

  void input_sum(const std::vector<index>& at, const double* u, double* out) const override {
    const index p = inputs();
    std::vector<double> along(second_.size());
    for (std::size_t s = 0; s < at.size(); ++s)
      along[at[s]] = host_space::dot(p, u + static_cast<index>(s) * p, theta_.data());
    transposed(second_, along.data(), out);
    for (const index i : at) {
      for (index j = 0; j < p; ++j) out[j] += first_[i] * u[j];
      u += p;
    }
  }

  double input_size(const double* c) const override {
    const double w = host_space::norm(inputs(), theta_.data());
    double sum = 0.0;
    for (index i = 0; i < rows(); ++i) {
      const double size = c[i] * (second_[i] * std::sqrt(row_square(i)) * w + std::abs(first_[i]));
      sum += size * size;
    }
    return sum;
  }

 private:
  index size() const { return static_cast<index>(theta_.size()); }
  double row_square(index i) const { return data_.squares[i] + (data_.intercept ? 1.0 : 0.0); }

  /// out = [X 1] V.
  void margins_of(const_block v, block out) const {
    row_products(data_.x, data_.intercept, v, out, data_.n_threads);
  }

  /// out = [X 1]ᵀ (s ∘ u).
  void transposed(std::vector<double> s, const double* u, double* out) const {
    for (std::size_t i = 0; i < s.size(); ++i) s[i] *= u[i];
    row_sums(data_.x, data_.intercept, {s.data(), rows(), 1}, {out, size(), 1}, data_.n_threads);
  }

  void scale(const std::vector<double>& s, block out) const {
    for (index c = 0; c < out.cols; ++c)
      for (index i = 0; i < out.rows; ++i) out.col(c)[i] *= s[i];
  }

  std::vector<double> by_target() const {
    std::vector<double> out(second_.size());
    visit_targets(data_.loss, [&](auto loss) {
      for (index i = 0; i < rows(); ++i)
        out[i] = loss.by_target(data_.margins[i], data_.y[i]).first;
    });
    return out;
  }

  /// Of v_i = s_i r_i with a constant s_i: (v_iᵀu)² = s_i²/d_i · d_i (r_iᵀu)².
  row_sizes sizes_of(const std::vector<double>& s) const {
    row_sizes sizes(rows());
    for (index i = 0; i < rows(); ++i) {
      sizes.size[i] = std::abs(s[i]) * std::sqrt(row_square(i));
      sizes.energy[i] = s[i] == 0.0 ? 0.0 : std::abs(s[i]) / std::sqrt(second_[i]);
    }
    return sizes;
  }

  margin_data data_;
  std::vector<double> theta_, first_, second_;
};

}  // namespace

std::unique_ptr<BoundedRows> make_margin_rows(const margin_data& data, const double* theta) {
  return std::make_unique<margin_rows>(data, theta);
}

}  // namespace implicitgrad
