// The randomised Nyström preconditioner.
#include <doctest/doctest.h>

#include <memory>
#include <numeric>

#include "implicitgrad/random.hpp"
#include "implicitgrad/solvers/cg.hpp"
#include "implicitgrad/solvers/jacobi.hpp"
#include "implicitgrad/solvers/nystrom.hpp"
#include "implicitgrad/triangular.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

/// Another operator, of which only the product is known, on some number of threads.
struct products_only : Operator {
  explicit products_only(const Operator& a, int n_threads = 1) : a_(a), threads(n_threads) {}
  index size() const override { return a_.size(); }
  void apply(const_block v, block out) const override {
    a_.apply(v, out);
    columns += v.cols;
  }
  int n_threads() const override { return threads; }
  const Operator& a_;
  int threads;
  mutable index columns = 0;
};

/// S A S.
struct badly_scaled : Operator {
  badly_scaled(const dense_operator& a, std::vector<double> s) : a_(a), s_(std::move(s)) {}
  index size() const override { return a_.size(); }
  void apply(const_block v, block out) const override {
    std::vector<double> scaled(v.data, v.data + v.size());
    for (index i = 0; i < v.size(); ++i) scaled[i] *= s_[i % size()];
    a_.apply(as_block(scaled, size()), out);
    for (index i = 0; i < v.size(); ++i) out.data[i] *= s_[i % size()];
  }
  bool diagonal(double* out) const override {
    for (index i = 0; i < size(); ++i) out[i] = s_[i] * s_[i] * a_(i, i);
    return true;
  }
  const dense_operator& a_;
  std::vector<double> s_;
};

solve_report solve(const Operator& a, const Operator* m, const std::vector<double>& b,
                   std::vector<double>& x, double rtol) {
  x.assign(b.size(), 0.0);
  solve_options options;
  options.rtol = {rtol};
  options.maxiter = 20 * a.size() + 100;
  return cg<host_space>(a, m, as_block(b, a.size()), as_block(x, a.size()), false, options);
}

/// The condition number of P⁻¹A, by CG's own Ritz values from a run to rounding.
double preconditioned_condition(const Operator& a, const Operator& m) {
  std::vector<double> x;
  random_source random(77);
  return solve(a, &m, random.vector(a.size()), x, 1e-13).condition;
}

std::vector<double> decaying(index n, double rate, double floor) {
  std::vector<double> d(static_cast<std::size_t>(n));
  for (index i = 0; i < n; ++i) d[i] = std::exp(-rate * static_cast<double>(i)) + floor;
  return d;
}

std::vector<double> columns_of(const Operator& m) {
  std::vector<double> out(static_cast<std::size_t>(m.size() * m.size()));
  m.Operator::dense(out.data());
  return out;
}

}  // namespace

TEST_CASE("normal numbers: two moments, no correlation, a function of the counter") {
  const index n = 100000;
  double sum = 0, squares = 0, fourth = 0, lag = 0, across = 0, before = 0;
  for (index i = 0; i < n; ++i) {
    const double x = normal(3, static_cast<std::uint64_t>(i));
    sum += x, squares += x * x, fourth += x * x * x * x, lag += x * before;
    across += x * normal(4, static_cast<std::uint64_t>(i));
    before = x;
  }
  CHECK(std::abs(sum / n) <= 0.015);
  CHECK(std::abs(squares / n - 1.0) <= 0.03);
  CHECK(std::abs(fourth / n - 3.0) <= 0.2);
  CHECK(std::abs(lag / n) <= 0.015);
  CHECK(std::abs(across / n) <= 0.015);
  CHECK(normal(3, 7) == normal(3, 7));
}

TEST_CASE("X L⁻ᵀ in strips") {
  random_source random(1);
  for (const index n : {1, 2, 9, 40})
    for (const index rows : {1, 7, 300, 700}) {
      std::vector<double> l = random.vector(n * n);
      for (index j = 0; j < n; ++j) {
        l[j * n + j] += 3.0;
        std::fill_n(&l[j * n], j, nan);  // not read
      }
      const index ld = rows + 3;
      std::vector<double> x = random.vector(ld * n), want = x;
      cholesky_divide(n, l.data(), x.data(), rows, ld, 2);
      double worst = 0.0;
      for (index c = 0; c < n; ++c)  // X = (X L⁻ᵀ) Lᵀ
        for (index r = 0; r < ld; ++r) {
          double sum = r < rows ? 0.0 : x[c * ld + r];
          for (index k = 0; k <= c && r < rows; ++k) sum += x[k * ld + r] * l[k * n + c];
          worst = std::max(worst, std::abs(sum - want[c * ld + r]));
        }
      CHECK(worst <= 1e-12);
    }
}

