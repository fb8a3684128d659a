// Conjugate gradients for several right-hand sides in one Krylov space.
#include <doctest/doctest.h>

#include <stdexcept>

#include "implicitgrad/runtime.hpp"
#include "implicitgrad/solvers/block_cg.hpp"
#include "implicitgrad/solvers/cg.hpp"
#include "implicitgrad/solvers/jacobi.hpp"
#include "solving.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

solution solve(const Operator& a, const std::vector<double>& b, solve_options options,
               const Operator* m = nullptr, const std::vector<double>* start = nullptr) {
  if (options.maxiter == 0) options.maxiter = 10 * a.size() + 10;
  solution s{start ? *start : std::vector<double>(b.size(), nan), {}};
  s.report = block_cg<host_space>(a, m, as_block(b, a.size()), as_block(s.x, a.size()),
                                  start != nullptr, options);
  return s;
}

/// The same by columns that share nothing but the products.
solution by_columns(const Operator& a, const std::vector<double>& b, solve_options options,
                    const Operator* m = nullptr) {
  if (options.maxiter == 0) options.maxiter = 10 * a.size() + 10;
  solution s{std::vector<double>(b.size()), {}};
  s.report = cg<host_space>(a, m, as_block(b, a.size()), as_block(s.x, a.size()), false, options);
  return s;
}

/// `few` eigenvalues far below the rest.
std::vector<double> outlying(index n, index few) {
  std::vector<double> d = log_spaced(1.0, 100.0, n);
  for (index i = 0; i < few; ++i) d[i] = 1e-3 * static_cast<double>(i + 1);
  return d;
}

struct poisoned : Operator {
  explicit poisoned(double value) : bad(value) {}
  index size() const override { return 3; }
  void apply(const_block v, block out) const override {
    for (index i = 0; i < v.size(); ++i) out.data[i] = i == 4 ? bad : v.data[i];
  }
  double bad;
};

struct shrinking : Operator {  // not positive definite: −I
  index size() const override { return 12; }
  void apply(const_block v, block out) const override {
    for (index i = 0; i < v.size(); ++i) out.data[i] = -v.data[i];
  }
};

}  // namespace

TEST_CASE("a small factor, and the direction where there is none") {
  const small_cholesky two(2, {4.0, 1.0, nan, 3.0}, 0.0);
  REQUIRE(two.positive());
  std::vector<double> b{1.0, 2.0, 2.0, 4.0};
  two.solve(b.data(), 2);
  CHECK(largest_difference(b, {1.0 / 11, 7.0 / 11, 2.0 / 11, 14.0 / 11}) <= 1e-15);

  random_source random(1);
  for (int trial = 0; trial < 40; ++trial) {
    const index k = 1 + trial % 9;
    std::vector<double> d = random.vector(k);
    const double least = *std::min_element(d.begin(), d.end());
    const dense_operator a = dense_operator::with_spectrum(d, random.bits());
    std::vector<double> lower(static_cast<std::size_t>(k * k));
    for (index j = 0; j < k; ++j)
      for (index i = 0; i < k; ++i) lower[j * k + i] = i < j ? nan : a(i, j);
    const small_cholesky factor(k, lower, 0.0);
    CHECK(factor.positive() == (least > 0.0));
    if (factor.positive()) continue;
    std::vector<double> v = factor.direction(), av(v.size());
    a.apply(as_block(v, k), as_block(av, k));
    CHECK(host_space::dot(k, v.data(), v.data()) == doctest::Approx(1.0));
    CHECK(host_space::dot(k, v.data(), av.data()) == doctest::Approx(factor.curvature()));
    CHECK(factor.curvature() < 0.0);
    CHECK(factor.curvature() >= least - 1e-12);
  }
  CHECK_FALSE(small_cholesky(1, {nan}, 0.0).positive());
  CHECK(small_cholesky(0, {}, 0.0).positive());
}

