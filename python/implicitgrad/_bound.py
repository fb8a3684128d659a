r"""A guaranteed bound on the error of a hypergradient, for the library's own objectives.

Let r bound ‖∇θf‖, ρ bound ‖∇θg − Hq‖, and let H ⪰ μI on a ball around θ that holds θ⋆, so that
e = r/μ bounds ‖θ − θ⋆‖. With Lipschitz constants L_g of ∇θg, L_H of H and L_C of C in θ,

    ‖q − q⋆‖ ≤ Δq = (ρ + e (L_g + L_H ‖q‖)) / μ,
    ‖grad − dg/dλ‖ ≤ ‖C‖ Δq + L_C e (‖q‖ + Δq) + L_d e,

L_d being that of ∂g/∂λ (M. J. Ehrhardt and L. Roberts, "Analyzing inexact hypergradients for bilevel
learning", IMA J. Appl. Math. 89, 2024, give bounds of this form). Everything that enters is bounded
upwards, with the rounding errors of r, ρ and of the final sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._core import norm
from .linearization import Terms

EPS = float(np.finfo(np.float64).eps)
UP = 1 + 8 * EPS


def error_bound(point: Any, q: np.ndarray, residual: float, factored: Any) -> float:
    """The bound, or inf where no μ could be proven.

    `residual` is ‖∇θg − Hq‖₂ as computed; `factored` is (solver with a Cholesky factor of H, the θ
    where H was factored), or None.
    """
    if not _known(point):
        return math.inf
    f, g = point.terms
    mu, e = _ball(f, point.stationarity * UP + f.gradient_rounding, point.theta, factored)
    if not mu > 0:
        return math.inf
    size = norm(q) * UP
    rho = residual * UP + g.gradient_rounding + f.product_rounding * size
    rounding = EPS * (q.size + 8) * (point.direct_norm + f.cross * size)
    rounding += f.cross_rounding * size + g.cross_rounding * norm(point.theta)
    if e > g.radius:
        return math.inf
    bound = (_bound(f, g, size, rho, mu, e) + rounding) * UP
    return bound if bound >= 0 else math.inf  # NaN: inf met 0 on the way


def inner_limit(point: Any, q: np.ndarray, mu: float, energy: float) -> float:
    """What θ's distance from θ⋆ can do to the hypergradient if `mu` is H's least eigenvalue and
    `energy` is √(∇fᵀH⁻¹∇f): the bound for a q without error. inf where the constants are not known."""
    if not (_known(point) and mu > 0):
        return math.inf
    f, g = point.terms
    e, size = energy / math.sqrt(mu), norm(q)
    if e > min(f.radius, g.radius):
        return math.inf
    rho = e * (g.hess + g.most + f.third * size)
    through = reach(point, mu) * rho / math.sqrt(mu)
    at_q = min(f.rate * e * size, energy * point.F._core.reach(q))
    return through + at_q + f.rate * e * rho / mu + e * (g.cross + g.rate * e)


def push_rate(point: Any, q: np.ndarray) -> float:
    """The Lipschitz constant of ∇θg − Hq in θ."""
    f, g = point.terms
    return g.hess + g.most + f.third * norm(q)


def reach(point: Any, mu: float) -> float:
    """Bounds ‖CᵀH⁻¹v‖ / √(vᵀH⁻¹v); inf where the constants are not known."""
    if not _known(point):
        return math.inf
    f = point.terms[0]
    return min(f.reach, f.cross / math.sqrt(mu)) if mu > 0 else f.reach


def response_bound(
    f: Terms, u: np.ndarray, w: np.ndarray, residual: float, point: Any, factored: Any
) -> float:
    """The same for the response w to u, which solves H w = −C u with a residual of this norm: with
    the Lipschitz constant L_u of C u in θ,

        ‖w − w⋆‖ ≤ (ρ + e (L_u + L_H ‖w‖)) / μ.
    """
    mu, e = _ball(f, point.stationarity * UP + f.gradient_rounding, point.theta, factored)
    if not mu > 0:
        return math.inf
    size = norm(w) * UP
    rho = residual * UP + 4 * EPS * point.b_norm + f.product_rounding * size
    rho += f.cross_rounding * norm(u)
    bound = (rho + e * (point.F._core.response_rate(u) + f.third * size)) / mu * UP
    return bound if bound >= 0 else math.inf


def _known(point: Any) -> bool:
    return None not in point.terms


def _bound(f: Terms, g: Terms, size: float, rho: float, mu: float, e: float) -> float:
    dq = (rho + e * (g.hess + g.most + f.third * size)) / mu
    return f.cross * dq + f.rate * e * (size + dq) + e * (g.cross + g.rate * e)


def _ball(f: Terms, r: float, theta: np.ndarray, factored: Any) -> tuple[float, float]:
    """(μ, e): H ⪰ μI on the ball of radius e around θ, which holds θ⋆; μ = 0 where not proven."""
    best = (f.least, r / f.least) if f.least > 0 else (0.0, math.inf)
    if not best[1] <= f.radius:
        best = 0.0, math.inf
    if factored is None:
        return best
    solver, where = factored
    if best[0] >= 0.1 * solver.curvature_min:
        return best  # the factor could prove little more
    mu = solver.proven_minimum(f.product_rounding)
    if f.third > 0 and where is not theta:
        moved = norm(theta - where)
        mu -= f.third * moved * UP
        if moved > f.radius:
            return best
    if mu <= best[0]:
        return best
    # H may fall by L_H e within the ball: e solves (μ − L_H e) e = r.
    square = mu * mu - 4 * f.third * r
    if square <= 0:
        return best
    e = 2 * r / (mu + math.sqrt(square)) * UP
    mu -= f.third * e
    return (mu, e) if mu > best[0] and e <= f.radius else best
