// Extreme eigenvalues of tridiagonal matrices whose spectra are known.
#include <doctest/doctest.h>

#include <numbers>

#include "implicitgrad/solvers/tridiagonal.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

TEST_CASE("by hand") {
  const auto one = tridiagonal_extremes({3.0}, {});
  CHECK(one.first == 3.0);
  CHECK(one.second == 3.0);
  const auto two = tridiagonal_extremes({2.0, 2.0}, {1.0});  // eigenvalues 1 and 3
  CHECK(two.first == doctest::Approx(1.0).epsilon(1e-11));
  CHECK(two.second == doctest::Approx(3.0).epsilon(1e-11));
  const auto negative = tridiagonal_extremes({0.0, 0.0}, {-5.0});  // −5 and 5
  CHECK(negative.first == doctest::Approx(-5.0).epsilon(1e-11));
  CHECK(negative.second == doctest::Approx(5.0).epsilon(1e-11));
}

TEST_CASE("the second difference, 2 − 2 cos(iπ/(n+1))") {
  for (const int n : {2, 3, 10, 101, 500}) {
    CAPTURE(n);
    const auto [low, high] =
        tridiagonal_extremes(std::vector<double>(n, 2.0), std::vector<double>(n - 1, -1.0));
    const double angle = std::numbers::pi / (n + 1);
    CHECK(std::abs(low - (2.0 - 2.0 * std::cos(angle))) <= 1e-11);
    CHECK(std::abs(high - (2.0 + 2.0 * std::cos(angle))) <= 1e-11);
  }
}

TEST_CASE("decoupled blocks, repeated eigenvalues, scales") {
  const auto diagonal = tridiagonal_extremes({1.0, -7.0, 4.0, 4.0}, {0.0, 0.0, 0.0});
  CHECK(diagonal.first == doctest::Approx(-7.0).epsilon(1e-11));
  CHECK(diagonal.second == doctest::Approx(4.0).epsilon(1e-11));
  for (const double scale : {1e-100, 1e-8, 1e8, 1e100}) {
    CAPTURE(scale);
    const auto scaled = tridiagonal_extremes({2 * scale, 2 * scale, 2 * scale}, {scale, scale});
    CHECK(scaled.first == doctest::Approx((2 - std::numbers::sqrt2) * scale).epsilon(1e-10));
    CHECK(scaled.second == doctest::Approx((2 + std::numbers::sqrt2) * scale).epsilon(1e-10));
  }
}

TEST_CASE("NaN ends") {
  // What comes out does not matter; that something does.
  const auto result = tridiagonal_extremes({1.0, nan, 2.0}, {1.0, 1.0});
  CHECK(!(result.first > result.second));
}

}  // namespace implicitgrad::testing
