"""Gathers a result while it is found, and gives the verdict in one place."""

from __future__ import annotations

import math

import numpy as np

from . import _result, solvers
from ._certificate import Certified, Goal
from ._core import all_finite, norm
from ._options import Options
from ._problem import Point
from ._result import ImplicitGradResult

# Products that look for the most negative curvature, where there is some.
LANCZOS_STEPS = 40
RITZ_ROUNDING = 1e-12  # of the eigenvalues they find, relative to the largest

# Endings of a solve that leave it to the bound on the error whether the answer is good enough.
_OPEN = frozenset({"iteration_limit", "not_stationary", "stagnated", "diverged"})


class Answer:
    """Gathers the fields of the result as they become known."""

    __slots__ = (
        *("curvature", "factored", "goal", "method", "nhev", "nit", "options", "point", "q"),
        *("probed", "residual", "step"),
    )

    def __init__(self, point: Point, method: str, goal: Goal, options: Options):
        self.point, self.method, self.goal, self.options = point, method, goal, options
        self.q = np.zeros(point.theta.size)
        self.residual = self.step = math.nan
        self.factored: tuple[solvers.Cholesky, np.ndarray] | None = None
        self.curvature: tuple[float, float] | None = None
        self.nit = self.nhev = 0
        self.probed = False

    def count(self, solution: solvers.Solution) -> None:
        self.nhev += solution.nhev
        if solution.curvature:
            low, high = self.curvature or solution.curvature
            self.curvature = min(low, solution.curvature[0]), max(high, solution.curvature[1])

    def saw(self, q: np.ndarray, solution: solvers.Solution) -> None:
        self.count(solution)
        self.q, self.nit = q, solution.nit
        self.residual = solution.residual[0]
        if self.options.solved:  # what was seen so far is another system
            self.check_residual()
            if self.options.curvature != "exact":
                self.curvature = None
            elif self.curvature:
                low, high = self.curvature
                self.curvature = low - self.options.damping, high - self.options.damping

    def check_residual(self) -> None:
        size = self.point.b_norm
        rest = norm(self.point.b - self.point.hess.apply(self.q))
        self.residual = rest / size if size > 0 else rest
        self.nhev += 1

    def indefinite(self) -> bool:
        """Looks for negative curvature in random directions, once: at a symmetric point, say one where
        two units of a network are the same, H may be indefinite and q lie where it is not."""
        if not self.probed:
            low, high, products = solvers.extreme_eigenvalues(self.point.hess, 0, LANCZOS_STEPS)
            least, largest = self.curvature or (low, high)
            # Ritz values leave the spectrum by rounding, which must not make an estimate of it.
            inside = RITZ_ROUNDING * max(abs(low), abs(high))
            self.curvature = min(least, low + inside), max(largest, high - inside)
            self.nhev += products
            self.probed = True
        assert self.curvature is not None
        return self.curvature[0] < 0

    def flat(self) -> bool:
        """Whether `indefinite` saw a direction in which f is flat, up to rounding (that of float32 where
        products are), so that θ⋆ is not unique: say the bias of a unit whose weights are penalised to
        nothing. CG may never go there."""
        assert self.curvature is not None
        rounding = 2 * RITZ_ROUNDING * self.curvature[1] + self.point.noise[0].hess
        return self.curvature[0] <= rounding

    def fail(self, why: str, final: bool = False) -> ImplicitGradResult:
        """No estimate could be made or was wanted, or the theorem does not apply."""
        value = self.point.value(self.q)
        if not all_finite(value):
            why = "non_finite"
        if why == "negative_curvature" and self.options.certify is not False:
            self.indefinite()
        allowed = self.goal.allowed(self.point, self.q, value)
        return self._result(value, math.inf, allowed, why, final or why not in _OPEN)

    def certified(self, found: Certified, limited: str | None) -> ImplicitGradResult:
        self.nhev += found.nhev
        moved = found.q is not self.q or found.point is not self.point
        self.point, self.q = found.point, found.q
        if moved:
            self.check_residual()
        names = {"linear": limited or "singular", "newton": "not_stationary"}
        why = names.get(found.trouble or "ok", found.trouble or "ok")
        final = why in ("negative_curvature", "non_finite", "bad_preconditioner")
        final = final or (why == "singular" and not math.isfinite(found.error))
        return self._result(found.value, found.error, found.allowed, why, final)

    def _result(
        self, value: np.ndarray, error: float, allowed: float, why: str, final: bool
    ) -> ImplicitGradResult:
        """`why` names what stands in the way; unless that is final, the error alone decides."""
        stationarity = self.point.stationarity
        bound = math.inf
        if not final or why == "terms":
            rest = self.residual * self.point.b_norm
            # To prove H's curvature takes a factorisation of its own.
            factored = self.factored if self.options.bound or not error <= allowed else None
            bound = self.point.error_bound(self.q, rest, factored)
        if not final:
            error = min(error, bound) if error == error else bound
            if error <= allowed < math.inf:
                why = "ok"
        status, text = _result.describe(
            why,
            error=error,
            target=allowed,
            residual=self.residual,
            stationarity=stationarity,
            curvature=self.curvature,
            step=self.step,
        )
        if self.options.solved:
            text += f" The system solved was {self.options.solved}."
        return self.point.result(
            value,
            self.point.least(self.q),
            message=text,
            theta=self.point.theta.copy(),  # not the caller's own array
            error=error,
            error_bound=bound,
            stationarity=stationarity,
            residual=self.residual,
            curvature=self.curvature,
            success=status == _result.OK,
            status=status,
            nit=self.nit,
            nhev=self.nhev,
            method=self.method,
        )
