"""The outer loop: λ⋆ = argmin g(θ⋆(λ), λ), by SciPy's methods and our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy.optimize
from scipy.optimize import Bounds, OptimizeResult

from . import _arrays
from ._alternating import alternating
from ._first_order import descend
from ._inexact import inexact
from ._outer import GTOL, HyperObjective, failed_at_start
from ._overfit import warn_of_few_rows
from ._rules import adam, descent
from ._third_set import ThirdSet
from ._watch import Watch

OWN: dict[str, Callable[..., OptimizeResult]] = {
    "inexact": inexact,
    "gd": partial(descend, rule=descent),
    "adam": partial(descend, rule=adam),
    "alternating": alternating,
}
SCIPY = ("l-bfgs-b", "bfgs", "cg", "newton-cg", "tnc", "slsqp", "trust-constr")


def minimize(
    f: Any,
    g: Any,
    lam0: Any,
    theta0: Any = None,
    method: str = "L-BFGS-B",
    bounds: Any = None,
    tol: float | None = None,
    callback: Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    watch: Any = None,
    patience: int = 10,
    progress: bool = False,
) -> OptimizeResult:
    """Find the hyperparameters that minimise g(θ⋆(λ), λ).

    Parameters
    ----------
    f, g : objective
        Inner and outer loss, as for `implicit_grad`.
    lam0 : array, shape (n_lam,)
        Start.
    theta0 : array, shape (n_theta,), optional
        Start of the first training.
    method : str, default "L-BFGS-B"
        A method of `scipy.optimize.minimize` that uses gradients ("L-BFGS-B", "trust-constr", "BFGS",
        "CG", "Newton-CG", "TNC", "SLSQP"), each value and gradient of which is accurate to fixed,
        tight tolerances; or

        - "inexact": projected L-BFGS on values and gradients that are only as accurate as the step
          at hand needs, for a fraction of the Hessian-vector products;
        - "gd": gradient descent, λ ← λ − learning_rate · dg/dλ;
        - "adam": Adam [1]_;
        - "alternating": a few steps of training and one step of λ in turn [2]_, for models that cannot
          be trained anew at every λ: cheap, and not certified but at intervals (see Notes).
    bounds : sequence of (min, max) or scipy.optimize.Bounds, optional
    tol : float, optional
        Tolerance of the outer optimiser; for our own methods that is `gtol`.
    callback : callable, optional
        ``callback(intermediate_result)`` after each outer iteration, with an OptimizeResult of x
        (λ), fun, jac, theta, nit, nfev, nhev and hypergradient ("inexact": estimates `error` of jac
        and `fun_error` of fun in its stead; "alternating": fun and jac at the θ at hand, and where
        there was one, the `check`); raising StopIteration stops with status 99.
    options : dict, optional
        warn (default True; False silences the warnings of this function and of its hypergradients);
        all else is passed on to SciPy. "inexact": maxiter (default 1000), gtol (default 1e-5). "gd":
        learning_rate (default 1.0), momentum (0), maxiter (1000), gtol. "adam": learning_rate (0.1),
        beta1 (0.9), beta2 (0.999), eps (1e-8), maxiter (1000), gtol. "alternating":

        - of training: inner_method ("adam" by default, or "sgd"), inner_steps between two steps of λ
          (default 5), warmup, the steps before the first (default inner_steps), inner_learning_rate
          (1e-3; "sgd" 0.01) and the rest of the method's options in `train` with the same prefix;
          batch_size (rows of a step, by default all) and rng (0) of the minibatches;
        - of the adjoint: solver ("neumann" by default, "cg" or "identity"), terms (20: of the series,
          or iterations of CG), step_size of the series (1/λmax(H), measured now and then);
        - of λ: optimizer ("adam" by default, or "gd") with its options, maxiter (1000), gtol;
        - of the checks: check_every (steps of λ, 100), check_maxiter (200: iterations of L-BFGS, where
          f is not convex, and a twentieth as many Newton steps, that train θ further for a check).
    watch : objective, optional
        A loss on a third set of rows, as g, which neither trains nor tunes: evaluated at θ after
        each outer iteration. The λ of its least value is returned, and the loop stops where it has
        not fallen for `patience` iterations.
    patience : int, default 10
    progress : bool, default False
        Show a progress bar; needs tqdm (``pip install "implicitgrad[progress]"``).

    Returns
    -------
    OptimizeResult
        x (λ), fun, jac, theta, hypergradient (the last `ImplicitGradResult`), nit, nfev (trainings
        with hypergradient), nhev (Hessian-vector products, training included), success, status (for
        our own methods 0 ok, 1 iteration limit, 4 no way on, 99 stopped by the callback), message.
        With "alternating" also checks and loop_theta, see Notes.
        With `watch` also watch_fun (its value at x), watch_values (after each iteration, the
        start's first) and stopped_early; a loop that it stopped has status 0.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, for bad input.

    Warns
    -----
    OverfitWarning
        Where the outer set has fewer than two rows for each hyperparameter. A log strength takes up
        one degree of freedom at most, and a fit of d parameters to m rows makes their loss too small
        by a factor of (m − d)/(m + d); in practice by a quarter at two rows each, where tuning d
        penalties begins to do no better on new rows than tuning one. The rows are those of an
        objective of the library, or its attribute `n_outer`.

    Notes
    -----
    "inexact", "gd" and "adam" stop where the projected gradient λ − P(λ − dg/dλ), P being the
    projection on the bounds, has infinity norm at most gtol; "inexact" adds the error of the
    gradient, as the certificate of `implicit_grad` has it, to that norm. `success` is then true. SciPy's
    methods have their own rules.

    "alternating" takes its gradients at a θ that is not θ⋆, from an adjoint of a few terms: nothing
    proves that it converges, and where it settles the hypergradient need not be zero. Every check_every
    steps, and at the end, a copy of θ is trained further (by bounded work) and a certified hypergradient
    is set beside the loop's own; the loop goes on as if nothing had been. `checks` is a list of
    OptimizeResults with nit, x, fun, grad, size (of the projected gradient), error, success, status and
    message of the certified one, and of the loop's own beside it the cosine, the ratio of norms and the
    difference relative to the certified one's norm. The loop ends, with success, at a check where size +
    error ≤ gtol; else its status is 1. fun, jac, theta and hypergradient are those of the last check, at
    x; loop_theta is θ as the loop left it, which `watch` and callback see.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    .. [2] J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing millions of hyperparameters by implicit
           differentiation", AISTATS 2020.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = lambda w, lam: 0.5 * float((w - lam) @ (w - lam))
    >>> g = lambda w, lam: 0.5 * float(w @ w + (lam - 3) @ (lam - 3))
    >>> ig.minimize(f, g, [0.0], theta0=[0.0]).x.round(5)
    array([1.5])
    """
    if not isinstance(method, str):
        raise TypeError(f"method must be a string, found {method!r}")
    name = method.lower()
    if name not in SCIPY and name not in OWN:
        known = ", ".join((*SCIPY, *OWN))
        raise ValueError(f"method = {method!r} is unknown; choose from {known}")
    if tol is not None:
        tol = _arrays.number(tol, "tol", positive=True)
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, found {options!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, found {callback!r}")
    given = dict(options or {})
    loud = _arrays.boolean(given.pop("warn", True), "warn")
    gtol = given.get("gtol", tol if tol is not None else GTOL)
    h = HyperObjective(f, g, theta0=theta0, gtol=gtol, options=None if loud else {"warn": False})
    lam0 = h._problem.check_lam(lam0, "lam0").copy()
    limits = None if bounds is None else _bounds(bounds, lam0.size)
    if limits is not None:
        lam0 = np.clip(lam0, limits.lb, limits.ub)
    third = None if watch is None else ThirdSet(watch, h, patience)
    progress = _arrays.boolean(progress, "progress")
    if loud:
        warn_of_few_rows(h._problem.g, lam0.size)
    with Watch(h, callback, third, progress) as seen:
        if name in OWN:
            given.pop("gtol", None)
            result = OWN[name](h, lam0, limits, float(gtol), seen, given)
        else:
            result = _by_scipy(h, lam0, limits, method, tol, seen, given)
    return _finish(h, result, seen)


def _by_scipy(
    h: HyperObjective,
    lam0: np.ndarray,
    bounds: Bounds | None,
    method: str,
    tol: float | None,
    watch: Watch,
    options: dict[str, Any],
) -> OptimizeResult:
    if not math.isfinite(h(lam0)[0]):
        return failed_at_start(h, lam0)
    watch.start(lam0)
    if bounds is not None and (bounds.lb == bounds.ub).all():
        fun, grad = h(lam0)
        message = "No hyperparameter is free to move."
        return OptimizeResult(
            x=lam0, fun=fun, jac=grad, nit=0, success=True, status=0, message=message
        )
    try:
        result = scipy.optimize.minimize(
            _BackOff(h, lam0),
            lam0,
            jac=True,
            method=method,
            bounds=bounds,
            tol=tol,
            options=options,
            callback=watch,
        )
    except StopIteration:  # not all of SciPy's methods catch it
        fun, grad = h(watch.last)
        return OptimizeResult(x=watch.last, fun=fun, jac=grad, nit=watch.nit, success=False)
    if "grad" in result:  # trust-constr calls the constraints' Jacobians jac
        result.jac = result.grad
    return result


class _BackOff:
    """h with a finite value in place of inf, since line searches interpolate.

    Where h is inf at λ + d, λ being where it was last finite, the value and slope there are those of
    the parabola through h(λ) with its slope at λ and its minimum at a twentieth of d.
    """

    def __init__(self, h: HyperObjective, lam: np.ndarray):
        self.h, self.lam = h, lam
        self.fun, self.grad = h(lam)

    def __call__(self, lam: np.ndarray) -> tuple[float, np.ndarray]:
        fun, grad = self.h(lam)
        if math.isfinite(fun):
            self.lam, self.fun, self.grad = lam.copy(), fun, grad
            return fun, grad
        slope = abs(float(self.grad @ (lam - self.lam)))
        return self.fun + 9 * slope, -19 * self.grad


def _bounds(bounds: Any, size: int) -> Bounds:
    """Bounds in either of SciPy's forms, checked."""
    try:
        if isinstance(bounds, Bounds):
            low, high = bounds.lb, bounds.ub
        else:
            pairs = [(-np.inf if a is None else a, np.inf if b is None else b) for a, b in bounds]
            low, high = np.array(pairs, dtype=np.float64).T
        low, high = (np.broadcast_to(np.asarray(v, np.float64), (size,)) for v in (low, high))
    except (TypeError, ValueError):
        raise ValueError(
            f"bounds must be a scipy.optimize.Bounds or {size} pairs (min, max), found {bounds!r}"
        ) from None
    if not (low <= high).all():
        i = int(np.argmin(low <= high))
        raise ValueError(f"bounds must have min <= max, found ({low[i]}, {high[i]}) for lam[{i}]")
    return Bounds(low.copy(), high.copy())


def _finish(h: HyperObjective, result: OptimizeResult, watch: Watch) -> OptimizeResult:
    """The optimiser's result with θ and the hypergradient that belong to its λ."""
    lam = np.asarray(result.x, dtype=np.float64)
    third = watch.third
    if third is not None:
        result.update(watch_values=np.array(third.values), stopped_early=watch.stopped_early)
        result.watch_fun = math.nan
    if third is not None and third.best is not None:
        result.watch_fun, lam, theta = third.best
        if not np.array_equal(lam, result.x):
            h.theta = theta
            result.fun, result.jac = h(lam)
    if math.isfinite(result.fun):
        result.fun, result.jac = h(lam)  # at once where it was the last λ tried
    if third is not None and watch.stopped_early:
        result.update(status=0, success=True)
        result.message = (
            f"Stopped early: the watched loss has not fallen for {third.patience} iterations."
        )
    elif watch.stopped:
        result.update(status=99, success=False, message="Stopped by the callback.")
    result.update(x=lam, theta=h.theta, hypergradient=h.result, nfev=h.nfev, njev=h.nfev)
    result.update(nhev=h.nhev)
    return result
