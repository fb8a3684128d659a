"""The outer problem: λ ↦ (g(θ⋆(λ), λ), dg/dλ) as a function, and its minimisation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.optimize
from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning

from . import _arrays, _core, _implicit, _options, _result, _train, solvers
from ._callback import takes_intermediate_result
from ._problem import Problem, tolerance

GTOL = 1e-5  # SciPy's default for L-BFGS-B


class HyperObjective:
    """The outer objective h(λ) = g(θ⋆(λ), λ) and its gradient, for SciPy's optimisers.

    Each call trains θ from where the last call left it, and starts the linear solve from the last
    adjoint.

    Parameters
    ----------
    f, g : objective
        Inner and outer loss, as for `implicit_grad`.
    theta0 : array, shape (n_theta,), optional
        Start of the first training; zeros by default.
    method, tol, options
        As for `implicit_grad`. ``options["atol"]`` defaults to a tenth of `gtol`: at λ⋆ the
        gradient vanishes, and no relative accuracy could be asked of it.
    train_tol : float, optional
        Tolerance of `train`.
    gtol : float, default 1e-5
        The gradient tolerance of the outer optimiser.

    Attributes
    ----------
    theta : ndarray or None
        θ⋆ at the last λ.
    result : ImplicitGradResult or None
        The last hypergradient, with its certificate.
    training : OptimizeResult or None
        The last training.
    nfev, nhev : int
        Calls so far; Hessian-vector products so far, training included.

    Notes
    -----
    Where training fails, a call returns fun = inf, so that line searches back off; so it does, after
    a first success, where λ is so large that exp(λ) overflows.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> from scipy.optimize import minimize
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 3))
    >>> y = X[:, 0] + rng.standard_normal(60)
    >>> f = ig.LeastSquares(X[:40], y[:40], penalty=ig.L2("feature"))
    >>> h = ig.HyperObjective(f, ig.LeastSquares(X[40:], y[40:]))
    >>> res = minimize(h, np.zeros(3), jac=True, method="L-BFGS-B", bounds=[(-8, 8)] * 3)
    >>> bool(res.success), h.theta.shape
    (True, (3,))
    """

    def __init__(
        self,
        f: Any,
        g: Any,
        *,
        theta0: Any = None,
        method: Any = "auto",
        tol: float | None = None,
        options: Mapping[str, Any] | None = None,
        train_tol: float | None = None,
        gtol: float = GTOL,
    ):
        self._problem = Problem(f, g)
        self._method = solvers.check_method(method)
        self._tol = tolerance(self._problem, tol)
        self._train_tol = (
            None if train_tol is None else _arrays.number(train_tol, "train_tol", positive=True)
        )
        parsed = _options.parse(options)
        if parsed.atol is None:
            parsed = replace(parsed, atol=0.1 * _arrays.number(gtol, "gtol", positive=True))
        self._options = parsed
        n_theta = getattr(self._problem.f, "n_theta", None)
        if theta0 is None:
            if n_theta is None:
                raise ValueError("theta0 is missing: f does not know its n_theta")
            theta0 = np.zeros(n_theta)
        self._theta0 = self._problem.check_theta(theta0, "theta0").copy()
        self.nfev = self.nhev = 0
        self.reset()

    def reset(self) -> None:
        """Forget what warm starts the next call; the counts stay."""
        self.theta: np.ndarray | None = None
        self.result: _result.ImplicitGradResult | None = None
        self.training: OptimizeResult | None = None
        self._adjoint: np.ndarray | None = None
        self._lam: np.ndarray | None = None
        self._kept = _core.KeptPreconditioner("auto", 0, lasting=True)

    def __call__(self, lam: Any) -> tuple[float, np.ndarray]:
        """(h(λ), dh/dλ), shapes () and (n_lam,)."""
        lam = np.asarray(lam)
        if self._lam is not None and np.array_equal(lam, self._lam):
            assert self.result is not None
            return self.result.fun, self.result.grad.copy()
        self.nfev += 1
        failed = math.inf, np.zeros(lam.shape)
        try:
            lam = self._problem.check_lam(lam).copy()
        except ValueError:
            # A first λ out of range is the caller's mistake, a later one an optimiser's long step.
            if self.theta is not None and _out_of_range(lam):
                return failed
            raise
        if not self._train(lam):
            return failed
        assert self.theta is not None
        result = _implicit.solve(
            self._problem,
            self.theta,
            lam,
            self._method,
            self._tol,
            self._options,
            adjoint0=self._adjoint,
        )
        self.nhev += result.nhev
        _result.warn(result, self._options.warn)
        self.result = result
        if not (math.isfinite(result.fun) and np.isfinite(result.grad).all()):
            return failed
        self._lam, self.theta, self._adjoint = lam, result.theta, result.adjoint
        return result.fun, result.grad.copy()

    def _train(self, lam: np.ndarray) -> bool:
        """θ⋆(λ), from the last θ or, where that fails, from theta0."""
        self._lam = None
        starts = [self._theta0] if self.theta is None else [self.theta, self._theta0]
        for start in starts:
            self.training = _train.solve(
                self._problem.f, lam, start, self._train_tol, 200, self._kept
            )
            self.nhev += self.training.nhev
            if self.training.success:
                self.theta = self.training.x
                return True
        return False

    def _value(self, lam: np.ndarray) -> float:
        """h(λ) by training alone."""
        if not self._train(lam):
            return math.inf
        assert self.theta is not None
        return float(self._problem.at(self.theta, lam).G.fun)


def _out_of_range(lam: np.ndarray) -> bool:
    return bool(np.isfinite(lam).all()) and bool(
        ((lam < _arrays.LAM_MIN) | (lam > _arrays.LAM_MAX)).any()
    )


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
        A method of `scipy.optimize.minimize` that uses gradients, or "gd": gradient descent,
        λ ← λ − learning_rate · dg/dλ.
    bounds : sequence of (min, max) or scipy.optimize.Bounds, optional
    tol : float, optional
        Tolerance of the outer optimiser; for "gd" on the largest entry of the (projected) gradient,
        by default 1e-5.
    callback : callable, optional
        ``callback(intermediate_result)`` after each outer iteration, with an OptimizeResult of x
        (λ), fun, jac, theta, nit and hypergradient; raising StopIteration stops with status 99.
    options : dict, optional
        Passed on to SciPy. For "gd": learning_rate (default 1.0), maxiter (default 1000), gtol.

    Returns
    -------
    OptimizeResult
        x (λ), fun, jac, theta, hypergradient (the last `ImplicitGradResult`), nit, nfev (trainings
        with hypergradient), nhev (Hessian-vector products, training included), success, status,
        message.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, for bad input.

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
    if name not in _METHODS:
        raise ValueError(f"method = {method!r} is unknown; choose from {', '.join(_METHODS)}")
    if tol is not None:
        tol = _arrays.number(tol, "tol", positive=True)
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, found {options!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, found {callback!r}")
    given = dict(options or {})
    gtol = given.get("gtol", tol if tol is not None else GTOL)
    h = HyperObjective(f, g, theta0=theta0, gtol=gtol)
    lam0 = h._problem.check_lam(lam0, "lam0").copy()
    limits = None if bounds is None else _bounds(bounds, lam0.size)
    watch = _Watch(h, callback)
    if not math.isfinite(h(lam0)[0]):
        result = OptimizeResult(
            x=lam0, fun=math.inf, jac=np.zeros(lam0.size), nit=0, success=False, status=4
        )
        why = h.training.message if h.training is not None else ""
        result.message = f"Training failed at lam0. {why}".strip()
    elif name == "gd":
        result = _gradient_descent(h, lam0, limits, gtol, watch, given)
    else:
        result = scipy.optimize.minimize(
            _BackOff(h, lam0),
            lam0,
            jac=True,
            method=method,
            bounds=limits,
            tol=tol,
            options=given,
            callback=watch,
        )
    return _finish(h, result, watch)


_METHODS = (*("l-bfgs-b", "bfgs", "cg", "newton-cg", "tnc", "slsqp", "trust-constr", "gd"),)


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


class _Watch:
    """The outer callback, in SciPy's protocol, with the state of the hyper-objective added."""

    def __init__(self, h: HyperObjective, callback: Callable[..., Any] | None):
        self.h, self.callback = h, callback
        self.stopped = False
        self.nit = 0
        self._whole = callback is not None and takes_intermediate_result(callback)

    def __call__(self, intermediate_result: OptimizeResult) -> None:
        self.nit += 1
        if self.callback is None:
            return
        if not isinstance(intermediate_result, OptimizeResult):  # some of SciPy's methods give x
            intermediate_result = OptimizeResult(x=intermediate_result)
        h, state = self.h, OptimizeResult(intermediate_result)
        state.update(nit=self.nit, theta=h.theta, hypergradient=h.result)
        if "jac" not in state and h.result is not None:
            state.jac = h.result.grad
        try:
            if self._whole:
                self.callback(intermediate_result=state)
            else:
                self.callback(np.copy(state.x))
        except StopIteration:
            self.stopped = True
            raise


