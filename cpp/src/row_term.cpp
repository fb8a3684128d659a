#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <mutex>
#include <numeric>
#include <utility>

#include "implicitgrad/data_term.hpp"
#include "implicitgrad/errors.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/losses.hpp"
#include "kernels/margins.hpp"

namespace implicitgrad {

namespace {

class row_term : public DataTerm {
 public:
  row_term(std::shared_ptr<const Matrix> x, std::vector<double> y, std::vector<double> weights,
           std::string loss, bool intercept, int n_threads,
           std::shared_ptr<const std::vector<double>> squares = nullptr)
      : x_(std::move(x)),
        y_(std::move(y)),
        weights_(std::move(weights)),
        loss_(std::move(loss)),
        squares_(std::move(squares)) {
    const index n = x_->rows();
    features_ = x_->cols();
    intercept_ = intercept;
    n_threads_ = n_threads;
    targets_ = static_cast<index>(y_.size()) / n;
    if (!weights_.empty()) folds_ = static_cast<index>(weights_.size()) / n;
    require(targets_ >= 1 && static_cast<index>(y_.size()) == n * targets_,
            "y must have one entry for each row of X");
    require(weights_.empty() || (folds_ >= 1 && static_cast<index>(weights_.size()) == n * folds_),
            "sample_weight must have one entry for each row of X");
    require(n_threads >= 1, "n_threads must be at least 1");
    visit_loss(loss_, [&](auto loss_of) {
      require(targets_ == 1 || loss_of.most_third == 0.0,
              "several targets are for the squared loss");
    });
    for (index f = 0; f < folds_ && !weights_.empty() && !squares_; ++f) {
      double* w = weights_.data() + f * n;
      const double total = std::accumulate(w, w + n, 0.0);
      require(total > 0.0 && std::isfinite(total),
              "sample_weight must have a positive, finite sum");
      for (index i = 0; i < n; ++i) w[i] = share() * (w[i] / total);
    }
  }

  data_state at(const double* theta) const override {
    const index n = x_->rows(), m = models();
    data_state state;
    state.jac.resize(static_cast<std::size_t>(size() * m));
    state.curvature.resize(static_cast<std::size_t>(n * folds_));
    state.values.resize(static_cast<std::size_t>(m));
    if (squares_) state.margins.resize(static_cast<std::size_t>(n));
    std::vector<double> partial(static_cast<std::size_t>(x_->blocks(m).count() * m));
    static std::atomic<std::uint64_t> last_id{constant_curvature};
    visit_loss(loss_, [&](auto loss) {
      if (loss.most_third > 0.0) state.curvature_id = ++last_id;
    });
    const kernels::margin_function evaluate = kernels::evaluate_margins(loss_);
    const double even = 1.0 / static_cast<double>(n);
    fused_pass(
        *x_, intercept_, {theta, size(), m},
        [&](index begin, index count, index b, double* z, index ldz) {
          if (squares_) std::copy_n(z, count, state.margins.data() + begin);
          for (index c = 0; c < m; ++c) {
            const index of_target = c % targets_ * n + begin, of_fold = c / targets_ * n + begin;
            partial[b * m + c] += evaluate(count, z + c * ldz, y_.data() + of_target,
                                           weights_.empty() ? nullptr : weights_.data() + of_fold,
                                           even, state.curvature.data() + of_fold);
          }
        },
        {state.jac.data(), size(), m}, n_threads_);
    for (std::size_t i = 0; i < partial.size(); ++i)
      state.values[i % static_cast<std::size_t>(m)] += partial[i] / share();
    return state;
  }

  void apply(const data_state& at, const_block v, block out) const override {
    const index columns = v.cols * models();
    sandwich(*x_, intercept_, curvature(at), targets_, {v.data, size(), columns},
             {out.data, size(), columns}, n_threads_);
  }

  void squares(const data_state& at, double* out) const override {
    std::vector<double> of_folds(static_cast<std::size_t>(size() * folds_));
    weighted_squares(*x_, intercept_, curvature(at), {of_folds.data(), size(), folds_}, n_threads_);
    for (index c = 0; c < models(); ++c)
      std::copy_n(of_folds.data() + c / targets_ * size(), size(), out + c * size());
  }

