// The Cholesky factor: solves, verdicts on matrices that have none, estimates of the spectrum.
#include <doctest/doctest.h>

#include <stdexcept>

#include "implicitgrad/solvers/cg.hpp"
#include "implicitgrad/solvers/cholesky.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

double worst_residual(const dense_operator& a, const std::vector<double>& b,
                      const std::vector<double>& x) {
  const index n = a.size();
  double worst = 0.0;
  for (index c = 0; c * n < static_cast<index>(b.size()); ++c)
    worst = std::max(worst, a.residual(b.data() + c * n, x.data() + c * n));
  return worst;
}

}  // namespace

TEST_CASE("by hand") {
  const dense_operator a(2, {4.0, 2.0, 2.0, 5.0});
  const cholesky_factor factor(a);
  CHECK(factor.size() == 2);
  CHECK(factor.verdict() == definiteness::positive);
  CHECK(same_bits(factor.matrix_diagonal(), {4.0, 5.0}));
  const std::vector<double> b{8.0, 12.0, 4.0, 2.0};  // solutions (1, 2) and (1, 0)
  std::vector<double> x(4);
  factor.apply(as_block(b, 2), as_block(x, 2));
  CHECK(largest_difference(x, {1.0, 2.0, 1.0, 0.0}) <= 1e-15);
}

TEST_CASE("positive definite matrices of all sizes and conditions") {
  random_source random(1);
  for (const index n : {1, 2, 3, 17, 64, 130})
    for (const double condition : {1.0, 1e4, 1e8}) {
      const std::vector<double> spectrum =
          n == 1 ? std::vector<double>{3.0} : log_spaced(3.0, 3.0 * condition, n);
      const dense_operator a = dense_operator::with_spectrum(spectrum, random.bits());
      const cholesky_factor factor(a);
      CAPTURE(n);
      CAPTURE(condition);
      CHECK(factor.verdict() == definiteness::positive);
      const std::vector<double> b = random.vector(3 * n);
      std::vector<double> x(b.size());
      factor.apply(as_block(b, n), as_block(x, n));
      CHECK(worst_residual(a, b, x) <= 1e-15 * static_cast<double>(n + 8) * condition);

      // Estimates from inside the spectrum, right to a small factor.
      const double low = spectrum.front(), high = spectrum.back();
      CHECK(factor.curvature_max() <= high * (1 + 1e-12));
      CHECK(factor.curvature_max() >= 0.5 * high);
      CHECK(factor.curvature_min() >= low * (1 - 1e-6));
      CHECK(factor.curvature_min() <= 2.0 * low);
    }
}

TEST_CASE("as a preconditioner it makes CG a direct method with refinement") {
  random_source random(2);
  for (const double condition : {1e2, 1e6, 1e9}) {
    const index n = 60;
    const dense_operator a =
        dense_operator::with_spectrum(log_spaced(1.0, condition, n), random.bits());
    const cholesky_factor factor(a);
    const std::vector<double> b = random.vector(2 * n);
    std::vector<double> x(b.size());
    const solve_report report = cg<host_space>(a, &factor, as_block(b, n), as_block(x, n), false,
                                               {{100 * DBL_EPSILON * condition}, 100, {}});
    CAPTURE(condition);
    CHECK(report.status == solve_status::converged);
    CHECK(report.iterations <= 3);
  }
}

TEST_CASE("singular matrices") {
  const dense_operator ones(3, std::vector<double>(9, 1.0));
  const dense_operator zero(3, std::vector<double>(9, 0.0));
  const dense_operator projector = dense_operator::diagonal_matrix({1.0, 0.0, 2.0});
  for (const dense_operator* a : {&ones, &zero, &projector}) {
    const cholesky_factor factor(*a);
    CHECK(factor.verdict() == definiteness::singular);
    CHECK(factor.curvature_min() == 0.0);
    CHECK(factor.proven_minimum(0.0) == 0.0);
    const std::vector<double> b{1.0, 2.0, 3.0};
    std::vector<double> x(3);
    factor.apply(as_block(b, 3), as_block(x, 3));
    CHECK(std::isfinite(x[0] + x[1] + x[2]));
  }
}

