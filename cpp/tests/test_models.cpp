// Several models at once against each of them alone: folds and targets, on rows and in Gram form.
#include <doctest/doctest.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "implicitgrad/linear_model.hpp"
#include "implicitgrad/solvers/cholesky.hpp"
#include "implicitgrad/trainers/newton.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

struct several {
  static constexpr index n = 157, p = 5, folds = 3;
  index targets;
  std::string loss;
  bool intercept;
  stored_matrix<double> x;
  std::vector<double> y, weights;  // n × targets, n × folds
  penalty pen{0.1, 2, {0, 1, 0, 1, 1}};
  std::vector<double> lam{-1.0, 0.5};

  several(index t, std::string name, bool b, layout order)
      : targets(t), loss(std::move(name)), intercept(b), x(n, p, order, 1, 31) {
    random_source random(32);
    y = random.vector(n * t);
    if (loss == "logistic")
      for (double& value : y) value = value < 0 ? -1.0 : 1.0;
    for (index f = 0; f < folds; ++f)
      for (index i = 0; i < n; ++i) weights.push_back(i % folds == f ? 0.0 : 0.5 + random.unit());
  }

  index size() const { return p + (intercept ? 1 : 0); }
  index models() const { return folds * targets; }
  std::shared_ptr<const Matrix> matrix() const {
    return std::make_shared<dense_matrix<double>>(x.view());
  }
  std::vector<double> target(index t) const { return {y.begin() + t * n, y.begin() + (t + 1) * n}; }
  std::vector<double> weights_of(index f) const {
    return {weights.begin() + f * n, weights.begin() + (f + 1) * n};
  }

  std::shared_ptr<linear_model> together(int threads = 1) const {
    return make_linear_model(matrix(), y, weights, loss, pen, intercept, threads);
  }
  std::shared_ptr<linear_model> alone(index c) const {
    return make_linear_model(matrix(), target(c % targets), weights_of(c / targets), loss, pen,
                             intercept, 1);
  }
  std::shared_ptr<linear_model> as_grams(index target = -1, int threads = 1) const {
    std::vector<std::shared_ptr<const gram_sums>> sums;
    for (index f = 0; f < folds; ++f)
      sums.push_back(std::make_shared<const gram_sums>(sum_gram(
          matrix(), intercept, y, weights_of(f), {},
          intercept ? std::vector<double>(targets, 0.25) : std::vector<double>{}, threads)));
    return std::make_shared<linear_model>(make_gram_term(std::move(sums), target, threads), pen);
  }
};

std::shared_ptr<const linear_model_linearization> at(const std::shared_ptr<linear_model>& f,
                                                     const std::vector<double>& theta,
                                                     const std::vector<double>& lam) {
  return std::static_pointer_cast<const linear_model_linearization>(
      f->linearize(theta.data(), lam.data()));
}

void check_close(const double* got, const double* want, index size, double share) {
  double largest = 0.0;
  for (index i = 0; i < size; ++i) largest = std::max(largest, std::abs(want[i]));
  for (index i = 0; i < size; ++i) CHECK(std::abs(got[i] - share * want[i]) <= 1e-13 * largest);
}

/// Everything of `f` at theta, model by model.
void check_models(const several& s, const std::shared_ptr<linear_model>& f, index first,
                  index count) {
  random_source random(33);
  const index size = s.size(), all = count * size;
  REQUIRE(f->n_theta() == all);
  const std::vector<double> theta = random.vector(all), v = random.vector(2 * all);
  const auto here = at(f, theta, s.lam);
  const double share = 1.0 / several::folds;
  double fun = 0.0;
  std::vector<double> jac_lam(2), diagonal(all), product(v.size()), pulled(4);
  std::vector<double> blocks(several::folds * size * size);
  here->hess().apply(as_block(v, all), as_block(product, all));
  REQUIRE(here->hess().diagonal(diagonal.data()));
  here->hess().dense(blocks.data());
  here->cross_transpose(as_block(v, all), as_block(pulled, 2));
  std::vector<double> want_pulled(4);
  for (index c = 0; c < count; ++c) {
    const index model = count == s.models() ? c : c * s.targets + first;
    const std::vector<double> own(theta.begin() + c * size, theta.begin() + (c + 1) * size);
    const auto one = at(s.alone(model), own, s.lam);
    fun += share * one->fun();
    check_close(here->jac().data() + c * size, one->jac().data(), size, share);
    for (index l = 0; l < 2; ++l) jac_lam[l] += share * one->jac_lam()[l];
    std::vector<double> out(size), in(size), dense(size * size), squares(size), u(2);
    for (index column = 0; column < 2; ++column) {
      std::copy_n(v.data() + column * all + c * size, size, in.data());
      one->hess().apply(as_block(in, size), as_block(out, size));
      check_close(product.data() + column * all + c * size, out.data(), size, share);
      one->cross_transpose(as_block(in, size), as_block(u, 2));
      for (index l = 0; l < 2; ++l) want_pulled[column * 2 + l] += share * u[l];
    }
    one->hess().diagonal(squares.data());
    check_close(diagonal.data() + c * size, squares.data(), size, share);
    one->hess().dense(dense.data());
    const index block = count == s.models() ? c / s.targets : c;
    for (index j = 0; j < size; ++j)
      check_close(blocks.data() + (block * size + j) * size + j, dense.data() + j * size + j,
                  size - j, share);
  }
  CHECK(std::abs(here->fun() - fun) <= 1e-13 * fun);
  check_close(here->jac_lam().data(), jac_lam.data(), 2, 1.0);
  check_close(pulled.data(), want_pulled.data(), 4, 1.0);

  // The factor inverts all blocks at once.
  std::vector<double> back(v.size());
  here->hess().factor()->apply(as_block(product, all), as_block(back, all));
  for (std::size_t i = 0; i < v.size(); ++i) CHECK(std::abs(back[i] - v[i]) <= 1e-11);
}

}  // namespace

