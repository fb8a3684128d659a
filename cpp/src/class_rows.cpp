// Rows of a softmax model: ℓ_i = log Σ_a e^{z_ia} − y_iᵀz_i with z_i = Wᵀr_i, r_i = [x_i 1], W =
// [W_x; b], y_i being a distribution over the classes, or e_c for the label c. With the
// probabilities p and g = p − y, Λ = diag(p) − ppᵀ of each row,
//
//   ∇_W ℓ_i = r_i g_iᵀ,                           ∂/∂y_ia (∇_Wℓ_i · Q) = −(Qᵀr_i)_a,
//   ∂/∂x_i (∇_Wℓ_i · Q) = W_x Λ_i Qᵀr_i + Q_x g_i.
//
// ‖Λ‖ ≤ ½, and Λ diag(p)⁻¹ g = g, so that (gᵀz)² ≤ Σ_a g_a²/p_a · zᵀΛz.
#include <algorithm>
#include <cmath>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/loss_rows.hpp"
#include "implicitgrad/space.hpp"
#include "kernels/softmax.hpp"
#include "row_products.hpp"

namespace implicitgrad {

namespace {

constexpr double most_second = 0.5;

class class_rows : public BoundedRows {
 public:
  class_rows(const margin_data& data, index classes, const double* theta)
      : data_(data), k_(classes), theta_(theta, theta + order() * classes) {
    const std::size_t size = data.margins.size();
    p_.resize(size), slope_.resize(size), value_.resize(static_cast<std::size_t>(rows()));
    std::copy(data.margins.begin(), data.margins.end(), slope_.begin());
    kernels::evaluate_softmax({rows(), k_, slope_.data(), rows(), rows(), nullptr, 1.0},
                              {data.y.data(), soft()}, p_.data(), nullptr, value_.data());
  }

  index rows() const override { return data_.x.rows(); }
  index inputs() const override { return data_.x.cols(); }

  void values(double* out) const override { std::copy(value_.begin(), value_.end(), out); }

  void products(const_block q, block out) const override {
    for (index c = 0; c < q.cols; ++c) {
      const std::vector<double> z = margins_of(q.col(c));
      for (index i = 0; i < rows(); ++i) {
        double sum = 0.0;
        for (index a = 0; a < k_; ++a) sum += at(slope_, i, a) * at(z, i, a);
        out.col(c)[i] = sum;
      }
    }
  }

  void sum(const double* u, double* out) const override {
    std::vector<double> w = slope_;
    for (index a = 0; a < k_; ++a)
      for (index i = 0; i < rows(); ++i) at(w, i, a) *= u[i];
    transposed(w, out);
  }

  void second_products(const double* d, const double* q, double* out) const override {
    const std::vector<double> of_d = curved(margins_of(d)), of_q = margins_of(q);
    for (index i = 0; i < rows(); ++i) {
      out[i] = 0.0;
      for (index a = 0; a < k_; ++a) out[i] += at(of_d, i, a) * at(of_q, i, a);
    }
  }

  row_sizes sizes() const override {
    row_sizes s(rows());
    const double of_theta = host_space::norm(order() * k_, theta_.data());
    for (index i = 0; i < rows(); ++i) {
      const double square = row_square(i);
      double energy = 0.0, rounded = 0.0;
      for (index a = 0; a < k_; ++a) {
        const double g = at(slope_, i, a), p = at(p_, i, a);
        if (g != 0.0) energy += g / p * g;
        // p (1 − y) + y (1 − p), from above: g is the difference where y is a distribution.
        if (soft()) rounded += std::abs(g) + 2.0 * std::min(p, 1.0 - p);
      }
      s.size[i] = slope_norm(i) * std::sqrt(square);
      s.rounding[i] = most_second * square * of_theta + rounded * std::sqrt(square);
      s.rate[i] = most_second * square;
      s.energy[i] = std::sqrt(energy);
      s.bend[i] = std::sqrt(most_second * square);
    }
    return s;
  }

  // What is common to the classes changes nothing: the shares of a row have a constant sum. So
  // slopes count from the largest margin, and the energies are those of what is left without it:
  // p_a (z_a − pᵀz)² ≤ zᵀΛz.

  void target_slopes(double* out) const override {
    require_shares();
    for (index i = 0; i < rows(); ++i, out += k_) {
      double most = margin(i, 0);
      for (index a = 1; a < k_; ++a) most = std::max(most, margin(i, a));
      for (index a = 0; a < k_; ++a) out[a] = most - margin(i, a);
    }
  }

  void target_products(const_block q, block out) const override {
    require_shares();
    for (index c = 0; c < q.cols; ++c) {
      const std::vector<double> z = margins_of(q.col(c));
      for (index i = 0; i < rows(); ++i)
        for (index a = 0; a < k_; ++a) out.col(c)[i * k_ + a] = -at(z, i, a);
    }
  }

