"""Forward mode: how θ⋆(λ) moves with λ, along one direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import _arrays, _bound, _implicit, _options, _result, solvers
from ._core import norm
from ._problem import Point, Problem, tolerance
from ._result import ResponseResult
from .linearization import EXACT, NativeLinearization, Noise

_EPS = float(np.finfo(np.float64).eps)


def response(
    f: Any,
    theta: Any,
    lam: Any,
    u: Any,
    method: Any = "auto",
    tol: float | None = None,
    options: Mapping[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
) -> ResponseResult:
    r"""Response of the trained parameters to a change of the hyperparameters.

    With H = ∂²f/∂θ² and C = ∂²f/∂θ∂λ at θ⋆(λ), the implicit function theorem gives

    .. math:: \frac{d\theta^\star}{d\lambda} u = -H^{-1} C u

    for the price of one linear solve: `implicit_grad` is the same Jacobian from the other side.

    Parameters
    ----------
    f : objective
        Inner (training) loss, as for `implicit_grad`.
    theta : array, shape (n_theta,)
        The trained parameters, near the minimum of f(·, λ).
    lam : array, shape (n_lam,)
        Hyperparameters.
    u : array, shape (n_lam,)
        Direction in which λ moves.
    method, options
        As for `implicit_grad`; options["atol"] is by default the rounding level 64 ε ‖response‖.
    tol : float, optional
        Relative accuracy wanted of the response. Default 1e-6, or 1e-3 where f is known by its values
        only.
    callback : callable, optional
        ``callback(intermediate_result)`` after each iteration of the solver, with an OptimizeResult
        of nit, residual and response; raising StopIteration stops with status 99.

    Returns
    -------
    ResponseResult
        response, error, success and the rest; see `implicitgrad.ResponseResult`.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, for bad input. Numbers that go bad inside give a status instead.

    Warns
    -----
    ImplicitGradWarning
        Where status is not 0.

    References
    ----------
    .. [1] J. Larsen, L. K. Hansen, C. Svarer, M. Ohlsson, "Design and regularization of neural
           networks: the optimal use of a validation set", Neural Networks for Signal Processing VI,
           1996.

    Examples
    --------
    Here f = ¼ Σ_j (θ_j − y_j)² + ½ e^λ Σ_j θ_j², so that θ⋆ = y / (1 + 2 e^λ).

    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(2), [3.0, 6.0], penalty=ig.L2("all"))
    >>> theta = ig.train(f, [0.0]).x
    >>> ig.response(f, theta, [0.0], [1.0]).response.round(6)
    array([-0.666667, -1.333333])
    """
    problem = ResponseProblem(f)
    theta, lam = problem.check_theta(theta), problem.check_lam(lam)
    problem.u = _arrays.vector(u, lam.size, "u", "f")
    method = solvers.check_method(method)
    accuracy = tolerance(problem, tol)
    parsed = _options.parse(options, method)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, found {callback!r}")
    result: Any = _implicit.solve(problem, theta, lam, method, accuracy, parsed, callback)
    _result.warn(result, parsed.warn)
    return result


class ResponseProblem(Problem):
    """f alone, and the direction u."""

    u: np.ndarray

    def __init__(self, f: Any):
        super().__init__(f, f)

    def at(self, theta: np.ndarray, lam: np.ndarray) -> Point:
        return ResponsePoint(self._linearize_f(theta, lam), theta, lam, self.u)

    def beside(self, theta: np.ndarray, lam: np.ndarray) -> Point:
        return ResponsePoint(self._pass_f(theta, lam), theta, lam, self.u)


class _Equation:
    """The right-hand side −C u, in the place of the outer loss whose gradient ∇θg is one."""

    fun = 0.0
    jac_lam = None
    noise = EXACT

    def __init__(self, jac: np.ndarray):
        self.jac = jac


class ResponsePoint(Point):
    """f linearised at one (θ, λ): the unknown w solves H w = −C u, and is the answer itself."""

    answer = unknown = "response"

    __slots__ = ("u",)

    def __init__(self, F: Any, theta: np.ndarray, lam: np.ndarray, u: np.ndarray):
        if isinstance(F, NativeLinearization):
            b = -F._core.cross(u)
        else:
            b = -np.asarray(F.cross @ u, dtype=np.float64)
        super().__init__(F, _Equation(b), theta, lam)
        self.direct, self.u = np.zeros_like(b), u

    def value(self, q: np.ndarray) -> np.ndarray:
        return self.least(q)

    def rounding_level(self, q: np.ndarray) -> float:
        return _EPS * norm(q)

    def carried(self, dq: np.ndarray) -> np.ndarray:
        return dq

    def uncancelled(self, dq: np.ndarray, q: np.ndarray) -> float:
        return norm(dq)

    def arrival(self, sent: np.ndarray, q: np.ndarray) -> tuple[float, float, float]:
        return norm(sent[:, 0]), 0.0, self._push(q) * norm(sent[:, 1])

    def inner_limit(self, q: np.ndarray, mu: float, energy: float) -> float:
        f = self.terms[0]
        if f is None or not (mu > 0 and energy / math.sqrt(mu) <= f.radius):
            return math.inf
        return self._push(q) * energy / mu**1.5

    def reach(self, mu: float) -> float:
        return 1 / math.sqrt(mu) if mu > 0 else math.inf

    def error_bound(self, q: np.ndarray, residual: float, factored: Any) -> float:
        f = self.terms[0]
        if f is None:
            return math.inf
        return _bound.response_bound(f, self.u, q, residual, self, factored)

    def difference_error(self, q: np.ndarray, gain: float) -> float:
        of_f: Noise = self.noise[0]
        return gain * (of_f.cross * norm(self.u) + of_f.hess * norm(q))

    @property
    def blind(self) -> bool:
        return self.b_norm == 0 and bool(self.u.any())

    def result(self, value: np.ndarray, q: np.ndarray, **found: Any) -> Any:
        found["message"] = _result.of_response(found["message"])
        return ResponseResult(response=value, **found)

    def _push(self, q: np.ndarray) -> float:
        """The Lipschitz constant of −C u − H w in θ."""
        f = self.terms[0]
        return math.inf if f is None else self.F._core.response_rate(self.u) + f.third * norm(q)
