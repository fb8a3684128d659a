// The softmax loss over runs of rows, its data term, and what preconditions it, against naive
// formulas.
#include <doctest/doctest.h>

#include "implicitgrad/solvers/class_sketch.hpp"
#include "kernels/softmax.hpp"
#include "softmax_cases.hpp"

namespace implicitgrad::testing {

namespace {

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double relative(const std::vector<double>& got, const std::vector<real>& want) {
  real off = 0, size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    off = std::max(off, std::abs(got[i] - want[i]));
    size = std::max(size, std::abs(want[i]));
  }
  return static_cast<double>(off / size);
}

}  // namespace

TEST_CASE("rows, relative to each of their terms, in saturation too") {
  for (const double spread : {1e-8, 1.0, 30.0, 700.0})
    for (const index k : {2, 3, 10})
      for (const index n : {1, 7, 64, 65, 200}) {
        CAPTURE(spread);
        CAPTURE(k);
        random_source random(static_cast<std::uint64_t>(n + k));
        const index ld = n + 3;
        std::vector<double> z(static_cast<std::size_t>(ld * k)), p(z.size()), y, slopes(k), v;
        for (double& each : z) each = spread * random.symmetric();
        const std::vector<double> before = z, c(static_cast<std::size_t>(n), 1.0);
        for (index i = 0; i < n; ++i) y.push_back(static_cast<double>(i % k));
        const kernels::class_rows rows{n, k, z.data(), ld, ld, c.data(), nan};
        const double value = kernels::evaluate_softmax(rows, {y.data()}, p.data(), slopes.data());
        v = random.vector(ld * k);
        const std::vector<double> in = v;
        kernels::multiply_softmax({n, k, v.data(), ld, ld, nullptr, 1.0}, p.data());
        std::vector<double> d(z.size());
        kernels::softmax_diagonal({n, k, d.data(), ld, ld, nullptr, 1.0}, p.data());
        real total = 0;
        double worst = 0.0, squares = 0.0;
        for (index i = 0; i < n; ++i) {
          std::vector<double> margins, direction;
          for (index a = 0; a < k; ++a) {
            margins.push_back(before[a * ld + i]);
            direction.push_back(in[a * ld + i]);
          }
          const exact_softmax want(margins, i % k);
          const std::vector<real> product = want.product(direction);
          total += want.value;
          real scale = 0;
          for (const real each : product) scale = std::max(scale, std::abs(each));
          for (index a = 0; a < k; ++a) {
            const auto off = [&](double got, real exact) {
              const real allowed = 8 * DBL_EPSILON * (static_cast<real>(k) + 2 * spread);
              return static_cast<double>(std::abs(got - exact) /
                                         (allowed * std::abs(exact) + 8 * DBL_MIN));
            };
            worst = std::max(worst, off(p[a * ld + i], want.p[a]));
            worst = std::max(worst, off(z[a * ld + i], want.first[a]));
            real rest = 0;
            for (index b = 0; b < k; ++b) rest += b == a ? 0 : want.p[b];
            worst = std::max(worst, off(d[a * ld + i], want.p[a] * rest));
            // Entries of the product may cancel, but not below p_a times what v varies by.
            const real size = want.p[a] * std::min<real>(2.0L, rest + (rest > 0.5L ? 1 : 0)) * 2;
            const real error = std::abs(v[a * ld + i] - product[a]);
            CHECK(error <= 16 * DBL_EPSILON * (static_cast<real>(k) + 2 * spread) * size + DBL_MIN);
            squares += z[a * ld + i] * z[a * ld + i];
          }
        }
        CHECK(worst <= 1.0);
        CHECK(std::abs(value - total) <= 4 * DBL_EPSILON * static_cast<real>(n + k) * total);
        double sum = 0.0;
        for (const double each : slopes) sum += each;
        CHECK(sum == doctest::Approx(squares));
      }
}

TEST_CASE("what overflows is not finite, and a constant in v gives nothing") {
  std::vector<double> z{inf, 1.0, 0.0}, p(3), slopes(3);
  const double label = 1.0;
  CHECK_FALSE(std::isfinite(kernels::evaluate_softmax({1, 3, z.data(), 1, 1, nullptr, 1.0},
                                                      {&label}, p.data(), slopes.data())));
  for (const double top : {0.2, 0.9}) {
    const std::vector<double> q{1 - top - 0.05, 0.05, top};
    std::vector<double> v(3, 1e8);
    kernels::multiply_softmax({1, 3, v.data(), 1, 1, nullptr, 1.0}, q.data());
    for (const double each : v) CHECK(each == 0.0);
  }
}

