// The Neumann series A⁻¹ = α Σ_{j≥0} (I − αA)^j, which converges for 0 < α < 2/λmax(A), A ≻ 0.
#pragma once

#include <algorithm>
#include <cmath>

#include "implicitgrad/operator.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/solvers/report.hpp"
#include "implicitgrad/solvers/scaled_system.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

/// X = α Σ_{j=0}^{K−1} (I − αA)^j B with K = `terms`, or with terms = 0 as many terms as the
/// tolerance needs. The j-th term's vector v_j = (I − αA)^j b is also the residual after j terms;
/// it falls at every step where the series converges, so one that grows tells divergence: negative
/// curvature if its Rayleigh quotient is negative, α > 2/λmax otherwise.
///
/// Cost: K − 1 products with A and one for the true residual; 4 n k flops a term. Memory: 2 n k
/// words.
template <Space S>
solve_report neumann(const Operator& a, const_block b, block x, double alpha, index terms,
                     const solve_options& options) {
  const index n = b.rows, k = b.cols;
  auto v_store = S::make(n * k), av_store = S::make(n * k);
  const block v{S::data(v_store), n, k}, av{S::data(av_store), n, k};

  solve_report report;
  scaled_system<S> system(a, b, x, false);
  if (!system.finite()) {
    report.residual.assign(static_cast<std::size_t>(k), NAN);
    report.status = solve_status::non_finite;
    return report;
  }
  system.residual(v, report);  // v_0 = b
  std::vector<double> norm = report.residual, smallest = norm;
  const index limit = terms > 0 ? terms : options.maxiter;
  solve_status status = terms > 0 ? solve_status::converged : solve_status::iteration_limit;
  bool negative = false, grows = false, finite = true;

  for (report.iterations = 0; report.iterations < limit;) {
    if (terms == 0) {
      bool all = true;
      for (index c = 0; c < k; ++c) all = all && norm[c] <= 0.9 * options.tolerance(c);
      if (all) {
        status = solve_status::converged;
        break;
      }
    }
    poll_interrupt();
    for (index c = 0; c < k; ++c) S::axpby(n, alpha, v.col(c), 1.0, x.col(c));
    ++report.iterations;
    if (system.stopped_by(options.monitor, report.iterations, norm[0])) {
      status = solve_status::stopped;
      break;
    }
    if (report.iterations == terms) break;

    // v ← v − α A v
    a.apply(v, av);
    report.products += k;
    bool hopeless = false;
    for (index c = 0; c < k; ++c) {
      const double vv = S::dot(n, v.col(c), v.col(c));
      if (vv > 0.0) {
        const double curvature = S::dot(n, v.col(c), av.col(c)) / vv;
        report.see_curvature(curvature);
        negative = negative || curvature < -1e-15 * std::abs(report.curvature_max);
      }
      S::axpby(n, -alpha, av.col(c), 1.0, v.col(c));
      norm[c] = S::norm(n, v.col(c));
      if (!std::isfinite(norm[c])) {
        finite = false;
        break;
      }
      grows = grows || !(norm[c] <= 1.001 * smallest[c]);
      hopeless = hopeless || !(norm[c] <= 1e3 * smallest[c]);
      smallest[c] = std::min(smallest[c], norm[c]);
    }
    // What is added next must not overflow.
    if (!finite || (hopeless && terms == 0) || (hopeless && norm[0] * alpha > 1e200)) break;
  }

  system.residual(av, report);
  report.status = status;
  if (status != solve_status::stopped && grows)
    report.status = negative ? solve_status::negative_curvature : solve_status::diverged;
  else if (!finite)
    report.status = solve_status::non_finite;
  else if (status == solve_status::converged && terms == 0)
    for (index c = 0; c < k; ++c)
      if (report.residual[c] > options.tolerance(c)) report.status = solve_status::stagnated;
  system.unscale();
  return report;
}

}  // namespace implicitgrad
