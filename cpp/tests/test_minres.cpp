// The minimum residual method: definite, indefinite and singular systems.
#include <doctest/doctest.h>

#include "implicitgrad/solvers/minres.hpp"
#include "solving.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

solution solve(const Operator& a, const std::vector<double>& b, solve_options options,
               const std::vector<double>* start = nullptr) {
  if (options.maxiter == 0) options.maxiter = 10 * a.size() + 10;
  solution s{start ? *start : std::vector<double>(b.size(), nan), {}};
  s.report = minres<host_space>(a, as_block(b, a.size()), as_block(s.x, a.size()), start != nullptr,
                                options);
  return s;
}

/// Eigenvalues of both signs, from ±1 to ±condition.
std::vector<double> two_sided(double condition, index n) {
  std::vector<double> d = log_spaced(1.0, condition, n);
  for (index i = 0; i < n; i += 3) d[i] = -d[i];
  return d;
}

}  // namespace

TEST_CASE("by hand") {
  const dense_operator a(2, {4.0, 1.0, 1.0, 3.0});
  const solution s = solve(a, {1.0, 2.0}, within({1e-14}));
  CHECK(s.report.status == solve_status::converged);
  CHECK(largest_difference(s.x, {1.0 / 11.0, 7.0 / 11.0}) <= 1e-14);
  CHECK(s.report.iterations == 2);
  CHECK(s.report.products == 3);
}

TEST_CASE("indefinite systems are solved, and said to be indefinite") {
  const dense_operator a(2, {0.0, 1.0, 1.0, 0.0});  // conjugate gradients fail at once here
  const solution s = solve(a, {1.0, 0.0}, within({1e-14}));
  CHECK(largest_difference(s.x, {0.0, 1.0}) <= 1e-14);
  CHECK(s.report.status == solve_status::negative_curvature);
  CHECK(s.report.curvature_min == doctest::Approx(-1.0).epsilon(1e-9));

  // Also where only a later column of a block meets the negative direction.
  const dense_operator d = dense_operator::diagonal_matrix({1.0, 2.0, -3.0});
  const solution late = solve(d, {1.0, 1.0, 0.0, 0.0, 0.0, 1.0}, within({1e-12}));
  CHECK(largest_difference(late.x, {1.0, 0.5, 0.0, 0.0, 0.0, -1.0 / 3.0}) <= 1e-12);
  CHECK(late.report.status == solve_status::negative_curvature);
}

TEST_CASE("converged means that the true residual is within the tolerance") {
  random_source random(1);
  int solved = 0;
  for (const bool definite : {true, false})
    for (const double condition : {1.0, 1e2, 1e4, 1e6, 1e9})
      for (const double rtol : {1e-1, 1e-4, 1e-8, 1e-12, 1e-15}) {
        const index n = 40;
        const dense_operator a = dense_operator::with_spectrum(
            definite ? log_spaced(1.0, condition, n) : two_sided(condition, n), random.bits());
        const std::vector<double> b = random.vector(n);
        CAPTURE(definite);
        CAPTURE(condition);
        CAPTURE(rtol);
        const solution s = solve(a, b, within({rtol}, 4000));
        double size = 0.0, b_size = 0.0;
        for (index i = 0; i < n; ++i) size += s.x[i] * s.x[i], b_size += b[i] * b[i];
        const double rounding = n * DBL_EPSILON * (1 + condition * std::sqrt(size / b_size));
        CHECK(std::abs(s.report.residual[0] - a.residual(b.data(), s.x.data())) <= rounding);
        const bool done = s.report.status == solve_status::converged ||
                          s.report.status == solve_status::negative_curvature;
        CHECK(done == (s.report.residual[0] <= rtol));
        if (definite) CHECK(s.report.status != solve_status::negative_curvature);
        if (rtol >= 1e-14 * condition * 100 && condition <= 1e4) CHECK(done);
        CHECK(s.report.curvature_min >= -condition * (1 + 1e-9));
        CHECK(s.report.curvature_max <= condition * (1 + 1e-9));
        solved += done;
      }
  CHECK(solved >= 20);
}

