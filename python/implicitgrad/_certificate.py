"""How wrong the answer may be.

Write h(θ, q) = ∂g/∂λ − Cᵀq at θ. The answer is off for two reasons: θ is not quite θ⋆, and q does not
quite solve H q = ∇θg. One Newton step s = H⁻¹∇θf in θ, and one correction Δq in q that solves
H(θ−s) Δq = ∇θg(θ−s) − H(θ−s) q there, remove both to second order, so that

    h(θ, q) − dg/dλ  ≈  h(θ, q) − h(θ−s, q+Δq).

The right-hand side is the error estimate. It needs Newton's step to contract, which the gradient at
θ−s shows. Where the estimate misses the accuracy asked for, (θ−s, q+Δq) is the better answer, and
the same step from there estimates its error in turn: that is polishing. What rounding and finite
differences leave is added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ._core import norm

EPS = float(np.finfo(np.float64).eps)
POLISH_STEPS = 3


def correction_rtol(condition: float) -> float:
    """The residual at which s and Δq are known well enough, to a digit or two: where H (with its
    preconditioner) is ill-conditioned, a small residual still hides a large error, by up to
    √condition in energy and up to the condition in norm; this lies between the two."""
    return max(1e-12, min(0.01, 0.1 / condition**0.75))


@dataclass
class Goal:
    """error ≤ max(tol · ‖grad‖, atol); without atol, the rounding level takes its place."""

    tol: float
    atol: float | None

    def allowed(self, point: Any, q: np.ndarray, grad: np.ndarray) -> float:
        atol = 64 * point.rounding_level(q) if self.atol is None else self.atol
        return max(self.tol * norm(grad), atol)


@dataclass
class Certified:
    """An answer and its error estimate."""

    point: Any
    q: np.ndarray
    grad: np.ndarray
    allowed: float
    error: float
    trouble: str | None  # why the estimate is inf or misses what is allowed
    nhev: int


def certify(
    problem: Any,
    lam: np.ndarray,
    point: Any,
    q: np.ndarray,
    s: np.ndarray,
    solver: Any,
    goal: Goal,
    polish_steps: int,
    curvature_max: float,
    rtol: float,
) -> Certified:
    """Estimate the error of h(θ, q), and polish while it misses the goal.

    s is the Newton step at `point`; `solver` is set up on a Hessian near it; rtol is how well it is
    to solve for the correction.
    """
    grad = point.hypergradient(q)
    nhev = 0
    before = math.inf

    for step in range(polish_steps + 1):
        allowed = goal.allowed(point, q, grad)
        answer = partial(Certified, point, q, grad, allowed)
        s_norm, theta_norm = norm(s), norm(point.theta)
        # A step below θ's own rounding leads nowhere new.
        there = problem.at(point.theta - s, lam) if s_norm > 8 * EPS * theta_norm else point
        if not there.finite:
            return answer(math.inf, "not_stationary", nhev)
        rho = there.b - there.hess.apply(q)
        both = np.array([rho, there.gradient]).T
        solution = solver.solve(there.hess, both, [rtol])
        nhev += solution.nhev + 1
        if solution.status in ("negative_curvature", "singular", "non_finite"):
            return answer(math.inf, solution.status, nhev)
        if solution.status != "converged" and max(solution.residual) > 0.5:
            return answer(math.inf, solution.status, nhev)
        dq, s_next = solution.x[:, 0], solution.x[:, 1]
        grad_there = there.hypergradient(q + dq)
        change = norm(grad_there - grad)
        if not math.isfinite(change):
            return answer(math.inf, "non_finite", nhev)

        # Newton's method contracts quadratically near θ⋆; a step this small relative to θ is near,
        # and the ratio of two gradients at rounding level would say nothing.
        far = s_norm > 1e-8 * theta_norm
        contraction = there.stationarity / point.stationarity if far else 0.0
        if contraction >= 0.5:
            return answer(math.inf, "not_stationary", nhev)

        # What rounding leaves: of the sum, and of the residual that q was refined with.
        rho_norm = norm(rho)
        halfway = there.hypergradient(q)
        gain = norm(grad_there - halfway) / rho_norm if rho_norm > 0 else 0.0
        products = solver.diagonal * q if solver.diagonal is not None else curvature_max * q
        rounding = 4 * point.rounding_level(q) + EPS * gain * (point.b_norm + norm(products))
        differences = _difference_error(point, q, gain, change)
        error = change / (1 - contraction) + rounding + differences
        if error <= allowed:
            return answer(error, None, nhev)
        if rounding + differences > allowed:
            return answer(error, "differences" if differences > rounding else "singular", nhev)
        if step == polish_steps or change > 0.5 * before:
            due_to_theta = far or norm(halfway - grad) > 0.1 * change
            return answer(error, "not_stationary" if due_to_theta else "singular", nhev)
        point, q, s, grad, before = there, q + dq, s_next, grad_there, change
        rtol = min(rtol, max(1e-10, 0.1 * allowed / error))

    raise AssertionError("unreachable")


def inner_change(problem: Any, lam: np.ndarray, point: Any, q: np.ndarray, s: np.ndarray) -> float:
    """What the step s alone does to the hypergradient, q being kept: a rough measure, for a q and
    an s that an iteration limit cut short."""
    there = problem.at(point.theta - s, lam)
    return norm(there.hypergradient(q) - point.hypergradient(q))


def refine(
    point: Any, q: np.ndarray, solver: Any, goal: Goal, rtol: float
) -> tuple[np.ndarray, int]:
    """Correct q at the given θ until the linear part of the error is a tenth of what is allowed."""
    nhev = 0
    before = math.inf
    for _ in range(POLISH_STEPS):
        rho = point.b - point.hess.apply(q)
        solution = solver.solve(point.hess, rho, [rtol])
        nhev += solution.nhev + 1
        grad, better = point.hypergradient(q), point.hypergradient(q + solution.x)
        change = norm(better - grad)
        if not change < 0.5 * before:
            break
        if change <= 0.1 * goal.allowed(point, q, grad):
            break
        q, before = q + solution.x, change
    return q, nhev


def _difference_error(point: Any, q: np.ndarray, gain: float, change: float) -> float:
    """What derivatives taken by finite differences add, to first order."""
    of_f, of_g = point.noise
    if not any(of_f) and not any(of_g):
        return 0.0
    size, gradient, b = norm(q), point.stationarity, point.b_norm
    gain = max(gain, norm(point.hypergradient(q) - point.direct) / b if b > 0 else 0.0)
    inner = change / gradient if gradient > 0 else 0.0
    return (
        of_g.jac_lam + of_f.cross * size + gain * (of_g.jac + of_f.hess * size) + inner * of_f.jac
    )