TEST_CASE("the condition falls to about that of what is not captured") {
  const index n = 160;
  for (const double rate : {0.15, 0.5})
    for (const double floor : {1e-3, 1e-6}) {
      const std::vector<double> d = decaying(n, rate, floor);
      const dense_operator a = dense_operator::with_spectrum(d, 2);
      const products_only op(a);
      for (const index rank : {5, 15, 30, 60}) {
        CAPTURE(rate);
        CAPTURE(floor);
        CAPTURE(rank);
        const nystrom_preconditioner m(op, rank, 3);
        CHECK(m.rank() == rank);
        CHECK(m.products() == rank);
        CHECK(m.smallest() <= 1.1 * d[rank - 1]);  // a Nyström approximation is below A
        CHECK(m.largest() <= d[0] * (1 + 1e-9));
        CHECK(m.largest() >= 0.5 * d[0]);
        // What is left out, in Frangella, Tropp and Udell's theorem: the tail beyond half the rank.
        const double tail =
            std::accumulate(d.begin() + rank / 2, d.end(), 0.0) * 4.0 / static_cast<double>(rank);
        const double bound = (3.0 * d[rank / 2] + tail) / d[n - 1];
        CHECK(preconditioned_condition(op, m) <= std::max(bound, 30.0));
      }
    }
}

TEST_CASE("fewer products than conjugate gradients alone, the sketch's included") {
  const index n = 300;
  const dense_operator a = dense_operator::with_spectrum(decaying(n, 0.2, 1e-6), 4);
  const products_only op(a);
  random_source random(5);
  const std::vector<double> b = random.vector(n);
  std::vector<double> x, y;
  const solve_report plain = solve(op, nullptr, b, x, 1e-8);
  const nystrom_preconditioner m(op, 0, 6);
  const solve_report with = solve(op, &m, b, y, 1e-8);
  CHECK(plain.status == solve_status::converged);
  CHECK(with.status == solve_status::converged);
  CHECK(3 * (m.products() + with.products) < plain.products);
  CHECK(a.residual(b.data(), y.data()) <= 1.1e-8);
}

TEST_CASE("full rank: the inverse") {
  for (const index n : {1, 2, 3, 10, 25}) {
    const dense_operator a = dense_operator::with_spectrum(
        n == 1 ? std::vector<double>{2.0} : log_spaced(1e-3, 1e2, n), 7);
    for (const bool scaled : {true, false})
      for (const index rank : {n, n + 5}) {
        const nystrom_preconditioner m(a, rank, 8, scaled);
        CHECK(m.rank() == n);
        random_source random(9);
        std::vector<double> b = random.vector(n), x;
        const solve_report report = solve(a, &m, b, x, 1e-10);
        CHECK(report.status == solve_status::converged);
        CHECK(report.iterations <= 3);
      }
  }
}

TEST_CASE("the unit diagonal takes bad scales away") {
  const index n = 120;
  const dense_operator a = dense_operator::with_spectrum(decaying(n, 0.3, 1e-3), 10);
  const badly_scaled op(a, log_spaced(1e-4, 1e4, n));
  const nystrom_preconditioner scaled(op, 40, 11), plain(op, 40, 11, false);
  random_source random(12);
  const std::vector<double> b = random.vector(n);
  std::vector<double> x;
  const solve_report good = solve(op, &scaled, b, x, 1e-6), bad = solve(op, &plain, b, x, 1e-6);
  const auto jacobi = jacobi_preconditioner::of(op);
  const solve_report diagonal = solve(op, jacobi.get(), b, x, 1e-6);
  CHECK(good.status == solve_status::converged);
  CHECK(3 * good.iterations < bad.iterations);
  CHECK(good.iterations < diagonal.iterations);
}

