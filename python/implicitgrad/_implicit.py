"""The theorem: from θ⋆(λ) = argmin_θ f(θ, λ) to dg/dλ of g(θ⋆(λ), λ)."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from . import _arrays, _core, _options, _result, _train, solvers
from ._bound import error_bound
from ._certificate import (
    POLISH_STEPS,
    STEP_RTOL,
    Certified,
    Goal,
    adjoint_rtol,
    certify,
    correction_rtol,
    linear_part,
    refine,
    screen,
    screen_step,
)
from ._core import norm
from ._native import is_native, linearizer
from ._result import ImplicitGradResult
from .callables import Objective, as_objective
from .linearization import EXACT, NativeLinearization, Noise, cross_scale, cross_vjp


def implicit_grad(
    f: Any,
    g: Any,
    theta: Any,
    lam: Any,
    method: Any = "auto",
    tol: float | None = None,
    options: Mapping[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
) -> ImplicitGradResult:
    r"""Hypergradient dg/dλ of an outer loss at the minimum of an inner one.

    With H = ∂²f/∂θ² and C = ∂²f/∂θ∂λ at θ⋆(λ), the implicit function theorem gives

    .. math:: \frac{dg}{d\lambda} = \frac{\partial g}{\partial\lambda} - C^T q,
              \qquad H q = \nabla_\theta g,

    for the price of one linear solve.

    Parameters
    ----------
    f, g : objective
        Inner (training) and outer (validation) loss: `LeastSquares`, `Logistic`, `Objective`, any
        object with ``linearize(theta, lam)``, or plain functions ``f(theta, lam) -> float``, which
        are differentiated numerically (for small problems).
    theta : array, shape (n_theta,)
        The trained parameters, near the minimum of f(·, λ).
    lam : array, shape (n_lam,)
        Hyperparameters.
    method : {"auto", "cholesky", "cg", "minres", "neumann", "identity"} or callable
        How H q = ∇θg is solved. "auto" factors H where that is cheap and uses CG elsewhere; "minres"
        is for a Hessian that may be indefinite; "identity" takes q = ∇θg. A callable
        ``solve(hess, b)`` returns x or (x, info).
    tol : float, optional
        Relative accuracy wanted of the hypergradient. Default 1e-6, or 1e-3 where f or g is known
        by its values only.
    options : dict, optional
        maxiter : int
            Limit on the iterations of the linear solver.
        atol : float
            Absolute accuracy that is enough. Default: the rounding level
            64 ε (‖direct‖ + ‖ |C|ᵀ|q| ‖).
        polish : bool, default True
            Take up to three Newton steps in θ where the error estimate misses tol; where Newton's
            bare step does not contract and f is one of the library's convex objectives, train it
            further from theta, with a line search.
        certify : bool, default False
            Pay for an error estimate where the method stops by a fixed number of terms.
        damping : float, default 0
            Solve (H + damping · I) q = ∇θg; the bias is counted in the error.
        preconditioner : {"auto", "jacobi", "none"}, operator or callable
            For CG: applies an approximation of H⁻¹.
        terms, step_size : int, float
            For Neumann: q = α Σ_{j<terms} (I − αH)^j ∇θg. By default as many terms as tol needs,
            and α from an estimate of λmax(H).
        stop : float or callable
            Stop the solve at this absolute residual ‖∇θg − Hq‖₂, or when
            ``stop(intermediate_result)`` is true.
        rng : seed or Generator, default 0
        warn : bool, default True
            Whether a status other than 0 warns.
    callback : callable, optional
        ``callback(intermediate_result)`` after each iteration of the solver, with an OptimizeResult
        of nit, residual and adjoint; raising StopIteration stops with status 99.

    Returns
    -------
    ImplicitGradResult
        grad, error, success and the rest; see `implicitgrad.ImplicitGradResult`.

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
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.
    .. [2] J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing millions of hyperparameters by implicit
           differentiation", AISTATS 2020.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 5))
    >>> y = X @ [1.0, 2.0, 0.0, 0.0, 0.0] + rng.standard_normal(60)
    >>> f = ig.LeastSquares(X[:40], y[:40], penalty=ig.L2("feature"))
    >>> g = ig.LeastSquares(X[40:], y[40:])
    >>> lam = np.zeros(5)
    >>> res = ig.implicit_grad(f, g, ig.train(f, lam).x, lam)
    >>> res.success, res.grad.shape, bool(res.error < 1e-6 * np.linalg.norm(res.grad))
    (True, (5,), True)
    """
    problem = Problem(f, g)
    theta, lam = problem.check_theta(theta), problem.check_lam(lam)
    method = solvers.check_method(method)
    accuracy = tolerance(problem, tol)
    parsed = _options.parse(options)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, found {callback!r}")
    result = solve(problem, theta, lam, method, accuracy, parsed, callback)
    if result.status and parsed.warn:
        warnings.warn(result.message, _result.ImplicitGradWarning, stacklevel=2)
    return result


class Problem:
    """A pair (f, g) and how to linearise both at a point."""

    def __init__(self, f: Any, g: Any):
        self.f, self.g = as_objective(f, "f"), as_objective(g, "g")
        for name, free in (("n_theta", ()), ("n_lam", (0,))):
            of_f, of_g = getattr(self.f, name, None), getattr(self.g, name, None)
            if None not in (of_f, of_g) and of_g != of_f and of_g not in free:
                raise ValueError(
                    f"g has {name} = {of_g}, f has {name} = {of_f}"
                    + (" (it must be 0 or the same)" if free else "")
                )
        self._linearize_f, self._linearize_g = linearizer(self.f), linearizer(self.g)
        self.native = is_native(self.f)

    @property
    def from_values(self) -> bool:
        return any(isinstance(o, Objective) and o.from_values for o in (self.f, self.g))

    def check_lam(self, lam: Any, name: str = "lam") -> np.ndarray:
        n_lam = getattr(self.f, "n_lam", None)
        check = _arrays.hyperparameters if self.native else _arrays.vector
        if n_lam is None:
            n_lam = getattr(self.g, "n_lam", None) or np.size(lam)
        return check(lam, n_lam, name, "f")

    def check_theta(self, theta: Any, name: str = "theta") -> np.ndarray:
        n_theta = getattr(self.f, "n_theta", None)
        if n_theta is None:
            n_theta = getattr(self.g, "n_theta", None) or np.size(theta)
        return _arrays.vector(theta, n_theta, name, "f")

    def at(self, theta: np.ndarray, lam: np.ndarray) -> Point:
        return Point(self._linearize_f(theta, lam), self._linearize_g(theta, lam), theta, lam)


def tolerance(problem: Problem, tol: float | None) -> float:
    if tol is None:
        return 1e-3 if problem.from_values else 1e-6
    return _arrays.number(tol, "tol", positive=True)


class Point:
    """f and g linearised at one (θ, λ)."""

    __slots__ = (
        *("F", "G", "b", "b_norm", "direct", "direct_norm", "gradient", "hess"),
        *("stationarity", "theta"),
    )

    def __init__(self, F: Any, G: Any, theta: np.ndarray, lam: np.ndarray):
        self.F, self.G, self.theta = F, G, theta
        if isinstance(F, NativeLinearization) and isinstance(G, NativeLinearization):
            self.gradient, self.b = F.jac, G.jac
        else:
            self.gradient = _shaped(F.jac, theta.size, "f.linearize(...).jac")
            self.b = _shaped(G.jac, theta.size, "g.linearize(...).jac")
        direct = G.jac_lam
        no_direct = direct is None or np.size(direct) == 0
        self.direct = np.zeros(lam.size) if no_direct else _shaped(direct, lam.size, "jac_lam of g")
        self.hess = solvers.core_operator(F)
        self.b_norm, self.direct_norm = norm(self.b), norm(self.direct)
        self.stationarity = norm(self.gradient)

    def hypergradient(self, q: np.ndarray) -> np.ndarray:
        """dg/dλ = ∂g/∂λ − Cᵀq."""
        return self.direct - cross_vjp(self.F, q)

    def rounding_level(self, q: np.ndarray) -> float:
        """The error that is left when all else is exact, up to a small constant."""
        return _EPS * (self.direct_norm + cross_scale(self.F, q))

    @property
    def noise(self) -> tuple[Noise, Noise]:
        return getattr(self.F, "noise", EXACT), getattr(self.G, "noise", EXACT)

    @property
    def finite(self) -> bool:
        # A sum of norms, none negative, is finite only if each of them is.
        return math.isfinite(self.G.fun + self.b_norm + self.direct_norm + self.stationarity)


TRAIN_MAXITER = 50  # of the training that polishes a θ which Newton's bare step does not improve
_EPS = float(np.finfo(np.float64).eps)


def _shaped(value: Any, size: int, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != (size,):
        raise ValueError(f"{name} has shape {array.shape}, expected {(size,)}")
    return array


def solve(
    problem: Problem,
    theta: np.ndarray,
    lam: np.ndarray,
    method: Any,
    tol: float,
    options: _options.Options,
    callback: Callable[..., Any] | None = None,
    adjoint0: np.ndarray | None = None,
) -> ImplicitGradResult:
    """`implicit_grad` for arguments that have been validated; adjoint0 is a starting point for q."""
    # What overflows in here, or in the user's functions, comes out as a status.
    with np.errstate(all="ignore"):
        return _solve(problem, theta, lam, method, tol, options, callback, adjoint0)


def _solve(
    problem: Problem,
    theta: np.ndarray,
    lam: np.ndarray,
    method: Any,
    tol: float,
    options: _options.Options,
    callback: Callable[..., Any] | None,
    adjoint0: np.ndarray | None,
    trained: bool = False,
) -> ImplicitGradResult:
    point = problem.at(theta, lam)
    monitor = _Monitor(options.stop, callback)
    hess = point.hess
    if options.damping:
        hess = _core.ShiftedOperator(hess, options.damping)
    solver = solvers.make_solver(method, hess, point.F, options, monitor.hook)
    goal = Goal(tol, options.atol)
    answer = _Answer(point, solver.name, goal, options.damping)
    if not point.finite:
        return answer.fail("non_finite")
    answer.nhev += solver.setup(hess)

    # The adjoint q: H q = ∇θg.
    size = point.b_norm
    as_asked = solver.fixed_terms or options.stop is not None or bool(options.damping)
    s = None
    if isinstance(solver, solvers.Cholesky) and not as_asked:
        # The factor serves for s = H⁻¹∇θf as well, which tells how far θ is from θ⋆.
        both = np.array([point.b, point.gradient]).T
        solution = solver.solve(hess, both, [max(0.1 * tol, 1e-14), STEP_RTOL])
        q, s = solution.x[:, 0], solution.x[:, 1]
    elif isinstance(solver, solvers.CG) and not as_asked:
        rtol = adjoint_rtol(tol, solver.worst_condition(point.F))
        solution = solver.solve(hess, point.b, [0.05 * rtol], adjoint0, rtol)
        q = solution.x
    else:
        rtol = min(0.1, max(0.1 * tol, 1e-14))
        if options.stop is not None and not callable(options.stop):
            rtol = options.stop / size if size > 0 else 1.0
        solution = solver.solve(hess, point.b, [rtol], adjoint0)
        q = solution.x
    answer.saw(q, solution)
    if monitor.stopped:
        return answer.fail("callback")
    if solution.status in ("singular", "non_finite", "bad_preconditioner"):
        return answer.fail(solution.status)
    if solution.status == "negative_curvature" and not options.damping:
        return answer.fail(solution.status)
    answer.step = getattr(solver, "step", math.nan)
    if solution.status == "diverged" and not options.certify:
        return answer.fail("diverged")
    if solver.fixed_terms and not options.certify:
        return answer.fail("terms")
    solver.monitor = None

    # How wrong that is; and a better answer, where one is wanted and at hand.
    checker = solver
    if not isinstance(solver, solvers.Cholesky) or options.damping:
        checker = solvers.make_checker(solver, point.hess, solution, as_asked)
        if checker is not solver:
            answer.nhev += checker.setup(point.hess)
    if isinstance(checker, solvers.Cholesky):
        answer.factored = (checker, theta)
        if s is None:
            found = checker.solve(point.hess, point.gradient, [STEP_RTOL])
            answer.count(found)
            if found.status in ("negative_curvature", "singular", "non_finite"):
                return answer.fail(found.status)
            s = found.x
        accuracy = STEP_RTOL
    else:
        if solution.status == "iteration_limit" and not options.certify:
            return answer.fail("iteration_limit")
        if checker is solver:
            linear = linear_part(point, q, solution, checker, answer.goal, rtol)
            q, answer.q, answer.residual = linear.q, linear.q, linear.residual
            answer.nhev += linear.nhev
            done = screen(point, linear, answer.goal)
            if done is not None:
                return answer.certified(done, None)
        accuracy = correction_rtol(checker.worst_condition(point.F), solution.condition)
        found = checker.solve(point.hess, point.gradient, [accuracy])
        answer.count(found)
        if found.status in ("negative_curvature", "singular", "non_finite"):
            return answer.fail(found.status)
        s = found.x
        if checker is solver:
            done = screen_step(problem, lam, point, linear, s, answer.goal)
            if done is not None:
                return answer.certified(done, None)
    as_asked = as_asked or solution.status in ("iteration_limit", "diverged")
    if not options.polish and not as_asked:
        q, rest, nhev = refine(point, q, checker, answer.goal, accuracy)
        answer.residual = rest / size if size > 0 else rest
        answer.nhev += nhev
    steps = POLISH_STEPS if options.polish and not as_asked else 0
    certified = certify(
        *(problem, lam, point, q, s, checker, answer.goal, steps),
        *(answer.residual * point.b_norm, answer.curvature or (0.0, 0.0), accuracy),
    )
    if certified.trouble == "newton" and not trained:
        # Too far from θ⋆ for Newton's bare step: train on from here, with a line search. What is found
        # there tells how far off this answer is; it is the better answer where f is known to be convex,
        # so that it cannot belong to another minimum than the one theta was meant for.
        further = _train.solve(problem.f, lam, theta, None, TRAIN_MAXITER)
        certified.nhev += further.nhev
        if further.success:
            polish = options.polish and not as_asked and problem.native
            way = method if polish else "auto"
            given = options if polish else _options.DEFAULT
            found = _solve(problem, further.x, lam, way, tol, given, None, None, True)
            certified.nhev += found.nhev
            if polish:
                found.nit, found.nhev = answer.nit, answer.nhev + certified.nhev
                return found
            certified.error = norm(certified.grad - found.grad) + found.error
    limited = None
    if as_asked:
        named = solution.status in ("iteration_limit", "diverged")
        limited = solution.status if named else "as_asked"
    return answer.certified(certified, limited)


# Endings of a solve that leave it to the bound on the error whether the answer is good enough.
_OPEN = frozenset({"iteration_limit", "not_stationary", "stagnated", "diverged"})


class _Answer:
    """Gathers the fields of the result as they become known."""

    def __init__(self, point: Point, method: str, goal: Goal, damping: float):
        self.point, self.method, self.goal, self.damping = point, method, goal, damping
        self.q = np.zeros(point.theta.size)
        self.residual = self.step = math.nan
        self.factored: tuple[solvers.Cholesky, np.ndarray] | None = None
        self.curvature: tuple[float, float] | None = None
        self.nit = self.nhev = 0

    @property
    def allowed(self) -> float:
        return self.goal.allowed(self.point, self.q, self.point.hypergradient(self.q))

    def count(self, solution: solvers.Solution) -> None:
        self.nhev += solution.nhev
        if solution.curvature:
            low, high = self.curvature or solution.curvature
            self.curvature = min(low, solution.curvature[0]), max(high, solution.curvature[1])

    def saw(self, q: np.ndarray, solution: solvers.Solution) -> None:
        self.count(solution)
        self.q, self.nit = q, solution.nit
        self.residual = solution.residual[0]
        if self.damping:  # what was seen so far is the damped system
            self.check_residual()
            if self.curvature:
                low, high = self.curvature
                self.curvature = low - self.damping, high - self.damping

    def check_residual(self) -> None:
        size = self.point.b_norm
        rest = norm(self.point.b - self.point.hess.apply(self.q))
        self.residual = rest / size if size > 0 else rest
        self.nhev += 1

    def fail(self, why: str) -> ImplicitGradResult:
        """No estimate could be made, or the theorem does not apply."""
        grad = self.point.hypergradient(self.q)
        if not np.isfinite(grad).all():
            why = "non_finite"
        return self._result(grad, math.inf, self.allowed, why, final=why not in _OPEN)

    def certified(self, found: Certified, limited: str | None) -> ImplicitGradResult:
        self.nhev += found.nhev
        moved = found.q is not self.q or found.point is not self.point
        self.point, self.q = found.point, found.q
        if moved:
            self.check_residual()
        names = {"linear": limited or "singular", "newton": "not_stationary"}
        why = names.get(found.trouble or "ok", found.trouble or "ok")
        final = why in ("negative_curvature", "non_finite", "bad_preconditioner")
        final = final or (why == "singular" and not math.isfinite(found.error))
        return self._result(found.grad, found.error, found.allowed, why, final)

    def _result(
        self, grad: np.ndarray, error: float, allowed: float, why: str, final: bool
    ) -> ImplicitGradResult:
        """`why` names what stands in the way; unless that is final, the error alone decides."""
        stationarity = self.point.stationarity
        bound = math.inf
        if not final or why == "terms":
            rest = self.residual * self.point.b_norm
            bound = error_bound(self.point, self.q, rest, self.factored)
        if not final:
            error = min(error, bound) if error == error else bound
            if error <= allowed < math.inf:
                why = "ok"
        status, text = _result.describe(
            why,
            error=error,
            target=allowed,
            residual=self.residual,
            stationarity=stationarity,
            curvature=self.curvature,
            step=self.step,
        )
        if self.damping:
            text += f" The system solved was (H + damping I) q = b with damping = {self.damping:g}."
        return ImplicitGradResult(
            grad=grad,
            fun=self.point.G.fun,
            direct=self.point.direct,
            adjoint=self.q,
            theta=self.point.theta.copy(),  # not the caller's own array
            error=error,
            error_bound=bound,
            stationarity=stationarity,
            residual=self.residual,
            curvature=self.curvature,
            success=status == _result.OK,
            status=status,
            message=text,
            nit=self.nit,
            nhev=self.nhev,
            method=self.method,
        )


class _Monitor:
    """Turns the user's `stop` and `callback` into the solver's hook, called after each iteration."""

    def __init__(self, stop: Any, callback: Callable[..., Any] | None):
        self.stopped = False
        self._stop = stop if callable(stop) else None
        self._callback = callback
        self._whole = callback is not None and takes_intermediate_result(callback)
        self.hook = self if self._stop or callback else None

    def __call__(self, nit: int, residual: float, adjoint: np.ndarray) -> bool:
        state = OptimizeResult(nit=nit, residual=residual, adjoint=adjoint)
        if self._callback is not None:
            try:
                if self._whole:
                    self._callback(intermediate_result=state)
                else:
                    self._callback(adjoint)
            except StopIteration:
                self.stopped = True
                return True
        return bool(self._stop is not None and self._stop(state))


def takes_intermediate_result(callback: Callable[..., Any]) -> bool:
    """SciPy's protocol: a parameter of that name gets an OptimizeResult, otherwise it is callback(x)."""
    try:
        return "intermediate_result" in inspect.signature(callback).parameters
    except (TypeError, ValueError):
        return False
