"""The search for the penalties of a cross-validation: where it starts, what it minimises, how it ends.

What comes out must depend on the data and not on their rounding: two data sets that are equivalent (a
row of weight 2, or two copies of it) give the same penalties to many digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from . import _arrays, _core
from ._outer import HyperObjective, minimize
from .linearization import Linearization

# Losses far below this share of the null model's are not told apart.
FLOOR = 1e-4
# What moving every λ by 1 away from the start costs, doubled: a share of the loss.
PULL = 1e-5
# The most hyperparameters, those at their bounds apart, for which Newton's method ends the search.
MOST_POLISHED = 50
# A change of the objective that rounding may account for.
SMALL = 1e-10
# Of the differences that Newton's method takes the Hessian from; their error is of the order of its
# square.
STEP = 1e-3
MOST_HESSIANS = 12
# Newton's method ends with a step this short, or where gradients this small contract no more.
SETTLED, NOISE = 1e-8, 1e-12
# The longest step of Newton's method, in any λ.
LONGEST = 2.0


def null_model(model: Any, n_features: int) -> tuple[float, np.ndarray]:
    """The loss at θ = 0, and its second derivative there in each coefficient, the intercept following.

    For least squares that is the variance of a column (without an intercept, its mean square), for
    logistic regression a quarter of it. A column that is constant but for rounding counts with its
    mean square, or with 1.
    """
    theta, lam = np.zeros(model.n_theta), np.full(model.n_lam, _arrays.LAM_MIN)
    at = model._linearize(theta, lam)
    hess = at._core.hess
    diagonal = _core.JacobiPreconditioner.of(hess).diagonal
    square = np.array(diagonal[:n_features])
    out = square.copy()
    if model.fit_intercept:
        unit = np.zeros(model.n_theta)
        unit[n_features] = 1.0
        row = hess.apply(unit)
        out -= row[:n_features] ** 2 / row[n_features]
    constant = ~(out > 1e-13 * square)
    out[constant] = np.where(square[constant] > 0, square[constant], 1.0)
    return at.fun, out


class RelativeLoss:
    """The outer objective log(g(θ) + floor) + ½ PULL mean_j (λ_j − start_j)².

    The logarithm makes it, and with it every tolerance, independent of units; the floor keeps it
    from resolving losses that are zero but for rounding. The pull decides what the data leave open:
    the λ of a feature that is switched off, or not penalised, could be anything beyond some value.
    """

    def __init__(self, g: Any, floor: float, start: np.ndarray):
        self.g, self.floor, self.start = g, floor, start
        self.n_theta, self.n_lam = g.n_theta, start.size

    def linearize(self, theta: np.ndarray, lam: np.ndarray) -> Linearization:
        at = self.g._linearize(theta, lam)
        loss, away = at.fun + self.floor, lam - self.start
        # The theorem asks for no second derivatives of the outer objective.
        return Linearization(
            math.log(loss) + self.pull(lam), at.jac / loss, PULL / away.size * away, None, None
        )

    def pull(self, lam: np.ndarray) -> float:
        return 0.5 * PULL * float(np.mean((lam - self.start) ** 2))

    def loss(self, fun: float, lam: np.ndarray) -> float:
        """g, where this objective is `fun`."""
        return math.exp(fun - self.pull(lam)) - self.floor


def search(
    f: Any,
    g: Any,
    scale: np.ndarray,
    null_loss: float,
    bounds: tuple[float, float],
    *,
    method: str,
    tol: float,
    max_iter: int,
    callback: Callable[[OptimizeResult], None] | None = None,
) -> OptimizeResult:
    """The λ within `bounds` of log `scale` that minimise the loss of a cross-validation.

    Parameters
    ----------
    f, g : FoldedModel
    scale : array, shape (n_lam,)
        The curvature of the loss, see `null_model`: what a strength is measured by.
    null_loss : float
        The loss of a model without features.
    bounds : (float, float)
        Of λ − log scale.
    method, tol, max_iter
        Of `minimize`; tol is on the projected gradient of `RelativeLoss`.
    callback : callable, optional
        ``callback(intermediate_result)`` after each iteration; may raise StopIteration.

    Returns
    -------
    OptimizeResult
        x (λ), fun (g), losses (g of each fold), jac (of the `RelativeLoss`), theta, nit, nfev, nhev,
        success, status, message. It holds no native handles.
    """
    low, high = bounds
    offset = np.clip(np.log(scale), _arrays.LAM_MIN - low + 1, _arrays.LAM_MAX - high - 1)
    lower, upper = offset + low, offset + high
    floor = FLOOR * null_loss + float(np.finfo(float).tiny)
    lam, spent = _shared_start(f, g, offset, low, high, floor)
    outer = RelativeLoss(g, floor, lam)

    def watch(intermediate_result: OptimizeResult) -> None:
        if callback is not None:
            x = intermediate_result.x
            fun = outer.loss(intermediate_result.fun, x)
            callback(OptimizeResult(x=x, fun=fun, nit=spent["nit"] + intermediate_result.nit))

    result = minimize(
        f,
        outer,
        lam,
        method=method,
        bounds=list(zip(lower, upper, strict=True)),
        callback=watch,
        options=_options(method, max(max_iter - spent["nit"], 1), tol),
    )
    for name in spent:
        spent[name] += result[name]
    lam, theta, jac, status = (result[name] for name in ("x", "theta", "jac", "status"))
    if status not in (1, 99) and math.isfinite(result.fun):
        h = _exact(f, outer, theta)
        lam, steps = _polish(h, lam, lower, upper)
        jac, theta = h(lam)[1], h.theta
        spent["nit"] += steps
        spent["nfev"] += h.nfev
        spent["nhev"] += h.nhev
    losses = g.values(theta)
    success = status not in (1, 99) and _size(lam, jac, lower, upper) <= max(10 * tol, 1e-5)
    return OptimizeResult(
        x=lam,
        fun=float(losses.sum(axis=-1).mean() if losses.ndim == 2 else losses.mean()),
        losses=losses,
        jac=jac,
        theta=theta,
        success=success,
        status=0 if success else status or 2,
        message="The search has converged." if success else result.message,
        **spent,
    )


def _options(method: str, max_iter: int, accuracy: float) -> dict[str, Any]:
    if method.lower() != "l-bfgs-b":
        return {"maxiter": max_iter}
    return {"maxiter": max_iter, "maxfun": 20 * max_iter, "maxcor": 20, "gtol": accuracy, "ftol": 0}


def _shared_start(
    f: Any, g: Any, offset: np.ndarray, low: float, high: float, floor: float
) -> tuple[np.ndarray, dict[str, int]]:
    """Of the strengths that are the same multiple of every scale, from strong to weak, the best."""
    h = HyperObjective(f, g)
    shared = np.linspace(high, low, max(2, math.ceil((high - low) / 2)) + 1)
    losses = np.array([h._value(offset + u) for u in shared])
    # Of losses that differ by rounding alone, the strongest: never by chance.
    losses = np.log(losses + floor) + 1e-9 * np.arange(shared.size)
    lam = offset + shared[int(np.argmin(losses))]
    return lam, {"nit": 1, "nfev": shared.size, "nhev": h.nhev}


def _exact(f: Any, outer: RelativeLoss, theta: np.ndarray) -> HyperObjective:
    """The hyper-objective, as accurate as rounding lets it be."""
    return HyperObjective(f, outer, theta0=theta, tol=1e-10, options={"atol": 1e-14, "warn": False})


def _polish(
    h: HyperObjective, lam: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, int]:
    """λ after Newton's method, projected to the bounds, and the number of its steps.

    A line search by values stops where their changes drown in rounding, which leaves λ uncertain by
    the square root of that. Here the gradient decides in the end. The Hessian comes from central
    differences, two gradients for each λ that is free to move, and serves while steps contract. An
    indefinite one is replaced by its absolute value.
    """
    fun, jac = h(lam)
    size, steps = _size(lam, jac, lower, upper), 0
    for _ in range(MOST_HESSIANS):
        at_bound = ((lam <= lower) & (jac > 0)) | ((lam >= upper) & (jac < 0))
        free = np.flatnonzero(~at_bound)
        if free.size == 0 or free.size > MOST_POLISHED:
            break
        values, vectors = np.linalg.eigh(_hessian(h, lam, free))
        inverse = 1 / np.maximum(np.abs(values), PULL / lam.size)
        rate = 0.0
        while rate <= 0.1 and size > 0:
            step = np.zeros_like(lam)
            step[free] = -vectors @ (inverse * (vectors.T @ jac[free]))
            step *= min(1.0, LONGEST / np.max(np.abs(step)))
            for _ in range(10):
                trial = np.clip(lam + step, lower, upper)
                value, slope = h(trial)
                left = _size(trial, slope, lower, upper)
                if value < fun - SMALL or (value < fun + SMALL and left < size):
                    break
                step *= 0.25
            else:
                return lam, steps
            moved = np.max(np.abs(trial - lam))
            lam, fun, jac, rate, size = trial, value, slope, left / size, left
            steps += 1
            if moved <= SETTLED or (size <= NOISE and rate > 0.1):
                return lam, steps
    return lam, steps


def _size(lam: np.ndarray, jac: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """The largest entry of the projected gradient."""
    return float(np.max(np.abs(lam - np.clip(lam - jac, lower, upper))))


def _hessian(h: HyperObjective, lam: np.ndarray, free: np.ndarray) -> np.ndarray:
    hess = np.empty((free.size, free.size))
    for column, j in enumerate(free):
        step = np.zeros_like(lam)
        step[j] = STEP
        hess[:, column] = (h(lam + step)[1] - h(lam - step)[1])[free] / (2 * STEP)
    return 0.5 * (hess + hess.T)
