// exp, log1p, tanh and softplus against extended precision, in units in the last place of the
// result.
#include <doctest/doctest.h>

#include "implicitgrad/elementary.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

double ulps(double got, long double want) {
  const int exponent = std::max(std::ilogb(want), -1022);
  return static_cast<double>(std::abs(got - want) / std::ldexp(1.0L, exponent - 52));
}

/// The largest error of f at random points of [from, to], and where.
struct worst_case {
  double at = 0.0, error = 0.0;

  template <class Got, class Want>
  void sweep(double from, double to, index points, Got&& f, Want&& reference) {
    random_source random(7);
    for (index i = 0; i < points; ++i) {
      const double x = from + (to - from) * random.unit();
      see(x, ulps(f(x), reference(static_cast<long double>(x))));
    }
  }
  void see(double x, double e) {
    if (!(e <= error)) at = x, error = e;
  }
};

const auto exact_exp = [](long double x) { return std::exp(x); };
const auto exact_log1p = [](long double x) { return std::log1p(x); };

}  // namespace

TEST_CASE("exp over its range") {
  worst_case normal, subnormal;
  normal.sweep(-708.3, 709.7, 400000, vector_exp, exact_exp);
  normal.sweep(-2.0, 2.0, 400000, vector_exp, exact_exp);
  normal.sweep(-1e-8, 1e-8, 10000, vector_exp, exact_exp);
  CAPTURE(normal.at);
  CHECK(normal.error <= 1.5);
  subnormal.sweep(-745.2, -708.3, 200000, vector_exp, exact_exp);
  CAPTURE(subnormal.at);
  CHECK(subnormal.error <= 1.5);
}

TEST_CASE("exp where the range reduction rounds the other way") {
  worst_case worst;
  for (int k = -1074; k <= 1023; ++k) {
    double x = (k + 0.5) * 0.6931471805599453;
    for (int i = 0; i < 4; ++i) x = std::nextafter(x, -inf);
    for (int i = 0; i < 9; ++i, x = std::nextafter(x, inf)) {
      worst.see(x, ulps(vector_exp(x), std::exp(static_cast<long double>(x))));
    }
  }
  CAPTURE(worst.at);
  CHECK(worst.error <= 1.5);
}

TEST_CASE("exp at special values") {
  CHECK(vector_exp(0.0) == 1.0);
  CHECK(vector_exp(-0.0) == 1.0);
  CHECK(vector_exp(5e-324) == 1.0);
  CHECK(vector_exp(-745.13) == 5e-324);
  for (const double x : {-745.14, -746.0, -750.0, -1e5, -1e300, -inf}) {
    CAPTURE(x);
    CHECK(vector_exp(x) == 0.0);
    CHECK(!std::signbit(vector_exp(x)));
  }
  CHECK(std::isfinite(vector_exp(709.782712893384)));  // just below the logarithm of the largest
  for (const double x : {709.7827128933841, 710.0, 745.0, 746.0, 1e5, 1e300, inf}) {
    CAPTURE(x);
    CHECK(vector_exp(x) == inf);
  }
  CHECK(std::isnan(vector_exp(nan)));
  CHECK(std::isnan(vector_exp(-nan)));
}

TEST_CASE("log1p from 0 to 1") {
  worst_case worst;
  worst.sweep(0.0, 1.0, 400000, vector_log1p, exact_log1p);
  for (double scale = 0.5; scale > 1e-20; scale *= 0.5)
    worst.sweep(0.0, scale, 2000, vector_log1p, exact_log1p);
  worst.see(1.0, ulps(vector_log1p(1.0), 0.693147180559945309417L));
  CAPTURE(worst.at);
  CHECK(worst.error <= 1.5);
  for (const double x : {0.0, 5e-324, 1e-310, 1e-300, 1e-17}) CHECK(vector_log1p(x) == x);
  CHECK(std::isnan(vector_log1p(nan)));
}

TEST_CASE("selection by the sign bit") {
  CHECK(select_by_sign(-3.0, 1.0, 2.0) == 1.0);
  CHECK(select_by_sign(3.0, 1.0, 2.0) == 2.0);
  CHECK(select_by_sign(-0.0, 1.0, nan) == 1.0);
  CHECK(select_by_sign(0.0, nan, -inf) == -inf);
  CHECK(select_by_sign(-inf, 1.0, 2.0) == 1.0);
}

TEST_CASE("tanh over its range") {
  const auto exact = [](long double x) { return std::tanh(x); };
  worst_case worst;
  worst.sweep(-25.0, 25.0, 400000, vector_tanh, exact);
  worst.sweep(-1.0, 1.0, 400000, vector_tanh, exact);
  worst.sweep(-0.01, 0.01, 100000, vector_tanh, exact);
  worst.sweep(-1e-9, 1e-9, 10000, vector_tanh, exact);
  CAPTURE(worst.at);
  CHECK(worst.error <= 1.5);
}

TEST_CASE("tanh at special values") {
  CHECK(vector_tanh(0.0) == 0.0);
  CHECK(std::signbit(vector_tanh(-0.0)));
  for (const double x : {20.0, 750.0, 1e300, inf}) {
    CHECK(vector_tanh(x) == 1.0);
    CHECK(vector_tanh(-x) == -1.0);
  }
  CHECK(vector_tanh(1e-310) == 1e-310);
  CHECK(std::isnan(vector_tanh(nan)));
}

TEST_CASE("softplus and its slope over their range") {
  worst_case value, slope;
  for (const double reach : {745.0, 40.0, 3.0, 0.01}) {
    value.sweep(
        -reach, reach, 200000, [](double x) { return vector_softplus(x).value; },
        [](long double x) { return std::max(x, 0.0L) + std::log1p(std::exp(-std::abs(x))); });
    slope.sweep(
        -reach, reach, 200000, [](double x) { return vector_softplus(x).slope; },
        [](long double x) { return 1.0L / (1.0L + std::exp(-x)); });
  }
  CAPTURE(value.at);
  CHECK(value.error <= 2.5);
  CAPTURE(slope.at);
  CHECK(slope.error <= 3.0);
}

TEST_CASE("softplus at special values") {
  CHECK(vector_softplus(inf).value == inf);
  CHECK(vector_softplus(inf).slope == 1.0);
  CHECK(vector_softplus(-inf).value == 0.0);
  CHECK(vector_softplus(-inf).slope == 0.0);
  CHECK(std::isnan(vector_softplus(nan).value));
  CHECK(std::isnan(vector_softplus(nan).slope));
}

}  // namespace implicitgrad::testing
