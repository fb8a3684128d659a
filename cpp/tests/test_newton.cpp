// Newton's method: quadratics in a step or two, logistic models and a few functions that are not
// convex, judged by gradients computed apart.
#include <doctest/doctest.h>

#include <functional>
#include <memory>

#include "implicitgrad/linear_model.hpp"
#include "implicitgrad/trainers/newton.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

train_method by(bool direct) { return direct ? train_method::direct : train_method::krylov; }

/// A function of θ given by its value, gradient and Hessian.
class given_objective : public Objective {
 public:
  struct point {
    double fun;
    std::vector<double> jac, hess;
  };
  using formula = std::function<point(const double*)>;

  given_objective(index n, formula f) : n_(n), f_(std::move(f)) {}
  index n_theta() const override { return n_; }
  index n_lam() const override { return 0; }
  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double*) const override {
    return std::make_shared<const at>(n_, f_(theta));
  }

 private:
  class at : public Linearization {
   public:
    at(index n, point p) : point_(std::move(p)), hess_(n, point_.hess) {}
    double fun() const override { return point_.fun; }
    const std::vector<double>& jac() const override { return point_.jac; }
    const Operator& hess() const override { return hess_; }

   private:
    point point_;
    dense_operator hess_;
  };

  index n_;
  formula f_;
};

struct trained {
  std::vector<double> theta;
  train_report report;
};

trained train(const Objective& f, std::vector<double> theta, const std::vector<double>& lam,
              train_options options) {
  trained t{std::move(theta), {}};
  t.report = newton(f, t.theta.data(), lam.data(), options);
  return t;
}

struct data {
  stored_matrix<double> x{80, 6, layout::row_major, 0, 81};
  std::vector<double> y, weights, lam{-2.0, -1.0, 0.0, -3.0, -4.0, 1.0};

  explicit data(const std::string& loss) {
    random_source random(82);
    for (index i = 0; i < x.rows; ++i) {
      double z = random.symmetric();
      for (index j = 0; j < x.cols; ++j) z += (j % 3 - 1) * 2.0 * x.at(i, j);
      y.push_back(loss == "squared" ? z : (z > 0 ? 1.0 : -1.0));
      weights.push_back(0.1 + random.unit());
    }
  }

  std::shared_ptr<linear_model> model(const std::string& loss, bool intercept) const {
    return make_linear_model(std::make_shared<dense_matrix<double>>(x.view()), y, weights, loss,
                             penalty{0.0, 6, {0, 1, 2, 3, 4, 5}}, intercept, 2);
  }

  /// ‖∇f‖_∞ in extended precision.
  double stationarity(const std::string& loss, bool intercept,
                      const std::vector<double>& theta) const {
    const index size = 6 + (intercept ? 1 : 0);
    std::vector<long double> jac(size);
    long double total = 0;
    for (const double w : weights) total += w;
    for (index i = 0; i < x.rows; ++i) {
      long double z = 0;
      for (index j = 0; j < size; ++j) z += x.entry(i, j) * theta[j];
      const long double first =
          loss == "squared" ? z - y[i] : -y[i] / (1 + std::exp(static_cast<long double>(y[i]) * z));
      for (index j = 0; j < size; ++j) jac[j] += weights[i] / total * first * x.entry(i, j);
    }
    long double worst = 0;
    for (index j = 0; j < size; ++j) {
      if (j < 6) jac[j] += std::exp(static_cast<long double>(lam[j])) * theta[j];
      worst = std::max(worst, std::abs(jac[j]));
    }
    return static_cast<double>(worst);
  }
};

}  // namespace

TEST_CASE("least squares takes a step or two") {
  const data d("squared");
  for (const bool intercept : {false, true})
    for (const bool direct : {true, false})
      for (const double tol : {1e-10, 0.0}) {
        CAPTURE(intercept);
        CAPTURE(direct);
        CAPTURE(tol);
        const auto f = d.model("squared", intercept);
        const trained t =
            train(*f, std::vector<double>(f->n_theta(), 3.0), d.lam, {tol, 50, by(direct)});
        CHECK(t.report.status == train_status::converged);
        if (direct) CHECK(t.report.iterations <= 2);
        CHECK(d.stationarity("squared", intercept, t.theta) <= (tol > 0  ? tol
                                                                : direct ? 1e-13
                                                                         : 1e-11));
        CHECK(t.report.stationarity ==
              doctest::Approx(d.stationarity("squared", intercept, t.theta))
                  .epsilon(1e-3)
                  .scale(1e-12));
        if (direct) CHECK(t.report.products == 0);
        if (!direct) CHECK(t.report.products > 0);
      }
}

TEST_CASE("a y that the model explains, so that f is zero but for rounding") {
  data d("squared");
  for (const double mean : {0.1, 3.0, 1e9}) {
    d.y.assign(d.y.size(), mean);
    const auto f = d.model("squared", true);
    for (const bool direct : {true, false})
      for (const double tol : {0.0, 1e-300}) {
        CAPTURE(mean);
        CAPTURE(direct);
        CAPTURE(tol);
        const trained t = train(*f, std::vector<double>(7), d.lam, {tol, 200, by(direct)});
        CHECK(t.report.iterations <= 20);
        if (tol == 0.0) CHECK(t.report.status == train_status::converged);
        for (index j = 0; j < 7; ++j)
          CHECK(std::abs(t.theta[j] - (j == 6 ? mean : 0.0)) <= 1e-14 * mean);
        const trained again = train(*f, t.theta, d.lam, {tol, 200, by(direct)});
        CHECK(again.report.iterations <= 20);
      }
  }
}