TEST_CASE("symmetric and positive definite, even where A spans fourteen decades") {
  const index n = 60;
  for (const double last : {1e-3, 1e-8, 1e-14}) {
    const dense_operator a = dense_operator::with_spectrum(log_spaced(last, 1.0, n), 13);
    const products_only op(a);
    for (const index rank : {8, 30, 60}) {
      const nystrom_preconditioner m(op, rank, 14);
      CHECK(m.verdict() == definiteness::positive);
      const std::vector<double> p = columns_of(m);
      double size = 0.0, skew = 0.0;
      for (index j = 0; j < n; ++j)
        for (index i = 0; i < n; ++i) {
          size = std::max(size, std::abs(p[j * n + i]));
          skew = std::max(skew, std::abs(p[j * n + i] - p[i * n + j]));
        }
      CHECK(skew <= 1e-12 * size);
      random_source random(15);
      for (int trial = 0; trial < 20; ++trial) {
        std::vector<double> v = random.vector(n), w(v.size()), y(v.size());
        for (int step = 0; step < trial % 4; ++step) {  // towards the largest eigenvalue of A
          a.apply(as_block(v, n), as_block(w, n));
          std::swap(v, w);
        }
        m.apply(as_block(v, n), as_block(y, n));
        CHECK(host_space::dot(n, v.data(), y.data()) > 0.0);
      }
    }
  }
}

TEST_CASE("a rank that grows while that pays") {
  const index n = 500;
  const auto rank_for = [&](const std::vector<double>& d) {
    std::vector<double> shuffled = d;
    const dense_operator a = dense_operator::diagonal_matrix(shuffled);
    const products_only op(a);
    const nystrom_preconditioner m(op, 0, 16);
    CHECK(m.products() == m.rank());
    CHECK(op.columns == m.rank());
    return m.rank();
  };
  CHECK(rank_for(log_spaced(1.0, 10.0, n)) <= 24);  // nothing to gain
  CHECK(rank_for(std::vector<double>(n, 2.0)) <= 24);
  CHECK(rank_for(decaying(n, 0.2, 1e-9)) == 96);
  CHECK(rank_for(decaying(n, 1.0, 1e-2)) <= 48);
  const dense_operator tiny = dense_operator::diagonal_matrix({3.0, 1.0, 2.0});
  CHECK(nystrom_preconditioner(tiny, 0, 17).rank() == 3);
}

TEST_CASE("a solve that finds itself slow asks for more columns") {
  const index n = 500;
  random_source random(30);
  const std::vector<double> b = random.vector(n);
  const dense_operator slow = dense_operator::with_spectrum(decaying(n, 0.06, 1e-6), 31);
  const dense_operator easy = dense_operator::with_spectrum(log_spaced(1.0, 10.0, n), 32);
  solve_options options;
  options.rtol = {1e-8};
  options.maxiter = 5000;
  index last = 0;
  options.monitor = [&](index i, double, const double*) {
    CHECK(i == last + 1);  // counted through
    last = i;
    return false;
  };
  const auto run = [&](const Operator& a, index rank, index& columns) {
    const products_only op(a);
    nystrom_preconditioner m(op, rank, 33);
    std::vector<double> x(b.size(), nan);
    last = 0;
    solve_report report = m.solve(op, as_block(b, n), as_block(x, n), false, options);
    CHECK(report.status == solve_status::converged);
    CHECK(report.iterations == last);
    CHECK(op.columns == m.products() + report.products);
    CHECK(static_cast<const dense_operator&>(a).residual(b.data(), x.data()) <= 1.1e-8);
    columns = m.rank();
    report.products += m.products();
    return report;
  };
  index columns = 0;
  const index fixed = run(slow, 12, columns).products;
  CHECK(columns == 12);
  CHECK(2 * run(slow, 0, columns).products < fixed);
  CHECK(columns == 192);
  CHECK(run(easy, 0, columns).products <= run(easy, 12, columns).products + 24);
  run(easy, 0, columns);
  CHECK(columns <= 24);

  options.maxiter = 40;  // for all of it together
  const products_only op(slow);
  nystrom_preconditioner m(op, 0, 33);
  std::vector<double> x(b.size());
  last = 0;
  const solve_report limited = m.solve(op, as_block(b, n), as_block(x, n), false, options);
  CHECK(limited.status == solve_status::iteration_limit);
  CHECK(limited.iterations == 40);
}

