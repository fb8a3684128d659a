"""How wrong the answer may be.

Write h(θ, q) = ∂g/∂λ − Cᵀq at θ. The answer is off for two reasons: θ is not quite θ⋆, and q does not
quite solve H q = ∇θg. One Newton step s = H⁻¹∇θf in θ, and one correction Δq in q that solves
H(θ−s) Δq = ∇θg(θ−s) − H(θ−s) q there, remove both to second order, so that

    h(θ, q) − dg/dλ  ≈  h(θ, q) − h(θ−s, q+Δq).

The right-hand side is the error estimate. It needs Newton's step to contract, which the gradient at
θ−s and the next step show. What all later steps change is added, by a geometric series of what this
one does through θ and through q, which may cancel in their sum. Where the estimate misses the accuracy
asked for, (θ−s, q+Δq) is the better answer, and the same step from there estimates its error in turn:
that is polishing. What rounding and finite differences leave is added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ._core import negligible, norm
from ._rounding import (
    EPS,
    NOISE_RTOL,
    at_rounding,
    gradient_noise,
    left_by_rounding,
    noise_energy,
    noise_pattern,
)
from .linearization import EXACT

POLISH_STEPS = 3
CONVERGED = 1e-8  # a Newton step that is no larger than this, relative to θ
CLEARLY = 0.01  # a share of what is allowed that is not worth a closer look
WORST_STEP = 0.1  # the share of a small s that a Krylov method misses: more than that is rounding
STEP_RTOL = 0.01  # of s and Δq by a factor of H, which solves to far below this at no cost


def columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two vectors as a block."""
    block = np.empty((2, a.size))
    block[0], block[1] = a, b
    return block.T


def correction_rtol(*conditions: float) -> float:
    """The residual at which a Krylov method knows s and Δq to a digit or two."""
    return max(1e-12, min(STEP_RTOL, 0.1 / max(conditions) ** 0.75))


@dataclass
class Goal:
    """error ≤ max(tol · ‖value‖, atol); without atol, the rounding level takes its place."""

    tol: float
    atol: float | None

    def allowed(self, point: Any, q: np.ndarray, value: np.ndarray) -> float:
        atol = 64 * point.rounding_level(q) if self.atol is None else self.atol
        return max(self.tol * norm(value), atol)


@dataclass
class Certified:
    """An answer and its error estimate."""

    point: Any
    q: np.ndarray
    value: np.ndarray
    allowed: float
    error: float
    trouble: (
        str | None
    )  # why the estimate is inf or misses what is allowed; "linear" is the solve's
    nhev: int


