"""The user's `callback` and `stop`, in SciPy's protocol."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult


class Monitor:
    """Turns the user's `stop` and `callback` into the solver's hook, called after each iteration with
    the unknown under its `name`."""

    def __init__(self, stop: Any, callback: Callable[..., Any] | None, name: str = "adjoint"):
        self._name = name
        self.stopped = False
        self._stop = stop if callable(stop) else None
        self._callback = callback
        self._whole = callback is not None and takes_intermediate_result(callback)
        self.hook = self if self._stop or callback else None

    def __call__(self, nit: int, residual: float, x: np.ndarray) -> bool:
        state = OptimizeResult({"nit": nit, "residual": residual, self._name: x})
        if self._callback is not None:
            try:
                if self._whole:
                    self._callback(intermediate_result=state)
                else:
                    self._callback(x)
            except StopIteration:
                self.stopped = True
                return True
        return bool(self._stop is not None and self._stop(state))


def takes_intermediate_result(callback: Callable[..., Any]) -> bool:
    """SciPy's protocol: a parameter of that name gets an OptimizeResult, otherwise it is callback(x)."""
    try:
        return "intermediate_result" in inspect.signature(callback).parameters
    except (TypeError, ValueError):
        return False
