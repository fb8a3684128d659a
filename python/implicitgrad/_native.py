"""Which objectives are the library's own, so that work on them may stay in the core, and the others as
the core calls them back.

A subclass that overrides `linearize` is not the library's own: what it overrides is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _arrays, _core, solvers
from ._native_objective import NativeObjective
from .callables import Objective
from .linearization import NativeLinearization


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


def core_objective(f: Any, n_theta: int, n_lam: int, name: str = "f") -> Any:
    """An objective as the core sees it: the library's own, or one that is called back; `name` is what
    messages call it."""
    if is_native(f):
        return f._core
    linearize = linearizer(f)
    return _core.CallbackObjective(
        lambda *at: CalledBack(linearize(*at), n_theta, n_lam, f"{name}.linearize(...)"),
        *(n_theta, n_lam),
    )


class CalledBack:
    """A linearisation of a user's objective, each part computed when the core asks for it."""

    def __init__(self, at: Any, n_theta: int, n_lam: int, name: str):
        self._at, self._n_theta, self._n_lam, self._name = at, n_theta, n_lam, name
        self.fun, self.jac = float(at.fun), _arrays.shaped(at.jac, (n_theta,), f"{name}.jac")

    @property
    def bytes(self) -> int:
        """What is held from the first: the point, and the derivatives that are arrays by now. Those that
        are computed when asked for hold nothing before, and what is in a closure cannot be seen."""
        if isinstance(self._at, NativeLinearization):
            return int(self._at._core.bytes)
        held = (
            getattr(self._at, "__dict__", {}).get(part) for part in ("jac_lam", "hess", "cross")
        )
        return 8 * (self._n_theta + self._n_lam) + self.jac.nbytes + sum(map(_nbytes, held))

    def hess(self) -> Any:
        return solvers.core_operator(self._at)

    def jac_lam(self) -> np.ndarray:
        found = self._at.jac_lam
        if found is None or np.size(found) == 0:  # an outer loss that ignores λ
            return np.zeros(self._n_lam)
        return _arrays.shaped(found, (self._n_lam,), f"{self._name}.jac_lam")

    def cross(self, u: np.ndarray) -> np.ndarray:
        shape = (self._n_theta, *u.shape[1:])
        return _arrays.shaped(self._at.cross @ u, shape, f"{self._name}.cross @ u")

    def cross_transpose(self, q: np.ndarray) -> np.ndarray:
        shape = (self._n_lam, *q.shape[1:])
        return _arrays.shaped(self._at.cross.T @ q, shape, f"{self._name}.cross.T @ q")


def _nbytes(part: Any) -> int:
    """Of an array, or of the arrays that a sparse matrix or an operator has for attributes."""
    parts = [part] if isinstance(part, np.ndarray) else getattr(part, "__dict__", {}).values()
    return sum(array.nbytes for array in parts if isinstance(array, np.ndarray))
