"""First-order training: L-BFGS, and Adam or SGD with momentum on minibatches.

They bring θ near a minimum of an objective that is not convex, where Newton's method takes over, and
move it along with λ where it is never trained to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import scipy.optimize

from . import _arrays, _core
from ._native import passer
from ._rules import adam, heavy_ball

# Of the rules: how they begin where nothing else is asked for.
RULES: dict[str, Callable[..., Any]] = {
    "adam": partial(adam, rate=1e-3),
    "sgd": partial(heavy_ball, rate=0.01),
}
MAXITER = {"auto": 2000, "newton": 200, "lbfgs": 2000, "adam": 1000, "sgd": 1000}
METHODS = tuple(MAXITER)


def first_order(f: Any, theta: np.ndarray, lam: np.ndarray) -> tuple[float, np.ndarray]:
    """f and ∇θf."""
    here = passer(f)(theta, lam)
    return float(here.fun), np.asarray(here.jac, dtype=np.float64)


@dataclass
class Found:
    theta: np.ndarray
    nit: int = 0
    nfev: int = 0


def lbfgs(f: Any, theta: np.ndarray, lam: np.ndarray, tol: float, maxiter: int) -> Found:
    """SciPy's L-BFGS until ‖∇f‖_∞ ≤ tol, or as far as it comes."""
    found = scipy.optimize.minimize(
        lambda theta: first_order(f, theta, lam),
        theta,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": maxiter, "maxfun": 2 * maxiter, "gtol": tol, "ftol": 0, "maxcor": 20},
    )
    return Found(np.asarray(found.x), found.nit, found.nfev)


class Steps:
    """Steps of a rule along ∇θf, on all rows or on minibatches, that can be gone on with: what the rule
    remembers and the order of the rows live on, while θ and λ are the caller's.

    Takes out of `options` those of the rule, with the prefix, and batch_size and rng.
    """

    def __init__(self, f: Any, method: str, options: dict[str, Any], prefix: str = ""):
        self._rule = _core.Stepper(RULES[method](options, prefix=prefix))
        size = options.pop("batch_size", None)
        rng = _arrays.generator(options.pop("rng", 0), "rng")
        if size is None:
            self._parts: Iterator[Any] = repeat(f)
            return
        size = _arrays.integer(size, "batch_size", least=1)
        if not hasattr(f, "rows"):
            raise TypeError("batch_size needs an objective with rows(idx), as the library's have")
        self._parts = _minibatches(f, size, rng)

    def run(self, theta: np.ndarray, lam: np.ndarray, count: int) -> np.ndarray:
        """θ after so many steps."""
        with np.errstate(all="ignore"):  # a θ that is not finite shows
            for _ in range(count):
                _, gradient = first_order(next(self._parts), theta, lam)
                theta = theta - self._rule.step(gradient)
        return theta


def _minibatches(f: Any, size: int, rng: np.random.Generator) -> Iterator[Any]:
    """f on minibatches that run through its rows in a random order again and again."""
    n, order = f.X.shape[0], np.empty(0, dtype=np.int64)
    while True:
        while order.size < min(size, n):
            order = np.concatenate([order, rng.permutation(n)])
        yield f.rows(order[:size])
        order = order[size:]
