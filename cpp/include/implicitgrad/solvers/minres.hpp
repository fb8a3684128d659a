// The minimum residual method for symmetric systems, definite or not.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "implicitgrad/operator.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/solvers/report.hpp"
#include "implicitgrad/solvers/scaled_system.hpp"
#include "implicitgrad/solvers/tridiagonal.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

/// Minimises ‖b − A x‖₂ over the Krylov spaces of A and b, column by column of the block, the
/// columns sharing each product with A (C. C. Paige and M. A. Saunders, "Solution of sparse
/// indefinite systems of linear equations", SIAM J. Numer. Anal. 12, 1975). For a singular A with b
/// in its range it converges to the solution of least norm.
///
/// Convergence is declared on the recomputed residual, with fresh starts from x as long as they
/// help, as in cg. A negative Ritz value does not end the solve; it shows in report.curvature_min,
/// and the status of a converged solve is negative_curvature then.
///
/// Cost: per iteration one product with A and 9 n k flops over 10 n k words; one more product at
/// the end. Memory: 6 n k words.
template <Space S>
solve_report minres(const Operator& a, const_block b, block x, bool warm,
                    const solve_options& options) {
  const index n = b.rows, k = b.cols;
  auto v_store = S::make(n * k), before_store = S::make(n * k), av_store = S::make(n * k);
  auto w_store = S::make(n * k), w1_store = S::make(n * k), w2_store = S::make(n * k);
  block v{S::data(v_store), n, k}, v_before{S::data(before_store), n, k};
  block av{S::data(av_store), n, k};
  block w{S::data(w_store), n, k}, w1{S::data(w1_store), n, k}, w2{S::data(w2_store), n, k};

  // The Lanczos process A V = V T and the Givens rotations that keep T = QR, one column's share.
  struct rotation {
    double beta = 0.0, eta = 0.0;
    double c0 = 1.0, c1 = 1.0, s0 = 0.0, s1 = 0.0;
  };
  std::vector<rotation> state(k);

  solve_report report;
  scaled_system<S> system(a, b, x, warm);
  const auto finish = [&](solve_status status) {
    const double noise = 1e-15 * std::abs(report.curvature_max);
    if (status == solve_status::converged && report.curvature_min < -noise)
      status = solve_status::negative_curvature;
    report.status = status;
    system.unscale();
    return report;
  };
  if (!system.finite()) {
    report.residual.assign(static_cast<std::size_t>(k), NAN);
    return finish(solve_status::non_finite);
  }

  std::vector<double> norm(k), previous(k);
  std::vector<bool> done(k);
  std::vector<double> lanczos_diag, lanczos_off;  // of the first column's first sweep
  constexpr std::size_t lanczos_most = 500;
  solve_status ended = solve_status::converged;

  for (int sweep = 0;; ++sweep) {
    system.residual(v, report);
    norm = report.residual;
    bool all = true, falling = sweep == 0, finite = true;
    for (index c = 0; c < k; ++c) {
      done[c] = norm[c] <= options.tolerance(c);
      finite = finite && std::isfinite(norm[c]);
      all = all && done[c];
      falling = falling || (!done[c] && norm[c] < 0.5 * previous[c]);
    }
    previous = norm;
    if (sweep == 1 && !lanczos_diag.empty()) {
      lanczos_off.resize(lanczos_diag.size() - 1);
      const auto [low, high] = tridiagonal_extremes(lanczos_diag, lanczos_off);
      report.see_curvature(low);
      report.see_curvature(high);
      if (low > 0.0) report.condition = high / low;
    }
    if (!finite) return finish(solve_status::non_finite);
    if (ended == solve_status::stopped) return finish(ended);
    if (all) return finish(solve_status::converged);
    if (ended != solve_status::converged) return finish(ended);
    if (!falling) return finish(solve_status::stagnated);

    for (index c = 0; c < k; ++c) {
      state[c] = rotation{};
      state[c].eta = norm[c];
      if (norm[c] > 0.0) S::axpby(n, 1.0 / norm[c], v.col(c), 0.0, v.col(c));
      for (const block& z : {v_before, w1, w2}) S::axpby(n, 0.0, v.col(c), 0.0, z.col(c));
    }
    while (ended == solve_status::converged) {
      index active = k;
      while (active > 0 && done[active - 1]) --active;
      if (active == 0) break;
      if (report.iterations >= options.maxiter) {
        ended = solve_status::iteration_limit;
        break;
      }
      poll_interrupt();
      a.apply(v.head(active), av.head(active));
      report.products += active;
      ++report.iterations;
      for (index c = 0; c < active; ++c) {
        if (done[c]) continue;
        rotation& r = state[c];
        // Lanczos: β' v' = A v − α v − β v_before
        const double alpha = S::dot(n, v.col(c), av.col(c));
        if (!std::isfinite(alpha)) {
          ended = solve_status::non_finite;
          break;
        }
        report.see_curvature(alpha);
        S::axpby(n, -alpha, v.col(c), 1.0, av.col(c));
        S::axpby(n, -r.beta, v_before.col(c), 1.0, av.col(c));
        const double beta = S::norm(n, av.col(c));
        if (c == 0 && sweep == 0 && lanczos_diag.size() < lanczos_most) {
          lanczos_diag.push_back(alpha);
          lanczos_off.push_back(beta);
        }
        // The new column of T, rotated twice; a third rotation zeroes β'.
        const double delta = r.c1 * alpha - r.c0 * r.s1 * r.beta;
        const double upper1 = r.s1 * alpha + r.c0 * r.c1 * r.beta;
        const double upper2 = r.s0 * r.beta;
        const double rho = std::hypot(delta, beta);
        if (!(rho > 0.0)) {  // A is singular on this Krylov space, and b not in its range there
          ended = solve_status::singular;
          break;
        }
        r.c0 = r.c1, r.s0 = r.s1;
        r.c1 = delta / rho, r.s1 = beta / rho;
        // w = (v − upper2 w2 − upper1 w1) / ρ,  x += c η w
        S::axpby(n, 1.0 / rho, v.col(c), 0.0, w.col(c));
        S::axpby(n, -upper2 / rho, w2.col(c), 1.0, w.col(c));
        S::axpby(n, -upper1 / rho, w1.col(c), 1.0, w.col(c));
        S::axpby(n, r.c1 * r.eta, w.col(c), 1.0, x.col(c));
        r.eta *= -r.s1;
        norm[c] = std::abs(r.eta);
        done[c] = norm[c] <= 0.9 * options.tolerance(c);
        S::copy(n, w1.col(c), w2.col(c));
        S::copy(n, w.col(c), w1.col(c));
        S::copy(n, v.col(c), v_before.col(c));
        r.beta = beta;
        if (beta > 0.0)
          S::axpby(n, 1.0 / beta, av.col(c), 0.0, v.col(c));
        else
          done[c] = true;  // the Krylov space is exhausted
      }
      if (ended == solve_status::converged &&
          system.stopped_by(options.monitor, report.iterations, norm[0]))
        ended = solve_status::stopped;
    }
  }
}

}  // namespace implicitgrad