def certify(
    problem: Any,
    lam: np.ndarray,
    point: Any,
    q: np.ndarray,
    s: np.ndarray,
    there: Any,
    solver: Any,
    goal: Goal,
    polish_steps: int,
    rest: float,
    curvature: tuple[float, float],
    rtol: float,
) -> Certified:
    """Estimate the error of h(θ, q), and polish while it misses the goal.

    s is the Newton step at `point`, rest = ‖∇θg − Hq‖₂ there; `there` is the point at θ − s if that
    is known; `solver` is set up on a Hessian near `point`; rtol is how well it is to solve for the
    correction.
    """
    value = point.value(q)
    nhev = 0
    before = math.inf
    well_conditioned = 0 < curvature[1] <= 1e4 * curvature[0]

    for step in range(polish_steps + 1):
        allowed = goal.allowed(point, q, value)
        answer = partial(Certified, point, q, value, allowed)
        s_norm = norm(s)
        # A step below θ's own rounding leads nowhere new, unless H is so ill-conditioned that even θ's
        # rounding shows.
        stays = s_norm == 0 or (well_conditioned and negligible(s, point.theta))
        if stays:
            there = point
        elif there is None:
            there = problem.beside(point.theta - s, lam)
        if not there.finite:
            return answer(math.inf, "newton", nhev)
        rho = there.b - there.hess.apply(q)
        nhev += 1
        if stays and solver.name == "cholesky":  # the factor is that of H itself
            dq, s_next, left = solver.apply_inverse(rho), s, 0.0
        else:
            solution = solver.solve(there.hess, columns(rho, there.gradient), [rtol])
            nhev += solution.nhev
            if solution.status in ("negative_curvature", "singular", "non_finite"):
                return answer(math.inf, solution.status, nhev)
            if solution.status != "converged" and max(solution.residual) > 0.5:
                return answer(math.inf, solution.status, nhev)
            dq, s_next, left = solution.x[:, 0], solution.x[:, 1], solution.residual[0]
        q_there = q + dq
        # Newton's method contracts quadratically near θ⋆; a step this small relative to θ is near,
        # and the ratio of two gradients at the level of their own error would say nothing. A step of a
        # Krylov method is known to a digit or two, which leaves something of it for the next one.
        known = point.stationarity > point.noise[0].jac
        far = known and not converged(s, point.theta, solver)
        inexact = known and not stays and solver.name != "cholesky"
        alone = there.value(q) if far or inexact else value  # with θ moved, and q not
        value_there = there.value(q_there)
        change = norm(value_there - value)
        if not math.isfinite(change):
            return answer(math.inf, "non_finite", nhev)

        contraction = _contraction(point, s, there, s_next) if far or inexact else 0.0
        # Unless rounding is all that is left to shrink: then what it leaves is looked at.
        excused = far and contraction >= 0.25 and at_rounding(there, q, solver, curvature)
        far = far and not excused
        if far and (contraction >= 0.25 or there.blind):
            return answer(math.inf, "newton", nhev)
        if not far:
            contraction = min(contraction, WORST_STEP)
        # What all later steps do together: a geometric series of the parts of this one, as parts that
        # cancel in their sum by accident do so this once.
        parts = norm(alone - value) + there.uncancelled(dq, q) if contraction > 0 else 0.0
        later = parts * contraction / (1 - contraction)

        # What rounding leaves: of the sum, and of the residual that q was refined with.
        rho_norm = norm(rho)
        gain = norm(there.carried(dq)) / rho_norm if rho_norm > 0 else 0.0
        differences, products = _difference_error(point, q, solver, gain, change, curvature)
        nhev += products
        rounding, products = left_by_rounding(
            *(problem, lam, point, q, solver, gain, curvature, change, allowed, excused)
        )
        nhev += products
        error = change + later + rounding + differences
        if error <= allowed < math.inf:
            return answer(error, None, nhev)
        floor = rounding + differences  # which no step lowers; but what is above it, one does
        if floor > max(allowed, goal.allowed(there, q_there, value_there)) and change <= floor:
            of_products = "single" if problem.native else "differences"
            return answer(error, of_products if differences > rounding else "singular", nhev)
        if step == polish_steps or change > 0.5 * before:
            due_to_theta = gain * rest < 0.3 * change and change > 3 * rounding
            return answer(error, "not_stationary" if due_to_theta else "linear", nhev)
        point, q, s, value, before = there, q_there, s_next, value_there, change
        there = None
        rest = left * rho_norm
        rtol = min(rtol, max(1e-10, 0.1 * allowed / error))

    raise AssertionError("unreachable")


def _contraction(point: Any, s: np.ndarray, there: Any, s_next: np.ndarray) -> float:
    """By how much Newton's step shrinks what is wrong with θ, where it shrinks it least: in the norm
    of the gradient, which is that of steep directions, of the step, which is that of flat ones, and in
    energy."""
    energy = s @ point.gradient
    ratio = s_next @ there.gradient / energy if energy > 0 else math.inf
    return max(
        there.stationarity / point.stationarity,
        norm(s_next) / norm(s),
        math.sqrt(max(ratio, 0.0)),
    )


