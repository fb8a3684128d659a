// Linear models against their definition, written out in extended precision.
#include <doctest/doctest.h>

#include <limits>
#include <stdexcept>

#include "implicitgrad/linear_model.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

using real = long double;

struct problem {
  std::string loss, name;
  bool intercept;
  std::vector<double> y, weights;
  penalty pen;
  std::vector<double> theta, lam;

  index groups() const { return pen.n_groups; }
};

/// f and all its derivatives, entry by entry.
struct definition {
  real fun = 0, fun_scale = 0;
  std::vector<real> jac, jac_scale, jac_lam, hess, hess_scale, cross;

  template <class T>
  definition(const problem& f, const stored_matrix<T>& x) {
    const index n = x.rows, p = x.cols, size = p + (f.intercept ? 1 : 0), m = f.groups();
    jac.resize(size), jac_scale.resize(size), jac_lam.resize(m);
    hess.resize(size * size), hess_scale.resize(size * size), cross.resize(size * m);
    real total = 0;
    for (index i = 0; i < n; ++i) total += f.weights.empty() ? 1.0L : f.weights[i];
    for (index i = 0; i < n; ++i) {
      const real c = (f.weights.empty() ? 1.0L : f.weights[i]) / total;
      real z = 0, z_scale = 0;
      for (index j = 0; j < size; ++j) {
        z += x.entry(i, j) * f.theta[j];
        z_scale += std::abs(x.entry(i, j) * f.theta[j]);
      }
      real value, first, second, first_scale;
      if (f.loss == "squared") {
        value = (z - f.y[i]) * (z - f.y[i]) / 2, first = z - f.y[i], second = 1;
        first_scale = z_scale + std::abs(f.y[i]);
        fun_scale += c * first_scale * first_scale;
      } else {
        const real m_i = f.y[i] * z;
        value = std::log1p(std::exp(-std::abs(m_i))) + std::max(-m_i, 0.0L);
        first = -f.y[i] / (1 + std::exp(m_i));
        second = 1 / (2 + std::exp(m_i) + std::exp(-m_i));
        first_scale = 1 + z_scale;
        fun_scale += c * (1 + z_scale);
      }
      fun += c * value;
      for (index j = 0; j < size; ++j) {
        jac[j] += c * first * x.entry(i, j);
        jac_scale[j] += c * first_scale * std::abs(x.entry(i, j));
        for (index l = 0; l < size; ++l) {
          hess[j * size + l] += c * second * x.entry(i, j) * x.entry(i, l);
          hess_scale[j * size + l] += c * (1 + z_scale) * std::abs(x.entry(i, j) * x.entry(i, l));
        }
      }
    }
    for (index j = 0; j < p; ++j) {
      real strength = f.pen.fixed;
      if (m > 0) {
        const index l = f.pen.group[j];
        const real e = std::exp(static_cast<real>(f.lam[l]));
        strength += e;
        cross[l * size + j] = e * f.theta[j];
        jac_lam[l] += e * f.theta[j] * f.theta[j] / 2;
      }
      fun += strength * f.theta[j] * f.theta[j] / 2;
      fun_scale += strength * f.theta[j] * f.theta[j] / 2;
      jac[j] += strength * f.theta[j], jac_scale[j] += std::abs(strength * f.theta[j]);
      hess[j * size + j] += strength, hess_scale[j * size + j] += strength;
    }
  }
};

penalty make_penalty(const std::string& per, index p, double fixed) {
  penalty pen{fixed, 0, {}};
  if (per == "none") return pen;
  pen.n_groups = per == "all" ? 1 : per == "feature" ? p : 3;
  for (index j = 0; j < p; ++j) pen.group.push_back(per == "feature" ? j : (7 * j) % pen.n_groups);
  return pen;
}

template <class T>
std::vector<problem> problems(const stored_matrix<T>& x) {
  std::vector<problem> result;
  random_source random(61);
  for (const std::string loss : {"squared", "logistic"})
    for (const bool intercept : {false, true})
      for (const bool weighted : {false, true})
        for (const std::string per : {"none", "all", "group", "feature"}) {
          problem f{loss,
                    loss + (intercept ? ", intercept" : "") + (weighted ? ", weights" : "") +
                        ", penalty " + per,
                    intercept,
                    random.vector(x.rows),
                    {},
                    make_penalty(per, x.cols, weighted ? 0.25 : 0.0),
                    random.vector(x.cols + (intercept ? 1 : 0)),
                    {}};
          if (loss == "logistic")
            for (double& y : f.y) y = y < 0 ? -1.0 : 1.0;
          if (weighted) {
            f.weights = random.vector(x.rows);
            for (double& w : f.weights) w = std::max(w, 0.0);  // half of them zero
            f.weights[0] = 1.0;
          }
          f.lam = random.vector(f.pen.n_groups);
          for (double& l : f.lam) l = 3 * l - 1;
          result.push_back(std::move(f));
        }
  return result;
}

