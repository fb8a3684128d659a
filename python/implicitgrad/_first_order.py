"""Outer methods that step along the gradient by one of the rules: plain descent and Adam."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult

from . import _arrays, _core
from ._outer import HyperObjective, failed_at_start
from ._rules import refuse_unknown
from ._watch import Watch


def projected(lam: np.ndarray, grad: np.ndarray, bounds: Bounds | None) -> np.ndarray:
    """λ − P(λ − ∇h), P being the projection on the bounds: zero at a minimum, ∇h without bounds."""
    if bounds is None:
        return grad
    return lam - np.clip(lam - grad, bounds.lb, bounds.ub)


def largest(v: np.ndarray) -> float:
    return float(np.max(np.abs(v), initial=0.0))


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
    update = _core.Stepper(rule(options))
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
        value, slope = h(following) if h._problem.in_range(following) else (math.inf, grad)
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
