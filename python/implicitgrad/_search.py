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
from scipy.special import expit

from . import _arrays, _core
from ._minimize import minimize
from ._outer import HyperObjective
from ._relative_loss import PULL, RelativeLoss
from ._result import ImplicitGradWarning
from ._second_order import SecondOrder
from .solvers import Cholesky

# Losses far below this share of the null model's are not told apart.
FLOOR = 1e-4
# Up to so many hyperparameters, those at their bounds apart, are Newton's: with a factor of H at hand,
# and without one.
MOST_FOR_NEWTON = {True: 200, False: 20}
# The projected gradient at which it takes over from another method.
EARLY = 1e-2
# A change of the objective that rounding may account for.
SMALL = 1e-10
# Newton's method ends with a step this short, or where gradients this small contract no more.
SETTLED, NOISE = 1e-8, 1e-12
# The longest step of Newton's method in any λ.
LONGEST = 4.0
# Shared strengths are tried from here, this far apart.
MIDDLE, APART = -2.0, 4.0
# The search starts a little above the best shared strength, from where features that matter tell
# themselves apart, but within these of the scale: features that are as good as switched off, or not
# penalised, hide from the gradient what changing that would bring.
ABOVE, STARTS = 1.0, (-4.0, 2.0)
# Unless shared strengths leave only this share of the null model's loss: without noise, hardly
# penalised is where to look.
WITHOUT_NOISE = 1e-5
# The best shared strengths are the start after all where the first search ends this much above them.
WORSE = 1e-3
# With many penalties the loss could be lowered for hundreds of iterations, by next to nothing and for no
# good on other rows: such a search ends where STEPS of them have lowered its logarithm by less than
# FLAT · tol.
STEPS, FLAT = 10, 1e3


def null_model(model: Any, n_features: int) -> tuple[float, np.ndarray]:
    """The loss at θ = 0, and its second derivative there in each coefficient, the intercept following.

    For least squares that is the variance of a column (without an intercept, its mean square), for
    logistic regression a quarter of it, for K classes (K − 1)/K² of it, whichever of them the
    coefficient is of. A column that is constant but for rounding counts with its mean square, or with 1.
    """
    theta, lam = np.zeros(model.n_theta), np.full(model.n_lam, _arrays.LAM_MIN)
    at = model._linearize(theta, lam)
    hess = at._core.hess
    jacobi = _core.JacobiPreconditioner.of(hess)
    assert jacobi is not None
    width = model._width  # of which the first will do
    square = np.array(jacobi.diagonal[: n_features * width : width])
    out = square.copy()
    if model.fit_intercept:
        unit = np.zeros(model.n_theta)
        unit[n_features * width] = 1.0
        row = hess.apply(unit)[::width]
        out -= row[:n_features] ** 2 / row[n_features]
    tiny = float(np.exp(_arrays.LAM_MIN))  # what the penalty adds
    constant = ~(out > np.maximum(1e-13 * square, 10 * tiny))
    out[constant] = np.where(square[constant] > 10 * tiny, square[constant], 1.0)
    return at.fun, out


