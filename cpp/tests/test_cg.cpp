// Conjugate gradients: small systems by hand, hard systems by their true residual.
#include <doctest/doctest.h>

#include <chrono>
#include <stdexcept>
#include <thread>

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
  s.report = cg<host_space>(a, m, as_block(b, a.size()), as_block(s.x, a.size()), start != nullptr,
                            options);
  return s;
}

/// An operator of which only the product is known.
struct lambda_operator : Operator {
  lambda_operator(index n, std::function<void(const_block, block)> f) : n_(n), f_(std::move(f)) {}
  index size() const override { return n_; }
  void apply(const_block v, block out) const override { f_(v, out); }
  index n_;
  std::function<void(const_block, block)> f_;
};

}  // namespace

TEST_CASE("two by two, by hand") {
  const dense_operator a(2, {4.0, 1.0, 1.0, 3.0});
  const solution s = solve(a, {1.0, 2.0}, within({1e-14}));
  REQUIRE(s);
  CHECK(s.x[0] == doctest::Approx(1.0 / 11.0).epsilon(1e-13));
  CHECK(s.x[1] == doctest::Approx(7.0 / 11.0).epsilon(1e-13));
  CHECK(s.report.iterations == 2);
  CHECK(s.report.products == 3);  // and one for the true residual
  CHECK(s.report.residual[0] <= 1e-14);
}

TEST_CASE("three by three, by hand") {
  const dense_operator a(3, {2.0, -1.0, 0.0, -1.0, 2.0, -1.0, 0.0, -1.0, 2.0});
  const solution s = solve(a, {1.0, 0.0, 1.0}, within({1e-14}));
  REQUIRE(s);
  CHECK(largest_difference(s.x, {1.0, 1.0, 1.0}) <= 1e-14);
}

TEST_CASE("as many iterations as distinct eigenvalues") {
  std::vector<double> d(60);
  for (int i = 0; i < 60; ++i) d[i] = 1.0 + i % 3;
  const dense_operator a = dense_operator::diagonal_matrix(d);
  random_source random(1);
  const solution s = solve(a, random.vector(60), within({1e-12}));
  CHECK(s);
  CHECK(s.report.iterations == 3);
}

TEST_CASE("converged means that the true residual is within the tolerance") {
  random_source random(2);
  int converged = 0;
  for (const double condition : {1.0, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12, 1e14})
    for (const double rtol : {1e-1, 1e-4, 1e-8, 1e-12, 1e-15})
      for (const bool preconditioned : {false, true}) {
        const index n = 40;
        const dense_operator a =
            dense_operator::with_spectrum(log_spaced(1.0, condition, n), random.bits());
        const auto m = jacobi_preconditioner::of(a);
        const std::vector<double> b = random.vector(n);
        CAPTURE(condition);
        CAPTURE(rtol);
        CAPTURE(preconditioned);
        const solution s = solve(a, b, within({rtol}, 4000), preconditioned ? m.get() : nullptr);
        double size = 0.0, b_size = 0.0;
        for (index i = 0; i < n; ++i) size += s.x[i] * s.x[i], b_size += b[i] * b[i];
        const double rounding = n * DBL_EPSILON * (1 + condition * std::sqrt(size / b_size));
        const double exact = a.residual(b.data(), s.x.data());
        CHECK(std::abs(s.report.residual[0] - exact) <= rounding);
        CHECK((s.report.residual[0] <= rtol) == static_cast<bool>(s));
        if (!s)
          CHECK((s.report.status == solve_status::stagnated ||
                 s.report.status == solve_status::iteration_limit ||
                 s.report.status == solve_status::singular));
        // What double precision can give, it gives: the attainable residual is about ε κ.
        if (rtol >= 1e-15 * condition * 100 && condition <= 1e6) CHECK(s);
        converged += static_cast<bool>(s);
      }
  CHECK(converged >= 30);
}

TEST_CASE("a badly scaled system needs its diagonal") {
  // S B S with B near the identity: Jacobi takes the scaling away.
  const index n = 50;
  const dense_operator b = dense_operator::with_spectrum(log_spaced(1.0, 4.0, n), 3);
  const std::vector<double> s = log_spaced(1e-5, 1e5, n);
  std::vector<double> entries(n * n);
  for (index j = 0; j < n; ++j)
    for (index i = 0; i < n; ++i) entries[j * n + i] = s[i] * b(i, j) * s[j];
  const dense_operator a(n, entries);
  const auto m = jacobi_preconditioner::of(a);
  random_source random(4);
  // A right-hand side whose solution is of the size of 1/s.
  std::vector<double> rhs(n);
  for (index i = 0; i < n; ++i) rhs[i] = s[i] * random.symmetric();
  const solution with = solve(a, rhs, within({1e-10}, 200), m.get());
  CHECK(with);
  CHECK(with.report.iterations <= 40);
  CHECK_FALSE(solve(a, rhs, within({1e-10}, 200)));
  CHECK(with.report.condition >= 1.0);
  CHECK(with.report.condition <= 20.0);
}