TEST_CASE("several models at once are each of them alone") {
  for (const layout order : {layout::row_major, layout::column_major})
    for (const bool intercept : {false, true}) {
      CAPTURE(intercept);
      for (const index targets : {index{1}, index{4}}) {
        const several s(targets, "squared", intercept, order);
        check_models(s, s.together(), 0, s.models());
        check_models(s, s.as_grams(), 0, s.models());
        check_models(s, s.as_grams(targets - 1), targets - 1, several::folds);
      }
      const several s(1, "logistic", intercept, order);
      check_models(s, s.together(), 0, s.models());
    }
}

TEST_CASE("several models have the same bits at any number of threads") {
  const several s(2, "squared", true, layout::row_major);
  random_source random(34);
  const std::vector<double> theta = random.vector(s.models() * s.size());
  const auto rows = at(s.together(1), theta, s.lam), grams = at(s.as_grams(-1, 1), theta, s.lam);
  for (const int threads : {2, 3}) {
    CHECK(same_bits(rows->jac(), at(s.together(threads), theta, s.lam)->jac()));
    CHECK(same_bits(grams->jac(), at(s.as_grams(-1, threads), theta, s.lam)->jac()));
  }
}

TEST_CASE("training several models at once trains each of them") {
  for (const std::string loss : {"squared", "logistic"}) {
    const several s(1, loss, true, layout::row_major);
    for (const train_method method : {train_method::direct, train_method::krylov}) {
      std::vector<double> theta(s.models() * s.size());
      const auto f = s.together(2);
      REQUIRE(newton(*f, theta.data(), s.lam.data(), {0.0, 100, method}).status ==
              train_status::converged);
      for (index c = 0; c < s.models(); ++c) {
        std::vector<double> one(s.size());
        newton(*s.alone(c), one.data(), s.lam.data(), {0.0, 100, train_method::direct});
        for (index j = 0; j < s.size(); ++j)
          CHECK(std::abs(theta[c * s.size() + j] - one[j]) <= 1e-9);
      }
    }
  }
}

TEST_CASE("sums of rows: of some, and of the others by subtraction") {
  const several s(2, "squared", true, layout::row_major);
  std::vector<index> some, others;
  for (index i = 0; i < several::n; ++i) (i % 4 == 1 ? some : others).push_back(i);
  const std::vector<double> w = s.weights_of(1);
  const auto of = [&](const std::vector<index>& rows) {
    return sum_gram(s.matrix(), true, s.y, w, rows, {}, 2);
  };
  const gram_sums want = of(others), got = subtract(of({}), of(some));
  CHECK(got.rows == want.rows);
  CHECK(std::abs(got.weight - want.weight) <= 1e-12);
  const auto close = [](const std::vector<double>& a, const std::vector<double>& b) {
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) <= 1e-12);
  };
  close(got.gram, want.gram), close(got.cross, want.cross), close(got.squares, want.squares);
  CHECK_THROWS_AS(subtract(of(some), of({})), std::invalid_argument);
  CHECK_THROWS_AS(of({3, 2}), std::invalid_argument);
  CHECK_THROWS_AS(of({several::n}), std::invalid_argument);
}

TEST_CASE("the factor is kept while neither D nor the strengths change") {
  const several s(1, "squared", false, layout::row_major);
  const auto f = s.as_grams();
  const std::vector<double> theta(s.models() * s.size()), other(theta.size(), 1.0);
  const auto factor = at(f, theta, s.lam)->hess().factor();
  CHECK(at(f, other, s.lam)->hess().factor() == factor);
  CHECK(at(f, other, {0.0, 0.0})->hess().factor() != factor);
}

TEST_CASE("a second linearisation at one θ makes no pass, and has the same bits as one that does") {
  const several s(1, "logistic", true, layout::row_major);
  const auto f = s.together(2), fresh = s.together(2);
  random_source random(35);
  const std::vector<double> theta = random.vector(s.models() * s.size()), other(theta.size(), 0.5);
  const auto first = at(f, theta, s.lam);
  const std::vector<double> lam{0.0, -2.0};
  f->glance(other.data(), lam.data());  // leaves what is remembered alone
  const auto second = at(f, theta, lam), want = at(fresh, theta, lam);
  CHECK(second->curvature_id() == first->curvature_id());
  CHECK(same_bits(second->jac(), want->jac()));
  CHECK(second->fun() == want->fun());
  CHECK(at(f, other, lam)->curvature_id() != first->curvature_id());
}

}  // namespace implicitgrad::testing