TEST_CASE("logistic models reach stationarity from near and far") {
  const data d("logistic");
  for (const bool intercept : {false, true})
    for (const bool direct : {true, false})
      for (const double start : {0.0, 1.0, 30.0, -1e3}) {
        CAPTURE(intercept);
        CAPTURE(direct);
        CAPTURE(start);
        const auto f = d.model("logistic", intercept);
        const std::vector<double> theta0(f->n_theta(), start);
        const trained t = train(*f, theta0, d.lam, {1e-11, 200, by(direct)});
        CHECK(t.report.status == train_status::converged);
        CHECK(d.stationarity("logistic", intercept, t.theta) <= 1.01e-11);
        const trained full = train(*f, theta0, d.lam, {0.0, 200, by(direct)});
        CHECK(full.report.status == train_status::converged);
        // A step below a relative 1e-6, whose error is its square; Cholesky's steps do better.
        CHECK(d.stationarity("logistic", intercept, full.theta) <= (direct ? 1e-13 : 1e-11));
        CHECK(full.report.fun == f->linearize(full.theta.data(), d.lam.data())->fun());

        // From the minimum there is nothing left to do.
        const trained again = train(*f, t.theta, d.lam, {1e-10, 200, by(direct)});
        CHECK(again.report.iterations == 0);
        CHECK(same_bits(again.theta, t.theta));
        CHECK(train(*f, full.theta, d.lam, {0.0, 200, by(direct)}).report.iterations <= 3);
      }
}

TEST_CASE("a failure is a status") {
  const data d("logistic");
  const auto f = d.model("logistic", false);
  const std::vector<double> zero(6);
  const trained limited = train(*f, zero, d.lam, {1e-12, 1, by(true)});
  CHECK(limited.report.status == train_status::iteration_limit);
  CHECK(limited.report.iterations == 1);
  CHECK(limited.report.fun < f->linearize(zero.data(), d.lam.data())->fun());
  // No floating-point θ has a gradient this small; the search must end all the same.
  const trained impossible = train(*f, zero, d.lam, {1e-300, 200, by(true)});
  CHECK(impossible.report.status != train_status::converged);
  CHECK(d.stationarity("logistic", false, impossible.theta) <= 1e-13);

  const data s("squared");
  const std::vector<double> far(6, 1e200);
  const trained overflow = train(*s.model("squared", false), far, s.lam, {1e-8, 50, by(true)});
  CHECK(overflow.report.status == train_status::non_finite);
  CHECK(train(*f, std::vector<double>(6, nan), d.lam, {1e-8, 50, by(true)}).report.status ==
        train_status::non_finite);
}

TEST_CASE("separable data without a penalty: no minimum, no hang, no NaN") {
  const stored_matrix<double> x(20, 2, layout::row_major, 0, 83);
  std::vector<double> y;
  for (index i = 0; i < 20; ++i) y.push_back(x.at(i, 0) > 0 ? 1.0 : -1.0);
  const auto f = make_linear_model(std::make_shared<dense_matrix<double>>(x.view()), y,
                                   std::vector<double>{}, "logistic", penalty{}, false, 1);
  for (const bool direct : {true, false})
    for (const double tol : {0.0, 1e-12}) {
      const trained t = train(*f, {0.0, 0.0}, {}, {tol, 200, by(direct)});
      CHECK(std::isfinite(t.theta[0]));
      CHECK(std::isfinite(t.report.fun));
      CHECK(t.report.stationarity < 1e-3);
    }
}

TEST_CASE("functions that are not convex: descent all the way to a minimum") {
  // θ⁴/4 − θ²/2: curvature is negative between ±1/√3, the minima are ±1.
  const given_objective well(1, [](const double* t) {
    const double x = t[0];
    return given_objective::point{x * x * x * x / 4 - x * x / 2, {x * x * x - x}, {3 * x * x - 1}};
  });
  // Rosenbrock's valley, minimum at (1, 1).
  const given_objective valley(2, [](const double* t) {
    const double x = t[0], y = t[1], u = y - x * x;
    return given_objective::point{(1 - x) * (1 - x) + 100 * u * u,
                                  {-2 * (1 - x) - 400 * x * u, 200 * u},
                                  {2 - 400 * u + 800 * x * x, -400 * x, -400 * x, 200.0}};
  });
  for (const bool direct : {true, false}) {
    CAPTURE(direct);
    for (const double start : {0.1, -0.2, 0.57, 4.0, 1e-6}) {
      const trained t = train(well, {start}, {}, {1e-10, 200, by(direct)});
      CAPTURE(start);
      CHECK(t.report.status == train_status::converged);
      CHECK(std::abs(t.theta[0]) == doctest::Approx(1.0).epsilon(1e-9));
    }
    for (const std::vector<double>& start :
         {std::vector<double>{-1.2, 1.0}, {0.0, 0.0}, {2.0, -3.0}}) {
      const trained t = train(valley, start, {}, {1e-9, 500, by(direct)});
      CHECK(t.report.status == train_status::converged);
      CHECK(largest_difference(t.theta, {1.0, 1.0}) <= 1e-7);
    }
  }
}

}  // namespace implicitgrad::testing