TEST_CASE("value, gradient, products and dense form, one or more folds, any layout") {
  for (const layout order : {layout::row_major, layout::column_major})
    for (const bool intercept : {false, true})
      for (const index folds : {1, 3})
        for (const index k : {2, 4}) {
          CAPTURE(intercept);
          CAPTURE(folds);
          CAPTURE(k);
          const model m(41, 5, k, intercept, order, folds);
          const auto f = m.make(2);
          const auto at = std::static_pointer_cast<const linear_model_linearization>(
              f->linearize(m.theta.data(), m.lam.data()));
          const index q = m.x.cols + (intercept ? 1 : 0), size = q * k, all = size * folds;
          REQUIRE(f->n_theta() == all);
          random_source random(5);
          const std::vector<double> v = random.vector(all);
          std::vector<real> jac(static_cast<std::size_t>(all)), product(jac.size());
          real fun = 0;
          for (index f_at = 0; f_at < folds; ++f_at) {
            real total = 0;
            for (index i = 0; i < m.x.rows; ++i) total += m.weights[f_at * m.x.rows + i];
            for (index i = 0; i < m.x.rows; ++i) {
              const real w = m.weights[f_at * m.x.rows + i] / total / folds;
              std::vector<double> z, dz;
              for (index a = 0; a < k; ++a) {
                real margin = 0, moved = 0;
                for (index j = 0; j < q; ++j) {
                  margin += m.x.entry(i, j) * m.theta[f_at * size + j * k + a];
                  moved += m.x.entry(i, j) * v[f_at * size + j * k + a];
                }
                z.push_back(static_cast<double>(margin)), dz.push_back(static_cast<double>(moved));
              }
              const exact_softmax row(z, static_cast<index>(m.y[i]));
              const std::vector<real> h = row.product(dz);
              fun += w * row.value;
              for (index j = 0; j < q; ++j)
                for (index a = 0; a < k; ++a) {
                  jac[f_at * size + j * k + a] += w * row.first[a] * m.x.entry(i, j);
                  product[f_at * size + j * k + a] += w * h[a] * m.x.entry(i, j);
                }
            }
            for (index j = 0; j < m.x.cols; ++j)
              for (index a = 0; a < k; ++a) {
                const index e = f_at * size + j * k + a;
                const real s = std::exp(static_cast<real>(m.lam[m.pen.group[j]])) / folds;
                fun += s * m.theta[e] * m.theta[e] / 2;
                jac[e] += s * m.theta[e];
                product[e] += s * v[e];
              }
          }
          CHECK(std::abs(at->fun() - fun) <= 1e-14 * fun);
          CHECK(relative(at->jac(), jac) <= 1e-14);
          CHECK(relative(times(at->hess(), v), product) <= 1e-14);

          for (const Operator* h : {&at->hess(), &at->system()}) {
            std::vector<double> dense(static_cast<std::size_t>(folds * size * size));
            h->dense(dense.data());
            std::vector<real> by_dense(static_cast<std::size_t>(all));
            std::vector<double> diagonal(static_cast<std::size_t>(all));
            REQUIRE(h->diagonal(diagonal.data()));
            for (index b = 0; b < folds; ++b)
              for (index r = 0; r < size; ++r) {
                for (index c = 0; c < size; ++c)
                  by_dense[b * size + r] +=
                      dense[(b * size + std::min(r, c)) * size + std::max(r, c)] *
                      static_cast<real>(v[b * size + c]);
                const double entry = dense[(b * size + r) * size + r];
                CHECK(diagonal[b * size + r] == doctest::Approx(entry).epsilon(1e-13));
              }
            CHECK(relative(times(*h, v), by_dense) <= 1e-13);
          }
        }
}

TEST_CASE("the same bits at any number of threads") {
  const model m(3000, 40, 3, true, layout::row_major, 2);
  std::vector<double> jac, product;
  for (const int threads : {1, 2, 3}) {
    const auto at = m.make(threads)->linearize(m.theta.data(), m.lam.data());
    const std::vector<double> out = times(at->system(), m.theta);
    if (threads == 1) jac = at->jac(), product = out;
    CHECK(same_bits(at->jac(), jac));
    CHECK(same_bits(out, product));
  }
}

