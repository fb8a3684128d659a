"""Training: the inner minimisation θ⋆(λ) = argmin_θ f(θ, λ)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from . import _arrays, _core, _result, solvers
from ._native import is_native, linearizer
from .callables import as_objective


def train(
    f: Any, lam: Any = None, theta0: Any = None, tol: float | None = None, maxiter: int = 200
) -> OptimizeResult:
    """Minimise f(·, λ) by Newton's method with a line search.

    Parameters
    ----------
    f : objective
        As for `implicit_grad`.
    lam : array, shape (n_lam,), optional
        Hyperparameters; may be left out where n_lam is 0.
    theta0 : array, shape (n_theta,), optional
        Start; zeros by default, where f knows its n_theta.
    tol : float, optional
        Stop at ‖∇θf‖_∞ ≤ tol. By default training goes on until a Newton step changes θ by less
        than a relative 1e-6, after which its error is about the square of that, or rounding may be
        all that is left of the gradient: tight enough for `implicit_grad` with default settings.
    maxiter : int, default 200

    Returns
    -------
    OptimizeResult
        x (θ), fun, stationarity (‖∇θf‖_∞), nit, nfev, nhev, success, status (0 ok, 1 iteration
        limit, 4 no further decrease, 5 non-finite value), message.

    Notes
    -----
    Newton steps come from a Cholesky factor where that is cheap, and else from CG with a
    preconditioner that is kept from step to step (``docs/cost-model.md``); where the Hessian is not
    positive definite the step is damped until it descends [1]_. The last point's linearisation and
    preconditioner serve an `implicit_grad` that follows with the same f, theta and lam.

    References
    ----------
    .. [1] J. Nocedal, S. J. Wright, *Numerical Optimization*, 2nd ed., 2006, chapters 3 and 7.

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
        theta0 = np.zeros(n_theta)
    theta0 = _arrays.vector(theta0, np.size(theta0) if n_theta is None else n_theta, "theta0", "f")
    if tol is not None:
        tol = _arrays.number(tol, "tol", positive=True)
    maxiter = _arrays.integer(maxiter, "maxiter", least=1)
    return solve(f, lam, theta0, tol, maxiter)


def solve(
    f: Any,
    lam: np.ndarray,
    theta0: np.ndarray,
    tol: float | None,
    maxiter: int,
    kept: Any = None,
) -> OptimizeResult:
    """`train` for arguments that have been validated, with the preconditioner that earlier ones left."""
    native = is_native(f)
    direct = theta0.size <= solvers.DIRECT_CALLABLE  # where there is a choice
    if native:
        core, hyper = f._core, lam if f.n_lam else lam[:0]
    else:
        linearize = linearizer(f)

        def at(theta: np.ndarray) -> tuple[float, np.ndarray, Any]:
            here = linearize(theta, lam)
            return float(here.fun), np.asarray(here.jac, float), solvers.core_operator(here)

        core, hyper = _core.CallbackObjective(at, theta0.size), lam[:0]
    if native and kept is None:
        kept = _core.KeptPreconditioner("auto", 0, lasting=True)
    theta, report = _core.train(core, theta0, hyper, tol or 0.0, maxiter, direct, kept)
    if native:
        f._passed(report.status != "non_finite")
        f._remember(theta, hyper, report.at, kept)
    found = {"stationarity": report.stationarity, "nit": report.iterations}
    return OptimizeResult(
        x=theta,
        fun=report.fun,
        nfev=report.evaluations,
        nhev=report.products,
        success=report.status == "converged",
        status=_result.TRAIN_STATUS[report.status],
        message=_result.TRAIN_MESSAGES[report.status].format(**found),
        **found,
    )
