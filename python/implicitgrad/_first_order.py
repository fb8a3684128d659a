"""Outer methods that step along the gradient: plain descent and Adam."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning

from . import _arrays
from ._outer import HyperObjective, failed_at_start
from ._watch import Watch


def projected(lam: np.ndarray, grad: np.ndarray, bounds: Bounds | None) -> np.ndarray:
    """λ − P(λ − ∇h), P being the projection on the bounds: zero at a minimum, ∇h without bounds."""
    if bounds is None:
        return grad
    return lam - np.clip(lam - grad, bounds.lb, bounds.ub)


def largest(v: np.ndarray) -> float:
    return float(np.max(np.abs(v), initial=0.0))


def refuse_unknown(options: dict[str, Any]) -> None:
    """Warn, as SciPy does, of what nobody has taken out of the options."""
    if options:
        unknown = ", ".join(map(repr, options))
        warnings.warn(f"Unknown options: {unknown}", OptimizeWarning, stacklevel=5)


class Descent:
    """λ ← λ − learning_rate · dg/dλ, the field's textbook loop."""

    def __init__(self, options: dict[str, Any]):
        rate = options.pop("learning_rate", 1.0)
        self.rate = _arrays.number(rate, "learning_rate", positive=True)

    def step(self, grad: np.ndarray) -> np.ndarray:
        return self.rate * grad


class Adam:
    """Steps of about learning_rate in each entry, from running means of the gradient and its square
    (D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1)."""

    def __init__(self, options: dict[str, Any]):
        rate = options.pop("learning_rate", 0.1)
        self.rate = _arrays.number(rate, "learning_rate", positive=True)
        self.beta1 = _share(options.pop("beta1", 0.9), "beta1")
        self.beta2 = _share(options.pop("beta2", 0.999), "beta2")
        self.eps = _arrays.number(options.pop("eps", 1e-8), "eps", positive=True)
        self._mean: Any = 0.0
        self._square: Any = 0.0
        self._t = 0

    def step(self, grad: np.ndarray) -> np.ndarray:
        self._t += 1
        self._mean = self.beta1 * self._mean + (1 - self.beta1) * grad
        self._square = self.beta2 * self._square + (1 - self.beta2) * grad**2
        mean = self._mean / (1 - self.beta1**self._t)
        square = self._square / (1 - self.beta2**self._t)
        return self.rate * mean / (np.sqrt(square) + self.eps)


def _share(value: Any, name: str) -> float:
    value = _arrays.number(value, name, nonnegative=True)
    if not value < 1:
        raise ValueError(f"{name} must be below 1, found {value}")
    return value


def descend(
    h: HyperObjective,
    lam: np.ndarray,
    bounds: Bounds | None,
    gtol: float,
    watch: Watch,
    options: dict[str, Any],
    rule: Callable[[dict[str, Any]], Any],
) -> OptimizeResult:
    """λ ← P(λ − step), until ‖λ − P(λ − ∇h)‖_∞ ≤ gtol."""
    update = rule(options)
    maxiter = _arrays.integer(options.pop("maxiter", 1000), "maxiter", least=1)
    refuse_unknown(options)
    low, high = (bounds.lb, bounds.ub) if bounds else (-np.inf, np.inf)
    status, message, nit = 1, "The iteration limit was reached.", 0
    fun, grad = h(lam)
    if not math.isfinite(fun):
        return failed_at_start(h, lam)
    watch.start(lam)
    while True:
        if largest(projected(lam, grad, bounds)) <= gtol:
            status, message = 0, "The gradient is within gtol."
            break
        if nit == maxiter:
            break
        following = np.clip(lam - update.step(grad), low, high)
        value, slope = h(following)
        if not math.isfinite(value):
            status, message = (
                4,
                "Training failed at the next lam: use a smaller learning_rate or bounds.",
            )
            break
        lam, fun, grad, nit = following, value, slope, nit + 1
        try:
            watch(OptimizeResult(x=lam.copy(), fun=fun, jac=grad))
        except StopIteration:
            break
    return OptimizeResult(
        x=lam, fun=fun, jac=grad, nit=nit, success=status == 0, status=status, message=message
    )