TEST_CASE("directions in which f is constant: H is zero there, the system within its spectrum") {
  for (const bool penalised : {false, true})
    for (const bool intercept : {false, true}) {
      CAPTURE(penalised);
      CAPTURE(intercept);
      const model m(60, 4, 3, intercept, layout::row_major, 1);
      const auto f = m.make(1, penalised);
      const auto at = std::static_pointer_cast<const linear_model_linearization>(
          f->linearize(m.theta.data(), m.lam.data()));
      REQUIRE(at->degenerate() == (intercept || !penalised));
      const index q = m.x.cols + (intercept ? 1 : 0), size = 3 * q;
      random_source random(9);
      // Eigenvalues on the complement: of H itself, by power steps up and down.
      std::vector<double> v = random.vector(size);
      at->project(column(v));
      for (index j = 0; j < q; ++j) {
        std::vector<double> e(static_cast<std::size_t>(size));
        for (index a = 0; a < 3; ++a) e[3 * j + a] = 1.0;
        const bool null = j == m.x.cols || !penalised;
        const std::vector<double> image = times(at->hess(), e), full = times(at->system(), e);
        const double strength = null ? 0.0 : at->strength()[3 * j];
        for (index i = 0; i < size; ++i)
          CHECK(image[i] == doctest::Approx(i / 3 == j ? strength : 0.0).epsilon(1e-14));
        if (!null) continue;
        CHECK(std::abs(dot(v, e)) <= 1e-14);
        const double tau = full[3 * j];
        CHECK(tau > 0.0);
        // The mean of Rayleigh quotients over a basis of the entries that sum to zero.
        double mean = 0.0;
        for (const std::vector<double>& u :
             {std::vector<double>{1, -1, 0}, std::vector<double>{1, 1, -2}}) {
          std::vector<double> w(static_cast<std::size_t>(size));
          std::copy(u.begin(), u.end(), w.begin() + 3 * j);
          mean += dot(w, times(at->hess(), w)) / dot(w, w) / 2;
        }
        CHECK(tau == doctest::Approx(mean - strength).epsilon(1e-12));
      }
    }
}

TEST_CASE("two classes are the logistic loss") {
  const model m(80, 6, 2, true, layout::row_major, 1);
  penalty twice = m.pen;
  std::vector<double> y = m.y, theta;
  for (double& label : y) label = 2 * label - 1;
  // z_1 − z_0 = x (W_1 − W_0), and ½ e^λ (W_0² + W_1²) = ½ (e^λ / 2) (W_1 − W_0)² for W_0 = −W_1.
  std::vector<double> w(14);
  random_source random(3);
  for (index j = 0; j < 7; ++j) {
    w[2 * j + 1] = random.symmetric(), w[2 * j] = -w[2 * j + 1];
    theta.push_back(2 * w[2 * j + 1]);
  }
  std::vector<double> lam = m.lam;
  for (double& each : lam) each -= std::log(2.0);
  const auto logistic = make_linear_model(std::make_shared<dense_matrix<double>>(m.x.view()), y,
                                          m.weights, "logistic", twice, true, 1)
                            ->linearize(theta.data(), lam.data());
  const auto softmax = m.make(1)->linearize(w.data(), m.lam.data());
  CHECK(softmax->fun() == doctest::Approx(logistic->fun()).epsilon(1e-14));
  for (index j = 0; j < 7; ++j)
    CHECK(softmax->jac()[2 * j + 1] == doctest::Approx(logistic->jac()[j]).epsilon(1e-13));
}

