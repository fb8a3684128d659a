"""Training: the inner minimisation θ⋆(λ) = argmin_θ f(θ, λ)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from . import _arrays, _core, _descent, _result, solvers
from ._native import core_objective, is_native
from ._rules import refuse_unknown
from .callables import as_objective

# Of what a gradient was at the start, where L-BFGS hands over to Newton's method.
HAND_OVER = 1e-4


def train(
    f: Any,
    lam: Any = None,
    theta0: Any = None,
    tol: float | None = None,
    maxiter: int | None = None,
    method: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> OptimizeResult:
    """Minimise f(·, λ), by Newton's method with a line search where nothing else is asked for.

    Parameters
    ----------
    f : objective
        As for `implicit_grad`.
    lam : array, shape (n_lam,), optional
        Hyperparameters; may be left out where n_lam is 0.
    theta0 : array, shape (n_theta,), optional
        Start; by default `initial_theta()` where f has it, as a network does, and else zeros, where
        f knows its n_theta.
    tol : float, optional
        Stop at ‖∇θf‖_∞ ≤ tol. By default training goes on until a Newton step changes θ by less
        than a relative 1e-6, after which its error is about the square of that, or rounding may be
        all that is left of the gradient: tight enough for `implicit_grad` with default settings.
        "lbfgs", "adam" and "sgd" call themselves converged at 1e-8, which the last two seldom reach.
    maxiter : int, optional
        Limit on iterations: by default 200 of Newton's method, 2000 of L-BFGS, 1000 steps of the
        others.
    method : {"auto", "newton", "lbfgs", "adam", "sgd"}
        "auto" is "newton", and for a network L-BFGS [2]_ first, until the gradient has fallen by
        1e-4 (that is, to tol where it is larger). "lbfgs", "adam" and "sgd" end where they end:
        pass their x as theta0 to train on.
    options : dict, optional
        For "adam": learning_rate (default 1e-3), beta1 (0.9), beta2 (0.999), eps (1e-8); for "sgd":
        learning_rate (0.01), momentum (0.9); for both: batch_size (rows of a step, drawn without
        replacement; by default all, and for an f with ``rows(idx)`` only), rng (seed of the
        draws, 0).

    Returns
    -------
    OptimizeResult
        x (θ), fun, stationarity (‖∇θf‖_∞), nit, nfev, nhev, success, status (0 ok, 1 iteration
        limit, 4 no further decrease, 5 non-finite value), message.

    Notes
    -----
    A network's θ is found by L-BFGS until the gradient is small and then by Newton's method, so that it
    is a minimum and not only flat; status 4 may mean that it is a saddle.

    Newton steps come from a Cholesky factor where that is cheap, and else from CG with a
    preconditioner that is kept from step to step (``docs/cost-model.md``); where the Hessian is not
    positive definite the step is damped until it descends [1]_. The last point's linearisation and
    preconditioner serve an `implicit_grad` that follows with the same f, theta and lam.

    References
    ----------
    .. [1] J. Nocedal, S. J. Wright, *Numerical Optimization*, 2nd ed., 2006, chapters 3 and 7.
    .. [2] D. C. Liu, J. Nocedal, "On the limited memory BFGS method for large scale optimization",
           Math. Programming 45 (1989).

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(2), [2.0, 4.0], penalty=ig.L2("all"))
    >>> ig.train(f, [0.0]).x.round(6)
    array([0.666667, 1.333333])
    """
    f = as_objective(f, "f")
    n_lam, n_theta = getattr(f, "n_lam", None), getattr(f, "n_theta", None)
    if lam is None:
        if n_lam:
            raise ValueError(f"lam is missing: f has n_lam = {n_lam}")
        lam = np.empty(0)
    native = is_native(f)
    if native and n_lam:
        lam = f._hyperparameters(lam, "lam", "f")
    else:
        lam = _arrays.vector(lam, np.size(lam) if n_lam is None else n_lam, "lam", "f")
    if theta0 is None:
        if n_theta is None:
            raise ValueError("theta0 is missing: f does not know its n_theta")
        theta0 = start(f, n_theta)
    theta0 = _arrays.vector(theta0, np.size(theta0) if n_theta is None else n_theta, "theta0", "f")
    if tol is not None:
        tol = _arrays.number(tol, "tol", positive=True)
    method = _arrays.choice(method, "method", _descent.METHODS)
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, found {options!r}")
    given = dict(options or {})
    steps = _descent.Steps(f, method, given) if method in _descent.RULES else None
    refuse_unknown(given, stacklevel=3)
    if maxiter is not None:
        maxiter = _arrays.integer(maxiter, "maxiter", least=1)
    if method in ("auto", "newton"):
        limit = maxiter or _descent.MAXITER["newton"]
        descent = _descent.MAXITER["auto"] if method == "auto" else 0
        return solve(f, lam, theta0, tol, limit, descent=descent)
    return _first_order(f, lam, theta0, tol or 1e-8, maxiter or _descent.MAXITER[method], steps)


def start(f: Any, n_theta: int) -> np.ndarray:
    """Where training begins when nothing is known."""
    return f.initial_theta() if hasattr(f, "initial_theta") else np.zeros(n_theta)


def _first_order(
    f: Any,
    lam: np.ndarray,
    theta0: np.ndarray,
    tol: float,
    maxiter: int,
    steps: _descent.Steps | None,
) -> OptimizeResult:
    """L-BFGS, or the steps of a rule."""
    with np.errstate(all="ignore"):
        if steps is None:
            found = _descent.lbfgs(f, theta0, lam, tol, maxiter)
        else:
            found = _descent.Found(steps.run(theta0, lam, maxiter), maxiter, maxiter)
        finite = bool(np.isfinite(found.theta).all())
        value, jac = _descent.first_order(f, found.theta if finite else theta0, lam)
    stationarity = float(np.max(np.abs(jac), initial=0.0))
    status = "non_finite"
    if finite and math.isfinite(value + stationarity):
        limit = "iteration_limit" if found.nit >= maxiter else "line_search_failed"
        status = "converged" if stationarity <= tol else limit
    return _result_of(status, found.theta, value, stationarity, found.nit, found.nfev + 1, 0)


def solve(
    f: Any,
    lam: np.ndarray,
    theta0: np.ndarray,
    tol: float | None,
    maxiter: int,
    kept: Any = None,
    descent: int = _descent.MAXITER["auto"],
) -> OptimizeResult:
    """`train` for arguments that have been validated, with the preconditioner that earlier ones left;
    where f is not convex, `descent` iterations of L-BFGS come first, at most."""
    native = is_native(f)
    first = _descent.Found(theta0)
    if descent and native and not f.convex:
        size = float(np.max(np.abs(_descent.first_order(f, theta0, lam)[1])))
        if math.isfinite(size):
            goal = max(tol or 0.0, HAND_OVER * size)
            with np.errstate(all="ignore"):
                first = _descent.lbfgs(f, theta0, lam, goal, descent)
            first.nfev += 1
    # Whether Newton's steps come from a factor; for linear models the core chooses.
    direct = theta0.size <= (solvers.DIRECT_NETWORK if native else solvers.DIRECT_CALLABLE)
    core = core_objective(f, theta0.size, lam.size)
    hyper = lam[:0] if native and not f.n_lam else lam
    if not (native and f.convex):
        kept = None
    elif kept is None:
        kept = _core.KeptPreconditioner("auto", 0, lasting=True)
    theta, report = _core.train(core, first.theta, hyper, tol or 0.0, maxiter, direct, kept)
    if native:
        f._passed(report.status != "non_finite")
        f._remember(theta, hyper, report.at, kept)
    return _result_of(
        *(report.status, theta, report.fun, report.stationarity),
        *(first.nit + report.iterations, first.nfev + report.evaluations, report.products),
    )


def _result_of(
    status: str,
    theta: np.ndarray,
    fun: float,
    stationarity: float,
    nit: int,
    nfev: int,
    nhev: int,
) -> OptimizeResult:
    found = {"stationarity": stationarity, "nit": nit}
    return OptimizeResult(
        x=theta,
        fun=fun,
        nfev=nfev,
        nhev=nhev,
        success=status == "converged",
        status=_result.TRAIN_STATUS[status],
        message=_result.TRAIN_MESSAGES[status].format(**found),
        **found,
    )
