// Maps from λ to the rows, their Jacobians against differences and their bounds; and the rows of a
// linear model against their definition.
#include <doctest/doctest.h>

#include <stdexcept>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/hyper_blocks.hpp"
#include "implicitgrad/loss_rows.hpp"
#include "implicitgrad/losses.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

const std::vector<index> slots{2, 0, -1, 1, 2, 2};
const std::vector<double> at{-1.3, 0.4, 2.0};

double norm(const std::vector<double>& v) {
  double sum = 0.0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

std::vector<double> rows_at(const row_map& map, const std::vector<double>& lam) {
  std::vector<double> rows(slots.size(), 7.0);
  row_map::point(map, lam.data()).set(rows.data());
  return rows;
}

}  // namespace

TEST_CASE("maps of rows: values, products with the Jacobian and its transpose, bounds") {
  for (const char* transform : {"identity", "sigmoid", "softplus", "exp", "softmax", "shares"}) {
    CAPTURE(transform);
    const row_map map(transform, 3, slots, 3);
    const row_map::point here(map, at.data());
    CHECK(rows_at(map, at)[2] == 7.0);  // not λ's

    const std::vector<double> u{0.3, -1.1, 0.7}, v{1.0, -2.0, 5.0, 0.5, 0.25, -1.5};
    std::vector<double> pushed(slots.size()), pulled(3);
    here.push(u.data(), pushed.data());
    here.pull(v.data(), pulled.data());
    constexpr double h = 1e-6;
    std::vector<double> up = at, down = at;
    for (std::size_t l = 0; l < 3; ++l) up[l] += h * u[l], down[l] -= h * u[l];
    const std::vector<double> above = rows_at(map, up), below = rows_at(map, down);
    double forward = 0.0, backward = 0.0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      CHECK(pushed[i] == doctest::Approx((above[i] - below[i]) / (2 * h)).epsilon(1e-8));
      forward += pushed[i] * v[i];
    }
    for (std::size_t l = 0; l < 3; ++l) backward += pulled[l] * u[l];
    CHECK(forward == doctest::Approx(backward).epsilon(1e-14));

    std::vector<double> scaled = here.gains();
    for (std::size_t i = 0; i < slots.size(); ++i) scaled[i] *= v[i];
    CHECK(norm(pulled) <= norm(scaled) * (1 + 1e-14));
  }
}

TEST_CASE("softmax weights have mean one, and none of them overflows") {
  const row_map map("softmax", 3, slots);
  const std::vector<double> far{900.0, 900.0 + std::log(2.0), 900.0};
  const std::vector<double> rows = rows_at(map, far);
  CHECK(rows[1] == doctest::Approx(0.75));
  CHECK(rows[3] == doctest::Approx(1.5));
}

TEST_CASE("shares of each run sum to one, whatever the others are") {
  const std::vector<double> lam{900.0, 900.0 + std::log(3.0), -5.0, -5.0};
  const row_map map("shares", 4, {2, 3, -1, -1, 0, 1}, 2);
  std::vector<double> shares(6, 7.0), pulled(4);
  const row_map::point here(map, lam.data());
  here.set(shares.data());
  const std::vector<double> want{0.5, 0.5, 7.0, 7.0, 0.25, 0.75};
  for (std::size_t i = 0; i < want.size(); ++i) CHECK(shares[i] == doctest::Approx(want[i]));
  const std::vector<double> v{3.0, 1.0, 5.0, 5.0, 2.0, 2.0};
  here.pull(v.data(), pulled.data());
  CHECK(pulled[0] == 0.0);  // a constant on the shares of a row
  CHECK(pulled[2] == doctest::Approx(0.5));
  CHECK(pulled[3] == doctest::Approx(-0.5));
}