TEST_CASE("constants bound H and how fast it changes, and are met") {
  const model m(50, 3, 4, true, layout::row_major, 1);
  const auto f = m.make(1, false);
  const data_state at = f->data().at(m.theta.data());
  const smoothness s = f->data().smooth(at);
  const index size = f->n_theta();
  random_source random(4);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> a = random.vector(size), b = a, v = random.vector(size), left(v), right(v);
    const double spread = std::pow(10.0, 1 - trial % 4);
    double distance = 0.0;
    for (double& t : b) {
      const double step = spread * random.symmetric();
      t += step, distance += step * step;
    }
    f->data().apply(f->data().at(a.data()), column(v), column(left));
    f->data().apply(f->data().at(b.data()), column(v), column(right));
    CHECK(std::sqrt(dot(left, left)) <= s.hess * std::sqrt(dot(v, v)));
    for (index i = 0; i < size; ++i) right[i] -= left[i];
    CHECK(std::sqrt(dot(right, right)) <= s.third * std::sqrt(distance * dot(v, v)) * (1 + 1e-9));
  }
  // One row, two classes of four that matter: p = ½, and p = ½ ± 1/√12 where the change is largest.
  const stored_matrix<double> one(1, 1, layout::row_major, 0, 5);
  const auto row = std::make_shared<linear_model>(
      make_softmax_term(std::make_shared<dense_matrix<double>>(one.view()), {0.0}, 2, {}, false, 1),
      penalty{});
  const double x = one.at(0, 0);
  const auto curvature = [&](double margin) {  // along (1, −1)/√2
    const std::vector<double> theta{margin / 2 / x, -margin / 2 / x},
        u{std::sqrt(0.5), -std::sqrt(0.5)};
    std::vector<double> out(2);
    const data_state here = row->data().at(theta.data());
    row->data().apply(here, column(u), column(out));
    return dot(u, out);
  };
  const smoothness tight = row->data().smooth(row->data().at(std::vector<double>(2).data()));
  CHECK(tight.hess == doctest::Approx(curvature(0.0)).epsilon(1e-9));
  const double steepest = std::log((1 + 1 / std::sqrt(3.0)) / (1 - 1 / std::sqrt(3.0))), h = 1e-5;
  const double change =
      (curvature(steepest + h) - curvature(steepest - h)) / (2 * h / std::abs(x) / std::sqrt(2.0));
  CHECK(tight.third == doctest::Approx(std::abs(change)).epsilon(1e-6));
}

TEST_CASE("the sketch by classes is symmetric, positive, and good where classes are confused") {
  for (const bool intercept : {false, true}) {
    const model m(300, 6, 4, intercept, layout::row_major, 1);
    const auto f = m.make(2);
    const auto at = std::static_pointer_cast<const linear_model_linearization>(
        f->linearize(m.theta.data(), m.lam.data()));
    const auto sketch = at->sketch(300, 0);
    sketch->factor(at->strength());
    const index size = f->n_theta();
    random_source random(8);
    const std::vector<double> u = random.vector(size), v = random.vector(size);
    const double uv = dot(u, times(*sketch, v)), vu = dot(v, times(*sketch, u));
    CHECK(uv == doctest::Approx(vu).epsilon(1e-5));  // factored in single precision
    // In the complement of what the classes add up to, where CG stays, M is close to H⁻¹.
    std::vector<double> w = v;
    centre_classes(4, column(w));
    const std::vector<double> hw = times(at->hess(), w);
    std::vector<double> sum = hw;
    centre_classes(4, column(sum));
    CHECK(largest_difference(sum, hw) <= 1e-15);
    const double quotient = dot(hw, times(*sketch, hw)) / dot(w, hw);
    CHECK(quotient > 0.5);
    CHECK(quotient < 2.0);
    // The rest is exact: M H v = v for equal entries of a penalised column.
    std::vector<double> e(static_cast<std::size_t>(size));
    for (index a = 0; a < 4; ++a) e[4 + a] = 1.0;
    CHECK(largest_difference(times(*sketch, times(at->hess(), e)), e) <= 1e-12);
    CHECK(sketch->curvature_min() > 0.0);
    CHECK(sketch->curvature_max() >= sketch->curvature_min());
  }
}

TEST_CASE("labels that are none are refused") {
  const stored_matrix<double> x(3, 2, layout::row_major, 0, 1);
  const auto data = std::make_shared<dense_matrix<double>>(x.view());
  for (const std::vector<double>& y : {std::vector<double>{0, 1, 3}, std::vector<double>{0, 1, -1},
                                       std::vector<double>{0, 1, 0.5}, std::vector<double>{0, 1}})
    CHECK_THROWS_AS(make_softmax_term(data, y, 3, {}, false, 1), std::invalid_argument);
  CHECK_THROWS_AS(make_softmax_term(data, {0, 0, 0}, 1, {}, false, 1), std::invalid_argument);
}

}  // namespace implicitgrad::testing
