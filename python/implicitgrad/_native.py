"""Which objectives are the library's own, so that work on them may stay in the core.

A subclass that overrides `linearize` is not: what it overrides is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core, solvers
from ._native_objective import NativeObjective
from .callables import Objective


def is_native(f: Any) -> bool:
    return isinstance(f, NativeObjective) and type(f).linearize is NativeObjective.linearize


def linearizer(f: Any) -> Callable[..., Any]:
    """``linearize`` of an objective, without its validation where that is the library's own."""
    if is_native(f) or (isinstance(f, Objective) and type(f).linearize is Objective.linearize):
        return f._linearize
    return f.linearize


def passer(f: Any) -> Callable[..., Any]:
    """`linearizer`, for a point that the objective need not remember."""
    return f._pass if is_native(f) else linearizer(f)


def core_objective(f: Any, n_theta: int, n_lam: int) -> Any:
    """An objective as the core sees it: the library's own, or one that is called back."""
    if is_native(f):
        return f._core
    linearize = linearizer(f)
    return _core.CallbackObjective(lambda *at: CalledBack(linearize(*at), n_lam), n_theta, n_lam)


class CalledBack:
    """A linearisation of a user's objective, each part computed when the core asks for it."""

    def __init__(self, at: Any, n_lam: int):
        self._at, self._n_lam = at, n_lam
        self.fun, self.jac = float(at.fun), np.asarray(at.jac, dtype=np.float64)

    def hess(self) -> Any:
        return solvers.core_operator(self._at)

    def jac_lam(self) -> np.ndarray:
        found = self._at.jac_lam
        none = found is None or np.size(found) == 0  # an outer loss that ignores λ
        return np.zeros(self._n_lam) if none else np.asarray(found, dtype=np.float64)

    def cross(self, u: np.ndarray) -> np.ndarray:
        return np.asarray(self._at.cross @ u, dtype=np.float64)

    def cross_transpose(self, q: np.ndarray) -> np.ndarray:
        return np.asarray(self._at.cross.T @ q, dtype=np.float64)
