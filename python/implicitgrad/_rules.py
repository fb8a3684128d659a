"""Update rules of first-order methods: from a gradient to a step, with the state that lives between.

Training and the outer loop share them. A rule takes its own names out of a dict of options; `prefix`
tells those of training from those of the outer loop, where both are in one dict.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning

from . import _arrays


class Descent:
    """v ← μ v + α ∇,  x ← x − v: gradient descent, with momentum where μ > 0."""

    def __init__(
        self, options: dict[str, Any], rate: float = 1.0, momentum: float = 0.0, prefix: str = ""
    ):
        self.rate = _rate(options, rate, prefix)
        self.momentum = _share(options, prefix + "momentum", momentum)
        self._velocity: Any = 0.0

    def step(self, grad: np.ndarray) -> np.ndarray:
        self._velocity = self.momentum * self._velocity + self.rate * grad
        return self._velocity


class Adam:
    """Steps of about α in each entry, from running means of the gradient and its square [1]_.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.
    """

    def __init__(self, options: dict[str, Any], rate: float = 0.1, prefix: str = ""):
        self.rate = _rate(options, rate, prefix)
        self.beta1 = _share(options, prefix + "beta1", 0.9)
        self.beta2 = _share(options, prefix + "beta2", 0.999)
        eps = options.pop(prefix + "eps", 1e-8)
        self.eps = _arrays.number(eps, prefix + "eps", positive=True)
        self._mean: Any = 0.0
        self._square: Any = 0.0
        self._t = 0

    def step(self, grad: np.ndarray) -> np.ndarray:
        self._t += 1
        self._mean = self.beta1 * self._mean + (1 - self.beta1) * grad
        with np.errstate(over="ignore"):  # a step of zero, then
            self._square = self.beta2 * self._square + (1 - self.beta2) * grad**2
        mean = self._mean / (1 - self.beta1**self._t)
        square = self._square / (1 - self.beta2**self._t)
        return self.rate * mean / (np.sqrt(square) + self.eps)


def _rate(options: dict[str, Any], default: float, prefix: str) -> float:
    name = prefix + "learning_rate"
    return _arrays.number(options.pop(name, default), name, positive=True)


def _share(options: dict[str, Any], name: str, default: float) -> float:
    value = _arrays.number(options.pop(name, default), name, nonnegative=True)
    if not value < 1:
        raise ValueError(f"{name} must be below 1, found {value}")
    return value


def refuse_unknown(options: dict[str, Any], stacklevel: int = 5) -> None:
    """Warn, as SciPy does, of what nobody has taken out of the options."""
    if options:
        unknown = ", ".join(map(repr, options))
        warnings.warn(f"Unknown options: {unknown}", OptimizeWarning, stacklevel=stacklevel)