TEST_CASE("a singular system with b in its range: the solution of least norm") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 2.0, 0.0});
  const solution s = solve(a, {1.0, 2.0, 0.0}, within({1e-12}));
  CHECK(s.report.status == solve_status::converged);
  CHECK(largest_difference(s.x, {1.0, 1.0, 0.0}) <= 1e-12);

  std::vector<double> spectrum = log_spaced(1.0, 10.0, 12);
  spectrum[4] = 0.0;
  const dense_operator larger = dense_operator::with_spectrum(spectrum, 2);
  random_source random(3);
  std::vector<double> y = random.vector(12), b(12), z(12);
  larger.apply(as_block(y, 12), as_block(b, 12));
  const solution t = solve(larger, b, within({1e-10}));
  CHECK(t.report.residual[0] <= 1e-10);
  // Least norm: x is in the range of A, as b is, so that A x = b and x = A w for some w.
  larger.apply(as_block(t.x, 12), as_block(z, 12));
  CHECK(largest_difference(z, b) <= 1e-9);
  double size = 0, other = 0;
  for (index i = 0; i < 12; ++i) size += t.x[i] * t.x[i], other += y[i] * y[i];
  CHECK(size <= other);
}

TEST_CASE("a singular system with b outside its range does not converge") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 2.0, 0.0});
  const solution s = solve(a, {1.0, 1.0, 1.0}, within({1e-10}));
  CHECK(s.report.status != solve_status::converged);
  CHECK(s.report.residual[0] >= 0.5);
  CHECK(std::isfinite(s.x[0] + s.x[1] + s.x[2]));
  const dense_operator zero = dense_operator::diagonal_matrix({0.0, 0.0});
  const solution none = solve(zero, {1.0, 1.0}, within({1e-10}));
  CHECK(none.report.status == solve_status::singular);
}

TEST_CASE("zero, NaN and infinity") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 2.0});
  const solution zero = solve(a, {0.0, 0.0}, within({1e-10}));
  CHECK(zero.report.status == solve_status::converged);
  CHECK(zero.report.iterations == 0);
  CHECK(zero.x == std::vector<double>(2));
  for (const double bad : {nan, inf}) {
    CHECK(solve(a, {bad, 1.0}, within({1e-10})).report.status == solve_status::non_finite);
    const solution s = solve(dense_operator(2, {1.0, 0.0, 0.0, bad}), {1.0, 1.0}, within({1e-10}));
    CHECK(s.report.status == solve_status::non_finite);
    CHECK(std::isfinite(s.x[0] + s.x[1]));
  }
}

TEST_CASE("warm starts, limits, monitors") {
  const index n = 30;
  const dense_operator a = dense_operator::with_spectrum(two_sided(30.0, n), 4);
  random_source random(5);
  const std::vector<double> b = random.vector(n);
  const solution cold = solve(a, b, within({1e-12}, 1000));
  REQUIRE(cold.report.residual[0] <= 1e-12);
  const solution warm = solve(a, b, within({1e-11}), &cold.x);
  CHECK(warm.report.iterations == 0);
  CHECK(warm.report.products == 1);

  for (const index maxiter : {1, 2, 5}) {
    const solution s = solve(a, b, within({1e-12}, maxiter));
    CHECK(s.report.status == solve_status::iteration_limit);
    CHECK(s.report.iterations == maxiter);
  }
  // The residual falls at every iteration, by construction.
  std::vector<double> seen;
  const solution stopped = solve(a, b, within({1e-12}, 100, [&](index i, double r, const double*) {
                                   seen.push_back(r);
                                   return i == 6;
                                 }));
  CHECK(stopped.report.status == solve_status::stopped);
  CHECK(seen.size() == 6);
  CHECK(std::is_sorted(seen.rbegin(), seen.rend()));
  CHECK(stopped.report.residual[0] == doctest::Approx(seen.back()).epsilon(1e-9));
}

TEST_CASE("a block gives the bits of its columns, and powers of two scale them") {
  const index n = 20, k = 3;
  const dense_operator a = dense_operator::with_spectrum(two_sided(100.0, n), 6);
  random_source random(7);
  std::vector<double> b = random.vector(n * k);
  std::fill(b.begin() + n, b.begin() + 2 * n, 0.0);
  const solution together = solve(a, b, within({1e-8, 1e-8, 1e-3}));
  for (index c = 0; c < k; ++c) {
    const solution alone = solve(a, column(b, n, c), within({c == 2 ? 1e-3 : 1e-8}));
    CHECK(same_bits(column(together.x, n, c), alone.x));
  }
  for (const int exponent : {40, -40}) {
    std::vector<double> scaled = b;
    for (double& x : scaled) x = std::ldexp(x, exponent);
    solution one = together;
    for (double& x : one.x) x = std::ldexp(x, exponent);
    CHECK(same_bits(one.x, solve(a, scaled, within({1e-8, 1e-8, 1e-3})).x));
  }
}

}  // namespace implicitgrad::testing