template <class T>
std::shared_ptr<const linear_model_linearization> linearize(const problem& f,
                                                            const stored_matrix<T>& x,
                                                            int threads = 1) {
  const auto model = make_linear_model(std::make_shared<dense_matrix<T>>(x.view()), f.y, f.weights,
                                       f.loss, f.pen, f.intercept, threads);
  return std::static_pointer_cast<const linear_model_linearization>(
      model->linearize(f.theta.data(), f.lam.data()));
}

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

TEST_CASE("constants of the data term bound its Hessian and how fast it changes") {
  for (const layout order : {layout::row_major, layout::column_major}) {
    const stored_matrix<double> x(61, 7, order, 1, 91);
    random_source random(92);
    for (const problem& f : problems(x)) {
      if (f.groups() != 0) continue;
      CAPTURE(f.name);
      const auto model = make_linear_model(std::make_shared<dense_matrix<double>>(x.view()), f.y,
                                           f.weights, f.loss, f.pen, f.intercept, 2);
      const std::vector<double> zero(f.theta.size());
      const data_state there = model->data().at(zero.data());
      const smoothness s = model->data().smooth(there);
      real total = 0, second = 0, third = 0;
      for (index i = 0; i < x.rows; ++i) total += f.weights.empty() ? 1.0L : f.weights[i];
      for (index i = 0; i < x.rows; ++i) {
        real square = f.intercept ? 1 : 0;
        for (index j = 0; j < x.cols; ++j) square += x.entry(i, j) * x.entry(i, j);
        const real c = (f.weights.empty() ? 1.0L : f.weights[i]) / total;
        second += c * square, third += c * square * std::sqrt(square);
      }
      const bool logistic = f.loss == "logistic";
      const real hess = second * (logistic ? 0.25L : 1.0L);
      const real rate = logistic ? third / (6 * std::sqrt(3.0L)) : 0;
      CHECK(s.hess >= hess);
      CHECK(s.hess <= hess * (1 + 1e-12L));
      CHECK(s.third >= rate);
      CHECK(s.third <= rate * (1 + 1e-12L));
      CHECK(s.radius == inf);
      // At θ = 0 every |ℓ'| of the logistic loss is a half, and √(Σ c ℓ'²) of the squared one is
      // √(2 f).
      const real slope = logistic ? 0.5L : std::sqrt(2.0L * there.values[0]);
      const double scale = model->data().gradient_scale(there, 0.0);
      CHECK(scale >= slope * std::sqrt(second));
      CHECK(scale <= slope * std::sqrt(second) * 1.002L);

      // ‖(H(a) − H(b)) v‖ ≤ third ‖a − b‖ ‖v‖ and ‖H v‖ ≤ hess ‖v‖, for the data term.
      const index size = static_cast<index>(f.theta.size());
      for (int trial = 0; trial < 20; ++trial) {
        const double spread = std::pow(10.0, 1 - trial % 4);
        std::vector<double> a = random.vector(size), b = a, v = random.vector(size);
        for (double& t : a) t *= 3;
        b = a;
        double distance = 0;
        for (double& t : b) {
          const double step = spread * random.symmetric();
          t += step, distance += step * step;
        }
        std::vector<double> left(size), right(size);
        const auto at_a = model->linearize(a.data(), nullptr);
        const auto at_b = model->linearize(b.data(), nullptr);
        at_a->hess().apply(as_block(v, size), as_block(left, size));
        at_b->hess().apply(as_block(v, size), as_block(right, size));
        double change = 0, image = 0, length = 0;
        for (index j = 0; j < size; ++j) {
          change += (left[j] - right[j]) * (left[j] - right[j]);
          const double data = left[j] - (j < x.cols ? f.pen.fixed * v[j] : 0.0);
          image += data * data, length += v[j] * v[j];
        }
        CHECK(std::sqrt(change) <= s.third * std::sqrt(distance * length) * (1 + 1e-9) + 1e-14);
        CHECK(std::sqrt(image) <= s.hess * std::sqrt(length) * (1 + 1e-12));
      }
    }
  }
}

