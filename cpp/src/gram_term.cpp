#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

#include "implicitgrad/data_term.hpp"
#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/errors.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/row_subset.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

gram_sums sum_gram(const std::shared_ptr<const Matrix>& x, bool intercept,
                   const std::vector<double>& y, const std::vector<double>& weights,
                   const std::vector<index>& chosen, const std::vector<double>& offset,
                   int n_threads) {
  const index n = x->rows();
  gram_sums sums;
  sums.features = x->cols();
  sums.intercept = intercept;
  sums.targets = static_cast<index>(y.size()) / n;
  require(sums.targets >= 1 && static_cast<index>(y.size()) == n * sums.targets,
          "y must have one entry for each row of X");
  require(weights.empty() || static_cast<index>(weights.size()) == n,
          "sample_weight must have one entry for each row of X");
  require(offset.empty() || (intercept && static_cast<index>(offset.size()) == sums.targets),
          "offset must have one entry for each target, and needs an intercept");
  sums.offset = offset;
  for (std::size_t i = 0; i < chosen.size(); ++i)
    require(chosen[i] >= 0 && chosen[i] < n && (i == 0 || chosen[i - 1] < chosen[i]),
            "rows must be in increasing order and within X");
  const index q = sums.size(), t = sums.targets;
  const std::shared_ptr<const Matrix> rows =
      chosen.empty() ? x : std::make_shared<row_subset>(x, chosen);
  const index m = sums.rows = sums.summed = rows->rows();
  const auto at = [&](index i) { return chosen.empty() ? i : chosen[static_cast<std::size_t>(i)]; };

  std::vector<double> w(static_cast<std::size_t>(m), 1.0), root(w);
  if (!weights.empty())
    for (index i = 0; i < m; ++i) w[i] = weights[at(i)], root[i] = std::sqrt(w[i]);
  for (const double each : w) sums.weight += each;

  sums.gram.resize(static_cast<std::size_t>(q * q));
  const std::vector<double> ones(static_cast<std::size_t>(q), 1.0);
  weighted_gram<double>(*rows, intercept, root.data(), ones.data(), sums.gram.data(), n_threads);
  for (index j = 0; j < q; ++j)
    for (index i = j + 1; i < q; ++i) sums.gram[i * q + j] = sums.gram[j * q + i];

  const auto reduced = [&](index c, index i) {
    return y[c * n + at(i)] - (offset.empty() ? 0.0 : offset[c]);
  };
  sums.cross.resize(static_cast<std::size_t>(q * t));
  const std::vector<double> zero(sums.cross.size());
  fused_pass(
      *rows, intercept, {zero.data(), q, t},
      [&](index begin, index count, index, double* z, index ldz) {
        for (index c = 0; c < t; ++c)
          for (index i = 0; i < count; ++i) z[c * ldz + i] = w[begin + i] * reduced(c, begin + i);
      },
      {sums.cross.data(), q, t}, n_threads);
  for (index c = 0; c < t; ++c) {
    double square = 0.0;
    for (index i = 0; i < m; ++i) square += w[i] * reduced(c, i) * reduced(c, i);
    sums.squares.push_back(square);
  }
  return sums;
}

gram_sums subtract(const gram_sums& all, const gram_sums& some) {
  require(all.gram.size() == some.gram.size() && all.targets == some.targets &&
              all.intercept == some.intercept && all.rows > some.rows,
          "sums over other data, or over all of the rows, cannot be subtracted");
  gram_sums rest = all;
  rest.rows -= some.rows;
  rest.weight -= some.weight;
  for (std::size_t i = 0; i < rest.gram.size(); ++i) rest.gram[i] -= some.gram[i];
  for (std::size_t i = 0; i < rest.cross.size(); ++i) rest.cross[i] -= some.cross[i];
  for (std::size_t i = 0; i < rest.squares.size(); ++i)
    rest.squares[i] = std::max(rest.squares[i] - some.squares[i], 0.0);
  return rest;
}

namespace {

// A matrix of so many entries is worth several threads.
constexpr index worth_threads = index{1} << 16;

class gram_term : public DataTerm {
 public:
  gram_term(std::vector<std::shared_ptr<const gram_sums>> folds, index target, int n_threads)
      : sums_(std::move(folds)), first_target_(std::max<index>(target, 0)) {
    require(!sums_.empty(), "there must be at least one fold");
    const gram_sums& one = *sums_.front();
    require(target < one.targets, "target is out of range");
    require(n_threads >= 1, "n_threads must be at least 1");
    for (const auto& each : sums_) {
      require(each->features == one.features && each->intercept == one.intercept &&
                  each->targets == one.targets,
              "the folds must have the same columns and targets");
      require(each->weight > 0.0 && std::isfinite(each->weight),
              "sample_weight must have a positive, finite sum");
      rows_ = std::max(rows_, each->summed);
    }
    features_ = one.features;
    intercept_ = one.intercept;
    folds_ = static_cast<index>(sums_.size());
    targets_ = target < 0 ? one.targets : 1;
    n_threads_ = n_threads;
    // ‖G‖ is at most its trace, Σ w_i ‖r_i‖².
    for (index f = 0; f < folds_; ++f) {
      grams_.emplace_back(sums_[f]->gram.data(), size(), size(), size(), layout::row_major);
      double trace = 0.0;
      for (index j = 0; j < size(); ++j) trace += sums_[f]->gram[j * size() + j];
      smooth_.hess = std::max(
          smooth_.hess, scale(f) * trace * (1.0 + DBL_EPSILON * static_cast<double>(rows_ + 8)));
    }
  }

