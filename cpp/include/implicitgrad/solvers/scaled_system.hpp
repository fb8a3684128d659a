// A x = b with every column of b scaled to unit norm, and the true residual of the scaled system.
// All solvers start and end here, so that no tolerance is ever absolute and every reported residual
// is recomputed from x.
#pragma once

#include <cfloat>
#include <cmath>

#include "implicitgrad/operator.hpp"
#include "implicitgrad/solvers/report.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

template <Space S>
class scaled_system {
 public:
  /// With `warm`, x holds a starting point; otherwise it is set to zero.
  scaled_system(const Operator& a, const_block b, block x, bool warm)
      : a_(a), b_(b), x_(x), zero_(!warm) {
    for (index c = 0; c < b.cols; ++c) {
      const double norm = S::norm(b.rows, b.col(c));
      finite_ = finite_ && std::isfinite(norm);
      // A norm below the normal range has no digits to scale by; the column counts as solved by 0.
      const bool normal = norm >= DBL_MIN;
      scale_.push_back(normal ? norm : 1.0);
      if (warm) {
        S::axpby(x.rows, 1.0 / scale_[c], x.col(c), 0.0, x.col(c));
        const double start = S::norm(x.rows, x.col(c));
        if (!(std::isfinite(start) && normal)) S::axpby(x.rows, 0.0, b.col(c), 0.0, x.col(c));
      } else {
        S::axpby(x.rows, 0.0, b.col(c), 0.0, x.col(c));
      }
    }
  }

  bool finite() const { return finite_; }
  double scale(index c) const { return scale_[c]; }

  /// r = b − A x for the scaled system; the norms go into report.residual.
  void residual(block r, solve_report& report) {
    if (!zero_) {
      a_.apply(x_, r);
      report.products += x_.cols;
    }
    report.residual.assign(static_cast<std::size_t>(b_.cols), 0.0);
    for (index c = 0; c < b_.cols; ++c) {
      S::axpby(b_.rows, 1.0 / scale_[c], b_.col(c), zero_ ? 0.0 : -1.0, r.col(c));
      report.residual[c] = S::norm(b_.rows, r.col(c));
    }
    zero_ = false;
  }

  /// Asks the monitor, who sees the first column of x at the scale of b.
  bool stopped_by(const solve_monitor& monitor, index iteration, double residual) {
    if (!monitor) return false;
    if (shown_.empty()) shown_.push_back(S::make(x_.rows));
    S::axpby(x_.rows, scale_[0], x_.col(0), 0.0, S::data(shown_[0]));
    return monitor(iteration, residual, S::data(shown_[0]));
  }

  /// Brings x back to the scale of b.
  void unscale() {
    for (index c = 0; c < b_.cols; ++c) S::axpby(x_.rows, scale_[c], x_.col(c), 0.0, x_.col(c));
  }

 private:
  const Operator& a_;
  const_block b_;
  block x_;
  bool zero_;
  bool finite_ = true;
  std::vector<double> scale_;
  std::vector<typename S::vector> shown_;  // made when first asked for
};

}  // namespace implicitgrad
