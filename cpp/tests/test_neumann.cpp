// The Neumann series against its partial sums, and what it says where it does not converge.
#include <doctest/doctest.h>

#include "implicitgrad/solvers/neumann.hpp"
#include "solving.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

solution solve(const Operator& a, const std::vector<double>& b, double alpha, index terms,
               solve_options options = {{1e-10}, 10000, {}}) {
  solution s{std::vector<double>(b.size(), nan), {}};
  s.report =
      neumann<host_space>(a, as_block(b, a.size()), as_block(s.x, a.size()), alpha, terms, options);
  return s;
}

/// α Σ_{j<K} (I − αA)^j b
std::vector<double> partial_sum(const dense_operator& a, const std::vector<double>& b, double alpha,
                                index terms) {
  const index n = a.size();
  std::vector<long double> v(b.begin(), b.end()), x(b.size());
  for (index j = 0; j < terms; ++j) {
    std::vector<long double> next = v;
    for (index r = 0; r < n; ++r) {
      x[r] += alpha * v[r];
      for (index c = 0; c < n; ++c) next[r] -= static_cast<long double>(alpha) * a(r, c) * v[c];
    }
    v = next;
  }
  return {x.begin(), x.end()};
}

const dense_operator three(3, {5.0, 1.0, 1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 3.0});

}  // namespace

TEST_CASE("a fixed number of terms is the partial sum") {
  for (const index terms : {1, 2, 3, 10, 57}) {
    const std::vector<double> b{1.0, -2.0, 0.5};
    const solution s = solve(three, b, 0.25, terms);
    CAPTURE(terms);
    CHECK(largest_difference(s.x, partial_sum(three, b, 0.25, terms)) <= 1e-14);
    CHECK(s.report.iterations == terms);
    CHECK(s.report.products == terms);  // terms − 1, and one for the true residual
    CHECK(s.report.residual[0] ==
          doctest::Approx(three.residual(b.data(), s.x.data())).epsilon(1e-9));
    CHECK(s.report.status == solve_status::converged);
  }
}

TEST_CASE("by tolerance, the true residual is within it") {
  random_source random(1);
  for (const double condition : {1.0, 10.0, 300.0})
    for (const double rtol : {0.5, 1e-3, 1e-8, 1e-13, 1e-15}) {
      CAPTURE(condition);
      CAPTURE(rtol);
      const dense_operator a =
          dense_operator::with_spectrum(log_spaced(1.0, condition, 20), random.bits());
      const std::vector<double> b = random.vector(20);
      const solution s = solve(a, b, 1.0 / condition, 0, {{rtol}, 100000, {}});
      const double exact = a.residual(b.data(), s.x.data());
      CHECK(std::abs(s.report.residual[0] - exact) <= 1e-13 * condition);
      CHECK((s.report.status == solve_status::converged) == (s.report.residual[0] <= rtol));
      if (rtol >= 1e-15 * condition * 100) CHECK(s.report.status == solve_status::converged);
    }
}

TEST_CASE("the textbook case: a step of 1 diverges, 0.3 converges slowly") {
  for (index c = 0; c < 3; ++c) {
    std::vector<double> b(3);
    b[c] = 1.0;
    // Columns of the inverse: cofactors over the determinant 50.
    const double cofactors[3][3] = {{11, -2, -3}, {-2, 14, -4}, {-3, -4, 19}};
    const std::vector<double> inverse{cofactors[c][0] / 50, cofactors[c][1] / 50,
                                      cofactors[c][2] / 50};
    CHECK(solve(three, b, 1.0, 1000).report.status == solve_status::diverged);
    CHECK(solve(three, b, 1.0, 0).report.status == solve_status::diverged);
    const solution slow = solve(three, b, 0.3, 100);
    CHECK(slow.report.status == solve_status::converged);
    CHECK(largest_difference(slow.x, inverse) <= 1e-3 * 0.06 + 1e-5);
    const solution few = solve(three, b, 0.3, 20);
    CHECK(largest_difference(few.x, inverse) > 1e-4);
    CHECK(few.report.residual[0] > 1e-3);
  }
}

TEST_CASE("negative curvature is told from a step that is too long") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 0.7, -0.3});
  for (const index terms : {0, 100}) {
    const solution s = solve(a, {1.0, 1.0, 1.0}, 0.5, terms);
    CHECK(s.report.status == solve_status::negative_curvature);
    CHECK(s.report.curvature_min < 0.0);
  }
  CHECK(solve(dense_operator::diagonal_matrix({1.0, 10.0}), {1.0, 1.0}, 0.5, 0).report.status ==
        solve_status::diverged);
}

TEST_CASE("divergence may go on for long without overflowing into NaN") {
  const solution s = solve(three, {1.0, 1.0, 1.0}, 1.0, 100000);
  CHECK(s.report.status == solve_status::diverged);
  CHECK(std::isfinite(s.x[0]));
}

TEST_CASE("zero, NaN and infinity") {
  const solution zero = solve(three, {0.0, 0.0, 0.0}, 0.1, 0);
  CHECK(zero.report.status == solve_status::converged);
  CHECK(zero.report.iterations == 0);
  CHECK(zero.x == std::vector<double>(3));
  for (const double bad : {nan, inf}) {
    CHECK(solve(three, {bad, 1.0, 1.0}, 0.1, 0).report.status == solve_status::non_finite);
    const dense_operator broken = dense_operator::diagonal_matrix({1.0, bad});
    for (const index terms : {0, 5}) {
      const solution s = solve(broken, {1.0, 1.0}, 0.1, terms);
      CHECK(s.report.status == solve_status::non_finite);
      CHECK(std::isfinite(s.x[0]));
    }
  }
}

TEST_CASE("blocks, limits, monitors") {
  random_source random(2);
  const std::vector<double> b = random.vector(9);
  const solution together = solve(three, b, 0.2, 12);
  for (index c = 0; c < 3; ++c) {
    const std::vector<double> rhs(b.begin() + 3 * c, b.begin() + 3 * c + 3);
    const solution alone = solve(three, rhs, 0.2, 12);
    CHECK(same_bits(alone.x, {together.x.begin() + 3 * c, together.x.begin() + 3 * c + 3}));
  }
  CHECK(together.report.products == 3 * 12);

  const std::vector<double> rhs(b.begin(), b.begin() + 3);
  const solution limited = solve(three, rhs, 0.01, 0, {{1e-12}, 7, {}});
  CHECK(limited.report.status == solve_status::iteration_limit);
  CHECK(limited.report.iterations == 7);

  std::vector<index> seen;
  const solution stopped =
      solve(three, rhs, 0.1, 0, {{1e-12}, 100, [&](index i, double, const double*) {
                                   seen.push_back(i);
                                   return i == 4;
                                 }});
  CHECK(stopped.report.status == solve_status::stopped);
  CHECK(seen == std::vector<index>{1, 2, 3, 4});
  CHECK(largest_difference(stopped.x, partial_sum(three, rhs, 0.1, 4)) <= 1e-14);
}

TEST_CASE("scaling b by a power of two scales x bit for bit") {
  const std::vector<double> b{0.3, -1.7, 2.2};
  for (const int exponent : {40, -40}) {
    std::vector<double> scaled = b;
    for (double& x : scaled) x = std::ldexp(x, exponent);
    solution one = solve(three, b, 0.2, 0);
    for (double& x : one.x) x = std::ldexp(x, exponent);
    CHECK(same_bits(one.x, solve(three, scaled, 0.2, 0).x));
  }
}

}  // namespace implicitgrad::testing
