// Conjugate gradients for several right-hand sides that share one Krylov space. D. P. O'Leary, "The
// block conjugate gradient algorithm and related methods", Linear Algebra and its Applications 29
// (1980); the directions are orthonormalised and those that depend on others left out, after H. Ji
// and Y. Li, "A breakdown-free block conjugate gradient method", BIT 57 (2017).
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "implicitgrad/operator.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/solvers/cg.hpp"
#include "implicitgrad/solvers/report.hpp"
#include "implicitgrad/solvers/scaled_system.hpp"
#include "implicitgrad/solvers/small_cholesky.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

/// Orthonormalises the columns of V in place, by modified Gram-Schmidt run twice, and returns how
/// many are left: a column of which less than `least` (relative) is new is dropped, as are zeros.
/// Cost: 4 n k² flops.
template <Space S>
index orthonormalise(block v, double least) {
  const index n = v.rows;
  index rank = 0;
  for (index c = 0; c < v.cols; ++c) {
    double* x = v.col(rank);
    if (rank != c) S::copy(n, v.col(c), x);
    double size = S::norm(n, x);
    if (!(size > 0.0 && std::isfinite(size))) continue;
    S::axpby(n, 1.0 / size, x, 0.0, x);
    bool fresh = true;
    for (int pass = 0; pass < 2 && fresh; ++pass) {
      for (index j = 0; j < rank; ++j) S::axpby(n, -S::dot(n, v.col(j), x), v.col(j), 1.0, x);
      size = S::norm(n, x);
      fresh = size > (pass == 0 ? least : 0.5);
      if (fresh) S::axpby(n, 1.0 / size, x, 0.0, x);
    }
    if (fresh) ++rank;
  }
  return rank;
}

