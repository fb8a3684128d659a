"""Overfitting of the outer set: how many hyperparameters it supports, and a third set that watches."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from . import _arrays
from ._outer import HyperObjective
from .callables import as_objective

# Rows of the outer set that one hyperparameter asks for.
ROWS_EACH = 2


class OverfitWarning(UserWarning):
    """More hyperparameters are tuned than the rows of the outer set can support.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(3), [1.0, 2.0, 3.0], penalty=ig.L2("feature"))
    >>> g = ig.LeastSquares(np.ones((1, 3)), [1.0])
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     res = ig.minimize(f, g, np.zeros(3), bounds=[(-5, 5)] * 3)
    >>> str(seen[0].message)[:59]
    '3 hyperparameters are tuned on 1 outer rows, which support '
    """


def outer_rows(g: Any) -> float | None:
    """How many rows g averages over: its attribute `n_outer`; None where it has none."""
    rows = getattr(g, "n_outer", None)
    return None if rows is None else float(rows)


def warn_of_few_rows(g: Any, n_lam: int) -> None:
    """Warn where the outer set has fewer than `ROWS_EACH` rows a hyperparameter.

    A log strength moves θ along one curve, so that it takes up one degree of freedom at most. For
    squares, a fit of d parameters to m rows with noise σ² leaves σ²(1 − d/m) on these rows and
    σ²(1 + d/m) on others, so that the outer loss is too small by a factor of (m − d)/(m + d) at worst.
    On simulated ridge problems the factor was 0.4 to 0.6 at one row each, 0.7 to 0.8 at two and 0.8 to
    0.9 at four; on new rows a penalty each did no better than one for all at one row each, where all
    features mattered, about as well at two, and better in every case from four on.
    """
    rows = outer_rows(g)
    if rows is not None and n_lam > 1 and n_lam * ROWS_EACH > rows:
        warnings.warn(
            f"{n_lam} hyperparameters are tuned on {rows:.0f} outer rows, which support about "
            f"{max(1, int(rows // ROWS_EACH))}: the outer loss will be too small to be believed. Use "
            "fewer (groups), more outer rows, or watch a third set (watch=). options={'warn': False} "
            "silences this.",
            OverfitWarning,
            stacklevel=4,
        )


class ThirdSet:
    """The loss on rows that neither train nor tune, after each outer iteration."""

    def __init__(self, watch: Any, h: HyperObjective, patience: Any):
        self.objective = as_objective(watch, "watch")
        f = h._problem.f
        for name, free in (("n_theta", ()), ("n_lam", (0,))):
            ours, theirs = getattr(self.objective, name, None), getattr(f, name, None)
            if None not in (ours, theirs) and ours != theirs and ours not in free:
                raise ValueError(f"watch has {name} = {ours}, f has {name} = {theirs}")
        self.patience = _arrays.integer(patience, "patience", least=1)
        self.values: list[float] = []
        self.best: tuple[float, np.ndarray, np.ndarray] | None = None
        self._since = 0

    def see(self, lam: np.ndarray, theta: np.ndarray) -> bool:
        """Take note of (λ, θ); False where the loss has not fallen for `patience` iterations."""
        value = float(self._value(theta, lam))
        self.values.append(value)
        if math.isfinite(value) and (self.best is None or value < self.best[0]):
            self.best = value, lam.copy(), theta.copy()
            self._since = 0
        else:
            self._since += 1
        return self._since < self.patience

    def _value(self, theta: np.ndarray, lam: np.ndarray) -> float:
        fun = getattr(self.objective, "fun", None)
        if callable(fun):
            return fun(theta, lam)
        return self.objective.linearize(theta, lam).fun