TEST_CASE("rows of inputs may hold a row of λ twice, and need not hold all") {
  const input_rows map({4, 1, 7}, {2, 0, 2}, 3, 2);
  const std::vector<double> lam{1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, m{1.0, 10.0, 2.0, 20.0, 4.0, 40.0};
  std::vector<double> x(6), pulled(6), pushed(6);
  map.value(lam.data(), x.data());
  CHECK(x == std::vector<double>{5.0, 6.0, 1.0, 2.0, 5.0, 6.0});
  map.pull(lam.data(), m.data(), pulled.data());
  CHECK(pulled == std::vector<double>{2.0, 20.0, 0.0, 0.0, 5.0, 50.0});
  map.push(lam.data(), lam.data(), pushed.data());
  CHECK(pushed == x);
  CHECK(map.gain() == doctest::Approx(std::sqrt(2.0)));
  CHECK_THROWS_AS(input_rows({0}, {1}, 1, 2), std::invalid_argument);
  CHECK_THROWS_AS(input_rows({0, 1}, {0}, 1, 2), std::invalid_argument);
}

TEST_CASE("maps that do not fit are refused") {
  CHECK_THROWS_AS(row_map("shares", 3, slots, 2), std::invalid_argument);
  CHECK_THROWS_AS(row_map("relu", 3, slots), std::invalid_argument);
  CHECK_THROWS_AS(row_map("exp", 2, slots), std::invalid_argument);
}

TEST_CASE("rows of a linear model: sizes are bounds") {
  const index n = 4, p = 3;
  const std::vector<double> entries{1.0, -2.0, 0.5, 0.0, 3.0, 1.0, 2.0, 1.0, 1.0, -1.0, 0.25, 4.0};
  const dense_matrix<double> x(entries.data(), n, p, p, layout::row_major);
  const std::vector<double> theta{0.3, -0.2, 0.1, 0.4}, y{1.0, 0.0, 0.3, 0.8};
  std::vector<double> squares(4), margins(4, theta[3]);
  x.row_squares(0, n, squares.data());
  for (index i = 0; i < n; ++i)
    for (index j = 0; j < p; ++j) margins[i] += entries[i * p + j] * theta[j];
  const auto rows =
      make_margin_rows({x, squares, y, margins, "soft logistic", true, 2}, theta.data());

  const std::vector<double> q{1.0, 0.5, -0.3, 0.2}, d{-0.4, 0.1, 0.9, -1.0};
  std::vector<double> products(4), second(4);
  rows->products({q.data(), 4, 1}, {products.data(), n, 1});
  rows->second_products(d.data(), q.data(), second.data());
  const row_sizes sizes = rows->sizes();
  for (index i = 0; i < n; ++i) {
    const margin_terms t = soft_logistic_loss::at(margins[i], y[i]);
    double along_q = q[3], along_d = d[3];
    for (index j = 0; j < p; ++j) {
      along_q += entries[i * p + j] * q[j];
      along_d += entries[i * p + j] * d[j];
    }
    CHECK(products[i] == doctest::Approx(t.first * along_q).epsilon(1e-14));
    CHECK(second[i] == doctest::Approx(t.second * along_d * along_q).epsilon(1e-14));
    const double hess_q = t.second * along_q * along_q, hess_d = t.second * along_d * along_d;
    CHECK(std::abs(products[i]) <= sizes.size[i] * norm(q));
    CHECK(std::abs(products[i]) <= sizes.energy[i] * std::sqrt(hess_q) * (1 + 1e-14));
    CHECK(std::abs(second[i]) <= sizes.bend[i] * std::sqrt(hess_d) * norm(q));
    CHECK(std::abs(second[i]) <= sizes.rate[i] * norm(d) * norm(q));
  }
}

TEST_CASE("rows of a softmax model: sizes are bounds, of targets too") {
  const index n = 3, p = 2, k = 3;
  const std::vector<double> entries{1.0, -2.0, 0.5, 0.0, 3.0, 1.0};
  const dense_matrix<double> x(entries.data(), n, p, p, layout::row_major);
  const std::vector<double> theta{0.3, -0.2, 0.1, 0.4, 1.0, -0.5, 0.2, 0.0, 0.1};
  const std::vector<double> shares{0.2, 0.5, 0.3, 1.0, 0.0, 0.0, 0.05, 0.05, 0.9};
  std::vector<double> squares(3), margins(9);
  x.row_squares(0, n, squares.data());
  const auto row_margin = [&](const std::vector<double>& w, index i, index a) {
    return w[2 * k + a] + entries[i * p] * w[a] + entries[i * p + 1] * w[k + a];
  };
  for (index i = 0; i < n; ++i)
    for (index a = 0; a < k; ++a) margins[a * n + i] = row_margin(theta, i, a);
  const auto rows =
      make_class_rows({x, squares, shares, margins, "softmax", true, 1}, k, theta.data());
  const std::vector<double> q{1.0, 0.5, -0.3, 0.2, -0.4, 0.1, 0.9, -1.0, 0.6};
  std::vector<double> products(3), of_targets(9);
  rows->products({q.data(), 9, 1}, {products.data(), n, 1});
  rows->target_products({q.data(), 9, 1}, {of_targets.data(), 9, 1});
  const row_sizes sizes = rows->sizes(), target_sizes = rows->target_sizes();
  for (index i = 0; i < n; ++i) {
    double sum = 0.0, along = 0.0, mean = 0.0, energy = 0.0;
    for (index a = 0; a < k; ++a) sum += std::exp(margins[a * n + i]);
    const auto chance = [&](index a) { return std::exp(margins[a * n + i]) / sum; };
    for (index a = 0; a < k; ++a) {
      const double z = row_margin(q, i, a);
      along += (chance(a) - shares[i * k + a]) * z, mean += chance(a) * z;
      CHECK(of_targets[i * k + a] == doctest::Approx(-z).epsilon(1e-14));
      CHECK(std::abs(z) <= target_sizes.size[i * k + a] * norm(q));
    }
    for (index a = 0; a < k; ++a)
      energy += chance(a) * std::pow(row_margin(q, i, a) - mean, 2);  // qᵀ∇²ℓ q
    CHECK(products[i] == doctest::Approx(along).epsilon(1e-13));
    CHECK(std::abs(along) <= sizes.size[i] * norm(q));
    CHECK(std::abs(along) <= sizes.energy[i] * std::sqrt(energy));
    for (index a = 0; a < k; ++a)
      CHECK(std::abs(row_margin(q, i, a) - mean) <=
            target_sizes.energy[i * k + a] * std::sqrt(energy) * (1 + 1e-14));
  }
}

TEST_CASE("targets of some losses only may be hyperparameters") {
  const double one = 1.0;
  const dense_matrix<double> x(&one, 1, 1, 1, layout::row_major);
  const std::vector<double> values{1.0};
  const auto rows = make_margin_rows({x, values, values, values, "logistic", false, 1}, &one);
  double out = 0.0;
  CHECK_THROWS_AS(rows->target_slopes(&out), std::invalid_argument);
}

}  // namespace implicitgrad::testing
