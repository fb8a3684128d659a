// What of the solvers is not a template, and the instantiations for vectors in main memory.
#include <algorithm>
#include <utility>

#include "implicitgrad/operator.hpp"
#include "implicitgrad/solvers/jacobi.hpp"

namespace implicitgrad {

void Operator::dense(double* out) const {
  const index n = size(), width = std::min<index>(n, 64);
  std::vector<double> unit(static_cast<std::size_t>(n * width));
  for (index first = 0; first < n; first += width) {
    const index k = std::min(width, n - first);
    std::fill(unit.begin(), unit.end(), 0.0);
    for (index c = 0; c < k; ++c) unit[c * n + first + c] = 1.0;
    apply({unit.data(), n, k}, {out + first * n, n, k});
  }
}

std::unique_ptr<jacobi_preconditioner> jacobi_preconditioner::of(const Operator& a) {
  std::vector<double> diagonal(static_cast<std::size_t>(a.size()));
  if (!a.diagonal(diagonal.data())) return nullptr;
  return std::make_unique<jacobi_preconditioner>(std::move(diagonal));
}

jacobi_preconditioner::jacobi_preconditioner(std::vector<double> diagonal)
    : diagonal_(std::move(diagonal)), inverse_(diagonal_) {
  for (double& d : inverse_) d = d > 0.0 ? 1.0 / d : 1.0;
}

void jacobi_preconditioner::apply(const_block v, block out) const {
  for (index c = 0; c < v.cols; ++c)
    for (index i = 0; i < v.rows; ++i) out.col(c)[i] = inverse_[i] * v.col(c)[i];
}

}  // namespace implicitgrad
