"""The search for the penalties of a cross-validation: where it starts, what it minimises, how it ends.

What comes out must depend on the data and not on their rounding: two data sets that are equivalent (a
row of weight 2, or two copies of it) give the same penalties to many digits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult

from . import _arrays, _core
from ._minimize import minimize
from ._outer import HyperObjective
from ._result import ImplicitGradWarning
from .linearization import Linearization

# Losses far below this share of the null model's are not told apart.
FLOOR = 1e-4
# What moving every λ by 1 away from the start costs, doubled: a share of the loss.
PULL = 1e-5
# The most hyperparameters, those at their bounds apart, for which Newton's method ends the search.
MOST_POLISHED = 50
# The projected gradient at which it takes over.
EARLY = 1e-2
# A change of the objective that rounding may account for.
SMALL = 1e-10
# Of the differences that Newton's method takes the Hessian from; their error is of the order of its
# square.
STEP = 1e-3
MOST_HESSIANS = 100
# Newton's method ends with a step this short, or where gradients this small contract no more.
SETTLED, NOISE = 1e-8, 1e-12
# The longest step of Newton's method, in any λ.
LONGEST = 4.0
# Above the scale, log strengths that a search starts from: features that are as good as switched off,
# or not penalised, hide from the gradient what changing that would bring.
STARTS = -4.0, 2.0
# Unless shared strengths leave only this share of the null model's loss: without noise, hardly
# penalised is where to look.
WITHOUT_NOISE = 1e-5
# The best shared strengths are the start after all where the first search ends this much above them.
WORSE = 1e-3


def null_model(model: Any, n_features: int) -> tuple[float, np.ndarray]:
    """The loss at θ = 0, and its second derivative there in each coefficient, the intercept following.

    For least squares that is the variance of a column (without an intercept, its mean square), for
    logistic regression a quarter of it. A column that is constant but for rounding counts with its
    mean square, or with 1.
    """
    theta, lam = np.zeros(model.n_theta), np.full(model.n_lam, _arrays.LAM_MIN)
    at = model._linearize(theta, lam)
    hess = at._core.hess
    jacobi = _core.JacobiPreconditioner.of(hess)
    assert jacobi is not None
    square = np.array(jacobi.diagonal[:n_features])
    out = square.copy()
    if model.fit_intercept:
        unit = np.zeros(model.n_theta)
        unit[n_features] = 1.0
        row = hess.apply(unit)
        out -= row[:n_features] ** 2 / row[n_features]
    tiny = float(np.exp(_arrays.LAM_MIN))  # what the penalty adds
    constant = ~(out > np.maximum(1e-13 * square, 10 * tiny))
    out[constant] = np.where(square[constant] > 10 * tiny, square[constant], 1.0)
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
    limits = offset + low, offset + high
    floor = FLOOR * null_loss + float(np.finfo(float).tiny)
    shared, least, spent = _best_shared(f, g, offset, low, high, floor)

    def watch(intermediate_result: OptimizeResult) -> None:
        if callback is not None:
            x = np.copy(intermediate_result.x)  # SciPy goes on in it
            fun = outer.loss(intermediate_result.fun, x)
            callback(OptimizeResult(x=x, fun=fun, nit=spent["nit"] + intermediate_result.nit))

    first = shared
    if least - floor > WITHOUT_NOISE * null_loss:
        first = min(max(shared, STARTS[0], low), STARTS[1], high)
    for start in dict.fromkeys((first, shared)):
        outer = RelativeLoss(g, floor, offset + start)
        result = _descend(f, outer, limits, method, tol, max_iter, watch, spent)
        losses = g.values(result.theta)
        result.losses = losses
        result.fun = float(np.mean(losses.sum(axis=-1) if losses.ndim == 2 else losses))
        if result.status in (1, 99) or result.fun + floor <= least * (1 + WORSE):
            break
    return OptimizeResult(**result, **spent)


def _best_shared(
    f: Any, g: Any, offset: np.ndarray, low: float, high: float, floor: float
) -> tuple[float, float, dict[str, int]]:
    """Of the λ that are all the same above `offset`, from strong to weak: the best, what g + floor is
    there, and what that took."""
    h = HyperObjective(f, g)
    shared = np.linspace(high, low, max(2, math.ceil((high - low) / 2)) + 1)
    losses = np.array([h._value(offset + u) for u in shared]) + floor
    # Of losses that differ by rounding alone, the strongest: never by chance.
    best = int(np.argmin(np.log(losses) + 1e-9 * np.arange(shared.size)))
    return shared[best], losses[best], {"nit": 1, "nfev": shared.size, "nhev": h.nhev}


def _descend(
    f: Any,
    outer: RelativeLoss,
    limits: tuple[np.ndarray, np.ndarray],
    method: str,
    tol: float,
    max_iter: int,
    watch: Callable[[OptimizeResult], None],
    spent: dict[str, int],
) -> OptimizeResult:
    """From outer.start to a minimum: first with `minimize`, then, where λ is short, with Newton's
    method. Adds to `spent`."""
    left = max(max_iter - spent["nit"], 1)
    # A long search magnifies rounding from step to step, and may end in another valley for it. Newton's
    # method, which contracts, takes over early where it can.
    loose = max(tol, EARLY) if outer.n_lam <= MOST_POLISHED else tol
    with warnings.catch_warnings():
        # Whether a gradient was too inexact shows in the end.
        warnings.simplefilter("ignore", ImplicitGradWarning)
        result = minimize(
            f,
            outer,
            outer.start,
            method=method,
            bounds=Bounds(*limits),
            callback=watch,
            tol=loose,
            options=_options(method, left, loose),
        )
    _add(spent, result.nit, result)
    if result.theta is None:
        raise ValueError(
            "X or y cannot be fitted where the search starts; are they scaled sensibly? "
            + str(result.message)
        )
    lam, theta, message = result.x, result.theta, result.message
    jac = result.hypergradient.grad
    status = 99 if result.status == 99 else 1 if result.nit >= left else 2
    if status not in (1, 99) and np.sum(_free(lam, jac, limits)) <= MOST_POLISHED:
        # As accurate as rounding lets it be.
        options = {"atol": 1e-14, "warn": False}
        h = HyperObjective(f, outer, theta0=theta, tol=1e-10, options=options)
        lam, steps, ended = _newton(h, lam, limits, left - result.nit, watch)
        jac, theta, message = h(lam)[1], h.theta, f"Newton's method took {steps} steps."
        if ended == 1:
            status, message = 1, "The iteration limit was reached."
        elif ended == 99:
            status, message = 99, "Stopped by the callback."
        _add(spent, steps, h)
    success = status not in (1, 99) and _size(lam, jac, limits) <= max(10 * tol, 1e-5)
    if success:
        status = 0
    return OptimizeResult(
        x=lam, jac=jac, theta=theta, success=success, status=status, message=message
    )


def _add(spent: dict[str, int], nit: int, other: Any) -> None:
    spent["nit"] += nit
    spent["nfev"] += other.nfev
    spent["nhev"] += other.nhev


def _options(method: str, max_iter: int, tol: float) -> dict[str, Any]:
    name = method.lower()
    if name == "tnc":
        return {"maxfun": 20 * max_iter}
    if name != "l-bfgs-b":
        return {"maxiter": max_iter}
    return {"maxiter": max_iter, "maxfun": 20 * max_iter, "maxcor": 20, "gtol": tol, "ftol": 0}


def _newton(
    h: HyperObjective,
    lam: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    most_steps: int,
    watch: Callable[[OptimizeResult], None],
) -> tuple[np.ndarray, int, int]:
    """λ after Newton's method, projected to the bounds, the number of its steps, and a status: 1 where
    that is the most allowed, 99 where `watch` stopped it, or 0.

    A line search by values stops where their changes drown in rounding, which leaves λ uncertain by
    the square root of that. Here the gradient decides in the end. The Hessian comes from central
    differences, two gradients for each λ that is free to move, and serves while steps contract. An
    indefinite one is replaced by its absolute value.
    """
    fun, jac = h(lam)
    size, steps = _size(lam, jac, limits), 0
    for _ in range(MOST_HESSIANS):
        free = np.flatnonzero(_free(lam, jac, limits))
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
                trial = np.clip(lam + step, *limits)
                value, slope = h(trial)
                left = _size(trial, slope, limits)
                if value < fun - SMALL or (value < fun + SMALL and left < size):
                    break
                step *= 0.25
            else:
                return lam, steps, 0
            moved = np.max(np.abs(trial - lam))
            lam, fun, jac, rate, size = trial, value, slope, left / size, left
            steps += 1
            try:
                watch(OptimizeResult(x=lam, fun=fun, nit=steps))
            except StopIteration:
                return lam, steps, 99
            if moved <= SETTLED or (size <= NOISE and rate > 0.1):
                return lam, steps, 0
            if steps == most_steps:
                return lam, steps, 1
    return lam, steps, 0


def _free(lam: np.ndarray, jac: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Which entries the gradient does not push against a bound."""
    lower, upper = limits
    return ~(((lam <= lower) & (jac > 0)) | ((lam >= upper) & (jac < 0)))


def _size(lam: np.ndarray, jac: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> float:
    """The largest entry of the projected gradient."""
    return float(np.max(np.abs(lam - np.clip(lam - jac, *limits))))


def _hessian(h: HyperObjective, lam: np.ndarray, free: np.ndarray) -> np.ndarray:
    hess = np.empty((free.size, free.size))
    for column, j in enumerate(free):
        step = np.zeros_like(lam)
        step[j] = STEP
        hess[:, column] = (h(lam + step)[1] - h(lam - step)[1])[free] / (2 * STEP)
    return 0.5 * (hess + hess.T)