  /// value = ½ (θᵀGθ − 2 bᵀθ + Σ w y²), gradient = Gθ − b.
  data_state at(const double* theta) const override {
    const index q = size(), m = models();
    data_state state;
    state.jac.resize(static_cast<std::size_t>(q * m));
    const std::vector<double> shifted = reduced(theta);
    theta = shifted.data();
    product({theta, q * m, 1}, {state.jac.data(), q * m, 1});
    for (index c = 0; c < m; ++c) {
      const gram_sums& s = *sums_[c / targets_];
      const index target = first_target_ + c % targets_;
      const double* b = s.cross.data() + target * q;
      double* jac = state.jac.data() + c * q;
      for (index j = 0; j < q; ++j) jac[j] -= b[j];
      const double rest = host_space::dot(q, jac, theta + c * q) -
                          host_space::dot(q, b, theta + c * q) + s.squares[target];
      state.values.push_back(rest >= 0.0 ? 0.5 * rest / s.weight : rest < 0.0 ? 0.0 : rest);
      for (index j = 0; j < q; ++j) jac[j] *= scale(c / targets_);
    }
    return state;
  }

  void apply(const data_state&, const_block v, block out) const override {
    product(v, out);
    const index q = size();
    for (index c = 0; c < v.cols * models(); ++c)
      for (index j = 0; j < q; ++j) out.data[c * q + j] *= scale(c % models() / targets_);
  }

  void squares(const data_state&, double* out) const override {
    const index q = size();
    for (index c = 0; c < models(); ++c)
      for (index j = 0; j < q; ++j)
        out[c * q + j] = scale(c / targets_) * sums_[c / targets_]->gram[j * q + j];
  }

  void dense(const data_state&, double* out) const override {
    const index q = size();
    parallel_for(folds_ * q, q * q < worth_threads ? 1 : n_threads_, [&](index column, int) {
      const index f = column / q;
      const double* from = sums_[f]->gram.data() + column % q * q;
      const double s = scale(f);
      for (index i = column % q; i < q; ++i) out[column * q + i] = s * from[i];
    });
  }

  problem_shape shape() const override {
    problem_shape shape{rows_, size(), 8.0 * static_cast<double>(size() * size() * folds_)};
    shape.folds = folds_;
    shape.models = models();
    shape.gram_is_known = true;
    return shape;
  }

  const smoothness& smooth() const override { return smooth_; }

  /// Of Gθ − b, where that is what is summed.
  std::vector<double> gradient_terms(const data_state&, const double* theta, bool) const override {
    const index q = size();
    std::vector<double> out(static_cast<std::size_t>(q * models()));
    const std::vector<double> shifted = reduced(theta);
    theta = shifted.data();
    for (index c = 0; c < models(); ++c) {
      const gram_sums& s = *sums_[c / targets_];
      const double* b = s.cross.data() + (first_target_ + c % targets_) * q;
      for (index j = 0; j < q; ++j) {
        const double* column = s.gram.data() + j * q;
        double sum = std::abs(b[j]);
        for (index i = 0; i < q; ++i) sum += std::abs(column[i] * theta[c * q + i]);
        out[c * q + j] = scale(c / targets_) * sum;
      }
    }
    return out;
  }

  double gradient_terms_norm(const data_state&, double theta_norm) const override {
    double square = 0.0;  // ‖b_c‖ ≤ √(Σ w ‖r‖²) √(Σ w y²)
    for (index f = 0; f < folds_; ++f)
      for (index t = 0; t < targets_; ++t)
        square += scale(f) * sums_[f]->squares[first_target_ + t];
    return 1.001 * std::sqrt(smooth_.hess * square) + smooth_.hess * theta_norm;
  }

  index depth() const override { return rows_ + size(); }

 private:
  /// θ for the reduced y.
  std::vector<double> reduced(const double* theta) const {
    const index q = size();
    std::vector<double> out(theta, theta + q * models());
    for (index c = 0; c < models(); ++c) {
      const std::vector<double>& offset = sums_[c / targets_]->offset;
      if (!offset.empty()) out[c * q + q - 1] -= offset[first_target_ + c % targets_];
    }
    return out;
  }

  double scale(index fold) const { return share() / sums_[fold]->weight; }

  /// out = G v, unscaled: rows of G in parallel.
  void product(const_block v, block out) const {
    constexpr index chunk = 64;
    const index q = size(), pieces = (q + chunk - 1) / chunk, per_fold = q * targets_;
    poll_interrupt();
    parallel_for(pieces * folds_, q * q < worth_threads ? 1 : n_threads_, [&](index i, int) {
      const index f = i / pieces, begin = i % pieces * chunk, end = std::min(q, begin + chunk);
      for (index c = 0; c < v.cols; ++c)
        grams_[f].dot(begin, end, v.col(c) + f * per_fold, q, targets_,
                      out.col(c) + f * per_fold + begin, q);
    });
  }

  std::vector<std::shared_ptr<const gram_sums>> sums_;
  std::vector<dense_matrix<double>> grams_;  // views of the same
  index first_target_, rows_ = 0;
  smoothness smooth_;
};

}  // namespace

std::shared_ptr<const DataTerm> make_gram_term(std::vector<std::shared_ptr<const gram_sums>> folds,
                                               index target, int n_threads) {
  return std::make_shared<gram_term>(std::move(folds), target, n_threads);
}

}  // namespace implicitgrad
