// The data term of multinomial logistic regression, one model a fold:
//
//   Σ_i w_i [ log Σ_a e^{z_ia} − y_iᵀz_i ],      Z = [X 1] W,
//
// y_i is a distribution over the classes, or e_c for the label c; W is (p + 1) × K, and θ holds it
// by rows. With the probabilities P (n × K) of a point kept,
//
//   H V = [X 1]ᵀ ( w ∘ P ∘ (Z − (P ∘ Z) 1 1ᵀ) ),      Z = [X 1] V:
//
// the classes are the columns of one fused pass over X, and what couples them happens on a panel's
// rows. The entries of a gradient or a product that belong to one column of X sum to zero over the
// classes; rounding does not know that, so the mean comes off.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/solvers/class_sketch.hpp"
#include "kernels/softmax.hpp"
#include "weighted_rows.hpp"

namespace implicitgrad {

namespace {

// Of diag(p) − ppᵀ, over all p: its norm (D. Böhning, "Multinomial logistic regression algorithm",
// Ann. Inst. Statist. Math. 44, 1992), and that of its derivative. The derivative in the directions
// u, v, w is a symmetric trilinear form, so that its largest value is met for u = v = w: the third
// central moment of a variable with the values u_a. Among variables in an interval of length d that
// is at most d³ / (6 √3), met by two values; and max u − min u ≤ √2 ‖u‖.
constexpr double most_second = 0.5;
constexpr double most_third = 0.2721655269759087;  // √6 / 9 = (√2)³ / (6 √3)

class softmax_term : public WeightedRows {
 public:
  softmax_term(std::shared_ptr<const Matrix> x, std::vector<double> y, index classes,
               std::vector<double> weights, bool intercept, int n_threads,
               std::shared_ptr<const std::vector<double>> squares = nullptr)
      : WeightedRows(std::move(x), std::move(weights), intercept, n_threads, std::move(squares)),
        y_(std::move(y)) {
    width_ = classes;
    require(classes >= 2, "n_classes must be at least 2");
    soft_ = static_cast<index>(y_.size()) != rows();
    require(!soft_ || static_cast<index>(y_.size()) == rows() * classes,
            "y must have one entry for each row of X, or one for each class");
    const auto is_label = [&](double label) {
      return label >= 0.0 && label < static_cast<double>(classes) && label == std::floor(label);
    };
    require(soft_ || std::all_of(y_.begin(), y_.end(), is_label),
            "y must hold labels 0, 1, …, n_classes − 1");
  }

  data_state at(const double* theta) const override {
    const index n = rows(), columns = folds_ * width_;
    static std::atomic<std::uint64_t> last_id{constant_curvature};
    data_state state;
    state.curvature_id = ++last_id;
    state.curvature.resize(static_cast<std::size_t>(n * columns));
    // Of each block of rows: the folds' values, and the squares of slopes of each column.
    const index sums = folds_ + columns;
    if (squares_) state.margins.resize(static_cast<std::size_t>(n * columns));
    std::vector<double> partial(static_cast<std::size_t>(x_->blocks(columns).count() * sums));
    const std::vector<double> w = by_columns(theta, 1);
    std::vector<double> slope(w.size());
    fused_pass(
        *x_, intercept_, {w.data(), order(), columns},
        [&](index begin, index count, index b, double* z, index ldz) {
          for (index c = 0; c < columns && squares_; ++c)
            std::copy_n(z + c * ldz, count, state.margins.data() + c * n + begin);
          for (index f = 0; f < folds_; ++f) {
            double* sum = partial.data() + b * sums;
            sum[f] += kernels::evaluate_softmax(
                panel(f, begin, count, z + f * width_ * ldz, ldz), targets(begin),
                state.curvature.data() + place(f, begin), sum + folds_ + f * width_);
          }
        },
        {slope.data(), order(), columns}, n_threads_);
    state.jac.resize(w.size());
    by_rows(slope.data(), 1, state.jac.data());
    state.values.resize(static_cast<std::size_t>(folds_));
    state.slopes.resize(static_cast<std::size_t>(columns));
    for (std::size_t i = 0; i < partial.size(); ++i) {
      const auto s = static_cast<index>(i) % sums;
      (s < folds_ ? state.values[s] : state.slopes[s - folds_]) += partial[i] / share();
    }
    for (double& s : state.slopes) s = std::sqrt(s);
    return state;
  }

  void apply(const data_state& at, const_block v, block out) const override {
    const index columns = folds_ * width_;
    const std::vector<double> in = by_columns(v.data, v.cols);
    std::vector<double> product(in.size());
    fused_pass(
        *x_, intercept_, {in.data(), order(), columns * v.cols},
        [&](index begin, index count, index, double* z, index ldz) {
          for (index m = 0; m < folds_ * v.cols; ++m)
            kernels::multiply_softmax(panel(m % folds_, begin, count, z + m * width_ * ldz, ldz),
                                      at.curvature.data() + place(m % folds_, begin));
        },
        {product.data(), order(), columns * v.cols}, n_threads_);
    by_rows(product.data(), v.cols, out.data);
  }

