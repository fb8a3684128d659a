// Losses against their formulas in extended precision, and their derivatives against differences.
#include <doctest/doctest.h>

#include <stdexcept>

#include "implicitgrad/losses.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

const double margins[] = {0.0,  -0.0,  1e-300, -1e-300, 1e-12, -1e-12, 0.3,  -0.3,  1.0,   -1.0,
                          5.5,  -5.5,  20.0,   -20.0,   36.7,  -36.7,  37.5, -37.5, 100.0, -100.0,
                          700., -700., 745.,   -745.,   800.0, -800.0, 1e6,  -1e6,  1e300, -1e300};

double relative_error(double got, long double want) {
  if (got == static_cast<double>(want)) return 0.0;
  return static_cast<double>(std::abs(got - want) / std::max(std::abs(want), 0x1p-1022L));
}

/// Whether (value, first, second) are each other's derivatives around z, by central differences.
template <class Loss>
void check_differences(double z, double y) {
  const double h = 1e-5 * std::max(1.0, std::abs(z));
  const margin_terms below = Loss::at(z - h, y), at = Loss::at(z, y), above = Loss::at(z + h, y);
  const double size = std::abs(at.value) + std::abs(at.first) + std::abs(at.second);
  CHECK(std::abs((above.value - below.value) / (2 * h) - at.first) <= 1e-7 * size);
  CHECK(std::abs((above.first - below.first) / (2 * h) - at.second) <= 1e-7 * size);
}

}  // namespace

TEST_CASE("the squared loss") {
  const margin_terms t = squared_loss::at(3.0, 1.0);
  CHECK(t.value == 2.0);
  CHECK(t.first == 2.0);
  CHECK(t.second == 1.0);
  for (const double z : {-2.0, 0.0, 0.7, 30.0}) check_differences<squared_loss>(z, 0.4);
}

TEST_CASE("the logistic loss, relative to each of its terms") {
  for (const double z : margins)
    for (const double y : {-1.0, 1.0}) {
      CAPTURE(z);
      CAPTURE(y);
      const margin_terms t = logistic_loss::at(z, y);
      const long double m = static_cast<long double>(y) * z, e = std::exp(-std::abs(m));
      const long double value = std::log1p(e) + (m < 0 ? -m : 0.0L);
      const long double first = -y * (m < 0 ? 1.0L : e) / (1 + e);
      const long double second = e / ((1 + e) * (1 + e));
      // exp is good to an ulp of its result; results near 1e-320 have few bits left.
      CHECK(relative_error(t.value, value) <= 4 * DBL_EPSILON);
      CHECK(relative_error(t.first, first) <= 4 * DBL_EPSILON);
      CHECK(relative_error(t.second, second) <= 8 * DBL_EPSILON);
    }
}

TEST_CASE("the logistic loss's derivatives match differences") {
  for (const double z : {-30.0, -4.0, -0.5, 0.0, 0.1, 2.0, 12.0})
    for (const double y : {-1.0, 1.0}) check_differences<logistic_loss>(z, y);
}

TEST_CASE("the Poisson loss, relative to each of its terms") {
  for (const double z : {-745.0, -30.0, -1.0, -1e-12, 0.0, 0.3, 5.5, 37.5, 700.0})
    for (const double y : {0.0, 0.5, 1.0, 7.0, 1e6}) {
      CAPTURE(z);
      CAPTURE(y);
      const margin_terms t = poisson_loss::at(z, y);
      const long double mean = std::exp(static_cast<long double>(z));
      CHECK(relative_error(t.second, mean) <= 4 * DBL_EPSILON);
      CHECK(std::abs(t.first - (mean - y)) <= 4 * DBL_EPSILON * (mean + y) + DBL_MIN);
      CHECK(std::abs(t.value - (mean - y * z)) <=
            4 * DBL_EPSILON * (mean + y * std::abs(z)) + DBL_MIN);
    }
  for (const double z : {-3.0, 0.0, 0.7, 4.0}) check_differences<poisson_loss>(z, 2.0);
  CHECK(growth_of<poisson_loss>() == 1.0);
  CHECK(growth_of<logistic_loss>() == 0.0);
}

