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
ROWS_EACH = 4


class OverfitWarning(UserWarning):
    """More hyperparameters are tuned than the rows of the outer set can support."""


def outer_rows(g: Any) -> float | None:
    """How many rows g averages over: its attribute `n_outer`; None where it has none."""
    rows = getattr(g, "n_outer", None)
    return None if rows is None else float(rows)


def warn_of_few_rows(g: Any, n_lam: int) -> None:
    """Warn where the outer set has fewer than `ROWS_EACH` rows a hyperparameter.

    A log strength moves θ along one curve, so that it takes up one degree of freedom at most. Tuning d
    of them on m rows makes the outer loss too small by up to the factor (m − d)/(m + d) beside that of
    new rows: for squares, a fit of d parameters to m rows with noise σ² leaves σ²(1 − d/m) on these
    rows and σ²(1 + d/m) on others. At four rows each that is 0.6.
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