TEST_CASE("negative curvature ends the solve before the step along it") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, -1.0});
  const solution along = solve(a, {0.0, 1.0}, within({1e-10}));
  CHECK(along.report.status == solve_status::negative_curvature);
  CHECK(same_bits(along.x, {0.0, 0.0}));
  CHECK(along.report.curvature_min == -1.0);

  const dense_operator larger = [] {
    std::vector<double> d = log_spaced(0.1, 10.0, 30);
    d[0] = -0.05;
    return dense_operator::with_spectrum(d, 5);
  }();
  random_source random(6);
  const solution s = solve(larger, random.vector(30), within({1e-12}));
  CHECK(s.report.status == solve_status::negative_curvature);
  CHECK(s.report.curvature_min < 0.0);
  CHECK(s.report.curvature_min >= -0.05 - 1e-12);
  CHECK(std::isfinite(s.x[0]));
}

TEST_CASE("singular matrices") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 0.0});
  CHECK(solve(a, {1.0, 1.0}, within({1e-10})).report.status == solve_status::singular);
  const solution consistent = solve(a, {2.0, 0.0}, within({1e-10}));
  CHECK(consistent);
  CHECK(same_bits(consistent.x, {2.0, 0.0}));
  const dense_operator zero = dense_operator::diagonal_matrix({0.0, 0.0, 0.0});
  const solution none = solve(zero, {1.0, 2.0, 3.0}, within({1e-10}));
  CHECK(none.report.status == solve_status::singular);
  CHECK(same_bits(none.x, {0.0, 0.0, 0.0}));
}

TEST_CASE("a preconditioner that is not positive definite") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 2.0});
  const dense_operator negative = dense_operator::diagonal_matrix({-1.0, -1.0});
  const dense_operator zero = dense_operator::diagonal_matrix({0.0, 0.0});
  CHECK(solve(a, {1.0, 1.0}, within({1e-10}), &negative).report.status ==
        solve_status::bad_preconditioner);
  CHECK(solve(a, {1.0, 1.0}, within({1e-10}), &zero).report.status ==
        solve_status::bad_preconditioner);
}

TEST_CASE("NaN and infinity") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 2.0});
  for (const double bad : {nan, inf, -inf}) {
    CHECK(solve(a, {bad, 1.0}, within({1e-10})).report.status == solve_status::non_finite);
    const dense_operator broken(2, {1.0, 0.0, 0.0, bad});
    const solution s = solve(broken, {1.0, 1.0}, within({1e-10}));
    CHECK(s.report.status == solve_status::non_finite);
    CHECK(std::isfinite(s.x[0] + s.x[1]));
  }
  // A product that goes bad later: x is the last finite iterate.
  int calls = 0;
  const lambda_operator later(3, [&](const_block v, block out) {
    ++calls;
    for (index i = 0; i < 3; ++i) out.data[i] = calls < 2 ? (1.0 + i) * v.data[i] : nan;
  });
  const solution s = solve(later, {1.0, 1.0, 1.0}, within({1e-10}));
  CHECK(s.report.status == solve_status::non_finite);
  CHECK(std::isfinite(s.x[0]));
  CHECK(s.x[0] > 0.0);
}

TEST_CASE("warm starts") {
  const index n = 30;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 100.0, n), 7);
  random_source random(8);
  const std::vector<double> b = random.vector(n);
  const solution cold = solve(a, b, within({1e-13}));
  REQUIRE(cold);
  a.applications = 0;
  const solution warm = solve(a, b, within({1e-12}), nullptr, &cold.x);
  CHECK(warm);
  CHECK(warm.report.iterations == 0);
  CHECK(warm.report.products == 1);
  CHECK(a.applications == 1);
  CHECK(largest_difference(warm.x, cold.x) <= 1e-15);

  std::vector<double> near = cold.x;
  for (double& x : near) x *= 1.0 + 1e-6 * random.symmetric();
  const solution closer = solve(a, b, within({1e-10}), nullptr, &near);
  CHECK(closer);
  CHECK(closer.report.iterations < solve(a, b, within({1e-10})).report.iterations);

  // A useless start is not worse than none.
  const std::vector<double> useless(n, nan), huge(n, inf);
  for (const auto* start : {&useless, &huge}) {
    const solution s = solve(a, b, within({1e-10}), nullptr, start);
    CHECK(s);
    CHECK(same_bits(s.x, solve(a, b, within({1e-10})).x));
  }
}

