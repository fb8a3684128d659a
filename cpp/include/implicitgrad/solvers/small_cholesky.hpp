// The k × k algebra of block methods: a Cholesky factor that, where the matrix is not positive
// definite, says along which direction.
#pragma once

#include <cmath>
#include <vector>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

class small_cholesky {
 public:
  /// Factors the symmetric matrix whose lower triangle is given, column-major k × k, as L Lᵀ. Ends
  /// at the first pivot that is not above `noise`, or not a number. Cost: k³/3 flops.
  small_cholesky(index k, std::vector<double> lower, double noise) : k_(k), l_(std::move(lower)) {
    for (index c = 0; c < k_; ++c) {
      double* x = l_.data() + c * k_;
      for (index j = 0; j < c; ++j) {
        const double* done = l_.data() + j * k_;
        for (index i = c; i < k_; ++i) x[i] -= done[i] * done[c];
      }
      if (!(x[c] > noise && std::isfinite(x[c]))) {
        find_direction(c, x[c]);
        return;
      }
      const double pivot = x[c] = std::sqrt(x[c]);
      for (index i = c + 1; i < k_; ++i) x[i] /= pivot;
    }
  }

  bool positive() const { return direction_.empty(); }

  /// Where not positive: v of norm one with vᵀ A v = curvature().
  const std::vector<double>& direction() const { return direction_; }
  double curvature() const { return curvature_; }

  /// b ← A⁻¹ b for each of `columns` vectors.
  void solve(double* b, index columns) const {
    for (index column = 0; column < columns; ++column, b += k_) {
      for (index j = 0; j < k_; ++j) {
        b[j] /= l_[j * k_ + j];
        for (index i = j + 1; i < k_; ++i) b[i] -= l_[j * k_ + i] * b[j];
      }
      backward(k_, b);
    }
  }

 private:
  /// The first `order` unknowns of Lᵀ b = b.
  void backward(index order, double* b) const {
    for (index j = order - 1; j >= 0; --j) {
      for (index i = j + 1; i < order; ++i) b[j] -= l_[j * k_ + i] * b[i];
      b[j] /= l_[j * k_ + j];
    }
  }

  /// With A = L D Lᵀ so far and the pivot d of column c, v = L⁻ᵀ e_c has vᵀ A v = d.
  void find_direction(index c, double d) {
    direction_.assign(static_cast<std::size_t>(k_), 0.0);
    for (index j = 0; j < c; ++j) direction_[j] = -l_[j * k_ + c];
    backward(c, direction_.data());
    direction_[c] = 1.0;
    double size = 0.0;
    for (const double v : direction_) size += v * v;
    for (double& v : direction_) v /= std::sqrt(size);
    curvature_ = d / size;
  }

  index k_;
  std::vector<double> l_;
  std::vector<double> direction_;
  double curvature_ = 0.0;
};

}  // namespace implicitgrad