/// Solves A X = B for symmetric positive definite A; M applies an approximation of A⁻¹, or is null.
/// With orthonormal directions P that span those of Z = M R and are conjugate to the ones before,
///
///   α = (PᵀAP)⁻¹ PᵀR,   X += P α,   R −= A P α,   β = −(PᵀAP)⁻¹ (AP)ᵀZ,   P ← orth(Z + P β).
///
/// Each column's error is minimal over the Krylov space of all columns, so that k of them converge
/// as if A lacked its k − 1 smallest eigenvalues, for the price of k products an iteration.
/// Dependent columns (equal ones, zeros) cost nothing: the directions are as many as the residuals
/// of the unfinished columns have dimensions. Tolerances, restarts on the true residual and endings
/// are as in cg(); the checkpoint and the condition number are not kept.
///
/// Cost: per iteration a product with A and one with M, each for as many columns as are unfinished,
/// and 8 n k² + 4 n k flops, or more where M is given. Memory: 4 n k words, 5 n k with M.
template <Space S>
solve_report block_cg(const Operator& a, const Operator* m, const_block b, block x, bool warm,
                      const solve_options& options) {
  const index n = b.rows, k = b.cols;
  auto r_store = S::make(n * k), z_store = S::make(n * k), p_store = S::make(n * k);
  auto q_store = S::make(n * k), g_store = S::make(m ? n * k : 0);
  const block r{S::data(r_store), n, k}, q{S::data(q_store), n, k}, g{S::data(g_store), n, k};
  block z{S::data(z_store), n, k}, p{S::data(p_store), n, k};

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

  // A direction of which only rounding and the residue of earlier ones is new is left for later.
  constexpr double least_new = 1e-8;
  std::vector<double> norm(k), before(k);
  std::vector<bool> done(k);
  solve_status ended = solve_status::converged;  // what ended a sweep early, if anything

  for (int sweep = 0;; ++sweep) {
    system.residual(r, report);
    norm = report.residual;
    bool all = true, falling = sweep == 0, finite = true;
    for (index c = 0; c < k; ++c) {
      done[c] = norm[c] <= options.tolerance(c);
      finite = finite && std::isfinite(norm[c]);
      all = all && done[c];
      falling = falling || (!done[c] && norm[c] < 0.5 * before[c]);
    }
    before = norm;
    if (!finite) return finish(solve_status::non_finite);
    if (ended == solve_status::negative_curvature || ended == solve_status::stopped)
      return finish(ended);
    if (all) return finish(solve_status::converged);
    if (ended != solve_status::converged) return finish(ended);
    if (!falling) return finish(solve_status::stagnated);

    index rank = 0;          // directions of the iteration before
    std::vector<double> pq;  // PᵀAP of it, factored in `last`
    small_cholesky last(0, {}, 0.0);
    while (ended == solve_status::converged) {
      // A finished column stays in while its residual is above what others still have to reach:
      // without it, their directions would stay conjugate only to within that residual.
      double tightest = HUGE_VAL;
      for (index c = 0; c < k; ++c)
        if (!done[c]) tightest = std::min(tightest, options.tolerance(c));
      std::vector<index> open;  // columns that still take part
      for (index c = 0; c < k; ++c)
        if (!done[c] || (norm[c] > tightest && tightest < HUGE_VAL)) open.push_back(c);
      const auto width = static_cast<index>(open.size());
      if (width == 0) {
        if (options.recompute) break;
        report.residual = norm;
        return finish(solve_status::converged);
      }
      if (report.iterations >= options.maxiter) {
        ended = solve_status::iteration_limit;
        break;
      }
      poll_interrupt();

      // Z = M R
      for (index c = 0; c < width; ++c) S::copy(n, r.col(open[c]), (m ? g : z).col(c));
      if (m) m->apply(g.head(width), z.head(width));
      for (index c = 0; m && c < width; ++c) {
        const double energy = S::dot(n, g.col(c), z.col(c));
        if (energy > 0.0) continue;
        ended = std::isnan(energy) ? solve_status::non_finite : solve_status::bad_preconditioner;
      }
      if (ended != solve_status::converged) break;

      // P ← orth(Z + P β)
      std::vector<double> beta(static_cast<std::size_t>(rank * width));
      for (index c = 0; c < width; ++c)
        for (index j = 0; j < rank; ++j) beta[c * rank + j] = -S::dot(n, q.col(j), z.col(c));
      last.solve(beta.data(), width);
      for (index c = 0; c < width; ++c)
        for (index j = 0; j < rank; ++j) S::axpby(n, beta[c * rank + j], p.col(j), 1.0, z.col(c));
      rank = orthonormalise<S>(z.head(width), least_new);
      std::swap(p, z);
      if (rank == 0) {
        ended = solve_status::non_finite;
        break;
      }

      // Q = A P and PᵀQ
      a.apply(p.head(rank), q.head(rank));
      report.products += rank;
      ++report.iterations;
      pq.assign(static_cast<std::size_t>(rank * rank), 0.0);
      for (index j = 0; j < rank; ++j)
        for (index i = j; i < rank; ++i) {
          pq[j * rank + i] = S::dot(n, p.col(i), q.col(j));
          if (!std::isfinite(pq[j * rank + i])) ended = solve_status::non_finite;
        }
      if (ended != solve_status::converged) break;
      for (index j = 0; j < rank; ++j) report.see_curvature(pq[j * rank + j]);
      const double noise = 1e-15 * std::abs(report.curvature_max);
      last = small_cholesky(rank, pq, noise);
      if (!last.positive()) {
        const double curvature = last.curvature();
        report.see_curvature(curvature);
        ended = curvature < -noise ? solve_status::negative_curvature : solve_status::singular;
        break;
      }

      // X += P α,  R −= Q α
      std::vector<double> alpha(static_cast<std::size_t>(rank * width));
      for (index c = 0; c < width; ++c)
        for (index j = 0; j < rank; ++j) alpha[c * rank + j] = S::dot(n, p.col(j), r.col(open[c]));
      last.solve(alpha.data(), width);
      for (index c = 0; c < width; ++c) {
        const index column = open[c];
        for (index j = 0; j < rank; ++j) {
          S::axpby(n, alpha[c * rank + j], p.col(j), 1.0, x.col(column));
          S::axpby(n, -alpha[c * rank + j], q.col(j), 1.0, r.col(column));
        }
        norm[column] = S::norm(n, r.col(column));
        if (!std::isfinite(norm[column])) ended = solve_status::non_finite;
        // A little inside the tolerance, as the true residual will be a little different.
        done[column] = norm[column] <= 0.9 * options.tolerance(column);
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

/// A X = B by block_cg() from three columns on, where it needs fewer products: by a twentieth where
/// A is well conditioned, down to a quarter of them where a few eigenvalues are small. By cg() for
/// one and two, which gain little, and where a checkpoint is asked for.
template <Space S>
solve_report cg_for(const Operator& a, const Operator* m, const_block b, block x, bool warm,
                    const solve_options& options) {
  const bool shared = b.cols > 2 && options.checkpoint == nullptr;
  return shared ? block_cg<S>(a, m, b, x, warm, options) : cg<S>(a, m, b, x, warm, options);
}

}  // namespace implicitgrad