TEST_CASE("curvature without a bound is bounded near a point") {
  const stored_matrix<double> x(40, 4, layout::row_major, 0, 97);
  random_source random(98);
  std::vector<double> y;
  for (index i = 0; i < x.rows; ++i) y.push_back(std::floor(4 * random.unit()));
  const auto model = make_linear_model(std::make_shared<dense_matrix<double>>(x.view()), y, {},
                                       "poisson", penalty{}, true, 2);
  const DataTerm& data = model->data();
  CHECK(data.finite());
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<double> theta = random.vector(5), a = theta, b = theta, v = random.vector(5);
    const data_state at = data.at(theta.data());
    const smoothness s = data.smooth(at);
    REQUIRE(s.radius > 0.0);
    REQUIRE(std::isfinite(s.hess + s.third + s.radius));
    // Two points within the radius, the first at its end.
    const auto norm = [](const std::vector<double>& u) {
      double square = 0.0;
      for (const double each : u) square += each * each;
      return std::sqrt(square);
    };
    const std::vector<double> step = random.vector(5);
    const double t = trial % 2 ? 0.3 : -0.99;
    for (index j = 0; j < 5; ++j) {
      a[j] += s.radius * step[j] / norm(step);
      b[j] += t * s.radius * step[j] / norm(step);
    }
    std::vector<double> left(5), right(5);
    data.apply(data.at(a.data()), as_block(v, 5), as_block(left, 5));
    data.apply(data.at(b.data()), as_block(v, 5), as_block(right, 5));
    CHECK(norm(left) <= s.hess * norm(v));
    for (index j = 0; j < 5; ++j) right[j] -= left[j];
    CHECK(norm(right) <= s.third * (1.0 - t) * s.radius * norm(v));
    const double scale = data.gradient_scale(at, norm(theta));
    CHECK(std::isfinite(scale));
    CHECK(scale >= norm(at.jac));
  }
  // Where e^z overflows it is not finite either, and no NaN at θ = 0.
  const std::vector<double> zero(5);
  const data_state origin = data.at(zero.data());
  CHECK(std::isfinite(data.gradient_scale(origin, 0.0)));
}

TEST_CASE("what bounds need: every constant on its safe side") {
  for (const bool narrow : {true, false}) {
    const stored_matrix<double> x(narrow ? 61 : 3, narrow ? 7 : 1000, layout::row_major, 0, 93);
    random_source random(94);
    for (problem f : problems(x)) {
      CAPTURE(f.name);
      CAPTURE(narrow);
      const index size = static_cast<index>(f.theta.size());
      for (const double scale : {1.0, 1e3}) {
        for (double& t : f.theta) t *= scale;
        const auto at = linearize(f, x);
        const error_terms e = at->errors();
        real least = HUGE_VALL, most = 0, rate = 0, cross = 0;
        std::vector<real> columns(f.groups());
        for (index j = 0; j < x.cols; ++j) {
          const real exp = f.groups() ? std::exp(static_cast<real>(f.lam[f.pen.group[j]])) : 0.0L;
          least = std::min(least, f.pen.fixed + exp), most = std::max(most, f.pen.fixed + exp);
          rate = std::max(rate, exp);
          if (f.groups()) columns[f.pen.group[j]] += exp * exp * f.theta[j] * f.theta[j];
        }
        for (const real c : columns) cross = std::max(cross, std::sqrt(c));
        CHECK(e.least <= (f.intercept ? 0 : least));
        if (!f.intercept) CHECK(e.least >= least * (1 - 1e-12L));
        CHECK(e.most >= most);
        CHECK(e.rate >= rate);
        CHECK(e.cross >= cross);
        CHECK(e.cross <= cross * (1 + 1e-12L));

        if (!narrow) continue;
        const definition want(f, x);
        real error = 0;
        for (index j = 0; j < size; ++j)
          error += (at->jac()[j] - want.jac[j]) * (at->jac()[j] - want.jac[j]);
        CHECK(std::sqrt(error) <= e.gradient_rounding);
        const std::vector<double> v = random.vector(size);
        std::vector<double> out(size);
        at->hess().apply(as_block(v, size), as_block(out, size));
        real difference = 0, length = 0;
        for (index j = 0; j < size; ++j) {
          real sum = 0;
          for (index l = 0; l < size; ++l) sum += want.hess[j * size + l] * v[l];
          difference += (out[j] - sum) * (out[j] - sum), length += static_cast<real>(v[j]) * v[j];
        }
        CHECK(std::sqrt(difference) <= e.product_rounding * std::sqrt(length));
      }
    }
  }
}

TEST_CASE("rounding of the margins reaches the curvature, and the bound knows") {
  // Margins of order one as differences of numbers of order 1e8.
  random_source random(95);
  for (int trial = 0; trial < 20; ++trial) {
    stored_matrix<double> x(2, 2, layout::row_major, 0, 96);
    for (index i = 0; i < 2; ++i) x.at(i, 0) = 1.0, x.at(i, 1) = -1.0 + 1e-8 * random.symmetric();
    problem f{"logistic", "cancelling margins", false, {1.0, -1.0}, {}, {}, {1e8, 1e8}, {}};
    f.theta[0] += random.symmetric(), f.theta[1] += random.symmetric();
    const auto at = linearize(f, x);
    const definition want(f, x);
    const std::vector<double> v{1.0, -1.0};
    std::vector<double> out(2);
    at->hess().apply(as_block(v, 2), as_block(out, 2));
    real difference = 0;
    for (index j = 0; j < 2; ++j) {
      const real sum = want.hess[j * 2] * v[0] + want.hess[j * 2 + 1] * v[1];
      difference += (out[j] - sum) * (out[j] - sum);
    }
    CHECK(std::sqrt(difference) <= at->errors().product_rounding * std::sqrt(2.0L));
  }
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