@dataclass
class Linear:
    """An adjoint from CG, and what it was worth some iterations earlier, at the checkpoint."""

    q: np.ndarray
    value: np.ndarray
    residual: float
    error: float  # of the hypergradient at the checkpoint: more than what is left
    nhev: int


def linear_part(
    point: Any, q: np.ndarray, solution: Any, solver: Any, goal: Goal, rtol: float
) -> Linear:
    """The linear part of the error, from the solve itself: what it changed in the hypergradient after
    the checkpoint is the error that it had there. Goes on while that is not a small share of what is
    allowed."""
    value, nhev = point.value(q), 0
    for attempt in range(POLISH_STEPS + 1):
        error = norm(point.carried(q - solution.checkpoint))
        allowed = goal.allowed(point, q, value)
        if error <= 0.3 * allowed or solution.status == "stagnated" or attempt == POLISH_STEPS:
            break
        rtol = max(1e-15, rtol * min(0.1, 0.1 * allowed / error))
        solution = solver.solve(point.hess, point.b, [solver.ahead * rtol], q, rtol)
        nhev += solution.nhev
        q = solution.x
        value = point.value(q)
    return Linear(q, value, solution.residual[0], error, nhev)


def converged(s: np.ndarray, theta: np.ndarray, solver: Any) -> bool:
    """Whether a Newton step is nothing beside θ, in coordinates of which H has a unit diagonal: where
    columns of X are of very different scale, those of θ are too, and plain norms see only some."""
    diagonal = solver.diagonal
    if diagonal is not None and diagonal.max() > 0 and np.isfinite(diagonal).all():
        scale = np.sqrt(np.maximum(diagonal, 0.0) / diagonal.max())
        s, theta = scale * s, scale * theta
    return bool(norm(s) <= CONVERGED * norm(theta))


def screen(
    problem: Any, lam: np.ndarray, point: Any, linear: Linear, goal: Goal, solver: Any
) -> Certified | None:
    """The certificate of a θ that is plainly good enough, without another solve; or None.

    The limit on the inner part rests on worst-case Lipschitz constants and is far too large where θ is
    not exact, so that it settles only what is clear. Norms of H⁻¹ come from the penalty, or else from
    the preconditioner and what the solve saw of its quality.
    """
    if point.terms[0] is None:
        return None
    f = point.terms[0]
    least, size = f.least, point.stationarity + EPS * f.gradient_terms
    energy = size / math.sqrt(least) if least > 0 else math.inf
    done = _settled(point, linear, goal, point.inner_limit(linear.q, least, energy), 0)
    if done is None:
        least = max(least, solver.curvature_from_below())
        energy = solver.energy(point.gradient)
        for closer in (False, True):
            reached = energy + noise_energy(point, solver, least, closer)
            done = _settled(point, linear, goal, point.inner_limit(linear.q, least, reached), 0)
            if done is not None:
                return done
    if done is not None or not solver.strong:
        return done
    # The preconditioner is as good as H⁻¹ to tell what both come to.
    s = solver.precondition(point.gradient + EPS * gradient_noise(point))
    return screen_noise(problem, lam, point, linear, s, goal, solver)


def screen_noise(
    problem: Any,
    lam: np.ndarray,
    point: Any,
    linear: Linear,
    s: np.ndarray,
    goal: Goal,
    solver: Any,
) -> Certified | None:
    """The same for a θ that has converged, by s ≈ H⁻¹(∇θf + δ) with noise δ of the size of rounding in
    ∇θf: what both do to the answer shows at the one point θ − s."""
    if not converged(s, point.theta, solver):
        return None
    there = problem.beside(point.theta - s, lam)
    return screen_step(point, there, linear, s, goal, solver, noisy=True)