TEST_CASE("orthonormal columns of what the columns span") {
  random_source random(2);
  const index n = 30, k = 6;
  std::vector<double> v = random.vector(n * k);
  std::fill_n(v.begin() + n, n, 0.0);            // nothing
  std::copy_n(v.begin(), n, v.begin() + 3 * n);  // nothing new
  for (index i = 0; i < n; ++i) v[5 * n + i] = v[i] + 1e-4 * v[2 * n + i] + 1e-5 * v[5 * n + i];
  const std::vector<double> before = v;
  const index rank = orthonormalise<host_space>(as_block(v, n), 1e-8);
  CHECK(rank == 4);
  for (index i = 0; i < rank; ++i)
    for (index j = 0; j < rank; ++j)
      CHECK(std::abs(host_space::dot(n, &v[i * n], &v[j * n]) - (i == j)) <= 1e-14);
  for (index c = 0; c < k; ++c) {  // nothing of the old columns is left outside
    std::vector<double> rest(before.begin() + c * n, before.begin() + (c + 1) * n);
    for (index j = 0; j < rank; ++j)
      host_space::axpby(n, -host_space::dot(n, &v[j * n], rest.data()), &v[j * n], 1.0,
                        rest.data());
    CHECK(host_space::norm(n, rest.data()) <= 1e-13);
  }
}

TEST_CASE("one column converges as conjugate gradients do") {
  random_source random(3);
  for (const double condition : {1.0, 10.0, 1e3}) {
    const index n = 50;
    const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, condition, n), 4);
    const auto m = jacobi_preconditioner::of(a);
    const std::vector<double> b = random.vector(n);
    for (const Operator* with : {static_cast<const Operator*>(nullptr), (const Operator*)m.get()}) {
      const solution s = solve(a, b, within({1e-9}), with);
      const solution t = by_columns(a, b, within({1e-9}), with);
      CHECK(s);
      CHECK(std::abs(s.report.iterations - t.report.iterations) <= 1 + t.report.iterations / 20);
      CHECK(s.report.products == s.report.iterations + 1);
      CHECK(largest_difference(s.x, t.x) <= 1e-7);
    }
  }
}

TEST_CASE("converged means that every true residual is within its tolerance") {
  random_source random(5);
  int converged = 0;
  for (int trial = 0; trial < 120; ++trial) {
    const index n = 5 + static_cast<index>(random.bits() % 45), k = 1 + trial % 7;
    const double condition = std::pow(10.0, 9.0 * random.unit());
    std::vector<double> d = log_spaced(1.0, condition, n);
    if (trial % 3 == 1)  // clusters
      for (double& x : d) x = x < std::sqrt(condition) ? 1.0 : condition;
    const dense_operator a = dense_operator::with_spectrum(d, random.bits());
    const auto m = jacobi_preconditioner::of(a);
    std::vector<double> b = random.vector(n * k), rtol;
    for (index c = 0; c < k; ++c) rtol.push_back(std::pow(10.0, -12.0 * random.unit()));
    for (index c = 0; c < k; ++c)  // of all sizes
      for (index i = 0; i < n; ++i) b[c * n + i] = std::ldexp(b[c * n + i], 30 * (c % 3 - 1));
    CAPTURE(trial);
    const solution s = solve(a, b, within(rtol, 4000), trial % 2 ? m.get() : nullptr);
    bool all = true;
    for (index c = 0; c < k; ++c) {
      const double* x = &s.x[c * n];
      const double ratio = host_space::norm(n, x) / host_space::norm(n, &b[c * n]);
      const double rounding = static_cast<double>(n) * DBL_EPSILON * (1 + condition * ratio);
      CHECK(std::abs(s.report.residual[c] - a.residual(&b[c * n], x)) <= rounding);
      all = all && s.report.residual[c] <= rtol[c];
      if (rtol[c] >= 1e-13 * condition && condition <= 1e6) CHECK(s.report.residual[c] <= rtol[c]);
    }
    CHECK(all == static_cast<bool>(s));
    CHECK(s.report.curvature_min >= 1.0 - 1e-9 - 1e-14 * condition);
    CHECK(s.report.curvature_max <= condition * (1 + 1e-9));
    converged += static_cast<bool>(s);
  }
  CHECK(converged >= 80);
}