def _gradient_descent(
    h: HyperObjective,
    lam: np.ndarray,
    bounds: Bounds | None,
    gtol: float,
    watch: _Watch,
    options: dict[str, Any],
) -> OptimizeResult:
    """λ ← clip(λ − learning_rate · dg/dλ), the field's textbook loop."""
    rate = _arrays.number(options.pop("learning_rate", 1.0), "learning_rate", positive=True)
    maxiter = _arrays.integer(options.pop("maxiter", 1000), "maxiter", least=1)
    options.pop("gtol", None)
    if options:
        unknown = ", ".join(map(repr, options))
        warnings.warn(f"Unknown options: {unknown}", OptimizeWarning, stacklevel=3)
    low, high = (bounds.lb, bounds.ub) if bounds else (-np.inf, np.inf)
    lam = np.clip(lam, low, high)
    status, message, nit = 1, "The iteration limit was reached.", 0
    fun, grad = h(lam)
    while math.isfinite(fun):
        following = np.clip(lam - rate * grad, low, high)
        if np.max(np.abs(lam - np.clip(lam - grad, low, high)), initial=0.0) <= gtol:
            status, message = 0, "The gradient is within gtol."
            break
        if nit == maxiter:
            break
        lam, nit = following, nit + 1
        fun, grad = h(lam)
        try:
            watch(OptimizeResult(x=lam.copy(), fun=fun, jac=grad))
        except StopIteration:
            break
    if not math.isfinite(fun):
        status, message = (
            4,
            "Training failed at the last lam: use a smaller learning_rate or bounds.",
        )
    return OptimizeResult(
        x=lam, fun=fun, jac=grad, nit=nit, success=status == 0, status=status, message=message
    )


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


def _finish(h: HyperObjective, result: OptimizeResult, watch: _Watch) -> OptimizeResult:
    """The optimiser's result with θ and the hypergradient that belong to its λ."""
    lam = np.asarray(result.x, dtype=np.float64)
    if math.isfinite(result.fun):
        h(lam)  # at once where it was the last λ tried
    if watch.stopped:
        result.update(status=99, success=False, message="Stopped by the callback.")
    result.update(x=lam, theta=h.theta, hypergradient=h.result, nfev=h.nfev, njev=h.nfev)
    result.update(nhev=h.nhev)
    return result