TEST_CASE("a block gives the bits of its columns") {
  const index n = 25, k = 4;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 1e3, n), 9);
  const auto m = jacobi_preconditioner::of(a);
  random_source random(10);
  std::vector<double> b = random.vector(n * k);
  std::fill(b.begin() + 2 * n, b.begin() + 3 * n, 0.0);  // one of them zero
  for (index i = 0; i < n; ++i) b[i] *= 1e30;            // and one large
  for (const std::vector<double>& rtol :
       {std::vector<double>{1e-9}, std::vector<double>{1e-12, 1e-3, 1e-6, 0.3},
        std::vector<double>{0.3, 1e-6, 1e-3, 1e-12}})
    for (const Operator* preconditioner :
         {static_cast<const Operator*>(nullptr), static_cast<const Operator*>(m.get())}) {
      const solution together = solve(a, b, within(rtol), preconditioner);
      CHECK(together);
      index longest = 0;
      for (index c = 0; c < k; ++c) {
        const double tolerance = rtol.size() == 1 ? rtol[0] : rtol[c];
        const solution alone = solve(a, column(b, n, c), within({tolerance}), preconditioner);
        CAPTURE(c);
        CHECK(same_bits(column(together.x, n, c), alone.x));
        CHECK(together.report.residual[c] == alone.report.residual[0]);
        longest = std::max(longest, alone.report.iterations);
      }
      CHECK(together.report.iterations == longest);
    }
}

TEST_CASE("columns that are done drop out of the products from the end") {
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 1e3, 25), 11);
  random_source random(12);
  const std::vector<double> b = random.vector(50);
  const solution s = solve(a, b, within({1e-10, 0.5}));
  CHECK(s);
  CHECK(s.report.products < 2 * s.report.iterations);
}

TEST_CASE("a zero right-hand side") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 2.0});
  const solution s = solve(a, {0.0, -0.0}, within({1e-10}));
  CHECK(s);
  CHECK(s.report.iterations == 0);
  CHECK(s.report.residual[0] == 0.0);
  CHECK(s.x == std::vector<double>{0.0, 0.0});
  const std::vector<double> start{3.0, 4.0};
  const solution warm = solve(a, {0.0, 0.0}, within({1e-10}), nullptr, &start);
  CHECK(warm);
  CHECK(warm.x == std::vector<double>{0.0, 0.0});
}

TEST_CASE("scaling b by a power of two scales x bit for bit") {
  const index n = 30;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 1e4, n), 13);
  const auto m = jacobi_preconditioner::of(a);
  random_source random(14);
  const std::vector<double> b = random.vector(n), start = random.vector(n);
  for (const Operator* preconditioner :
       {static_cast<const Operator*>(nullptr), static_cast<const Operator*>(m.get())})
    for (const bool warm : {false, true})
      for (const int exponent : {40, -40, 300, -300}) {
        std::vector<double> scaled = b, scaled_start = start;
        for (double& x : scaled) x = std::ldexp(x, exponent);
        for (double& x : scaled_start) x = std::ldexp(x, exponent);
        solution one = solve(a, b, within({1e-9}), preconditioner, warm ? &start : nullptr);
        const solution two =
            solve(a, scaled, within({1e-9}), preconditioner, warm ? &scaled_start : nullptr);
        for (double& x : one.x) x = std::ldexp(x, exponent);
        CHECK(same_bits(one.x, two.x));
        CHECK(one.report.residual[0] == two.report.residual[0]);
      }
}

TEST_CASE("right-hand sides near the ends of the range") {
  const dense_operator a = dense_operator::diagonal_matrix({1.0, 2.0, 4.0});
  for (const double size : {1e300, 1e-300, 1e-307, 1e-310}) {
    CAPTURE(size);
    const solution s = solve(a, {size, size, size}, within({1e-10}));
    CHECK(s);
    CHECK(s.x[0] == doctest::Approx(size).epsilon(1e-9));
    CHECK(s.x[2] == doctest::Approx(size / 4).epsilon(1e-9));
  }
}

TEST_CASE("the iteration limit") {
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 1e6, 40), 15);
  random_source random(16);
  const std::vector<double> b = random.vector(40);
  for (const index maxiter : {1, 2, 7}) {
    const solution s = solve(a, b, within({1e-10}, maxiter));
    CHECK(s.report.status == solve_status::iteration_limit);
    CHECK(s.report.iterations == maxiter);
    CHECK(s.report.products == maxiter + 1);
    CHECK(s.report.residual[0] == doctest::Approx(a.residual(b.data(), s.x.data())).epsilon(1e-9));
  }
  // Reaching the tolerance with the last iteration allowed is convergence.
  const solution full = solve(a, b, within({1e-3}, 4000));
  CHECK(solve(a, b, within({1e-3}, full.report.iterations)));
}