TEST_CASE("a block sees through a few small eigenvalues") {
  const index n = 200, k = 5;
  const dense_operator a = dense_operator::with_spectrum(outlying(n, 4), 6);
  random_source random(7);
  const std::vector<double> b = random.vector(n * k);
  const solution together = solve(a, b, within({1e-8})), apart = by_columns(a, b, within({1e-8}));
  REQUIRE(together);
  REQUIRE(apart);
  CHECK(2 * together.report.products < apart.report.products);
  CHECK(largest_difference(together.x, apart.x) <= 1e-6 * 1e3);
}

TEST_CASE("dependent right-hand sides cost no more than those that they depend on") {
  const index n = 60;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 100.0, n), 8);
  random_source random(9);
  const std::vector<double> base = random.vector(2 * n);
  const index alone = solve(a, base, within({1e-9})).report.products;
  // Equal, opposite, zero, and combinations of the two.
  const double mix[6][2] = {{1, 0}, {1, 0}, {-2, 0}, {0, 0}, {0, 1}, {3, -7}};
  std::vector<double> b(static_cast<std::size_t>(6 * n)), want(b.size());
  for (index c = 0; c < 6; ++c)
    for (index i = 0; i < n; ++i) b[c * n + i] = mix[c][0] * base[i] + mix[c][1] * base[n + i];
  const auto m = jacobi_preconditioner::of(a);
  for (const Operator* with : {static_cast<const Operator*>(nullptr), (const Operator*)m.get()}) {
    const solution s = solve(a, b, within({1e-9}), with);
    REQUIRE(s);
    const solution t = by_columns(a, b, within({1e-13}), with);
    CHECK(largest_difference(s.x, t.x) <= 1e-6);
    CHECK(std::all_of(&s.x[3 * n], &s.x[4 * n], [](double x) { return x == 0.0; }));
    CHECK(s.report.products <= alone + 6 + 6);  // the last products check all six residuals
  }
  // Nearly dependent: directions that were left out at first come in as they grow.
  for (index i = 0; i < 6 * n; ++i) b[i] += 1e-10 * random.symmetric();
  CHECK(solve(a, b, within({1e-9})));
}

TEST_CASE("more columns than rows, and a single row") {
  random_source random(10);
  const dense_operator a = dense_operator::with_spectrum({1.0, 2.0, 30.0}, 11);
  const std::vector<double> b = random.vector(21);
  const solution s = solve(a, b, within({1e-12}));
  CHECK(s);
  CHECK(s.report.iterations <= 2);
  const dense_operator one = dense_operator::diagonal_matrix({4.0});
  const solution t = solve(one, {8.0, 0.0, -2.0}, within({1e-14}));
  CHECK(t);
  CHECK(t.x == std::vector<double>{2.0, 0.0, -0.5});
}

TEST_CASE("columns that are done early leave, at their own tolerance") {
  const index n = 100, k = 4;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 1e3, n), 12);
  random_source random(13);
  const std::vector<double> b = random.vector(n * k);
  const solution mixed = solve(a, b, within({1e-10, 1e-1, 1e-3, 1e-1}));
  REQUIRE(mixed);
  CHECK(mixed.report.products <= solve(a, b, within({1e-10})).report.products);
  for (const index hardest : {0, 3}) {  // in any order
    std::vector<double> rtol(k, 1e-2);
    rtol[hardest] = 1e-11;
    CHECK(solve(a, b, within(rtol)));
  }
}

