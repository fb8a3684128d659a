#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/losses.hpp"
#include "kernels/margins.hpp"
#include "weighted_rows.hpp"

namespace implicitgrad {

namespace {

class row_term : public WeightedRows {
 public:
  row_term(std::shared_ptr<const Matrix> x, std::vector<double> y, std::vector<double> weights,
           std::string loss, bool intercept, int n_threads,
           std::shared_ptr<const std::vector<double>> squares = nullptr)
      : WeightedRows(std::move(x), std::move(weights), intercept, n_threads, std::move(squares)),
        y_(std::move(y)),
        loss_(std::move(loss)) {
    targets_ = static_cast<index>(y_.size()) / rows();
    require(targets_ >= 1 && static_cast<index>(y_.size()) == rows() * targets_,
            "y must have one entry for each row of X");
    visit_loss(loss_, [&](auto loss_of) {
      require(targets_ == 1 || loss_of.most_third == 0.0,
              "several targets are for the squared loss");
    });
  }

  data_state at(const double* theta) const override {
    const index n = x_->rows(), m = models();
    data_state state;
    state.jac.resize(static_cast<std::size_t>(size() * m));
    state.curvature.resize(static_cast<std::size_t>(n * folds_));
    state.values.resize(static_cast<std::size_t>(m));
    state.slopes.resize(static_cast<std::size_t>(m));
    if (squares_) state.margins.resize(static_cast<std::size_t>(n));
    std::vector<kernels::margin_sums> partial(static_cast<std::size_t>(x_->blocks(m).count() * m));
    static std::atomic<std::uint64_t> last_id{constant_curvature};
    visit_loss(loss_, [&](auto loss) {
      if (loss.most_third > 0.0) state.curvature_id = ++last_id;
    });
    const kernels::margin_function evaluate = kernels::evaluate_margins(loss_);
    fused_pass(
        *x_, intercept_, {theta, size(), m},
        [&](index begin, index count, index b, double* z, index ldz) {
          if (squares_) std::copy_n(z, count, state.margins.data() + begin);
          for (index c = 0; c < m; ++c) {
            const index of_target = c % targets_ * n + begin, of_fold = c / targets_ * n + begin;
            const auto [value, slopes] =
                evaluate(count, z + c * ldz, y_.data() + of_target, weights(c / targets_, begin),
                         even(), state.curvature.data() + of_fold);
            partial[b * m + c].value += value;
            partial[b * m + c].slopes += slopes;
          }
        },
        {state.jac.data(), size(), m}, n_threads_);
    for (std::size_t i = 0; i < partial.size(); ++i) {
      state.values[i % static_cast<std::size_t>(m)] += partial[i].value / share();
      state.slopes[i % static_cast<std::size_t>(m)] += partial[i].slopes / share();
    }
    for (double& slope : state.slopes) slope = std::sqrt(slope);
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

  problem_shape shape() const override { return shape_of(*x_, size(), folds_, models()); }

  smoothness smooth(const data_state& at) const override {
    const norms& all = row_norms();
    smoothness here;
    if (growth() == 0.0) {
      visit_loss(loss_, [&](auto loss) {
        here.hess = loss.most_second * all.square;
        here.third = loss.most_third > 0.0 ? loss.most_third * all.cube : 0.0;
      });
      return here;
    }
    // Within the radius no ℓ'' grows by more than a factor of e^further.
    constexpr double further = 0.5;
    const index n = rows();
    for (index f = 0; f < folds_; ++f) {
      double square = 0.0, cube = 0.0;
      for (index i = 0; i < n; ++i) {
        const double s = all.of_rows[static_cast<std::size_t>(i)];
        const double d = at.curvature[f * n + i] * s;
        square += d;
        cube += d * std::sqrt(s);
      }
      here.hess = larger(here.hess, square);
      here.third = larger(here.third, growth() * cube);
    }
    const double up =
        std::exp(further) * (1.0 + DBL_EPSILON * static_cast<double>(n + x_->cols() + 16));
    const double longest = *std::max_element(all.of_rows.begin(), all.of_rows.end());
    return {here.hess * up, here.third * up,
            further / (growth() * std::sqrt(longest)) * (1.0 - 1e-3)};
  }

  std::vector<double> gradient_terms(const data_state& at, const double* theta,
                                     bool by_row) const override {
    const index n = x_->rows(), m = models();
    std::vector<double> out(static_cast<std::size_t>(size() * m));
    if (!by_row) {
      const std::vector<double>& of_columns = column_norms();
      for (index c = 0; c < m; ++c)
        for (index j = 0; j < size(); ++j)
          out[c * size() + j] = std::sqrt(share()) * at.slopes[static_cast<std::size_t>(c)] *
                                of_columns[c / targets_ * size() + j];
      return out;
    }
    const kernels::margin_function evaluate = kernels::evaluate_margins(loss_);
    std::vector<double> square(static_cast<std::size_t>(n * m)), sum(out.size());
    fused_pass(
        *x_, intercept_, {theta, size(), m},
        [&](index begin, index count, index, double* z, index ldz) {
          for (index c = 0; c < m; ++c) {
            double* w = z + c * ldz;
            double* squares = square.data() + c * n + begin;
            evaluate(count, w, y_.data() + c % targets_ * n + begin, weights(c / targets_, begin),
                     even(), squares);
            for (index i = 0; i < count; ++i) {
              const double term = std::abs(w[i]) + growth() * squares[i];
              squares[i] = static_cast<double>(n) * term * term;
            }
          }
        },
        {sum.data(), size(), m}, n_threads_);
    weighted_squares(*x_, intercept_, {square.data(), n, m}, {out.data(), size(), m}, n_threads_);
    for (double& term : out) term = std::sqrt(term);
    return out;
  }

  std::unique_ptr<BoundedRows> loss_rows(const data_state& at, const double* theta) const override {
    if (!squares_) return nullptr;
    return make_margin_rows({*x_, *squares_, y_, at.margins, loss_, intercept_, n_threads_}, theta);
  }

  std::unique_ptr<HessianSketch> sketch(const data_state& at, index sampled,
                                        std::uint64_t seed) const override {
    return make_sketch(x_, intercept_, curvature(at), targets_, sampled, seed, n_threads_);
  }

  std::vector<double> mean_squares(const data_state& at) const override {
    std::vector<double> out(static_cast<std::size_t>(size()));
    weighted_squares(*x_, intercept_, {mean_of_columns(curvature(at)).data(), x_->rows(), 1},
                     {out.data(), size(), 1}, n_threads_);
    return out;
  }

 private:
  const_block curvature(const data_state& at) const {
    return {at.curvature.data(), x_->rows(), folds_};
  }

  double growth() const {
    return visit_loss(loss_, [](auto loss) { return growth_of<decltype(loss)>(); });
  }

  std::vector<double> y_;
  std::string loss_;
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
