"""The outer objective of the estimators: a cross-validated loss, freed of its units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .linearization import Linearization

# What moving every λ by 1 away from the start costs, doubled: a share of the loss.
PULL = 1e-5


class RelativeLoss:
    """The outer objective log(g(θ) + floor) + ½ PULL mean_j (λ_j − start_j)².

    The logarithm makes it, and with it every tolerance, independent of units; the floor keeps it
    from resolving losses that are zero but for rounding. The pull decides what the data leave open:
    the λ of a feature that is switched off, or not penalised, could be anything beyond some value.
    """

    def __init__(self, g: Any, floor: float, start: np.ndarray):
        self.g, self.floor, self.start = g, floor, start
        self.n_theta, self.n_lam = g.n_theta, start.size

    def linearize(self, theta: np.ndarray, lam: np.ndarray) -> RelativeLossAt:
        return RelativeLossAt(self, self.g._linearize(theta, lam), lam)

    def pull(self, lam: np.ndarray) -> float:
        return 0.5 * PULL * float(np.mean((lam - self.start) ** 2))

    def loss(self, fun: float, lam: np.ndarray) -> float:
        """g, where this objective is `fun`."""
        return math.exp(fun - self.pull(lam)) - self.floor


class RelativeLossAt(Linearization):
    """A `RelativeLoss` at one (θ, λ), to second order."""

    def __init__(self, outer: RelativeLoss, at: Any, lam: np.ndarray):
        loss, away = at.fun + outer.floor, lam - outer.start
        super().__init__(
            math.log(loss) + outer.pull(lam), at.jac / loss, PULL / lam.size * away, self, None
        )
        self.hess_lam = np.full(lam.size, PULL / lam.size)  # of a diagonal matrix
        self._at, self._loss = at, loss

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        """The Hessian in θ, times v: ∇²log g = ∇²g / g − ∇log g ∇log gᵀ."""
        along = self.jac @ v
        return self._at._core.hess.apply(v) / self._loss - np.multiply.outer(self.jac, along)
