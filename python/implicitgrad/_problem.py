"""The pair (f, g): validation, and both linearised at one point."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _arrays, solvers
from ._bound import error_bound, inner_limit, push_rate, reach
from ._core import norm
from ._native import is_native, linearizer, passer
from ._result import ImplicitGradResult
from .callables import Objective, as_objective
from .linearization import EXACT, NativeLinearization, Noise, cross_vjp, cross_vjp_and_scale

_EPS = float(np.finfo(np.float64).eps)


class Problem:
    """A pair (f, g) and how to linearise both at a point."""

    def __init__(self, f: Any, g: Any):
        self.f, self.g = as_objective(f, "f"), as_objective(g, "g")
        for name, free in (("n_theta", ()), ("n_lam", (0,))):
            of_f, of_g = getattr(self.f, name, None), getattr(self.g, name, None)
            if None not in (of_f, of_g) and of_g != of_f and of_g not in free:
                raise ValueError(
                    f"g has {name} = {of_g}, f has {name} = {of_f}"
                    + (" (it must be 0 or the same)" if free else "")
                )
        self._linearize_f, self._linearize_g = linearizer(self.f), linearizer(self.g)
        self._pass_f, self._pass_g = passer(self.f), passer(self.g)
        self.native = is_native(self.f)
        self.convex = self.native and self.f.convex

    @property
    def from_values(self) -> bool:
        f, g = self.f, self.g
        return (isinstance(f, Objective) and f.from_values) or (
            isinstance(g, Objective) and g.from_values
        )

    def check_lam(self, lam: Any, name: str = "lam") -> np.ndarray:
        if self.native:
            return self.f._hyperparameters(lam, name, "f")
        n_lam = getattr(self.f, "n_lam", None)
        if n_lam is None:
            n_lam = getattr(self.g, "n_lam", None) or np.size(lam)
        return _arrays.vector(lam, n_lam, name, "f")

    def in_range(self, lam: np.ndarray) -> bool:
        """Whether nothing that f makes of λ overflows or underflows, as far as that is known."""
        if not np.isfinite(lam).all():
            return False
        try:
            self.check_lam(lam)
        except _arrays.OutOfRange:
            return False
        return True

    def check_theta(self, theta: Any, name: str = "theta") -> np.ndarray:
        n_theta = getattr(self.f, "n_theta", None)
        if n_theta is None:
            n_theta = getattr(self.g, "n_theta", None) or np.size(theta)
        return _arrays.vector(theta, n_theta, name, "f")

    def at(self, theta: np.ndarray, lam: np.ndarray) -> Point:
        return Point(self._linearize_f(theta, lam), self._linearize_g(theta, lam), theta, lam)

    def try_out(self, theta: np.ndarray, lam: np.ndarray) -> None:
        """Meet what only a user's functions themselves can show, shapes that do not fit or a problem too
        large to be differentiated from values, before work that takes many calls of them begins: f and
        g at one point, and one product each with H and Cᵀ, where they are not the library's own."""
        if self.native and is_native(self.g):
            return
        point = self.beside(theta, lam)
        if not self.native:
            point.hess.apply(point.b)
            product = cross_vjp(point.F, point.b)
            _arrays.shaped(product, lam.shape, "f.linearize(...).cross.T @ q")

    def beside(self, theta: np.ndarray, lam: np.ndarray) -> Point:
        """`at`, for a point that is only looked at: objectives that remember their last point keep
        the one before."""
        return Point(self._pass_f(theta, lam), self._pass_g(theta, lam), theta, lam)


def tolerance(problem: Problem, tol: float | None) -> float:
    if tol is None:
        return 1e-3 if problem.from_values else 1e-6
    return _arrays.number(tol, "tol", positive=True)


