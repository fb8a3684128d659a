// The eigendecomposition that serves without a LAPACK, and the Kronecker preconditioner against the
// matrix that it inverts.
#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "implicitgrad/solvers/kronecker.hpp"
#include "implicitgrad/symmetric_eigen.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

/// X Xᵀ, column-major n × n, of a random X with `rank` columns.
std::vector<double> semidefinite(random_source& random, index n, index rank) {
  const std::vector<double> x = random.vector(n * rank);
  std::vector<double> a(static_cast<std::size_t>(n * n));
  for (index j = 0; j < n; ++j)
    for (index i = 0; i < n; ++i)
      for (index k = 0; k < rank; ++k) a[j * n + i] += x[k * n + i] * x[k * n + j];
  return a;
}

}  // namespace

TEST_CASE("eigenvalues and eigenvectors make the matrix again") {
  random_source random(1);
  for (const index n : {1, 2, 7, 20})
    for (const index rank : {n, (n + 1) / 2}) {
      const std::vector<double> a = semidefinite(random, n, rank);
      std::vector<double> u = a, values(static_cast<std::size_t>(n));
      u.back() = nan;
      CHECK_FALSE(symmetric_eigen(n, u.data(), values.data()));
      u = a;
      REQUIRE(symmetric_eigen(n, u.data(), values.data()));
      CHECK(std::is_sorted(values.begin(), values.end()));
      for (index j = 0; j < n; ++j)
        for (index i = 0; i < n; ++i) {
          double sum = 0.0, product = 0.0;
          for (index k = 0; k < n; ++k) {
            sum += u[k * n + i] * values[k] * u[k * n + j];
            product += u[i * n + k] * u[j * n + k];
          }
          CHECK(std::abs(sum - a[j * n + i]) <= 1e-13 * (1.0 + values.back()));
          CHECK(std::abs(product - (i == j ? 1.0 : 0.0)) <= 1e-13);
        }
    }
}

TEST_CASE("it inverts the sum of a Kronecker product and a multiple of the identity") {
  random_source random(2);
  const index in = 4, out = 3, size = in * out;
  const double strength = 0.25, shift = 0.5;
  kronecker_curvature curvature;
  curvature.blocks.push_back({0, in, out, semidefinite(random, in, in), {}});
  curvature.blocks.back().g = semidefinite(random, out, 2);
  curvature.blocks.push_back({size, 1, 1, {2.0}, {3.0}});
  curvature.strength.assign(static_cast<std::size_t>(size + 1), strength);
  curvature.gauge = 0.125;  // of the last layer
  const std::vector<double> a = curvature.blocks[0].a, g = curvature.blocks[0].g;
  const kronecker_preconditioner inverse(std::move(curvature), shift);
  REQUIRE(inverse.size() == size + 1);

  const std::vector<double> v = random.vector(2 * (size + 1));
  std::vector<double> w(v.size()), x(v.size());
  for (index c = 0; c < 2; ++c) {
    const double* from = v.data() + c * (size + 1);
    double* to = w.data() + c * (size + 1);
    for (index i = 0; i < size; ++i) {
      to[i] = (strength + shift) * from[i];
      for (index j = 0; j < size; ++j)
        to[i] += a[i / out * in + j / out] * g[i % out * out + j % out] * from[j];
    }
    to[size] = (6.0 + strength + shift + 0.125) * from[size];
  }
  inverse.apply(as_block(static_cast<const std::vector<double>&>(w), size + 1),
                as_block(x, size + 1));
  for (std::size_t i = 0; i < v.size(); ++i) CHECK(std::abs(x[i] - v[i]) <= 1e-12);
  CHECK(inverse.smallest() == doctest::Approx(strength + shift));  // along the null vector of g
  CHECK(inverse.largest() >= 6.0);
}

}  // namespace implicitgrad::testing
