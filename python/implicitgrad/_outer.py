"""The outer problem: λ ↦ (g(θ⋆(λ), λ), dg/dλ) as a function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from . import _arrays, _core, _implicit, _options, _result, _train, solvers
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
        gradient vanishes, and no relative accuracy could be asked of it. ``options["bound"]``
        defaults to False.
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
        if not options or "bound" not in options:
            parsed = replace(parsed, bound=False)
        if parsed.atol is None:
            parsed = replace(parsed, atol=0.1 * _arrays.number(gtol, "gtol", positive=True))
        self._options = parsed
        n_theta = getattr(self._problem.f, "n_theta", None)
        if theta0 is None:
            if n_theta is None:
                raise ValueError("theta0 is missing: f does not know its n_theta")
            theta0 = _train.start(self._problem.f, n_theta)
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

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
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
            if self.theta is not None and out_of_range(lam):
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
        self.adopt(lam, result)
        return result.fun, result.grad.copy()

    def adopt(self, lam: np.ndarray, result: _result.ImplicitGradResult) -> None:
        """Take a hypergradient found elsewhere as that of the last call."""
        self.result = result
        self._lam, self.theta, self._adjoint = lam, result.theta, result.adjoint

    def pass_by(self, theta: np.ndarray) -> None:
        """Be at a θ that belongs to no call: one of loose training."""
        self.theta, self.result, self._lam = theta, None, None

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


def out_of_range(lam: np.ndarray) -> bool:
    return bool(np.isfinite(lam).all()) and bool(
        ((lam < _arrays.LAM_MIN) | (lam > _arrays.LAM_MAX)).any()
    )


def failed_at_start(h: HyperObjective, lam: np.ndarray) -> OptimizeResult:
    """What an outer loop returns that could not begin."""
    why = h.training.message if h.training is not None else ""
    return OptimizeResult(
        x=lam,
        fun=math.inf,
        jac=np.zeros(lam.size),
        nit=0,
        success=False,
        status=4,
        message=f"Training failed at lam0. {why}".strip(),
    )