TEST_CASE("a Gram matrix of too few rows is singular, whichever way its last pivot rounds") {
  random_source random(4);
  for (const index n : {2, 3, 5, 12, 40})
    for (int trial = 0; trial < 20; ++trial) {
      const std::vector<double> rows = random.vector(n * (n - 1));
      std::vector<double> entries(n * n);
      for (index j = 0; j < n; ++j)
        for (index i = 0; i < n; ++i)
          for (index r = 0; r < n - 1; ++r) entries[j * n + i] += rows[r * n + i] * rows[r * n + j];
      const cholesky_factor factor(dense_operator(n, entries));
      CAPTURE(n);
      CAPTURE(trial);
      CHECK(factor.verdict() != definiteness::positive);
      CHECK(factor.proven_minimum(0.0) == 0.0);
    }
}

TEST_CASE("scales alone do not make a matrix singular") {
  const index n = 12;
  const dense_operator b = dense_operator::with_spectrum(log_spaced(1.0, 10.0, n), 5);
  const std::vector<double> s = log_spaced(1e-12, 1e12, n);
  std::vector<double> entries(n * n);
  for (index j = 0; j < n; ++j)
    for (index i = 0; i < n; ++i) entries[j * n + i] = s[i] * b(i, j) * s[j];
  const dense_operator a(n, entries);
  const cholesky_factor factor(a);
  CHECK(factor.verdict() == definiteness::positive);
  random_source random(6);
  const std::vector<double> rhs = random.vector(n);
  std::vector<double> x(n);
  factor.apply(as_block(rhs, n), as_block(x, n));
  // S A⁻¹ S is well conditioned: the scaled residual is at rounding level.
  for (index i = 0; i < n; ++i) {
    long double r = rhs[i], size = std::abs(rhs[i]);
    for (index j = 0; j < n; ++j) {
      r -= static_cast<long double>(a(i, j)) * x[j];
      size += std::abs(static_cast<long double>(a(i, j)) * x[j]);
    }
    CHECK(static_cast<double>(std::abs(r) / size) <= 1e-12);
  }
}

TEST_CASE("indefinite matrices: negative curvature, from inside the spectrum") {
  random_source random(3);
  for (const double lowest : {-1e-6, -0.3, -1.0, -50.0}) {
    std::vector<double> spectrum = log_spaced(0.1, 10.0, 20);
    spectrum[0] = lowest;
    const cholesky_factor factor(dense_operator::with_spectrum(spectrum, random.bits()));
    CAPTURE(lowest);
    CHECK(factor.verdict() == definiteness::indefinite);
    CHECK(factor.curvature_min() < 0.0);
    CHECK(factor.curvature_min() >= lowest * (1 + 1e-9));
    CHECK(factor.proven_minimum(0.0) == 0.0);
  }
  const cholesky_factor swap(dense_operator(2, {0.0, 1.0, 1.0, 0.0}));
  CHECK(swap.verdict() == definiteness::indefinite);
  CHECK(swap.curvature_min() < 0.0);
  const cholesky_factor negative(dense_operator::diagonal_matrix({-3.0}));
  CHECK(negative.verdict() == definiteness::indefinite);
  CHECK(negative.curvature_min() == doctest::Approx(-3.0));
}

TEST_CASE("an indefinite matrix with a tiny diagonal gets its verdict in reasonable time") {
  for (const double tiny : {1e-8, 1e-100, 1e-300, 1e-320, 0.0}) {
    CAPTURE(tiny);
    const dense_operator a(2, {tiny, 1.0, 1.0, tiny});
    CHECK(cholesky_factor(a).verdict() == definiteness::indefinite);
    const dense_operator with_zeros(3, {tiny, 1.0, 0.0, 1.0, tiny, 0.0, 0.0, 0.0, tiny});
    CHECK(cholesky_factor(with_zeros).verdict() == definiteness::indefinite);
  }
}