def screen_step(
    point: Any,
    there: Any,
    linear: Linear,
    s: np.ndarray,
    goal: Goal,
    solver: Any,
    noisy: bool = False,
) -> Certified | None:
    """The same with the point θ − s after Newton's step at hand: there, all but the change of q is
    exact, and that is judged by how the residual of q changes, in the energy norm: what it was before
    is in the linear part. A `noisy` step shows what rounding in ∇f does; else a limit on it is added."""
    if point.terms[0] is None:
        return None
    if not there.finite:
        return None
    # What s misses must be a small part of it in energy as well. Where s is small, the gradient
    # there is at rounding level and says nothing.
    far = not converged(s, point.theta, solver)
    if far and not solver.energy(there.gradient) <= 0.1 * math.sqrt(max(s @ point.gradient, 0.0)):
        return None
    rho = there.b - point.b - (there.hess.apply(linear.q) - point.hess.apply(linear.q))
    least = max(there.terms[0].least, solver.curvature_from_below())
    inner = norm(there.value(linear.q) - linear.value)
    inner += there.reach(least) * solver.energy(rho)
    if noisy:  # an estimate from above of both: fit to tell that they are nothing beside the goal
        return _settled(point, linear, goal, inner, 2, CLEARLY)
    for closer in (False, True):
        noise = point.inner_limit(linear.q, least, noise_energy(point, solver, least, closer))
        done = _settled(point, linear, goal, inner + noise, 2)
        if done is not None:
            return done
    return None


def _settled(
    point: Any, linear: Linear, goal: Goal, inner: float, nhev: int, share: float = 0.1
) -> Certified | None:
    allowed = goal.allowed(point, linear.q, linear.value)
    error = linear.error + inner + 4 * point.rounding_level(linear.q)
    if not (inner <= share * allowed and error <= allowed < math.inf):
        return None
    return Certified(point, linear.q, linear.value, allowed, error, None, nhev)


def refine(
    point: Any, q: np.ndarray, solver: Any, goal: Goal, rtol: float
) -> tuple[np.ndarray, float, int]:
    """Correct q at the given θ until the linear part of the error is a tenth of what is allowed.

    Returns q, ‖∇θg − Hq‖ and the number of products.
    """
    nhev = 0
    before = math.inf
    for step in range(POLISH_STEPS + 1):
        rho = point.b - point.hess.apply(q)
        nhev += 1
        if step == POLISH_STEPS:
            break
        solution = solver.solve(point.hess, rho, [rtol])
        nhev += solution.nhev
        value, better = point.value(q), point.value(q + solution.x)
        change = norm(better - value)
        if not change < 0.5 * before or change <= 0.1 * goal.allowed(point, q, value):
            break
        q, before = q + solution.x, change
    return q, norm(rho), nhev


def _difference_error(
    point: Any,
    q: np.ndarray,
    solver: Any,
    gain: float,
    change: float,
    curvature: tuple[float, float],
) -> tuple[float, int]:
    """What derivatives taken by finite differences add, to first order, and the number of products
    that took. Differences err in every direction, flat ones too, which the residual that `gain` was
    seen on may hardly have; where H is off by half its smallest eigenvalue, all of q may be wrong."""
    of_f, of_g = point.noise
    if of_f is EXACT and of_g is EXACT:
        return 0.0, 0
    pattern = noise_pattern(q.size) / math.sqrt(q.size)
    if solver.name == "cholesky":
        sent, nhev = solver.apply_inverse(pattern), 0
    else:
        solution = solver.solve(point.hess, pattern, [NOISE_RTOL])
        sent, nhev = solution.x, solution.nhev
    gradient, b, of_q = point.stationarity, point.b_norm, norm(point.value(q) - point.direct)
    gain = max(gain, of_q / b if b > 0 else 0.0, norm(point.carried(sent)))
    inner = change / gradient if gradient > 0 else 0.0
    error = point.difference_error(q, gain) + inner * of_f.jac
    if of_f.hess > 0.5 * curvature[0] > 0:
        error += of_f.hess / curvature[0] * of_q
    return error, nhev