TEST_CASE("indefinite matrices, with a direction to show") {
  random_source random(18);
  for (int trial = 0; trial < 20; ++trial) {
    const index n = 20 + trial;
    std::vector<double> d = decaying(n, 0.2, 1e-3);
    for (index i = 0; i < 3; ++i) d[i] *= -1.0;  // of large size: hard to miss
    const dense_operator a = dense_operator::with_spectrum(d, random.bits());
    for (const bool scaled : {true, false}) {
      const nystrom_preconditioner m(a, 12, random.bits(), scaled);
      CHECK(m.verdict() == definiteness::indefinite);
      CHECK(m.curvature_min() < 0.0);
      CHECK(m.curvature_min() >= -(1.0 + 1e-3) * (1 + 1e-9));
      CHECK(m.rank() == 0);
      std::vector<double> v = random.vector(n), out(v.size());
      m.apply(as_block(v, n), as_block(out, n));
      CHECK(host_space::dot(n, v.data(), out.data()) > 0.0);
    }
  }
  // A negative direction that the sketch hardly sees is CG's to find.
  std::vector<double> d(40, 1.0);
  d[7] = -1e-3;
  const dense_operator a = dense_operator::with_spectrum(d, 19);
  const products_only op(a);
  const nystrom_preconditioner m(op, 5, 20);
  std::vector<double> x;
  const std::vector<double> b = random.vector(40);
  CHECK((m.verdict() == definiteness::indefinite ||
         solve(op, &m, b, x, 1e-12).status == solve_status::negative_curvature));
}

TEST_CASE("low rank is not indefinite, and noise is not curvature") {
  for (const index positive : {1, 5, 12}) {
    std::vector<double> d(50, 0.0);
    for (index i = 0; i < positive; ++i) d[i] = 1.0 + static_cast<double>(i);
    const dense_operator a = dense_operator::with_spectrum(d, 21);
    const products_only op(a);
    const nystrom_preconditioner m(op, 20, 22);
    CHECK(m.verdict() == definiteness::positive);
    CHECK(m.curvature_max() <= 12.0 * (1 + 1e-9));
    CHECK(m.curvature_max() > 0.0);
  }
  // Products with relative errors of 1e-7, as from finite differences: not symmetric to that level.
  struct noisy : products_only {
    using products_only::products_only;
    void apply(const_block v, block out) const override {
      a_.apply(v, out);
      for (index i = 0; i < v.size(); ++i) out.data[i] += 1e-7 * normal(5, seen++);
    }
    mutable std::uint64_t seen = 0;
  };
  const dense_operator a = dense_operator::with_spectrum(decaying(80, 0.5, 1e-9), 23);
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const nystrom_preconditioner m(noisy(a), 40, seed);
    CHECK(m.verdict() == definiteness::positive);
    CHECK(m.rank() == 40);
  }
}

TEST_CASE("zero and NaN: no sketch, and CG says why") {
  const dense_operator zero = dense_operator::diagonal_matrix({0.0, 0.0, 0.0});
  const nystrom_preconditioner none(zero, 2, 24);
  CHECK(none.rank() == 0);
  CHECK(none.verdict() == definiteness::positive);
  for (const double bad : {nan, inf}) {
    const dense_operator a(2, {1.0, 0.0, 0.0, bad});
    const nystrom_preconditioner m(a, 2, 25);
    CHECK(m.rank() == 0);
    std::vector<double> x;
    CHECK(solve(a, &m, {1.0, 1.0}, x, 1e-9).status == solve_status::non_finite);
  }
}

TEST_CASE("the same bits at any number of threads, others for another seed") {
  const index n = 700;
  std::vector<double> d = decaying(n, 0.1, 1e-5);
  const dense_operator a = dense_operator::diagonal_matrix(d);
  random_source random(26);
  const std::vector<double> v = random.vector(2 * n);
  std::vector<double> one(v.size());
  nystrom_preconditioner(products_only(a, 1), 60, 27).apply(as_block(v, n), as_block(one, n));
  for (const int threads : {2, 3}) {
    std::vector<double> out(v.size());
    nystrom_preconditioner(products_only(a, threads), 60, 27)
        .apply(as_block(v, n), as_block(out, n));
    CHECK(same_bits(one, out));
  }
  std::vector<double> other(v.size());
  nystrom_preconditioner(products_only(a, 1), 60, 28).apply(as_block(v, n), as_block(other, n));
  CHECK_FALSE(same_bits(one, other));
  // A rank that was doubled to is that of one go, up to rounding.
  const products_only op(a);
  const nystrom_preconditioner grown(op, 0, 27), straight(op, grown.rank(), 27);
  CHECK(grown.smallest() == doctest::Approx(straight.smallest()).epsilon(1e-6));
}

}  // namespace implicitgrad::testing
