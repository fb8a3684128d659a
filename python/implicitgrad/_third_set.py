"""A third set of rows, which neither trains nor tunes: when to stop early, and what to return."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _arrays
from ._outer import HyperObjective
from .callables import as_objective


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