  void target_sum(const double* u, double* out) const override {
    require_shares();
    std::vector<double> w(p_.size());
    for (index i = 0; i < rows(); ++i)
      for (index a = 0; a < k_; ++a) at(w, i, a) = -u[i * k_ + a];
    transposed(w, out);
  }

  row_sizes target_sizes() const override {
    require_shares();
    row_sizes s(rows() * k_);
    for (index i = 0; i < rows(); ++i)
      for (index a = 0; a < k_; ++a) {
        s.size[i * k_ + a] = std::sqrt(row_square(i));
        s.energy[i * k_ + a] = 1.0 / std::sqrt(at(p_, i, a));
      }
    return s;
  }

  void input_slopes(const std::vector<index>& rows, double* out) const override {
    for (const index i : rows)
      for (index j = 0; j < inputs(); ++j) *out++ = along(theta_.data(), j, slope_, i);
  }

  void input_products(const std::vector<index>& rows, const double* q, double* out) const override {
    const std::vector<double> curvature = curved(margins_of(q));
    for (const index i : rows)
      for (index j = 0; j < inputs(); ++j)
        *out++ = along(theta_.data(), j, curvature, i) + along(q, j, slope_, i);
  }

  void input_sum(const std::vector<index>& rows, const double* u, double* out) const override {
    const index p = inputs();
    std::vector<double> z(p_.size());
    const double* of_row = u;
    for (const index i : rows) {
      for (index j = 0; j < p; ++j)
        for (index a = 0; a < k_; ++a) at(z, i, a) += of_row[j] * theta_[j * k_ + a];
      of_row += p;
    }
    transposed(curved(std::move(z)), out);
    for (const index i : rows) {
      for (index j = 0; j < p; ++j)
        for (index a = 0; a < k_; ++a) out[j * k_ + a] += at(slope_, i, a) * u[j];
      u += p;
    }
  }

  double input_size(const double* c) const override {
    const double w = host_space::norm(inputs() * k_, theta_.data());
    double sum = 0.0;
    for (index i = 0; i < rows(); ++i) {
      const double size = c[i] * (most_second * std::sqrt(row_square(i)) * w + slope_norm(i));
      sum += size * size;
    }
    return sum;
  }

 private:
  index order() const { return data_.x.cols() + (data_.intercept ? 1 : 0); }
  bool soft() const { return static_cast<index>(data_.y.size()) != rows(); }
  double margin(index i, index a) const { return data_.margins[a * rows() + i]; }
  double row_square(index i) const { return data_.squares[i] + (data_.intercept ? 1.0 : 0.0); }

  double& at(std::vector<double>& v, index i, index a) const { return v[a * rows() + i]; }
  double at(const std::vector<double>& v, index i, index a) const { return v[a * rows() + i]; }

  double slope_norm(index i) const {
    double sum = 0.0;
    for (index a = 0; a < k_; ++a) sum += at(slope_, i, a) * at(slope_, i, a);
    return std::sqrt(sum);
  }

  /// Row j of W, times row i of an n × K array.
  double along(const double* w, index j, const std::vector<double>& v, index i) const {
    double sum = 0.0;
    for (index a = 0; a < k_; ++a) sum += w[j * k_ + a] * at(v, i, a);
    return sum;
  }

  /// [X 1] W, n × K, of a W by rows.
  std::vector<double> margins_of(const double* w) const {
    std::vector<double> columns(static_cast<std::size_t>(order() * k_)), out(p_.size());
    for (index j = 0; j < order(); ++j)
      for (index a = 0; a < k_; ++a) columns[a * order() + j] = w[j * k_ + a];
    row_products(data_.x, data_.intercept, {columns.data(), order(), k_}, {out.data(), rows(), k_},
                 data_.n_threads);
    return out;
  }

  /// [X 1]ᵀ v by rows.
  void transposed(const std::vector<double>& v, double* out) const {
    std::vector<double> columns(static_cast<std::size_t>(order() * k_));
    row_sums(data_.x, data_.intercept, {v.data(), rows(), k_}, {columns.data(), order(), k_},
             data_.n_threads);
    for (index j = 0; j < order(); ++j)
      for (index a = 0; a < k_; ++a) out[j * k_ + a] = columns[a * order() + j];
  }

  /// Λ_i v_i, row by row.
  std::vector<double> curved(std::vector<double> v) const {
    for (index i = 0; i < rows(); ++i) {
      double mean = 0.0;
      for (index a = 0; a < k_; ++a) mean += at(p_, i, a) * at(v, i, a);
      for (index a = 0; a < k_; ++a) at(v, i, a) = at(p_, i, a) * (at(v, i, a) - mean);
    }
    return v;
  }

  void require_shares() const { require(soft(), "targets that are labels are no hyperparameters"); }

  margin_data data_;
  index k_;
  std::vector<double> theta_, p_, slope_, value_;  // n × K by columns: p and g
};

}  // namespace

std::unique_ptr<BoundedRows> make_class_rows(const margin_data& data, index classes,
                                             const double* theta) {
  return std::make_unique<class_rows>(data, classes, theta);
}

}  // namespace implicitgrad