  void dense(const data_state& at, double* out) const override {
    const index n = x_->rows();
    const std::vector<double> ones(static_cast<std::size_t>(size()), 1.0);
    std::vector<double> root(static_cast<std::size_t>(n));
    for (index f = 0; f < folds_; ++f) {
      for (index i = 0; i < n; ++i) root[i] = std::sqrt(at.curvature[f * n + i]);
      weighted_gram<double>(*x_, intercept_, root.data(), ones.data(), out + f * size() * size(),
                            n_threads_);
    }
  }

  problem_shape shape() const override {
    return {x_->rows(), size(), x_->bytes(), x_->outer_product_terms(), folds_, models()};
  }

  const smoothness& smooth() const override {
    std::call_once(smooth_once_, [this] { measure(); });
    return smooth_;
  }

  std::vector<double> gradient_terms(const data_state& at, const double* theta,
                                     bool by_row) const override {
    const index n = x_->rows(), m = models();
    std::vector<double> out(static_cast<std::size_t>(size() * m));
    if (!by_row) {
      const std::vector<double>& norms = column_norms();
      for (index c = 0; c < m; ++c)
        for (index j = 0; j < size(); ++j)
          out[c * size() + j] = std::sqrt(share()) * slope(at.values[static_cast<std::size_t>(c)]) *
                                norms[c / targets_ * size() + j];
      return out;
    }
    const kernels::margin_function evaluate = kernels::evaluate_margins(loss_);
    const double even = 1.0 / static_cast<double>(n);
    std::vector<double> square(static_cast<std::size_t>(n * m)), sum(out.size());
    fused_pass(
        *x_, intercept_, {theta, size(), m},
        [&](index begin, index count, index, double* z, index ldz) {
          for (index c = 0; c < m; ++c) {
            const index of_target = c % targets_ * n + begin, of_fold = c / targets_ * n + begin;
            double* w = z + c * ldz;
            double* squares = square.data() + c * n + begin;
            evaluate(count, w, y_.data() + of_target,
                     weights_.empty() ? nullptr : weights_.data() + of_fold, even, squares);
            for (index i = 0; i < count; ++i) squares[i] = static_cast<double>(n) * w[i] * w[i];
          }
        },
        {sum.data(), size(), m}, n_threads_);
    weighted_squares(*x_, intercept_, {square.data(), n, m}, {out.data(), size(), m}, n_threads_);
    for (double& term : out) term = std::sqrt(term);
    return out;
  }

  double gradient_terms_norm(const data_state& at, double) const override {
    smooth();
    double square = 0.0;
    for (const double value : at.values) square += slope(value) * slope(value);
    return share() * std::sqrt(square) * row_norm_ + DBL_MIN;
  }

  index depth() const override { return x_->rows() + x_->cols(); }

  bool rows_can_be_sampled() const override { return true; }

  std::unique_ptr<LossRows> loss_rows(const data_state& at, const double* theta) const override {
    if (!squares_) return nullptr;
    return make_margin_rows({*x_, *squares_, y_, at.margins, loss_, intercept_, n_threads_}, theta);
  }

  std::unique_ptr<row_sketch> sketch(const data_state& at, index rows,
                                     std::uint64_t seed) const override {
    return std::make_unique<row_sketch>(x_, intercept_, mean_curvature(at).data(), rows, seed,
                                        n_threads_);
  }

  std::vector<double> mean_squares(const data_state& at) const override {
    std::vector<double> out(static_cast<std::size_t>(size()));
    weighted_squares(*x_, intercept_, {mean_curvature(at).data(), x_->rows(), 1},
                     {out.data(), size(), 1}, n_threads_);
    return out;
  }

 private:
  const_block curvature(const data_state& at) const {
    return {at.curvature.data(), x_->rows(), folds_};
  }

  std::vector<double> mean_curvature(const data_state& at) const {
    const auto n = static_cast<std::size_t>(x_->rows());
    std::vector<double> mean(at.curvature.begin(), at.curvature.begin() + x_->rows());
    for (index f = 1; f < folds_; ++f)
      for (std::size_t i = 0; i < n; ++i) mean[i] += at.curvature[f * x_->rows() + i];
    if (folds_ > 1)
      for (double& d : mean) d /= static_cast<double>(folds_);
    return mean;
  }

  /// A bound on √(Σ w_i ℓ'_i²) of a model, from its value: ℓ ≥ 0 has ℓ'² ≤ 2 sup|ℓ''| ℓ.
  double slope(double value) const {
    double bound = 0.0;
    visit_loss(loss_, [&](auto loss) {
      bound = 1.001 * std::sqrt(2.0 * loss.most_second * value);
      if (!squares_) bound = std::min(loss.most_first, bound);  // as Σ w_i = 1
    });
    return bound;
  }