TEST_CASE("indefinite and singular matrices are found out") {
  random_source random(14);
  for (int trial = 0; trial < 30; ++trial) {
    const index n = 12, k = 1 + trial % 4;
    std::vector<double> d = log_spaced(1.0, 20.0, n);
    d[trial % n] = trial % 2 ? -0.5 : -30.0;
    const dense_operator a = dense_operator::with_spectrum(d, random.bits());
    const solution s = solve(a, random.vector(n * k), within({1e-10}));
    CHECK(s.report.status == solve_status::negative_curvature);
    CHECK(s.report.curvature_min < 0.0);
    CHECK(s.report.curvature_min >= std::min(-0.5, d[trial % n]) * (1 + 1e-9));
    for (const double x : s.x) CHECK(std::isfinite(x));
  }
  const dense_operator flat = dense_operator::diagonal_matrix({1.0, 0.0, 2.0});
  CHECK(solve(flat, {0.0, 1.0, 0.0, 1.0, 1.0, 1.0}, within({1e-10})).report.status ==
        solve_status::singular);
  CHECK(solve(flat, {1.0, 0.0, 1.0, 2.0, 0.0, 1.0}, within({1e-10})));  // in its range
}

TEST_CASE("NaN, infinity, a preconditioner that is none") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 2.0, 3.0});
  for (const double bad : {nan, inf}) {
    CHECK(solve(a, {1.0, 1.0, 1.0, bad, 1.0, 1.0}, within({1e-9})).report.status ==
          solve_status::non_finite);
    const solution s = solve(poisoned(bad), {1.0, 2.0, 3.0, 1.0, 0.0, 0.0}, within({1e-9}));
    CHECK(s.report.status == solve_status::non_finite);
    for (const double x : s.x) CHECK(std::isfinite(x));
  }
  random_source random(15);
  const dense_operator b = dense_operator::with_spectrum(log_spaced(1.0, 9.0, 12), 16);
  const shrinking negative;
  CHECK(solve(b, random.vector(24), within({1e-9}), &negative).report.status ==
        solve_status::bad_preconditioner);
}

TEST_CASE("zero, limits, warm starts, monitors, interrupts") {
  const index n = 80, k = 3;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 1e3, n), 17);
  random_source random(18);
  const std::vector<double> b = random.vector(n * k);
  const solution none = solve(a, std::vector<double>(n * k), within({1e-9}));
  CHECK(none);
  CHECK(none.report.iterations == 0);
  CHECK(none.x == std::vector<double>(n * k));

  for (const index maxiter : {1, 4}) {
    const solution s = solve(a, b, within({1e-12}, maxiter));
    CHECK(s.report.status == solve_status::iteration_limit);
    CHECK(s.report.iterations == maxiter);
    CHECK(s.report.products == k * (maxiter + 1));
  }
  const solution cold = solve(a, b, within({1e-10}));
  REQUIRE(cold);
  const solution warm = solve(a, b, within({1e-9}), nullptr, &cold.x);
  CHECK(warm);
  CHECK(warm.report.iterations == 0);
  CHECK(solve(a, b, within({1e-12}), nullptr, &cold.x).report.iterations < cold.report.iterations);

  std::vector<double> seen;
  const solution stopped = solve(a, b, within({1e-12}, 100, [&](index i, double r, const double*) {
                                   seen.push_back(r);
                                   return i == 5;
                                 }));
  CHECK(stopped.report.status == solve_status::stopped);
  CHECK(seen.size() == 5);
  CHECK(stopped.report.residual[0] == doctest::Approx(seen.back()).epsilon(1e-9));

  set_interrupt_hook([] { throw std::runtime_error("stop"); });
  CHECK_THROWS_AS(for (int i = 0; i < 100000; ++i) solve(a, b, within({1e-12})),
                  std::runtime_error);
  set_interrupt_hook(nullptr);
}

TEST_CASE("powers of two scale the solution, bit by bit") {
  const index n = 40, k = 3;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 50.0, n), 19);
  random_source random(20);
  const std::vector<double> b = random.vector(n * k);
  const solution plain = solve(a, b, within({1e-8}));
  for (const int exponent : {60, -60}) {
    std::vector<double> scaled = b, want = plain.x;
    for (double& x : scaled) x = std::ldexp(x, exponent);
    for (double& x : want) x = std::ldexp(x, exponent);
    CHECK(same_bits(want, solve(a, scaled, within({1e-8})).x));
  }
}

}  // namespace implicitgrad::testing
