// Linear models against their definition, written out in extended precision.
#include <doctest/doctest.h>

#include <stdexcept>

#include "linear_model_cases.hpp"

namespace implicitgrad::testing {

namespace {

template <class T>
void check_against_definition(const stored_matrix<T>& x) {
  for (const problem& f : problems(x)) {
    CAPTURE(f.name);
    const definition want(f, x);
    const auto at = linearize(f, x);
    const index n = x.rows, size = static_cast<index>(f.theta.size()), m = f.groups();
    const index terms = 4 * (n + size) + 64;

    rounding_check value;
    value.add(at->fun(), want.fun, want.fun_scale, terms);
    for (index j = 0; j < size; ++j) value.add(at->jac()[j], want.jac[j], want.jac_scale[j], terms);
    CHECK(value.worst() <= 1.0);
    CHECK(static_cast<index>(at->jac_lam().size()) == m);
    rounding_check lam;
    for (index l = 0; l < m; ++l)
      lam.add(at->jac_lam()[l], want.jac_lam[l], want.jac_lam[l], size + 8);
    CHECK(lam.worst() <= 1.0);

    // Hessian: as products, as its diagonal, and densely.
    const Operator& hess = at->hess();
    CHECK(hess.size() == size);
    CHECK(hess.dense_products() == 0);
    random_source random(62);
    rounding_check products, diagonal, dense;
    for (const index k : {1, 2, 3}) {
      const std::vector<double> v = random.vector(size * k);
      std::vector<double> out(v.size(), nan);
      hess.apply(as_block(v, size), as_block(out, size));
      for (index c = 0; c < k; ++c)
        for (index j = 0; j < size; ++j) {
          real sum = 0, scale = 0;
          for (index l = 0; l < size; ++l) {
            sum += want.hess[j * size + l] * v[c * size + l];
            scale += want.hess_scale[j * size + l] * std::abs(v[c * size + l]);
          }
          products.add(out[c * size + j], sum, scale, terms);
        }
    }
    CHECK(products.worst() <= 1.0);
    std::vector<double> entries(size * size), diag(size, nan);
    CHECK(hess.diagonal(diag.data()));
    hess.dense(entries.data());
    for (index j = 0; j < size; ++j) {
      diagonal.add(diag[j], want.hess[j * size + j], want.hess_scale[j * size + j], terms);
      for (index i = j; i < size; ++i)
        dense.add(entries[j * size + i], want.hess[j * size + i], want.hess_scale[j * size + i],
                  terms);
    }
    CHECK(diagonal.worst() <= 1.0);
    CHECK(dense.worst() <= 1.0);

    // C and Cᵀ; the intercept's row of C is zero.
    rounding_check cross;
    for (const index k : {1, 3}) {
      const std::vector<double> u = random.vector(m * k), q = random.vector(size * k);
      std::vector<double> cu(size * k, nan), ctq(m * k, nan);
      at->cross({u.data(), m, k}, {cu.data(), size, k});
      at->cross_transpose({q.data(), size, k}, {ctq.data(), m, k});
      for (index c = 0; c < k; ++c) {
        for (index j = 0; j < size; ++j) {
          real sum = 0;
          for (index l = 0; l < m; ++l) sum += want.cross[l * size + j] * u[c * m + l];
          cross.add(cu[c * size + j], sum, std::abs(sum), 8);
        }
        for (index l = 0; l < m; ++l) {
          real sum = 0, scale = 0;
          for (index j = 0; j < size; ++j) {
            sum += want.cross[l * size + j] * q[c * size + j];
            scale += std::abs(want.cross[l * size + j] * q[c * size + j]);
          }
          cross.add(ctq[c * m + l], sum, scale, size + 8);
        }
      }
    }
    CHECK(cross.worst() <= 1.0);
    const std::vector<double> q = random.vector(size);
    real scale = 0;
    for (index l = 0; l < m; ++l) {
      real sum = 0;
      for (index j = 0; j < size; ++j) sum += std::abs(want.cross[l * size + j] * q[j]);
      scale += sum * sum;
    }
    CHECK(at->cross_scale(q.data()) ==
          doctest::Approx(static_cast<double>(std::sqrt(scale))).epsilon(1e-12));
  }
}

}  // namespace

TEST_CASE("value, derivatives and operators against the definition") {
  SUBCASE("float64, row-major") {
    check_against_definition(stored_matrix<double>(61, 7, layout::row_major, 0, 63));
  }
  SUBCASE("float64, column-major") {
    check_against_definition(stored_matrix<double>(61, 7, layout::column_major, 2, 64));
  }
  SUBCASE("float32, row-major") {
    check_against_definition(stored_matrix<float>(37, 13, layout::row_major, 1, 65));
  }
  SUBCASE("float32, column-major") {
    check_against_definition(stored_matrix<float>(37, 13, layout::column_major, 0, 66));
  }
  SUBCASE("more columns than rows") {
    check_against_definition(stored_matrix<double>(5, 23, layout::row_major, 0, 67));
  }
  SUBCASE("one entry") {
    check_against_definition(stored_matrix<double>(1, 1, layout::row_major, 0, 68));
  }
}

TEST_CASE("derivatives match differences of the value and the gradient") {
  const stored_matrix<double> x(61, 7, layout::row_major, 0, 71);
  for (const problem& f : problems(x)) {
    CAPTURE(f.name);
    const auto at = linearize(f, x);
    const index size = static_cast<index>(f.theta.size());
    const double h = 1e-5;
    std::vector<double> hess(size * size);
    at->hess().dense(hess.data());
    double worst = 0.0;
    for (index j = 0; j < size; ++j) {
      problem up = f, down = f;
      up.theta[j] += h, down.theta[j] -= h;
      const auto above = linearize(up, x), below = linearize(down, x);
      worst = std::max(worst, std::abs((above->fun() - below->fun()) / (2 * h) - at->jac()[j]));
      for (index i = j; i < size; ++i)
        worst = std::max(
            worst, std::abs((above->jac()[i] - below->jac()[i]) / (2 * h) - hess[j * size + i]));
    }
    for (index l = 0; l < f.groups(); ++l) {
      problem up = f, down = f;
      up.lam[l] += h, down.lam[l] -= h;
      const auto above = linearize(up, x), below = linearize(down, x);
      std::vector<double> u(static_cast<std::size_t>(f.groups())), column(f.theta.size());
      u[l] = 1.0;
      at->cross({u.data(), f.groups(), 1}, as_block(column, size));
      worst = std::max(worst, std::abs((above->fun() - below->fun()) / (2 * h) - at->jac_lam()[l]));
      for (index j = 0; j < size; ++j)
        worst =
            std::max(worst, std::abs((above->jac()[j] - below->jac()[j]) / (2 * h) - column[j]));
    }
    CHECK(worst <= 1e-7);
  }
}

TEST_CASE("a weight of k is k copies of the row, a weight of zero is no row") {
  const stored_matrix<double> x(4, 3, layout::row_major, 0, 72);
  stored_matrix<double> copies(6, 3, layout::row_major, 0, 72);
  const index row[] = {0, 0, 0, 1, 3, 3};
  problem f = problems(x)[20];
  f.intercept = false, f.theta.resize(3), f.weights = {3.0, 1.0, 0.0, 2.0};
  problem g = f;
  g.weights.clear(), g.y.clear();
  for (index i = 0; i < 6; ++i) {
    g.y.push_back(f.y[row[i]]);
    for (index j = 0; j < 3; ++j) copies.at(i, j) = x.at(row[i], j);
  }
  const auto a = linearize(f, x), b = linearize(g, copies);
  CHECK(a->fun() == doctest::Approx(b->fun()).epsilon(1e-14));
  CHECK(largest_difference(a->jac(), b->jac()) <= 1e-14);
  std::vector<double> left(9), right(9);
  a->hess().dense(left.data()), b->hess().dense(right.data());
  for (index j = 0; j < 3; ++j)
    for (index i = j; i < 3; ++i) CHECK(std::abs(left[j * 3 + i] - right[j * 3 + i]) <= 1e-14);
}

TEST_CASE("the same bits at any number of threads") {
  for (const layout order : {layout::row_major, layout::column_major}) {
    const stored_matrix<double> x(20011, 31, order, 0, 73);
    for (const problem& f : problems(x)) {
      if (f.groups() != 31) continue;
      CAPTURE(f.name);
      const auto one = linearize(f, x, 1);
      const index size = static_cast<index>(f.theta.size());
      random_source random(74);
      const std::vector<double> v = random.vector(2 * size);
      std::vector<double> product(v.size()), again(v.size());
      one->hess().apply(as_block(v, size), as_block(product, size));
      for (const int threads : {2, 3}) {
        const auto many = linearize(f, x, threads);
        CHECK(many->fun() == one->fun());
        CHECK(same_bits(many->jac(), one->jac()));
        many->hess().apply(as_block(v, size), as_block(again, size));
        CHECK(same_bits(product, again));
      }
    }
  }
}

TEST_CASE("a linearisation keeps its model alive") {
  const stored_matrix<double> x(10, 2, layout::row_major, 0, 75);
  std::shared_ptr<const Linearization> at;
  {
    const auto model = make_linear_model(std::make_shared<dense_matrix<double>>(x.view()),
                                         std::vector<double>(10, 1.0), std::vector<double>{},
                                         "squared", penalty{}, false, 1);
    const double theta[] = {1.0, 2.0};
    at = model->linearize(theta, nullptr);
  }
  std::vector<double> v{1.0, 1.0}, out(2);
  at->hess().apply(as_block(v, 2), as_block(out, 2));
  CHECK(out[0] > 0.0);
}

TEST_CASE("saturated margins: finite values, exact curvature") {
  const stored_matrix<double> x(50, 3, layout::row_major, 0, 76);
  problem f = problems(x)[16];  // logistic, no intercept, no weights, no penalty
  REQUIRE(f.name == "logistic, penalty none");
  for (double& t : f.theta) t *= 1e6;
  const auto at = linearize(f, x);
  CHECK(std::isfinite(at->fun()));
  std::vector<double> hess(9);
  at->hess().dense(hess.data());
  for (const double h : hess) CHECK(std::isfinite(h));
}

TEST_CASE("bad arguments are refused by name") {
  const stored_matrix<double> x(4, 3, layout::row_major, 0, 77);
  const auto make = [&](std::vector<double> y, std::vector<double> weights, std::string loss,
                        penalty pen, int threads) {
    return make_linear_model(std::make_shared<dense_matrix<double>>(x.view()), std::move(y),
                             std::move(weights), std::move(loss), std::move(pen), false, threads);
  };
  const std::vector<double> y(4, 1.0), none;
  using wrong = std::invalid_argument;
  CHECK_NOTHROW(make(y, none, "squared", {}, 1));
  CHECK_THROWS_AS(make({1.0}, none, "squared", {}, 1), wrong);
  CHECK_THROWS_AS(make(y, {1.0}, "squared", {}, 1), wrong);
  CHECK_THROWS_AS(make(y, {0.0, 0.0, 0.0, 0.0}, "squared", {}, 1), wrong);
  CHECK_THROWS_AS(make(y, {nan, 1.0, 1.0, 1.0}, "squared", {}, 1), wrong);
  CHECK_THROWS_AS(make(y, none, "hinge", {}, 1), wrong);
  CHECK_THROWS_AS(make(y, none, "squared", {-1.0, 0, {}}, 1), wrong);
  CHECK_THROWS_AS(make(y, none, "squared", {nan, 0, {}}, 1), wrong);
  CHECK_THROWS_AS(make(y, none, "squared", {0.0, 2, {}}, 1), wrong);
  CHECK_THROWS_AS(make(y, none, "squared", {0.0, 2, {0, 1}}, 1), wrong);
  CHECK_THROWS_AS(make(y, none, "squared", {0.0, 2, {0, 1, 2}}, 1), wrong);
  CHECK_THROWS_AS(make(y, none, "squared", {0.0, 2, {0, -1, 1}}, 1), wrong);
  CHECK_THROWS_AS(make(y, none, "squared", {}, 0), wrong);

  const auto model = make(y, none, "squared", {0.0, 1, {0, 0, 0}}, 1);
  const double theta[] = {1.0, 1.0, 1.0};
  for (const double lam : {710.0, -750.0, nan, inf, -inf})
    CHECK_THROWS_AS(model->linearize(theta, &lam), wrong);
  for (const double lam : {709.0, -700.0}) CHECK_NOTHROW(model->linearize(theta, &lam));
}

}  // namespace implicitgrad::testing
