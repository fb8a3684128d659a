#include <doctest/doctest.h>

#include "implicitgrad/triangular.hpp"
#include "support.hpp"

using namespace implicitgrad;
using namespace implicitgrad::testing;

namespace {

/// B Bᵀ + shift I for a random n × 2n matrix B, full.
std::vector<double> random_definite(index n, double shift, std::uint64_t seed) {
  random_source random(seed);
  const std::vector<double> b = random.vector(n * 2 * n);
  std::vector<double> a(static_cast<std::size_t>(n * n));
  for (index j = 0; j < n; ++j)
    for (index i = 0; i < n; ++i) {
      double sum = i == j ? shift : 0.0;
      for (index k = 0; k < 2 * n; ++k) sum += b[k * n + i] * b[k * n + j];
      a[j * n + i] = sum;
    }
  return a;
}

}  // namespace

TEST_CASE("L Lᵀ is A, to rounding, and the same at any number of threads") {
  for (const index n : {1, 2, 7, 23, 24, 25, 47, 48, 49, 73, 191, 200, 260}) {
    CAPTURE(n);
    const std::vector<double> a = random_definite(n, 0.1, static_cast<std::uint64_t>(n));
    std::vector<double> l = a;
    REQUIRE(cholesky_decompose(n, l.data(), 1));
    double worst = 0.0;
    for (index j = 0; j < n; ++j)
      for (index i = j; i < n; ++i) {
        long double product = 0;
        for (index k = 0; k <= j; ++k)
          product += static_cast<long double>(l[k * n + i]) * l[k * n + j];
        const double scale = std::sqrt(a[i * n + i] * a[j * n + j]);
        worst = std::max(worst, std::abs(static_cast<double>(product - a[j * n + i])) / scale);
      }
    CHECK(worst <= DBL_EPSILON * static_cast<double>(n + 4));
    for (index j = 0; j < n; ++j)
      for (index i = 0; i < j; ++i) CHECK(l[j * n + i] == a[j * n + i]);  // the upper triangle
    for (const int threads : {2, 3}) {
      std::vector<double> again = a;
      REQUIRE(cholesky_decompose(n, again.data(), threads));
      CHECK(same_bits(l, again));
    }
  }
}

TEST_CASE("solves with several right-hand sides") {
  for (const index n : {1, 5, 24, 61, 200}) {
    CAPTURE(n);
    const std::vector<double> a = random_definite(n, 1.0, 7);
    std::vector<double> l = a;
    REQUIRE(cholesky_decompose(n, l.data(), 2));
    random_source random(8);
    const std::vector<double> want = random.vector(n * 3);
    std::vector<double> b(n * 3);
    for (index c = 0; c < 3; ++c)
      for (index j = 0; j < n; ++j)
        for (index i = 0; i < n; ++i) b[c * n + i] += a[j * n + i] * want[c * n + j];
    cholesky_solve(n, l.data(), b.data(), 3);
    for (index c = 0; c < 3; ++c) {  // A times the solution is the right-hand side
      std::vector<double> v(want.begin() + c * n, want.begin() + (c + 1) * n);
      cholesky_product(n, l.data(), v.data());
      std::vector<double> product(v);
      cholesky_solve(n, l.data(), product.data(), 1);
      for (index i = 0; i < n; ++i) CHECK(product[i] == doctest::Approx(want[c * n + i]));
    }
    double worst = 0.0;
    for (index i = 0; i < n * 3; ++i) worst = std::max(worst, std::abs(b[i] - want[i]));
    CHECK(worst <= 1e-12 * static_cast<double>(n));
  }
}

TEST_CASE("what is not positive definite is refused") {
  for (const index n : {1, 3, 24, 30, 100})
    for (const index bad : {index{0}, n / 2, n - 1})
      for (const double value : {0.0, -1.0, testing::nan, inf}) {
        std::vector<double> a = random_definite(n, 1.0, 9);
        a[bad * n + bad] = value;
        CAPTURE(n);
        CAPTURE(value);
        CHECK_FALSE(cholesky_decompose(n, a.data(), 2));
      }
  std::vector<double> indefinite{1.0, 2.0, 2.0, 1.0};
  CHECK_FALSE(cholesky_decompose(2, indefinite.data(), 1));
}
