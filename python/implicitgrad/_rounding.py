"""What rounding leaves of the error, even at a θ and q that solve their equations.

∇θf and ∇θg − Hq are sums whose terms may cancel: what is computed as zero is zero up to ε times the
size of its terms, and H⁻¹ makes of that an error in θ and in q. No Newton step sees it, as the
computed sums are all that a step knows of. So noise of that size is sent through H⁻¹: noise in
∇θg − Hq comes out as CᵀH⁻¹ of it, and δ in ∇θf moves θ by d = H⁻¹δ, and with it the hypergradient by

    ∂²g/∂λ∂θ d − (∂C[d])ᵀq − CᵀH⁻¹(∂²g/∂θ² d − ∂H[d] q).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from ._core import norm
from .linearization import NativeLinearization

EPS = float(np.finfo(np.float64).eps)
GOLDEN = (math.sqrt(5) - 1) / 2
WELL_CONDITIONED = 1e4
NOISE_RTOL = 0.1  # of what noise comes to, as its size is all that is known of it
MINOR = 1e-4  # a share of what is allowed that need be known from above only


@lru_cache(maxsize=16)
def noise_pattern(size: int) -> np.ndarray:
    """Signs and sizes of mean square one, no two of which are close to one another, as equal columns
    of X would show no noise at all: multiples of the golden ratio, modulo one."""
    return math.sqrt(3) * (2 * np.modf(GOLDEN * np.arange(1, size + 1))[0] - 1)


def left_by_rounding(
    problem: Any,
    lam: np.ndarray,
    point: Any,
    q: np.ndarray,
    solver: Any,
    gain: float,
    curvature: tuple[float, float],
    change: float,
    allowed: float,
    look: bool = False,
) -> tuple[float, int]:
    """An estimate of that error, and the number of products it took.

    `gain` is how a residual of norm one in q came out in the answer, `change` the rest of the error.
    What comes of noise in ∇θf is looked into only where a limit on it is more than a share of that;
    and for a user's well-conditioned f only with `look`.
    """
    for by_row in (False, True):
        noise = _noise(point, q, solver, curvature, by_row)
        in_residual = norm(noise[:, 0])
        found = 4 * point.rounding_level(q)
        d = None
        if solver.name == "cholesky":
            sent = solver.apply_inverse(noise)
            of_residual, at_q, push = point.arrival(sent, q)
            found += EPS * of_residual
            limit = EPS * (at_q + (push * of_residual / in_residual if in_residual > 0 else 0.0))
            d = sent[:, 1]
        else:
            found += EPS * gain * in_residual
            least = _least(point, solver)
            energy = noise_energy(point, solver, least, True, noise[:, 1])
            limit = point.inner_limit(q, least, energy)
        if found <= 0.1 * max(change, allowed) and limit <= max(MINOR * allowed, 0.3 * found):
            return found + limit, 0
    if limit <= 0.1 * change or not _worth_a_look(point, curvature, look):
        return found, 0
    nhev = 0
    if d is None:
        solution = solver.solve(point.hess, noise[:, 1], [NOISE_RTOL])
        d, nhev = solution.x, solution.nhev
    further, products = _moved(problem, lam, point, q, solver, d)
    return found + further, nhev + products


def _noise(
    point: Any, q: np.ndarray, solver: Any, curvature: tuple[float, float], by_row: bool
) -> Any:
    """`Point.rounding_noise`, with the diagonal of H as far as it is known."""
    diagonal = solver.diagonal
    if diagonal is None:
        diagonal = np.full(q.size, curvature[1])
    return point.rounding_noise(q, diagonal, noise_pattern(q.size), by_row)


def at_rounding(point: Any, q: np.ndarray, solver: Any, curvature: tuple[float, float]) -> bool:
    """Whether ∇θf is no more than its own error."""
    noise = _noise(point, q, solver, curvature, True)
    return bool(point.stationarity <= EPS * norm(noise[:, 1]) + point.noise[0].jac)


def _worth_a_look(point: Any, curvature: tuple[float, float], look: bool) -> bool:
    """Finite differences are further off than rounding; and what ∇θf is the sum of is a guess where a
    user's function computes it, which is not worth a call of that for a well-conditioned H."""
    of_f, of_g = point.noise
    if any((of_f.jac, of_f.hess, of_f.cross, of_g.jac, of_g.jac_lam)):
        return False
    known = isinstance(point.F, NativeLinearization)
    return look or known or not 0 < curvature[1] <= WELL_CONDITIONED * curvature[0]


def _moved(
    problem: Any, lam: np.ndarray, point: Any, q: np.ndarray, solver: Any, d: np.ndarray
) -> tuple[float, int]:
    """What moving θ by ε d does to the answer."""
    # Further if that is below what differences show, but not so far that H changes.
    scale = np.sqrt(np.maximum(solver.diagonal, 0.0)) if solver.diagonal is not None else 1.0
    size, of_theta = norm(scale * d), norm(scale * point.theta)
    t = max(EPS, 1e-6 * of_theta / size) if size > 0 else EPS
    there = problem.beside(point.theta + t * d, lam)
    rho = there.b - point.b - (there.hess.apply(q) - point.hess.apply(q))
    if solver.name == "cholesky":
        dq, nhev = solver.apply_inverse(rho), 2
    else:
        solution = solver.solve(point.hess, rho, [NOISE_RTOL])
        dq, nhev = solution.x, 2 + solution.nhev
    change = norm(there.value(q + dq) - point.value(q)) * (EPS / t)
    return (change if math.isfinite(change) else math.inf), nhev


def _least(point: Any, solver: Any) -> float:
    """H's smallest eigenvalue, from below as far as that is known; 0 where it is not."""
    if point.terms[0] is None:
        return 0.0
    return max(point.terms[0].least, solver.curvature_from_below())


def noise_energy(
    point: Any, solver: Any, least: float, closer: bool, noise: np.ndarray | None = None
) -> float:
    """√(δᵀH⁻¹δ) of the rounding δ in ∇θf, not from below: by the norm of δ and the smallest eigenvalue
    of H, or `closer` by what the solver saw of H in each direction."""
    if point.terms[0] is None:
        return math.inf
    plain = EPS * point.terms[0].gradient_terms / math.sqrt(least) if least > 0 else math.inf
    if not closer:
        return plain
    return min(plain, EPS * solver.energy(gradient_noise(point) if noise is None else noise))


def gradient_noise(point: Any) -> np.ndarray:
    """Noise of the size of ∇θf's terms, for one of the library's objectives: ε times it is δ."""
    terms = point.F._core.gradient_terms(False)
    return terms * noise_pattern(terms.size)