  /// √(share Σ_i w_i x_ij²), size × folds. Cost: one pass over X, the first time.
  const std::vector<double>& column_norms() const {
    std::call_once(columns_once_, [this] {
      const index n = x_->rows();
      const std::vector<double> even(static_cast<std::size_t>(weights_.empty() ? n : 0),
                                     1.0 / static_cast<double>(n));
      const const_block w{weights_.empty() ? even.data() : weights_.data(), n, folds_};
      column_norms_.resize(static_cast<std::size_t>(size() * folds_));
      weighted_squares(*x_, intercept_, w, {column_norms_.data(), size(), folds_}, n_threads_);
      for (double& c : column_norms_) c = std::sqrt(c);
    });
    return column_norms_;
  }

  void measure() const {
    const index n = x_->rows(), p = x_->cols(), panel = x_->panel_rows();
    const row_blocks blocks = x_->blocks(1);
    std::vector<double> square(static_cast<std::size_t>(blocks.count() * folds_));
    std::vector<double> cube(square.size());
    std::vector<double> rows(
        static_cast<std::size_t>(std::min<index>(n_threads_, blocks.count()) * panel));
    poll_interrupt();
    parallel_for(blocks.count(), n_threads_, [&](index b, int slot) {
      double* r = rows.data() + slot * panel;
      for (index begin = blocks.begin(b); begin < blocks.end(b); begin += panel) {
        const index end = std::min(begin + panel, blocks.end(b));
        if (squares_) {
          for (index i = begin; i < end; ++i) r[i - begin] = (*squares_)[i];
        } else {
          x_->row_squares(begin, end, r);
        }
        for (index f = 0; f < folds_; ++f)
          for (index i = begin; i < end; ++i) {
            const double w = weights_.empty() ? 1.0 / static_cast<double>(n) : weights_[f * n + i];
            const double s = r[i - begin] + (intercept_ ? 1.0 : 0.0);
            square[b * folds_ + f] += w * s;
            cube[b * folds_ + f] += w * s * std::sqrt(s);
          }
      }
    });
    const auto most = [&](const std::vector<double>& partial) {
      double result = 0.0;
      for (index f = 0; f < folds_; ++f) {
        double sum = 0.0;
        for (index b = 0; b < blocks.count(); ++b) sum += partial[b * folds_ + f];
        if (!(sum <= result)) result = sum;  // NaN stays
      }
      // All terms are positive: the relative error of the sums is below this.
      return result * (1.0 + DBL_EPSILON * static_cast<double>(n + p + 8));
    };
    const double second = most(square), third = most(cube);
    row_norm_ = std::sqrt(second / share()) * (1.0 + 4.0 * DBL_EPSILON);
    visit_loss(loss_, [&](auto loss) {
      smooth_.hess = loss.most_second * second;
      smooth_.third = loss.most_third > 0.0 ? loss.most_third * third : 0.0;
    });
  }

  std::shared_ptr<const Matrix> x_;
  std::vector<double> y_, weights_;  // the weights of a fold sum to `share`
  std::string loss_;
  std::shared_ptr<const std::vector<double>> squares_;  // ‖x_i‖², for coefficients as given
  mutable std::once_flag smooth_once_, columns_once_;
  mutable std::vector<double> column_norms_;
  mutable smoothness smooth_;
  mutable double row_norm_ = 0.0;  // √(Σ w_i ‖r_i‖²), at least Σ w_i ‖r_i‖
};

}  // namespace

std::shared_ptr<const DataTerm> make_row_term(std::shared_ptr<const Matrix> x,
                                              std::vector<double> y, std::vector<double> weights,
                                              std::string loss, bool intercept, int n_threads) {
  return std::make_shared<row_term>(std::move(x), std::move(y), std::move(weights), std::move(loss),
                                    intercept, n_threads);
}

std::shared_ptr<const DataTerm> make_row_term(std::shared_ptr<const Matrix> x,
                                              std::shared_ptr<const std::vector<double>> squares,
                                              std::vector<double> y,
                                              std::vector<double> coefficients, std::string loss,
                                              bool intercept, int n_threads) {
  return std::make_shared<row_term>(std::move(x), std::move(y), std::move(coefficients),
                                    std::move(loss), intercept, n_threads, std::move(squares));
}

}  // namespace implicitgrad