  void squares(const data_state& at, double* out) const override {
    const std::vector<double> d = diagonals(at);
    std::vector<double> sum(static_cast<std::size_t>(size() * folds_));
    weighted_squares(*x_, intercept_, {d.data(), rows(), folds_ * width_},
                     {sum.data(), order(), folds_ * width_}, n_threads_);
    transpose(sum.data(), 1, out);
  }

  /// The blocks of two different classes are −Xᵀ diag(w p_a p_b) X, and those of a class the
  /// negative sum of its others, so that nothing cancels. Cost: K (K − 1) / 2 Gram matrices of
  /// order p.
  void dense(const data_state& at, double* out) const override {
    const index n = rows(), q = order(), all = size();
    const std::vector<double> ones(static_cast<std::size_t>(q), 1.0);
    std::vector<double> root(static_cast<std::size_t>(n)), gram(static_cast<std::size_t>(q * q));
    std::fill_n(out, folds_ * all * all, 0.0);
    for (index f = 0; f < folds_; ++f, out += all * all)
      for (index a = 0; a < width_; ++a)
        for (index b = a + 1; b < width_; ++b) {
          const double* of_a = at.curvature.data() + (f * width_ + a) * n;
          const double* of_b = at.curvature.data() + (f * width_ + b) * n;
          for (index i = 0; i < n; ++i)
            root[i] = std::sqrt(weight(f, i)) * std::sqrt(of_a[i]) * std::sqrt(of_b[i]);
          weighted_gram<double>(*x_, intercept_, root.data(), ones.data(), gram.data(), n_threads_);
          const auto entry = [&](index row, index column) -> double& {
            return out[column * all + row];
          };
          for (index j = 0; j < q; ++j)
            for (index l = j; l < q; ++l) {
              const double g = gram[j * q + l];
              entry(l * width_ + a, j * width_ + a) += g;
              entry(l * width_ + b, j * width_ + b) += g;
              entry(l * width_ + b, j * width_ + a) -= g;
              if (l > j) entry(l * width_ + a, j * width_ + b) -= g;
            }
        }
  }

  problem_shape shape() const override { return shape_of(*x_, size(), folds_, folds_, width_); }

  smoothness smooth(const data_state&) const override {
    return {most_second * row_norms().square, most_third * row_norms().cube};
  }

  std::vector<double> gradient_terms(const data_state& at, const double* theta,
                                     bool by_row) const override {
    const index n = rows(), q = order(), columns = folds_ * width_;
    std::vector<double> terms(static_cast<std::size_t>(q * columns)), out(terms.size());
    if (!by_row) {
      const std::vector<double>& of_columns = column_norms();
      for (index c = 0; c < columns; ++c)
        for (index j = 0; j < q; ++j)
          terms[c * q + j] = std::sqrt(share()) * at.slopes[static_cast<std::size_t>(c)] *
                             of_columns[c / width_ * q + j];
    } else {
      std::vector<double> square(static_cast<std::size_t>(n * columns)), p(square.size());
      const std::vector<double> w = by_columns(theta, 1);
      std::vector<double> sum(w.size());
      fused_pass(
          *x_, intercept_, {w.data(), q, columns},
          [&](index begin, index count, index, double* z, index ldz) {
            for (index f = 0; f < folds_; ++f)
              kernels::evaluate_softmax(panel(f, begin, count, z + f * width_ * ldz, ldz),
                                        targets(begin), p.data() + place(f, begin), nullptr);
            for (index c = 0; c < columns; ++c)
              for (index i = 0; i < count; ++i) {
                // |p − y| + 2 min(p, 1 − p) is at least p (1 − y) + y (1 − p).
                const double share = p[c * n + begin + i];
                const double rounded = soft_ ? 2.0 * std::min(share, 1.0 - share) : 0.0;
                const double s = std::abs(z[c * ldz + i]) + weight(c / width_, begin + i) * rounded;
                square[c * n + begin + i] = static_cast<double>(n) * s * s;
              }
          },
          {sum.data(), q, columns}, n_threads_);
      weighted_squares(*x_, intercept_, {square.data(), n, columns}, {terms.data(), q, columns},
                       n_threads_);
      for (double& term : terms) term = std::sqrt(term);
    }
    transpose(terms.data(), 1, out.data());
    return out;
  }

