#include "implicitgrad/solvers/hessian_sketch.hpp"

#include <algorithm>
#include <utility>

#include "implicitgrad/cost_model.hpp"
#include "implicitgrad/solvers/dual_sketch.hpp"
#include "implicitgrad/solvers/row_sketch.hpp"

namespace implicitgrad {

std::vector<double> mean_of_columns(const_block d) {
  std::vector<double> mean(d.data, d.data + d.rows);
  for (index f = 1; f < d.cols; ++f)
    for (index i = 0; i < d.rows; ++i) mean[i] += d.col(f)[i];
  if (d.cols > 1)
    for (double& entry : mean) entry /= static_cast<double>(d.cols);
  return mean;
}

std::unique_ptr<HessianSketch> make_sketch(std::shared_ptr<const Matrix> x, bool intercept,
                                           const_block d, index targets, index rows,
                                           std::uint64_t seed, int n_threads) {
  const index m = std::min(rows, x->rows());
  if (m < x->cols() + (intercept ? 1 : 0) && cost::by_fold(d.cols, m))
    return std::make_unique<dual_sketch>(std::move(x), intercept, d, targets, m, seed, n_threads);
  const std::vector<double> mean = mean_of_columns(d);
  const const_block alike{mean.data(), d.rows, 1};
  if (m < x->cols() + (intercept ? 1 : 0))
    return std::make_unique<dual_sketch>(std::move(x), intercept, alike, 1, m, seed, n_threads);
  return std::make_unique<row_sketch>(std::move(x), intercept, mean.data(), m, seed, n_threads);
}

}  // namespace implicitgrad
