"""What every solver returns, and H as an operator of the core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core
from .linearization import NativeLinearization

Monitor = Callable[[int, float, np.ndarray], bool]


@dataclass
class Solution:
    """x ≈ H⁻¹b and what the solver saw on the way."""

    x: np.ndarray
    status: str  # a name of the core's solve_status, or "terms" for a fixed number of terms
    residual: list[float]  # true ‖b − Hx‖/‖b‖, one a column
    nit: int
    nhev: int
    curvature: tuple[float, float] | None  # (smallest, largest) eigenvalue estimates
    condition: float = 1.0  # of the preconditioned Hessian, as far as the solve saw it
    least: float = 0.0  # its smallest Ritz value; 0 if unknown
    checkpoint: np.ndarray | None = None  # the first column at an earlier iteration


def core_operator(at: Any) -> Any:
    """The Hessian of a linearisation as an operator of the core: native, or one that calls back."""
    if isinstance(at, NativeLinearization):
        return at._core.system
    return callback_operator(at.hess, np.size(at.jac))


def callback_operator(operator: Any, n: int) -> Any:
    """Anything with `@` as an operator of the core."""
    shape = getattr(operator, "shape", None)
    if shape is not None and tuple(shape) != (n, n):
        raise ValueError(f"a linear operator has shape {tuple(shape)}, expected {(n, n)}")

    def apply(v: np.ndarray) -> np.ndarray:
        return np.asarray(operator @ v, dtype=np.float64)

    return _core.CallbackOperator(apply, n)


def span(report: Any) -> tuple[float, float] | None:
    low, high = report.curvature_min, report.curvature_max
    return (low, high) if low <= high else None


def columns_of(b: np.ndarray) -> int:
    return 1 if b.ndim == 1 else b.shape[1]


def checked(hess: Any, b: np.ndarray, x: np.ndarray, status: str) -> Solution:
    """A solution found elsewhere, with its true residual."""
    scale = np.linalg.norm(b, axis=0)
    rest = np.linalg.norm(b - hess.apply(x), axis=0)
    residual = np.atleast_1d(np.divide(rest, scale, out=np.zeros_like(rest), where=scale > 0))
    if not np.isfinite(residual).all():
        status = "non_finite"
    return Solution(x, status, residual.tolist(), 0, columns_of(b), None)