def search(
    f: Any,
    g: Any,
    scale: np.ndarray,
    null_loss: float,
    bounds: tuple[float, float],
    *,
    below_shared: float | None,
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
    below_shared : float or None
        How far below the best that is the same for all λ − log scale may be; None: to its bound.
    method, tol, max_iter
        "auto" or of `minimize`; tol is on the projected gradient of `RelativeLoss`.
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
    floor = FLOOR * null_loss + float(np.finfo(float).tiny)
    shared, least, most, spent = _best_shared(f, g, offset, low, high, floor)
    if below_shared is not None and offset.size > 1:
        low = max(low, shared - below_shared)
    limits = offset + low, offset + high

    def watch(intermediate_result: OptimizeResult) -> None:
        if callback is not None:
            x = np.copy(intermediate_result.x)  # SciPy goes on in it
            fun = outer.loss(intermediate_result.fun, x)
            callback(OptimizeResult(x=x, fun=fun, nit=spent["nit"] + intermediate_result.nit))

    first = shared
    if least - floor > WITHOUT_NOISE * null_loss:
        first = float(np.clip(np.clip(shared + ABOVE, *STARTS), low, high))
    for start in dict.fromkeys((first, shared)):
        outer = RelativeLoss(g, floor, offset + start)
        result = _descend(f, outer, offset, limits, most, method, tol, max_iter, watch, spent)
        losses = g.values(result.theta)
        result.losses = losses
        result.fun = float(np.mean(losses.sum(axis=-1) if losses.ndim == 2 else losses))
        if result.status in (1, 99) or result.fun + floor <= least * (1 + WORSE):
            break
    return OptimizeResult(**result, **spent)


def _best_shared(
    f: Any, g: Any, offset: np.ndarray, low: float, high: float, floor: float
) -> tuple[float, float, int, dict[str, int]]:
    """Of the λ that are all the same above `offset`: the best, what g + floor is there at most, how
    many λ are for Newton's method, and what was spent. They are tried downhill until the slope turns;
    the best lies on the cubic that has the values and slopes of two of them."""
    h = HyperObjective(f, RelativeLoss(g, floor, offset))
    values: dict[float, float] = {}
    slopes: dict[float, float] = {}
    most = 0

    def seen(u: float) -> bool:
        """Whether h falls towards stronger strengths at u."""
        nonlocal most
        at = SecondOrder(h, offset + u)
        values[u], slopes[u] = at.fun, float(np.sum(at.jac))
        most = MOST_FOR_NEWTON[isinstance(at.solver, Cholesky)]
        return slopes[u] < 0

    # From the middle of what is likely downhill, until the slope turns or a bound is met; then half way.
    here = last = min(max(MIDDLE, low), high)
    up = seen(here)
    while True:
        following = min(max(here + (APART if up else -APART), low), high)
        if following == here:
            break
        last, here = here, following
        if seen(here) != up:
            break
    if slopes[here] * slopes[last] < 0:
        seen(0.5 * (here + last))
    # Of losses that differ by rounding alone, the strongest: never by chance.
    best = min(values, key=lambda u: values[u] - 1e-9 * u)
    shared = best
    across = [
        u for u in values if slopes[u] * slopes[best] < 0 and (u > best) == (slopes[best] < 0)
    ]
    if across:
        other = min(across, key=lambda u: abs(u - best))
        shared = _cubic_minimum(*((u, values[u], slopes[u]) for u in (best, other)))
    return shared, math.exp(values[best]), most, {"nit": 1, "nfev": h.nfev, "nhev": h.nhev}


def _cubic_minimum(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """Where the cubic is least that has these (place, value, slope), slopes of different signs
    (Nocedal and Wright, Numerical Optimization, 2nd ed., equation 3.59)."""
    (x, f, d), (y, g, e) = a, b
    one = d + e - 3 * (f - g) / (x - y)
    two = math.copysign(math.sqrt(one * one - d * e), y - x)
    return y - (y - x) * (e + two - one) / (e - d + 2 * two)


def _descend(
    f: Any,
    outer: RelativeLoss,
    offset: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    most: int,
    method: str,
    tol: float,
    max_iter: int,
    watch: Callable[[OptimizeResult], None],
    spent: dict[str, int],
) -> OptimizeResult:
    """From outer.start to a minimum: by `minimize` where λ is long or a method is named, and where no
    more than `most` are free by Newton's method in the end. Adds to `spent`."""
    left = max(max_iter - spent["nit"], 1)
    few = outer.n_lam <= most
    lam, theta, status, message, flat = outer.start, None, 2, "", False
    if not few or method.lower() != "auto":
        # A long search magnifies rounding from step to step, and may end in another valley for it.
        # Newton's method, which contracts, takes over early where it can.
        loose = max(tol, EARLY) if few else tol
        way = "inexact" if method.lower() == "auto" else method
        seen = UntilFlat(watch, FLAT * tol if method.lower() == "auto" else -math.inf)
        with warnings.catch_warnings():
            # Whether a gradient was too inexact shows in the end.
            warnings.simplefilter("ignore", ImplicitGradWarning)
            result = minimize(
                f,
                outer,
                outer.start,
                method=way,
                bounds=Bounds(*limits),
                callback=seen,
                tol=loose,
                options=_options(way, left, loose),
            )
        _add(spent, result.nit, result)
        if result.theta is None:
            raise ValueError(UNFIT + str(result.message))
        lam, theta, message = result.x, result.theta, str(result.message)
        jac, left = result.hypergradient.grad, left - result.nit
        flat = seen.flat
        if flat:
            message = f"{STEPS} iterations have lowered the loss by a share below {seen.least:.0e}."
        status = 99 if result.status == 99 and not flat else 1 if left <= 0 else 2
        few = int(np.sum(_free(lam, jac, limits))) <= most
    if few and status == 2:
        flat = False
        # As accurate as rounding lets it be.
        options = {"atol": 1e-14, "warn": False}
        h = HyperObjective(f, outer, theta0=theta, tol=1e-10, options=options)
        lam, steps, ended = _newton(h, lam, offset, limits, most, left, watch)
        jac, theta, message = h(lam)[1], h.theta, f"Newton's method took {steps} steps."
        if theta is None:
            raise ValueError(UNFIT + (h.training.message if h.training else ""))
        if ended == 1:
            status, message = 1, "The iteration limit was reached."
        elif ended == 99:
            status, message = 99, "Stopped by the callback."
        _add(spent, steps, h)
    small = _size(lam, jac, limits) <= max(10 * tol, 1e-5)
    success = status not in (1, 99) and (flat or small)
    if success:
        status = 0
    return OptimizeResult(
        x=lam, jac=jac, theta=theta, success=success, status=status, message=message
    )


class UntilFlat:
    """Passes iterations on to `watch`, until STEPS of them have lowered fun by less than `least`, errors
    that are known included."""

    def __init__(self, watch: Callable[[OptimizeResult], None], least: float):
        self.watch, self.least, self.flat = watch, least, False
        self._most: list[float] = []

    def __call__(self, intermediate_result: OptimizeResult) -> None:
        self.watch(intermediate_result)
        fun, error = intermediate_result.fun, intermediate_result.get("fun_error", 0.0)
        self._most.append(fun + error)
        self.flat = len(self._most) > STEPS and (
            self._most[-1 - STEPS] - (fun - error) < self.least
        )
        if self.flat:
            raise StopIteration


UNFIT = "X or y cannot be fitted where the search starts; are they scaled sensibly? "


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
    offset: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    most: int,
    most_steps: int,
    watch: Callable[[OptimizeResult], None],
) -> tuple[np.ndarray, int, int]:
    """λ after Newton's method, projected to the bounds, the number of its steps, and a status: 1 where
    that is the most allowed, 99 where `watch` stopped it, or 0.

    Its variable is k = 1 / (1 + e^u), u = λ − offset: what is left of a coefficient that has its
    feature to itself. In k the loss of such features is a parabola, while in λ it levels out on both
    sides, where Newton's method would creep. With d the step in u that k + k' d is to first order, d
    solves (∇²h + diag((1 − 2k) ∇h)) d = −∇h; a matrix that is indefinite is replaced by its absolute
    value.

    A line search by values stops where their changes drown in rounding, which leaves λ uncertain by
    the square root of that. Here the gradient decides in the end.
    """
    here = SecondOrder(h, lam)
    steps = 0
    while math.isfinite(here.fun):
        jac, size = here.jac, _size(lam, here.jac, limits)
        free = np.flatnonzero(_free(lam, jac, limits))
        if size == 0 or not 0 < free.size <= most:
            break
        k = expit(offset - lam)
        hess = here.hess(free) + np.diag(((1 - 2 * k) * jac)[free])
        if not np.isfinite(hess).all():
            break
        values, vectors = np.linalg.eigh(hess)
        along = vectors.T @ jac[free] / np.maximum(np.abs(values), PULL / lam.size)
        d = np.zeros_like(lam)
        d[free] = -vectors @ along
        for _ in range(10):
            trial = np.clip(lam + _in_log_odds(k, d), *limits)
            there = SecondOrder(h, trial)
            left = _size(trial, there.jac, limits) if math.isfinite(there.fun) else math.inf
            if there.fun < here.fun - SMALL or (there.fun < here.fun + SMALL and left < size):
                break
            d *= 0.25
        else:
            break
        moved = np.max(np.abs(trial - lam))
        lam, here = trial, there
        steps += 1
        try:
            watch(OptimizeResult(x=lam, fun=here.fun, nit=steps))
        except StopIteration:
            return lam, steps, 99
        if moved <= SETTLED or (left <= NOISE and left > 0.1 * size):
            break
        if steps == most_steps:
            return lam, steps, 1
    return lam, steps, 0


def _in_log_odds(k: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The change of u, at most LONGEST, that takes k to k + k' d, k' = −k (1 − k): of both k and 1 − k
    the ratio to what it was is known without cancellation."""
    most = math.exp(LONGEST)
    less, more = (np.clip(1 + s * d, 1 / most, most) for s in (-(1 - k), k))
    return np.clip(np.log(more / less), -LONGEST, LONGEST)


def _free(lam: np.ndarray, jac: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Which entries the gradient does not push against a bound."""
    lower, upper = limits
    return ~(((lam <= lower) & (jac > 0)) | ((lam >= upper) & (jac < 0)))


def _size(lam: np.ndarray, jac: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> float:
    """The largest entry of the projected gradient."""
    return float(np.max(np.abs(lam - np.clip(lam - jac, *limits))))
