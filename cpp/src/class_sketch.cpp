#include "implicitgrad/solvers/class_sketch.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace implicitgrad {

void centre_classes(index classes, block v) {
  for (index i = 0; i < v.size(); i += classes) {
    double sum = 0.0;
    for (index a = 0; a < classes; ++a) sum += v.data[i + a];
    const double mean = sum / static_cast<double>(classes);
    for (index a = 0; a < classes; ++a) v.data[i + a] -= mean;
  }
}

std::vector<double> inverse_of_means(index classes, index size,
                                     const std::vector<double>& strength) {
  double most = 0.0;
  for (const double s : strength) most = std::max(most, s);
  std::vector<double> inverse;
  for (index i = 0; i < size; i += classes) {
    const double s = i < static_cast<index>(strength.size()) ? strength[i] : 0.0;
    inverse.push_back(s > 0.0 ? 1.0 / s : most > 0.0 ? 1.0 / most : 1.0);
  }
  return inverse;
}

class_sketch::class_sketch(const std::shared_ptr<const Matrix>& x, bool intercept, const_block d,
                           index rows, std::uint64_t seed, int n_threads) {
  for (index a = 0; a < d.cols; ++a)
    blocks_.push_back(make_sketch(x, intercept, {d.col(a), d.rows, 1}, 1, rows, seed, n_threads));
}

std::unique_ptr<HessianSketch> class_sketch::copy() const {
  std::unique_ptr<class_sketch> twin(new class_sketch);
  for (const auto& of_class : blocks_) twin->blocks_.push_back(of_class->copy());
  twin->inverse_ = inverse_;
  return twin;
}

void class_sketch::factor(const std::vector<double>& strength) {
  std::vector<double> of_columns;
  for (index i = 0; i < static_cast<index>(strength.size()); i += classes())
    of_columns.push_back(strength[i]);
  for (const auto& of_class : blocks_) of_class->factor(of_columns);
  inverse_ = inverse_of_means(classes(), size(), strength);
}

void class_sketch::apply(const_block v, block out) const {
  const auto solve = [&](const_block in, block to) {
    const index q = in.rows / classes();
    std::vector<double> of_class(static_cast<std::size_t>(q * in.cols)), solved(of_class.size());
    for (index a = 0; a < classes(); ++a) {
      for (index i = 0; i < q * in.cols; ++i) of_class[i] = in.data[i * classes() + a];
      blocks_[static_cast<std::size_t>(a)]->apply({of_class.data(), q, in.cols},
                                                  {solved.data(), q, in.cols});
      for (index i = 0; i < q * in.cols; ++i) to.data[i * classes() + a] = solved[i];
    }
  };
  apply_centred(classes(), inverse_, solve, v, out);
}

double class_sketch::curvature_min() const {
  double least = blocks_.front()->curvature_min();
  for (const auto& of_class : blocks_) least = std::min(least, of_class->curvature_min());
  return least;
}

double class_sketch::curvature_max() const {
  double most = blocks_.front()->curvature_max();
  for (const auto& of_class : blocks_) most = std::max(most, of_class->curvature_max());
  return most;
}

}  // namespace implicitgrad