TEST_CASE("the monitor sees every iteration and can stop") {
  const index n = 20;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 1e4, n), 17);
  random_source random(18);
  std::vector<double> b = random.vector(n);
  double size = host_space::norm(n, b.data());
  for (double& x : b) x /= size;  // so that the monitor's x is that of b
  std::vector<index> seen;
  const solution s =
      solve(a, b, within({1e-10}, 100, [&](index iteration, double residual, const double* x) {
              seen.push_back(iteration);
              CHECK(residual == doctest::Approx(a.residual(b.data(), x)).epsilon(1e-6));
              return iteration == 5;
            }));
  CHECK(s.report.status == solve_status::stopped);
  CHECK(s.report.iterations == 5);
  CHECK(seen == std::vector<index>{1, 2, 3, 4, 5});
  CHECK(s.report.residual[0] == doctest::Approx(a.residual(b.data(), s.x.data())).epsilon(1e-9));
}

TEST_CASE("a checkpoint keeps the first iterate that is good enough") {
  const index n = 25;
  const dense_operator a = dense_operator::with_spectrum(log_spaced(1.0, 1e3, n), 21);
  random_source random(22);
  std::vector<double> b = random.vector(2 * n);
  for (double& x : b) x *= 1e10;
  for (const double at : {0.3, 1e-3, 1e-6}) {
    std::vector<double> kept(n, nan);
    solve_options options = within({1e-10});
    options.checkpoint_rtol = at;
    options.checkpoint = kept.data();
    const solution s = solve(a, b, options);
    CHECK(s);
    CHECK(same_bits(s.x, solve(a, b, within({1e-10})).x));  // it changes nothing else
    const double residual = a.residual(b.data(), kept.data());
    CHECK(residual <= at * (1 + 1e-6));
    CHECK(residual > 1e-10);
  }
  // A warm start that is good enough is kept, and the solve goes on so that there is a difference.
  const solution rough = solve(a, column(b, n, 0), within({1e-4}));
  std::vector<double> kept(n, nan);
  solve_options options = within({1e-3});
  options.checkpoint_rtol = 1e-3;
  options.checkpoint = kept.data();
  const solution s = solve(a, column(b, n, 0), options, nullptr, &rough.x);
  CHECK(s);
  CHECK(s.report.iterations > 0);
  CHECK(largest_difference(kept, rough.x) <= 1e-15 * 1e10);
  CHECK(s.report.residual[0] <= 0.1 * rough.report.residual[0]);
}

TEST_CASE("estimates of the spectrum lie inside it, and are good at the end") {
  std::vector<double> d(30);
  for (int i = 0; i < 30; ++i) d[i] = 1.0 + 9.0 * i / 29.0;
  const dense_operator a = dense_operator::diagonal_matrix(d);
  random_source random(19);
  const std::vector<double> b = random.vector(30);
  for (const double rtol : {0.5, 1e-2, 1e-6}) {
    const solution s = solve(a, b, within({rtol}));
    CHECK(s.report.curvature_min >= 1.0 - 1e-12);
    CHECK(s.report.curvature_max <= 10.0 + 1e-11);
    CHECK(s.report.curvature_min <= s.report.curvature_max);
    CHECK(s.report.condition >= 1.0);
    CHECK(s.report.condition <= 10.0 + 1e-9);
  }
  const solution s = solve(a, b, within({1e-13}));
  CHECK(s.report.curvature_min == doctest::Approx(1.0).epsilon(1e-6));
  CHECK(s.report.curvature_max == doctest::Approx(10.0).epsilon(1e-6));
  CHECK(s.report.condition == doctest::Approx(10.0).epsilon(1e-6));

  const auto m = jacobi_preconditioner::of(a);  // A M = I
  const solution exact = solve(a, b, within({1e-13}), m.get());
  CHECK(exact);
  CHECK(exact.report.iterations <= 2);
  CHECK(exact.report.curvature_min >= 1.0 - 1e-12);
  CHECK(exact.report.curvature_max <= 10.0 + 1e-11);
}

TEST_CASE("a throwing hook ends a long solve") {
  struct interrupted {};
  const lambda_operator slow(50, [](const_block v, block out) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (index i = 0; i < v.size(); ++i) out.data[i] = (1.0 + i % 50) * v.data[i];
  });
  set_interrupt_hook([] { throw interrupted{}; });
  random_source random(20);
  CHECK_THROWS_AS(solve(slow, random.vector(50), within({1e-14}, 1000)), interrupted);
  set_interrupt_hook(nullptr);
}

}  // namespace implicitgrad::testing
