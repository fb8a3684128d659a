#include "implicitgrad/solvers/kronecker.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "implicitgrad/blas.hpp"
#include "implicitgrad/symmetric_eigen.hpp"

namespace implicitgrad {

namespace {

// Of σ, relative to the largest: the factors are sums in single precision.
constexpr double floor_of_scale = 1e-7;

/// Eigenvalues of a positive semidefinite matrix; its eigenvectors take its place. A matrix that is
/// not finite counts as the identity: any preconditioner leaves the answer to CG.
std::vector<double> decompose(index n, std::vector<double>& matrix) {
  std::vector<double> values(static_cast<std::size_t>(n));
  const bool finite =
      std::all_of(matrix.begin(), matrix.end(), [](double x) { return std::isfinite(x); });
  if (!finite || !symmetric_eigen(n, matrix.data(), values.data())) {
    std::fill(matrix.begin(), matrix.end(), 0.0);
    for (index i = 0; i < n; ++i) matrix[i * n + i] = values[i] = 1.0;
  }
  for (double& x : values) x = std::max(x, 0.0);
  return values;
}

std::vector<double> squared(const std::vector<double>& a) {
  std::vector<double> squares(a.size());
  std::transform(a.begin(), a.end(), squares.begin(), [](double x) { return x * x; });
  return squares;
}

}  // namespace

kronecker_preconditioner::kronecker_preconditioner(kronecker_curvature curvature, double shift) {
  smallest_ = std::numeric_limits<double>::infinity(), largest_ = 0.0;
  const index last = curvature.blocks.back().begin;
  for (kronecker_block& part : curvature.blocks) {
    const index m = part.in, n = part.out;
    const std::vector<double> alpha = decompose(m, part.a), gamma = decompose(n, part.g);
    std::vector<double> sigma(static_cast<std::size_t>(m * n)), half(sigma.size());
    const std::vector<double> u = squared(part.a), v = squared(part.g);
    gemm(m, n, m, gemm_operand<double>{u.data(), m}, {curvature.strength.data() + part.begin, n},
         0.0, half.data(), n);
    gemm(m, n, n, gemm_operand<double>{half.data(), n}, gemm_operand<double>{v.data(), n}.t(), 0.0,
         sigma.data(), n);
    for (index k = 0; k < n; ++k) {
      double along = 0.0;  // of the k-th eigenvector, along the common shift of the outputs
      for (index b = 0; b < n && part.begin == last; ++b) along += part.g[k * n + b];
      const double gauge = curvature.gauge * along * along / static_cast<double>(n);
      for (index j = 0; j < m; ++j)
        sigma[j * n + k] += alpha[j] * gamma[k] + gauge * u[j * m + m - 1] + shift;
    }
    const double most = *std::max_element(sigma.begin(), sigma.end());
    for (double& s : sigma) {
      s = most > 0.0 && std::isfinite(most) ? std::max(s, floor_of_scale * most) : 1.0;
      smallest_ = std::min(smallest_, s), largest_ = std::max(largest_, s);
      s = 1.0 / s;
    }
    layers_.push_back({part.begin, m, n, std::move(part.a), std::move(part.g), std::move(sigma)});
    size_ = part.begin + m * n;
  }
}

void kronecker_preconditioner::apply(const_block v, block out) const {
  for (const layer& at : layers_) {
    const index m = at.in, n = at.out;
    std::vector<double> first(static_cast<std::size_t>(m * n)), second(first.size());
    const gemm_operand<double> u{at.u.data(), m}, w{at.v.data(), n};
    for (index c = 0; c < v.cols; ++c) {
      gemm(m, n, m, u, gemm_operand<double>{v.col(c) + at.begin, n}, 0.0, first.data(), n);
      gemm(m, n, n, gemm_operand<double>{first.data(), n}, w.t(), 0.0, second.data(), n);
      for (index i = 0; i < m * n; ++i) second[i] *= at.inverse[i];
      gemm(m, n, n, gemm_operand<double>{second.data(), n}, w, 0.0, first.data(), n);
      gemm(m, n, m, u.t(), gemm_operand<double>{first.data(), n}, 0.0, out.col(c) + at.begin, n);
    }
  }
}

}  // namespace implicitgrad