  /// τ_j = Σ_i w_i x_ij² Σ_a p_ia (1 − p_ia) / (K − 1), the mean of H's Rayleigh quotients over the
  /// entries of row j of W that sum to zero.
  std::vector<double> null_curvature(const data_state& at, bool all) const override {
    const index n = rows(), q = order();
    const std::vector<double> d = diagonals(at);
    std::vector<double> sum(static_cast<std::size_t>(n * folds_));
    for (index c = 0; c < folds_ * width_; ++c)
      for (index i = 0; i < n; ++i)
        sum[c / width_ * n + i] += d[c * n + i] / static_cast<double>(width_ - 1);
    std::vector<double> out(static_cast<std::size_t>(q * folds_));
    if (all) {
      weighted_squares(*x_, intercept_, {sum.data(), n, folds_}, {out.data(), q, folds_},
                       n_threads_);
    } else if (intercept_) {
      for (index f = 0; f < folds_; ++f)
        for (index i = 0; i < n; ++i) out[f * q + q - 1] += sum[f * n + i];
    }
    return out;
  }

  std::unique_ptr<BoundedRows> loss_rows(const data_state& at, const double* theta) const override {
    if (!squares_) return nullptr;
    return make_class_rows({*x_, *squares_, y_, at.margins, "softmax", intercept_, n_threads_},
                           width_, theta);
  }

  std::unique_ptr<HessianSketch> sketch(const data_state& at, index sampled,
                                        std::uint64_t seed) const override {
    const std::vector<double> d = mean_over_folds(diagonals(at), rows() * width_);
    return std::make_unique<class_sketch>(x_, intercept_, const_block{d.data(), rows(), width_},
                                          sampled, seed, n_threads_);
  }

  std::vector<double> mean_squares(const data_state& at) const override {
    std::vector<double> of_folds(static_cast<std::size_t>(size() * folds_));
    squares(at, of_folds.data());
    return mean_over_folds(std::move(of_folds), size());
  }

 private:
  index order() const { return features_ + (intercept_ ? 1 : 0); }  // rows of W

  kernels::class_targets targets(index begin) const {
    return {y_.data() + begin * (soft_ ? width_ : 1), soft_};
  }
  kernels::class_rows panel(index fold, index begin, index count, double* z, index ldz) const {
    return {count, width_, z, ldz, rows(), weights(fold, begin), even()};
  }
  /// Where the probabilities of a fold begin, from that row on.
  index place(index fold, index begin) const { return fold * width_ * rows() + begin; }

  /// w_i p_ia (1 − p_ia), rows × classes, fold after fold.
  std::vector<double> diagonals(const data_state& at) const {
    std::vector<double> d(at.curvature.size());
    for (index f = 0; f < folds_; ++f)
      kernels::softmax_diagonal(panel(f, 0, rows(), d.data() + place(f, 0), rows()),
                                at.curvature.data() + place(f, 0));
    return d;
  }

  /// The mean of the `folds` parts of d, each of that length.
  std::vector<double> mean_over_folds(std::vector<double> d, index length) const {
    for (index f = 1; f < folds_; ++f)
      for (index i = 0; i < length; ++i) d[i] += d[f * length + i];
    d.resize(static_cast<std::size_t>(length));
    if (folds_ > 1)
      for (double& each : d) each *= share();
    return d;
  }

  /// From W by rows, as θ holds it, to W by columns, as passes over X take it; for k θs.
  std::vector<double> by_columns(const double* theta, index k) const {
    const index q = order();
    std::vector<double> out(static_cast<std::size_t>(k * folds_ * size()));
    for (index m = 0; m < k * folds_; ++m)
      for (index j = 0; j < q; ++j)
        for (index a = 0; a < width_; ++a)
          out[m * size() + a * q + j] = theta[m * size() + j * width_ + a];
    return out;
  }

  void transpose(const double* columns, index k, double* theta) const {
    const index q = order();
    for (index m = 0; m < k * folds_; ++m)
      for (index j = 0; j < q; ++j)
        for (index a = 0; a < width_; ++a)
          theta[m * size() + j * width_ + a] = columns[m * size() + a * q + j];
  }

  /// Back, and the mean over classes off.
  void by_rows(const double* columns, index k, double* theta) const {
    transpose(columns, k, theta);
    centre_classes(width_, {theta, k * folds_ * size(), 1});
  }

  std::vector<double> y_;
  bool soft_ = false;  // whether y holds distributions, row after row
};

}  // namespace

std::shared_ptr<const DataTerm> make_softmax_term(std::shared_ptr<const Matrix> x,
                                                  std::vector<double> y, index classes,
                                                  std::vector<double> weights, bool intercept,
                                                  int n_threads) {
  return std::make_shared<softmax_term>(std::move(x), std::move(y), classes, std::move(weights),
                                        intercept, n_threads);
}

std::shared_ptr<const DataTerm> make_softmax_term(
    std::shared_ptr<const Matrix> x, std::shared_ptr<const std::vector<double>> squares,
    std::vector<double> y, index classes, std::vector<double> coefficients, bool intercept,
    int n_threads) {
  return std::make_shared<softmax_term>(std::move(x), std::move(y), classes,
                                        std::move(coefficients), intercept, n_threads,
                                        std::move(squares));
}

}  // namespace implicitgrad
