// Preconditioned conjugate gradients (Hestenes and Stiefel 1952; Saad, Iterative Methods for Sparse
// Linear Systems, 2nd ed., algorithm 9.1), on the columns of a block that share each product with
// A.
#pragma once

#include <algorithm>
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

/// Solves A X = B for symmetric positive definite A; M applies an approximation of A⁻¹, or is null.
/// Columns should come hardest first: a column that is done drops out of the products once all
/// columns behind it are done too.
///
/// Differs from the textbook loop in this:
///  1. b is scaled to unit norm and all tolerances are relative.
///  2. Convergence is declared on the recomputed residual b − A x only. Where the recurrence has
///     drifted away from it, the iteration starts afresh from x, as long as that still helps.
///  3. pᵀAp ≤ 0 ends the solve with the status it means, never with a step along p.
///  4. The Lanczos coefficients are kept, and give estimates of the spectrum.
///
/// Cost: per iteration one product with A and one with M, and 12 n k flops over 10 n k words; one
/// more product at the end. Memory: 4 n k words.
template <Space S>
solve_report cg(const Operator& a, const Operator* m, const_block b, block x, bool warm,
                const solve_options& options) {
  const index n = b.rows, k = b.cols;
  auto r_store = S::make(n * k), z_store = S::make(m ? n * k : 0);
  auto p_store = S::make(n * k), q_store = S::make(n * k);
  const block r{S::data(r_store), n, k}, p{S::data(p_store), n, k}, q{S::data(q_store), n, k};
  const block z = m ? block{S::data(z_store), n, k} : r;

  solve_report report;
  scaled_system<S> system(a, b, x, warm);
  const auto finish = [&](solve_status status) {
    report.status = status;
    system.unscale();
    return report;
  };
  if (!system.finite()) {
    report.residual.assign(static_cast<std::size_t>(k), NAN);
    return finish(solve_status::non_finite);
  }

  std::vector<double> rz(k), pq(k), norm(k), before(k), tolerance(k);
  for (index c = 0; c < k; ++c) tolerance[c] = options.tolerance(c);
  std::vector<bool> done(k);
  std::vector<double> lanczos_diag, lanczos_off;  // of the first column's first sweep
  constexpr std::size_t lanczos_most = 500;
  bool checked = options.checkpoint == nullptr;
  solve_status ended = solve_status::converged;  // what ended a sweep early, if anything

  for (int sweep = 0;; ++sweep) {
    // The true residual decides: are we there, and does it still fall?
    system.residual(r, report);
    norm = report.residual;
    bool all = true, falling = sweep == 0, finite = true;
    if (!checked && norm[0] <= options.checkpoint_rtol) {
      // A warm start is there already: go on until there is something to compare it with.
      S::axpby(n, system.scale(0), x.col(0), 0.0, options.checkpoint);
      checked = true;
      tolerance[0] = std::min(tolerance[0], 0.05 * norm[0]);
    }
    for (index c = 0; c < k; ++c) {
      done[c] = norm[c] <= tolerance[c];
      finite = finite && std::isfinite(norm[c]);
      all = all && done[c];
      falling = falling || (!done[c] && norm[c] < 0.5 * before[c]);
    }
    before = norm;
    if (sweep == 1 && !lanczos_diag.empty()) {
      lanczos_off.resize(lanczos_diag.size() - 1);
      const auto [low, high] = tridiagonal_extremes(lanczos_diag, lanczos_off);
      if (low > 0.0) report.condition = high / low;
      report.least = std::max(low, 0.0);
      if (!m) {
        report.see_curvature(low);
        report.see_curvature(high);
      }
    }
    if (!finite) return finish(solve_status::non_finite);
    if (ended == solve_status::negative_curvature || ended == solve_status::stopped)
      return finish(ended);
    if (all) return finish(solve_status::converged);
    if (ended != solve_status::converged) return finish(ended);
    if (!falling) return finish(solve_status::stagnated);

    for (index first = 0; ended == solve_status::converged;) {
      index active = k;  // columns [0, active) still take part
      while (active > 0 && done[active - 1]) --active;
      if (active == 0) {
        if (options.recompute) break;
        report.residual = norm;
        return finish(solve_status::converged);
      }
      if (report.iterations >= options.maxiter) {
        ended = solve_status::iteration_limit;
        break;
      }
      poll_interrupt();

      const bool record = sweep == 0 && !done[0] && lanczos_diag.size() < lanczos_most;
      double lanczos_carry = 0.0;  // β/α of the previous iteration

      // z = M r,  β = rᵀz / previous rᵀz,  p = z + β p
      if (m) m->apply(r.head(active), z.head(active));
      for (index c = 0; c < active; ++c) {
        if (done[c]) continue;
        const double next = S::dot(n, r.col(c), z.col(c));
        const double beta = first == 0 ? 0.0 : next / rz[c];
        if (c == 0 && record && first > 0) {
          const double alpha = rz[0] / pq[0];
          lanczos_carry = beta / alpha;
          lanczos_off.push_back(std::sqrt(std::max(beta, 0.0)) / alpha);
        }
        rz[c] = next;
        S::axpby(n, 1.0, z.col(c), beta, p.col(c));
      }

      // q = A p,  α = rᵀz / pᵀq,  x += α p,  r −= α q
      a.apply(p.head(active), q.head(active));
      report.products += active;
      ++report.iterations;
      ++first;
      for (index c = 0; c < active; ++c) {
        if (done[c]) continue;
        pq[c] = S::dot(n, p.col(c), q.col(c));
        const double size = S::norm(n, p.col(c));  // its square may underflow
        if (!(std::isfinite(pq[c]) && std::isfinite(rz[c]))) {
          ended = solve_status::non_finite;
          break;
        }
        const double curvature = pq[c] / size / size;
        report.see_curvature(curvature);
        const double noise = 1e-15 * std::abs(report.curvature_max);
        if (curvature <= noise) {
          ended = curvature < -noise ? solve_status::negative_curvature : solve_status::singular;
          break;
        }
        if (rz[c] <= 0.0) {
          ended = solve_status::bad_preconditioner;
          break;
        }
        const double alpha = rz[c] / pq[c];
        if (c == 0 && record) lanczos_diag.push_back(1.0 / alpha + lanczos_carry);
        S::axpby(n, alpha, p.col(c), 1.0, x.col(c));
        S::axpby(n, -alpha, q.col(c), 1.0, r.col(c));
        norm[c] = S::norm(n, r.col(c));
        if (!std::isfinite(norm[c])) ended = solve_status::non_finite;
        // A little inside the tolerance, so that the true residual seldom asks for another sweep.
        done[c] = norm[c] <= 0.9 * tolerance[c];
        if (c == 0 && !checked && norm[0] <= options.checkpoint_rtol) {
          S::axpby(n, system.scale(0), x.col(0), 0.0, options.checkpoint);
          checked = true;
          // There must be something to compare it with, however fast the residual falls.
          done[0] = norm[0] == 0.0;
        }
      }
      if (ended == solve_status::converged &&
          system.stopped_by(options.monitor, report.iterations, norm[0]))
        ended = solve_status::stopped;
      if (ended == solve_status::converged && options.give_up && !done[0] &&
          options.give_up(report.iterations, norm[0]))
        ended = solve_status::iteration_limit;
    }
  }
}

}  // namespace implicitgrad