TEST_CASE("what overflows is infinite, never NaN, as long as z is not") {
  for (const double y : {0.0, 3.0, 1e300}) {
    const margin_terms t = poisson_loss::at(800.0, y);
    CHECK(t.value == inf);
    CHECK(t.first == inf);
    CHECK(t.second == inf);
  }
  CHECK(poisson_loss::at(-800.0, 0.0).value == 0.0);
}

TEST_CASE("the loss of a soft label is a mixture, as exact as the logistic loss of a hard one") {
  for (const double z : margins) {
    for (const double y : {0.0, 1.0}) {
      const margin_terms soft = soft_logistic_loss::at(z, y);
      const margin_terms hard = logistic_loss::at(z, 2.0 * y - 1.0);
      CHECK(relative_error(soft.value, hard.value) <= 4 * DBL_EPSILON);
      CHECK(relative_error(soft.first, hard.first) <= 4 * DBL_EPSILON);
      CHECK(relative_error(soft.second, hard.second) <= 4 * DBL_EPSILON);
    }
    const margin_terms soft = soft_logistic_loss::at(z, 0.25);
    const double mixed =
        0.25 * logistic_loss::at(z, 1.0).value + 0.75 * logistic_loss::at(z, -1.0).value;
    CHECK(relative_error(soft.value, mixed) <= 4 * DBL_EPSILON);
  }
  for (const double z : {-4.0, -0.5, 0.1, 2.0})
    for (const double y : {0.0, 0.3, 1.0}) check_differences<soft_logistic_loss>(z, y);
}

TEST_CASE("derivatives in the target match differences") {
  const double h = 1e-6;
  const auto check = [&](auto loss, double z, double y) {
    const margin_terms above = loss.at(z, y + h), below = loss.at(z, y - h);
    const target_terms t = loss.by_target(z, y);
    CHECK((above.value - below.value) / (2 * h) == doctest::Approx(t.value).epsilon(1e-8));
    CHECK((above.first - below.first) / (2 * h) == doctest::Approx(t.first).epsilon(1e-8));
  };
  for (const double z : {-2.0, 0.3, 5.0}) {
    check(squared_loss{}, z, 0.7);
    check(soft_logistic_loss{}, z, 0.7);
  }
}

TEST_CASE("saturation gives limits, not NaN") {
  for (const double z : {800.0, 1e300, inf}) {
    const margin_terms right = logistic_loss::at(z, 1.0), wrong = logistic_loss::at(z, -1.0);
    CHECK(right.value == 0.0);
    CHECK(right.first == 0.0);
    CHECK(right.second == 0.0);
    CHECK(wrong.value == z);
    CHECK(wrong.first == 1.0);
    CHECK(wrong.second == 0.0);
    CHECK(logistic_loss::at(-z, 1.0).value == z);
    CHECK(logistic_loss::at(-z, 1.0).first == -1.0);
  }
  for (double z = -800.0; z <= 800.0; z += 0.37) {
    const margin_terms t = logistic_loss::at(z, 1.0);
    const bool finite = std::isfinite(t.value) && std::isfinite(t.first) && std::isfinite(t.second);
    if (!finite || t.second < 0.0 || t.second > 0.25 || t.first > 0.0 || t.first < -1.0) FAIL(z);
  }
}

TEST_CASE("NaN comes out as NaN") {
  CHECK(std::isnan(logistic_loss::at(nan, 1.0).value));
  CHECK(std::isnan(logistic_loss::at(nan, 1.0).first));
  CHECK(std::isnan(squared_loss::at(nan, 1.0).value));
}

TEST_CASE("losses by name") {
  CHECK(visit_loss("squared", [](auto loss) { return loss.at(3.0, 1.0).value; }) == 2.0);
  CHECK(visit_loss("logistic", [](auto loss) { return loss.at(0.0, 1.0).second; }) == 0.25);
  CHECK(visit_loss("poisson", [](auto loss) { return loss.at(0.0, 1.0).second; }) == 1.0);
  CHECK_THROWS_AS(visit_loss("hinge", [](auto) {}), std::invalid_argument);
}

}  // namespace implicitgrad::testing