class Point:
    """f and g linearised at one (θ, λ), and what the answer dg/dλ is there.

    The solve and the certificate know only this much: the unknown q solves H q = b, of which b = ∇θg,
    and `value(q)` is the answer. `_response` has another such point.
    """

    answer, unknown = "grad", "adjoint"  # what they are called in results

    __slots__ = (
        *("F", "G", "b", "b_norm", "direct", "direct_norm", "gradient", "hess"),
        *("last", "stationarity", "theta"),
    )

    def __init__(self, F: Any, G: Any, theta: np.ndarray, lam: np.ndarray):
        self.F, self.G, self.theta = F, G, theta
        self.last: Any = (None, None, math.nan)
        if isinstance(F, NativeLinearization):
            self.gradient, self.stationarity, self.hess = F.jac, F.jac_norm, F._core.system
        else:
            self.gradient = _arrays.shaped(F.jac, theta.shape, "f.linearize(...).jac")
            self.stationarity, self.hess = norm(self.gradient), solvers.core_operator(F)
        if isinstance(G, NativeLinearization):
            self.b, self.b_norm = G.jac, G.jac_norm
            direct, self.direct_norm = G.jac_lam, G.jac_lam_norm
        else:
            self.b = _arrays.shaped(G.jac, theta.shape, "g.linearize(...).jac")
            direct, self.b_norm = G.jac_lam, norm(self.b)
            if direct is not None and np.size(direct):
                direct = _arrays.shaped(direct, lam.shape, "jac_lam of g")
                self.direct_norm = norm(direct)
        least = self.least(self.b)
        if least is not self.b:
            self.b, self.b_norm = least, norm(least)
        if direct is None or np.size(direct) == 0:
            direct, self.direct_norm = np.zeros(lam.size), 0.0
        self.direct = direct

    def least(self, v: np.ndarray) -> np.ndarray:
        """v, less what it has of directions in which f is constant whatever the data: θ does not move
        there, so that q is the least solution of H q = b, and b is all of ∇θg that matters."""
        known = isinstance(self.F, NativeLinearization) and self.F._core.degenerate
        return self.F._core.project(v) if known else v

    def value(self, q: np.ndarray) -> np.ndarray:
        """dg/dλ = ∂g/∂λ − Cᵀq."""
        return self._at(q)[1]

    def rounding_level(self, q: np.ndarray) -> float:
        """The error that is left when all else is exact, up to a small constant."""
        return self._at(q)[2]

    def _at(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(q, the hypergradient and its rounding level); those of the last q are kept."""
        if self.last[0] is not q:
            product, scale = cross_vjp_and_scale(self.F, q)
            self.last = q, self.direct - product, _EPS * (self.direct_norm + scale)
        return self.last

    def carried(self, dq: np.ndarray) -> np.ndarray:
        """What a change of q does to the hypergradient, but for the sign: Cᵀdq."""
        return cross_vjp(self.F, dq)

    def uncancelled(self, dq: np.ndarray, q: np.ndarray) -> float:
        """‖ |C|ᵀ|dq| ‖₂, where C is known; or else what dq would carry that cancels no more than q."""
        size = cross_vjp_and_scale(self.F, dq)[1]
        if isinstance(self.F, NativeLinearization) or isinstance(self.F.cross, np.ndarray):
            return size
        of_q = norm(q)
        return max(size, norm(self.carried(q)) * norm(dq) / of_q if of_q > 0 else 0.0)

    @property
    def terms(self) -> Any:
        """The `Terms` of f and of g; None where they are not known."""
        return getattr(self.F, "terms", None), getattr(self.G, "terms", None)

    def rounding_noise(
        self, q: np.ndarray, diagonal: np.ndarray, pattern: np.ndarray, by_row: bool
    ) -> Any:
        """Vectors of the size of the terms that ∇θg − Hq and ∇θf are sums of, with the signs of
        `pattern`, as the columns of a block; from the diagonal of H what is not known better. From
        above, and closer `by_row`, for two passes over each X."""
        F, G = self.F, self.G
        native = isinstance(F, NativeLinearization), isinstance(G, NativeLinearization)
        if all(native):
            return F._core.rounding_noise(G._core, q, diagonal, pattern, by_row)
        noise = np.empty((2, q.size))
        noise[0] = np.abs(self.b) if not native[1] else G._core.gradient_terms(by_row)
        noise[0] += np.abs(diagonal * q)
        if native[0]:
            noise[1] = F._core.gradient_terms(by_row)
        else:
            # Σ_k |H_jk θ_k|, as H_jk² ≤ H_jj H_kk; and of a sum of squares f = ½ Σ r_i², such as f may
            # be where θ explains little of the data, Σ_i |r_i ∂r_i/∂θ_j| ≤ √(2 f H_jj).
            root = np.sqrt(np.abs(diagonal))
            reach = norm(root * self.theta) + math.sqrt(2 * abs(float(F.fun)))
            noise[1] = np.abs(self.gradient) + root * reach
        noise *= pattern
        return noise.T

    def arrival(self, sent: np.ndarray, q: np.ndarray) -> tuple[float, float, float]:
        """What comes of an error x in q; of an error d in θ, with q as it is; and of d in
        ∇θg − Hq: norms, the last two to first order, not from below, inf where nothing is known.
        x and d are the columns of `sent`."""
        of_f, of_g = self.terms
        if of_f is None:
            return norm(self.carried(sent[:, 0])), math.inf, math.inf
        of_x, at_q, size = self.F._core.arrival(sent, q)
        if of_g is None:
            return of_x, at_q, math.inf
        return of_x, at_q + of_g.cross * size, push_rate(self, q) * size

    def inner_limit(self, q: np.ndarray, mu: float, energy: float) -> float:
        return inner_limit(self, q, mu, energy)

    def reach(self, mu: float) -> float:
        return reach(self, mu)

    def error_bound(self, q: np.ndarray, residual: float, factored: Any) -> float:
        return error_bound(self, q, residual, factored)

    @property
    def noise(self) -> tuple[Noise, Noise]:
        return getattr(self.F, "noise", EXACT), getattr(self.G, "noise", EXACT)

    def difference_error(self, q: np.ndarray, gain: float) -> float:
        """What finite differences in the equation of q and in the answer add, where a residual of norm
        one in q comes out with norm `gain`."""
        of_f, of_g = self.noise
        size = norm(q)
        return of_g.jac_lam + of_f.cross * size + gain * (of_g.jac + of_f.hess * size)

    @property
    def blind(self) -> bool:
        """Whether b says nothing here of what it is at θ⋆: where g is flat, as far from it."""
        return self.b_norm == 0

    def result(self, value: np.ndarray, q: np.ndarray, **found: Any) -> Any:
        return ImplicitGradResult(
            grad=value, fun=self.G.fun, direct=self.direct, adjoint=q, **found
        )

    @property
    def finite(self) -> bool:
        # A sum of norms, none negative, is finite only if each of them is.
        return math.isfinite(self.G.fun + self.b_norm + self.direct_norm + self.stationarity)
