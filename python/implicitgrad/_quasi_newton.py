"""Directions for a bounded problem from changes of its gradient (L-BFGS)."""

from __future__ import annotations

from collections import deque

import numpy as np

from ._core import norm

MEMORY = 20


class QuasiNewton:
    """The two-loop recursion on the variables that no bound holds [1]_.

    A variable at a bound that its gradient pushes it against stays there; on the others, the pairs of
    steps and changes of the gradient are those of the subspace.

    References
    ----------
    .. [1] J. Nocedal, S. J. Wright, *Numerical Optimization*, 2nd ed., 2006, algorithm 7.4.
    """

    def __init__(self) -> None:
        self._pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MEMORY)

    def __len__(self) -> int:
        return len(self._pairs)

    def clear(self) -> None:
        self._pairs.clear()

    def learn(self, step: np.ndarray, change: np.ndarray) -> None:
        """Keep a step and the change of the gradient along it, if it shows positive curvature."""
        if step @ change > 1e-10 * norm(step) * norm(change):
            self._pairs.append((step, change))

    def direction(self, grad: np.ndarray, free: np.ndarray) -> np.ndarray:
        """−(approximate Hessian)⁻¹ grad on the free variables, 0 on the others."""
        d = np.where(free, -grad, 0.0)
        used = []
        for step, change in reversed(self._pairs):
            s, y = np.where(free, step, 0.0), np.where(free, change, 0.0)
            curvature = s @ y
            if curvature > 1e-8 * norm(s) * norm(y):
                weight = (s @ d) / curvature
                d -= weight * y
                used.append((s, y, curvature, weight))
        if used:
            _, y, curvature, _ = used[0]
            d *= curvature / (y @ y)
        for s, y, curvature, weight in reversed(used):
            d += (weight - (y @ d) / curvature) * s
        return d
