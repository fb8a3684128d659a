"""The solvers other than conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _core
from ._solution import Monitor, Solution, checked, span


@dataclass
class Minres:
    """The minimum residual method, for a Hessian that may be indefinite."""

    maxiter: int | None = None
    monitor: Monitor | None = None

    name = "minres"
    fixed_terms = False

    def setup(self, hess: Any) -> int:
        self._maxiter = self.maxiter or max(100, min(10 * hess.size, 20_000))
        return 0

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        x, report = _core.minres(hess, b, rtol, x0, self._maxiter, self.monitor)
        return Solution(
            *(x, report.status, report.residual, report.iterations, report.products),
            *(span(report), report.condition),
        )


@dataclass
class Cholesky:
    """H is formed and factored; CG with the factor as preconditioner refines and checks the result."""

    monitor: Monitor | None = None

    name = "cholesky"
    fixed_terms = False

    @property
    def diagonal(self) -> np.ndarray:
        return self._factor.diagonal

    def worst_condition(self, at: Any) -> float:
        return 1.0

    @property
    def curvature_min(self) -> float:
        return self._factor.curvature_min

    @property
    def positive(self) -> bool:
        """Whether H is positive definite."""
        return self._factor.verdict == "positive"

    def apply_inverse(self, v: np.ndarray) -> np.ndarray:
        """H⁻¹v by the factor alone."""
        return self._factor.apply(v)

    def proven_minimum(self, slack: float) -> float:
        """A proven lower limit of H's eigenvalues where it was factored, or 0; `slack` is the
        rounding that H was formed with."""
        return self._factor.proven_minimum(slack)

    def setup(self, hess: Any) -> int:
        self._factor = _core.CholeskyFactor(hess)
        return hess.dense_products

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        found = self.refined(hess, b, rtol, x0)
        verdict = self._factor.verdict
        if found.status != "non_finite" and verdict != "positive":
            found.status = "singular" if verdict == "singular" else "negative_curvature"
        found.curvature = self._factor.curvature_min, self._factor.curvature_max
        return found

    def refined(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        """`solve` without a look at H's eigenvalues, which costs as much as some ten solves."""
        x, report, _ = _core.cg(hess, b, rtol, self._factor, x0, 100, self.monitor)
        return Solution(x, report.status, report.residual, report.iterations, report.products, None)


@dataclass
class Neumann:
    """The Neumann series, to a tolerance or to a fixed number of terms."""

    terms: int | None = None
    step_size: float | None = None
    maxiter: int | None = None
    rng: Any = 0
    monitor: Monitor | None = None

    name = "neumann"

    @property
    def fixed_terms(self) -> bool:
        return self.terms is not None

    def setup(self, hess: Any) -> int:
        if self.step_size is not None:
            self.step = self.step_size
            return 0
        _, largest, products = extreme_eigenvalues(hess, self.rng)
        # An estimate from inside the spectrum: 1/estimate is well below the limit 2/λmax.
        self.step = 1.0 / largest if largest > 0 and math.isfinite(largest) else 1.0
        return products

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        x, report = _core.neumann(
            hess, b, rtol, self.step, self.terms or 0, self.maxiter or 10_000, self.monitor
        )
        status = report.status
        if status == "converged" and self.terms is not None:
            status = "terms"
        return Solution(
            x, status, report.residual, report.iterations, report.products, span(report)
        )


@dataclass
class Identity:
    """q = ∇θ g: the Hessian is taken to be the identity."""

    name = "identity"
    fixed_terms = True

    def setup(self, hess: Any) -> int:
        return 0

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        return checked(hess, b, b.copy(), "terms")


@dataclass
class Custom:
    """A user's ``solve(hess, b) -> x`` or ``(x, info)``, info ≠ 0 saying that it did not converge."""

    function: Callable[..., Any]
    hess: Any = field(repr=False)

    name = "custom"
    fixed_terms = False

    def setup(self, hess: Any) -> int:
        return 0

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        answer = self.function(self.hess, b.copy())
        x, info = answer if isinstance(answer, tuple) else (answer, 0)
        x = np.asarray(x, dtype=np.float64)
        if x.shape != b.shape:
            raise ValueError(f"method returned shape {x.shape}, expected {b.shape}")
        return checked(hess, b, x, "converged" if info == 0 else "iteration_limit")


def extreme_eigenvalues(hess: Any, rng: Any = 0, steps: int = 20) -> tuple[float, float, int]:
    """Estimates of λmin and λmax, from inside the spectrum, by Lanczos from a random vector; and the
    products it took."""
    b = np.random.default_rng(rng).standard_normal(hess.size)
    _, report = _core.minres(hess, b, [1e-12], None, steps, None)
    return report.curvature_min, report.curvature_max, report.products
