// The primitives of host_space, at the ends of the range of numbers.
#include <doctest/doctest.h>

#include "implicitgrad/space.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

TEST_CASE("norm is safe from overflow and underflow") {
  const auto norm = [](std::vector<double> v) {
    return host_space::norm(static_cast<index>(v.size()), v.data());
  };
  CHECK(norm({}) == 0.0);
  CHECK(norm({0.0, -0.0}) == 0.0);
  CHECK(norm({3.0, -4.0}) == 5.0);
  for (const double scale : {1e300, 1e-300, 0x1p+499, 0x1p+501, 0x1p-499, 0x1p-501, 0x1p-1000}) {
    CAPTURE(scale);
    CHECK(norm({3.0 * scale, 4.0 * scale}) == doctest::Approx(5.0 * scale).epsilon(1e-15));
  }
  CHECK(norm({3 * 0x1p-1074, 4 * 0x1p-1074}) == 5 * 0x1p-1074);
  CHECK(norm({DBL_MAX, 0.0}) == DBL_MAX);
  // One large entry does not drown the small ones of a vector that needs no scaling.
  CHECK(norm({1.0, 1e-8, 1e-8}) == doctest::Approx(1.0 + 1e-16).epsilon(1e-16));
}

TEST_CASE("norm shows NaN and infinity wherever they are") {
  for (int at = 0; at < 3; ++at)
    for (const double rest : {0.0, 1.0, 1e-200, 1e200}) {
      std::vector<double> v(3, rest);
      v[at] = nan;
      CHECK(std::isnan(host_space::norm(3, v.data())));
      v[at] = -inf;
      CHECK(host_space::norm(3, v.data()) == inf);
    }
}

TEST_CASE("scaling a vector by a power of two scales its norm exactly") {
  random_source random(1);
  const std::vector<double> v = random.vector(1001);
  const double norm = host_space::norm(1001, v.data());
  for (const int exponent : {-40, 40, -400, 400}) {
    std::vector<double> scaled = v;
    for (double& x : scaled) x = std::ldexp(x, exponent);
    CHECK(host_space::norm(1001, scaled.data()) == std::ldexp(norm, exponent));
  }
}

TEST_CASE("dot, axpby and copy") {
  for (const index n : {0, 1, 3, 64, 1001}) {
    random_source random(2);
    const std::vector<double> x = random.vector(n), y = random.vector(n);
    long double want = 0, scale = 0;
    for (index i = 0; i < n; ++i) {
      want += static_cast<long double>(x[i]) * y[i];
      scale += std::abs(static_cast<long double>(x[i]) * y[i]);
    }
    rounding_check check;
    check.add(host_space::dot(n, x.data(), y.data()), want, scale, n);
    for (const double b : {0.0, 1.0, -0.5}) {
      std::vector<double> out = y;
      if (b == 0.0) std::fill(out.begin(), out.end(), nan);  // not read
      host_space::axpby(n, 2.0, x.data(), b, out.data());
      for (index i = 0; i < n; ++i) {
        const long double sum = 2.0L * x[i] + static_cast<long double>(b) * y[i];
        check.add(out[i], sum, 2 * std::abs(x[i]) + std::abs(y[i]), 2);
      }
    }
    CHECK(check.worst() <= 1.0);
    auto copy = host_space::make(n);
    CHECK(std::all_of(copy.begin(), copy.end(), [](double e) { return e == 0.0; }));
    host_space::copy(n, x.data(), host_space::data(copy));
    CHECK(same_bits(copy, x));
  }
}

}  // namespace implicitgrad::testing
