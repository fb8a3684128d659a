"""First-order training: L-BFGS, and Adam or SGD with momentum on minibatches.

They bring θ near a minimum of an objective that is not convex, where Newton's method takes over.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import scipy.optimize

from . import _arrays

METHODS = ("auto", "newton", "lbfgs", "adam", "sgd")
MAXITER = {"auto": 2000, "newton": 200, "lbfgs": 2000, "adam": 1000, "sgd": 1000}

Gradient = Callable[[Any, np.ndarray], tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Options:
    """Of "adam" and "sgd"; see `train`."""

    learning_rate: float | None = None
    batch_size: int | None = None
    momentum: float = 0.9
    rng: Any = 0

    def __post_init__(self) -> None:
        if self.learning_rate is not None:
            _arrays.number(self.learning_rate, "learning_rate", positive=True)
        if self.batch_size is not None:
            _arrays.integer(self.batch_size, "batch_size", least=1)
        momentum = _arrays.number(self.momentum, "momentum", nonnegative=True)
        if momentum >= 1:
            raise ValueError(f"momentum must be below 1, found {momentum}")


def parse(options: Mapping[str, Any] | None, method: str) -> Options:
    if options is None:
        return Options()
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, found {options!r}")
    known = {field.name for field in fields(Options)} if method in ("adam", "sgd") else set()
    if method == "adam":
        known -= {"momentum"}
    unknown = [name for name in options if name not in known]
    if unknown:
        warnings.warn(
            f"Unknown options for method = {method!r}: {', '.join(map(repr, unknown))}",
            scipy.optimize.OptimizeWarning,
            stacklevel=3,
        )
    return Options(**{name: value for name, value in options.items() if name in known})


@dataclass
class Descent:
    theta: np.ndarray
    nit: int = 0
    nfev: int = 0


def lbfgs(gradient: Gradient, f: Any, theta: np.ndarray, tol: float, maxiter: int) -> Descent:
    """SciPy's L-BFGS until ‖∇f‖_∞ ≤ tol, or as far as it comes."""
    found = scipy.optimize.minimize(
        partial(gradient, f),
        theta,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": maxiter, "maxfun": 2 * maxiter, "gtol": tol, "ftol": 0, "maxcor": 20},
    )
    return Descent(np.asarray(found.x), found.nit, found.nfev)


def adam(gradient: Gradient, f: Any, theta: np.ndarray, maxiter: int, options: Options) -> Descent:
    """D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015."""
    theta, rate = theta.copy(), options.learning_rate or 1e-3
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    for step, part in enumerate(_batches(f, maxiter, options), 1):
        g = gradient(part, theta)[1]
        mean += 0.1 * (g - mean)
        square += 0.001 * (g * g - square)
        scale = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        theta -= rate / (1 - 0.9**step) * mean / scale
    return Descent(theta, maxiter, maxiter)


def sgd(gradient: Gradient, f: Any, theta: np.ndarray, maxiter: int, options: Options) -> Descent:
    """Gradient steps with momentum: v ← μ v − α ∇f, θ ← θ + v."""
    theta, velocity, rate = theta.copy(), np.zeros_like(theta), options.learning_rate or 0.01
    for part in _batches(f, maxiter, options):
        velocity *= options.momentum
        velocity -= rate * gradient(part, theta)[1]
        theta += velocity
    return Descent(theta, maxiter, maxiter)


def _batches(f: Any, count: int, options: Options) -> Iterator[Any]:
    """f itself, or minibatches of it that run through its rows in a random order again and again."""
    size = options.batch_size
    if size is None:
        for _ in range(count):
            yield f
        return
    if not hasattr(f, "rows"):
        raise TypeError("batch_size needs an objective with rows(idx), as MLP has")
    rng, n = np.random.default_rng(options.rng), f.X.shape[0]
    order = np.empty(0, dtype=np.int64)
    for _ in range(count):
        while order.size < min(size, n):
            order = np.concatenate([order, rng.permutation(n)])
        yield f.rows(order[:size])
        order = order[size:]
