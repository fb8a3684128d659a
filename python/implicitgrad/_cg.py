"""Conjugate gradients, and what they are preconditioned with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import _core
from ._solution import Monitor, Solution, callback_operator, span
from .linearization import NativeLinearization

# What a solve gains, in nats, when its cost is foreseen: the logarithm of its last residual.
NATS = 16.0
SINGLE = float(np.finfo(np.float32).eps)
# Preconditioners that an objective of the library keeps between solves.
KEPT = ("auto", "jacobi", "sketch", "gram")


@dataclass
class CG:
    """Conjugate gradients, with the diagonal of H as preconditioner where it is known."""

    maxiter: int | None = None
    preconditioner: Any = "auto"
    monitor: Monitor | None = None
    at: Any = None  # the linearisation whose preconditioner is kept from solve to solve
    seed: int = 0

    name = "cg"
    fixed_terms = False

    def worst_condition(self, at: Any) -> float:
        """A limit on the condition number of the preconditioned Hessian, from the penalty:
        H ⪰ diag(strength). 1 where there is none, and only the solve's Ritz values can tell.

        A sketch is formed in single precision, and off by so much of H scaled to a unit diagonal: in a
        direction of a smaller curvature it may be any multiple of H, and a solve need not go there."""
        strength = getattr(at, "strength", None)
        if strength is None or not strength.min() > 0 or self.diagonal is None:
            return self.spread
        size: Any = self.diagonal if self.strong or self._m is not None else np.max(self.diagonal)
        limit = float(np.max(size / strength))
        return 1.0 + SINGLE * limit if self.strong else max(limit, self.spread)

    @property
    def spread(self) -> float:
        """The range of eigenvalues that a preconditioner made of H's own parts evens out: that of H, or
        an estimate from below. Residuals are measured as CG alone measures them, so that a small one
        hides as large an error."""
        layered = isinstance(self._m, _core.KroneckerPreconditioner)
        return self._m.largest / self._m.smallest if layered else 1.0

    @property
    def strong(self) -> bool:
        """Whether a sketch of the data is the preconditioner, so that each iteration gains much."""
        return self._kept is not None and self._kept.strong

    @property
    def ahead(self) -> float:
        """How far beyond the residual that should do a solve goes, so that what it adds on the way
        tells the error that it had there."""
        return 0.25 if self.strong else 0.05

    def adjoint_rtol(self, tol: float, at: Any) -> float:
        """The residual of q that should make the hypergradient accurate to tol: a small residual
        hides an error that is larger by up to √condition in energy."""
        if self.strong:
            return max(1e-13, tol * min(0.3, 1 / math.sqrt(self.worst_condition(at))))
        return max(1e-13, tol * min(0.1, 1 / math.sqrt(self.worst_condition(at))))

    def energy(self, v: np.ndarray) -> float:
        """An estimate of √(vᵀH⁻¹v), not from below: by the preconditioner M, as large as the smallest
        Ritz value of MH makes it, with a margin of two for what the solve did not see."""
        size = _core.norm(v)
        if not 0 < size < math.inf or self._least == math.inf:
            return 0.0 if size == 0 else math.inf
        v = v / size
        square = float(v @ self.precondition(v))
        return 2 * size * math.sqrt(square / self._least) if square >= 0 else math.inf

    def curvature_from_below(self) -> float:
        """An estimate of H's smallest eigenvalue, not from above, by a few powers of M."""
        if self._least == math.inf:
            return 0.0
        v, largest = np.cos(1.7 * np.arange(1, self._hess.size + 1) ** 1.5), 0.0
        for _ in range(4):
            v = self.precondition(v / _core.norm(v))
            largest = _core.norm(v)
            if not 0 < largest < math.inf:
                return 0.0
        return 0.25 * self._least / largest

    def precondition(self, v: np.ndarray) -> np.ndarray:
        m = self._kept if self._kept is not None else self._m
        return v if m is None else m.apply(v)

    @cached_property
    def diagonal(self) -> np.ndarray | None:
        jacobi = _core.JacobiPreconditioner.of(self._hess)
        return None if jacobi is None else jacobi.diagonal

    def setup(self, hess: Any) -> int:
        """Prepare for this Hessian; returns the number of products that took."""
        given = self.preconditioner
        named = given if isinstance(given, str) else None
        self._hess = hess
        self._m: Any = None
        self._kept: Any = None
        self._least = math.inf
        self._maxiter = self.maxiter or max(100, min(10 * hess.size, 20_000))
        if isinstance(self.at, NativeLinearization) and hess.rows_can_be_sampled and named in KEPT:
            self._kept = self.at.preconditioner(named, self.seed)
            self._kept.prepare(hess, NATS)
            return 0
        if named == "kronecker":
            layered = isinstance(self.at, NativeLinearization)
            self._m = self.at.kronecker(getattr(hess, "shift", 0.0)) if layered else None
            if self._m is None:
                raise ValueError(
                    "preconditioner = 'kronecker' is for networks: f has no layers to make it of"
                )
            return 0
        if named in ("sketch", "gram"):
            raise ValueError(
                f"preconditioner = {given!r} needs one of the library's objectives, undamped"
            )
        jacobi = _core.JacobiPreconditioner.of(hess)
        if jacobi is not None:
            self._m = jacobi if isinstance(given, str) and given != "none" else None
        elif isinstance(given, str) and given == "jacobi":
            raise ValueError(
                "preconditioner = 'jacobi' needs the diagonal of the Hessian, which only linear models "
                "give: pass an operator that applies an approximate inverse"
            )
        if given is not None and not isinstance(given, str):
            self._m = callback_operator(_as_operator(given), hess.size)
        return 0

    def solve(
        self,
        hess: Any,
        b: np.ndarray,
        rtol: list[float],
        x0: np.ndarray | None = None,
        checkpoint_rtol: float = 0.0,
        recompute: bool = True,
    ) -> Solution:
        x, report, checkpoint = self._run(
            hess, b, rtol, x0, self._maxiter, self.monitor, checkpoint_rtol, recompute
        )
        if report.least > 0:
            self._least = min(self._least, report.least)
        return Solution(
            *(x, report.status, report.residual, report.iterations, report.products),
            *(span(report), report.condition * self.spread, report.least, checkpoint),
        )

    def _run(self, hess: Any, b: np.ndarray, rtol: list[float], *rest: Any) -> Any:
        if self._kept is not None and hess.rows_can_be_sampled:
            return self._kept.solve(hess, b, rtol, *rest)
        return _core.cg(hess, b, rtol, self._m, *rest)