TEST_CASE("the proven minimum is a lower bound, and close where the condition allows") {
  random_source random(7);
  for (const index n : {1, 2, 10, 50})
    for (const double condition : {1.0, 1e3, 1e8, 1e12, 1e15}) {
      const std::vector<double> spectrum =
          n == 1 ? std::vector<double>{2.0} : log_spaced(2.0, 2.0 * condition, n);
      const dense_operator a = dense_operator::with_spectrum(spectrum, random.bits());
      const cholesky_factor factor(a);
      CAPTURE(n);
      CAPTURE(condition);
      // Rounding the entries moved the eigenvalues by at most this.
      const double moved = DBL_EPSILON * spectrum.back() * static_cast<double>(n);
      CHECK(factor.proven_minimum(0.0) <= spectrum.front() + moved);
      if (condition <= 1e8) CHECK(factor.proven_minimum(0.0) >= 0.4 * spectrum.front());
      if (condition <= 1e8) CHECK(factor.proven_minimum(0.3 * spectrum.front()) > 0.0);
      CHECK(factor.proven_minimum(0.3 * spectrum.front()) <= 0.7 * spectrum.front() + moved);
      CHECK(factor.proven_minimum(2.0 * spectrum.front()) == 0.0);
    }
}

TEST_CASE("the verdict does not depend on the scale of the matrix") {
  for (const int exponent : {-960, -332, 332, 960}) {  // even, so that square roots are exact
    const double scale = std::ldexp(1.0, exponent);
    CAPTURE(scale);
    CHECK(cholesky_factor(dense_operator(2, {4 * scale, scale, scale, 3 * scale})).verdict() ==
          definiteness::positive);
    CHECK(cholesky_factor(dense_operator(2, {scale, scale, scale, scale})).verdict() ==
          definiteness::singular);
    CHECK(cholesky_factor(dense_operator(2, {scale, 0.0, 0.0, -scale})).verdict() ==
          definiteness::indefinite);
  }
}

TEST_CASE("subnormal matrices, as saturation makes them: no hang, no false solution") {
  const double tiny = 1e-312;
  for (const std::vector<double>& entries : {std::vector<double>{tiny, tiny, tiny, tiny},
                                             {tiny, 0.0, 0.0, -tiny},
                                             {0.0, 0.0, 0.0, tiny}}) {
    const dense_operator a(2, entries);
    const cholesky_factor factor(a);
    const std::vector<double> b{1.0, 0.0};
    std::vector<double> x(2);
    const solve_report report =
        cg<host_space>(a, &factor, as_block(b, 2), as_block(x, 2), false, {{1e-10}, 100, {}});
    if (report.status == solve_status::converged) CHECK(a.residual(b.data(), x.data()) <= 1e-9);
  }
}

TEST_CASE("NaN and infinity neither hang nor throw; the solve meets them") {
  for (const double bad : {nan, inf, -inf})
    for (index at = 0; at < 2; ++at) {
      std::vector<double> d{1.0, 2.0};
      d[at] = bad;
      const dense_operator a = dense_operator::diagonal_matrix(d);
      const cholesky_factor factor(a);
      const std::vector<double> b{1.0, 1.0};
      std::vector<double> x(2);
      const solve_report report =
          cg<host_space>(a, &factor, as_block(b, 2), as_block(x, 2), false, {{1e-10}, 10, {}});
      CHECK(report.status == solve_status::non_finite);
    }
}

TEST_CASE("too large a matrix is refused before anything is allocated") {
  struct large : Operator {
    index size() const override { return 100'000'000; }
    void apply(const_block, block) const override {}
  };
  CHECK_THROWS_AS(cholesky_factor{large{}}, std::invalid_argument);
}

}  // namespace implicitgrad::testing
