// What error bounds need to know of a linear model: constants of its Hessian, and of rounding.
#include <doctest/doctest.h>

#include "linear_model_cases.hpp"

namespace implicitgrad::testing {

TEST_CASE("constants of the data term bound its Hessian and how fast it changes") {
  for (const layout order : {layout::row_major, layout::column_major}) {
    const stored_matrix<double> x(61, 7, order, 1, 91);
    random_source random(92);
    for (const problem& f : problems(x)) {
      if (f.groups() != 0) continue;
      CAPTURE(f.name);
      const auto model = make_linear_model(std::make_shared<dense_matrix<double>>(x.view()), f.y,
                                           f.weights, f.loss, f.pen, f.intercept, 2);
      const smoothness& s = model->data().smooth();
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
      // At θ = 0 every |ℓ'| of the logistic loss is a half, and √(Σ c ℓ'²) of the squared one is
      // √(2 f); what bounds the former by the value is a little more.
      const std::vector<double> zero(f.theta.size());
      const data_state there = model->data().at(zero.data());
      const real slope = logistic ? 0.5L : std::sqrt(2.0L * there.values[0]);
      const double scale = model->data().gradient_scale(there, 0.0);
      CHECK(scale >= slope * std::sqrt(second));
      CHECK(scale <= slope * std::sqrt(second) * (logistic ? 1.2L : 1.002L));

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

}  // namespace implicitgrad::testing