@dataclass
class Nystrom(CG):
    """Conjugate gradients with a randomised Nyström preconditioner, from products with H alone."""

    rank: int | None = None

    name = "nystrom"

    @property
    def spread(self) -> float:
        return self._m.largest / self._m.smallest if self._m.rank > 0 else 1.0

    def setup(self, hess: Any) -> int:
        if not (isinstance(self.preconditioner, str) and self.preconditioner == "auto"):
            raise ValueError(
                "method = 'nystrom' brings its own preconditioner, found preconditioner = "
                f"{self.preconditioner!r}: leave it at 'auto', or use method = 'cg'"
            )
        self._hess, self._kept, self._least = hess, None, math.inf
        self._maxiter = self.maxiter or max(100, min(10 * hess.size, 20_000))
        self._m = _core.NystromPreconditioner(hess, self.rank or 0, self.seed)
        return self._m.products

    def _run(self, hess: Any, b: np.ndarray, rtol: list[float], *rest: Any) -> Any:
        return _core.nystrom(self._m, hess, b, rtol, *rest[:-1])

    def solve(
        self,
        hess: Any,
        b: np.ndarray,
        rtol: list[float],
        x0: np.ndarray | None = None,
        checkpoint_rtol: float = 0.0,
        recompute: bool = True,  # always, here
    ) -> Solution:
        solution = super().solve(hess, b, rtol, x0, checkpoint_rtol)
        if (self._m.rank == 0 and self._m.verdict == "positive") or solution.status == "non_finite":
            return solution
        # Preconditioned directions may all lie where H is flat: the sketch knows its size.
        low, high = solution.curvature or (math.inf, -math.inf)
        low, high = min(low, self._m.curvature_min or low), max(high, self._m.curvature_max)
        solution.curvature = (min(low, high), high)
        if self._m.verdict == "indefinite":
            solution.status = "negative_curvature"
        elif solution.status == "negative_curvature" and low >= -1e-15 * high:
            solution.status = "singular"
        return solution


def _as_operator(value: Any) -> Any:
    """A preconditioner as something with `@`: an operator, an array, or a function v ↦ M⁻¹v."""
    if hasattr(value, "__matmul__"):
        return value
    if callable(value):
        return _Applied(value)
    raise TypeError(f"preconditioner must be a name, an operator or a function, found {value!r}")


@dataclass
class _Applied:
    function: Callable[[np.ndarray], np.ndarray]

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        if v.ndim == 1:
            return self.function(v)
        return np.stack([self.function(column) for column in v.T], axis=1)
