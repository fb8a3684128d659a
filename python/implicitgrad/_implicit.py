"""The theorem: from θ⋆(λ) = argmin_θ f(θ, λ) to dg/dλ of g(θ⋆(λ), λ)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import _core, _options, _result, _train, solvers
from ._answer import Answer
from ._callback import Monitor
from ._certificate import (
    POLISH_STEPS,
    STEP_RTOL,
    Goal,
    certify,
    columns,
    converged,
    correction_rtol,
    linear_part,
    refine,
    screen,
    screen_noise,
    screen_step,
)
from ._core import norm
from ._problem import Problem, tolerance
from ._result import ImplicitGradResult
from ._rounding import EPS, NOISE_RTOL, gradient_noise
from .linearization import NativeLinearization

# Of the training that polishes a θ which Newton's bare step does not improve.
TRAIN_MAXITER = 50

# Endings of a solve that did what it was meant to do.
_DONE = ("converged", "terms", "stopped")


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
        Inner (training) and outer (validation) loss: `LeastSquares`, `Logistic`, `Poisson`,
        `Softmax`, `MLP`, `Objective`, any object with ``linearize(theta, lam)``, or plain functions
        ``f(theta, lam) -> float``, which are differentiated numerically (for small problems).
    theta : array, shape (n_theta,)
        The trained parameters, near the minimum of f(·, λ).
    lam : array, shape (n_lam,)
        Hyperparameters.
    method : {"auto", "cholesky", "cg", "nystrom", "minres", "neumann", "identity"} or callable
        How H q = ∇θg is solved. "auto" factors H where a cost model finds that cheapest and uses
        CG elsewhere;
        "nystrom" is CG with a randomised preconditioner made of products with H alone [3]_, for
        eigenvalues that fall fast; "minres" is for a Hessian that may be indefinite; "identity"
        takes q = ∇θg. A callable ``solve(hess, b)`` returns x or (x, info).
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
        certify : bool, optional
            Whether to estimate the error. By default that is done unless the method stops by a fixed
            number of terms; True pays for it there as well. False solves H q = ∇θg to a residual
            that suits tol and does no more: error and error_bound are inf, theta is not polished,
            and status is 1, without a warning.
        bound : bool, default True
            Whether `error_bound` may cost a second factorisation of H where there was a first; without
            it a bound is proven only where that is free, or where success depends on it.
        damping : float, default 0
            Solve (H + damping · I) q = ∇θg; the bias is counted in the error.
        curvature : {"exact", "gauss_newton"}
            "gauss_newton" solves with JᵀΛJ + diag(strength) in the place of a network's H, which is
            never indefinite; the bias is counted in the error, which takes a solve with H itself
            (unless certify is False).
        preconditioner : {"auto", "jacobi", "sketch", "gram", "kronecker", "none"}, operator or callable
            For CG: applies an approximation of H⁻¹. For the library's objectives, "sketch" factors a
            Hessian of sampled rows and "gram" one of all rows, in single precision (of order
            min(n, p)); "auto" starts with the diagonal, "jacobi", and takes a sketch where that pays.
            For networks, "kronecker" makes one of layers' inputs and outputs [4]_, [5]_, which saves
            products where damping and penalty are weak, but seldom time; "auto" is "none" there.
        rank : int
            For "nystrom": how many random directions H is sketched with, one product each. By
            default 12, doubled up to 192 while that pays.
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
    scipy.optimize.OptimizeWarning
        For an option that is unknown, or that the method does not use.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.
    .. [2] J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing millions of hyperparameters by implicit
           differentiation", AISTATS 2020.
    .. [3] Z. Frangella, J. A. Tropp, M. Udell, "Randomized Nyström preconditioning", SIAM J. Matrix
           Anal. Appl. 44 (2023).
    .. [4] J. Martens, R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
           curvature", ICML 2015.
    .. [5] T. George, C. Laurent, X. Bouthillier, N. Ballas, P. Vincent, "Fast approximate natural
           gradient descent in a Kronecker-factored eigenbasis", NeurIPS 2018.

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
    parsed = _options.parse(options, method)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, found {callback!r}")
    result = solve(problem, theta, lam, method, accuracy, parsed, callback)
    _result.warn(result, parsed.warn)
    return result


def gauss_newton(F: Any) -> Any:
    """The Gauss-Newton approximation of H, an operator of the core."""
    found = F._core.gauss_newton if isinstance(F, NativeLinearization) else None
    if found is None:
        raise ValueError(
            "curvature = 'gauss_newton' is for networks: f has no Gauss-Newton approximation that "
            "differs from H"
        )
    return found


def solve(
    problem: Problem,
    theta: np.ndarray,
    lam: np.ndarray,
    method: Any,
    tol: float,
    options: _options.Options,
    callback: Callable[..., Any] | None = None,
    adjoint0: np.ndarray | None = None,
    trained: bool = False,
) -> ImplicitGradResult:
    """`implicit_grad` for arguments that have been validated; adjoint0 is a starting point for q, and
    where theta has been `trained` as far as it shall be, it is not trained on for the certificate."""
    # What overflows in here, or in the user's functions, comes out as a status.
    with np.errstate(all="ignore"):
        return _solve(problem, theta, lam, method, tol, options, callback, adjoint0, trained)


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
    monitor = Monitor(options.stop, callback, point.unknown)
    hess = point.hess if options.curvature == "exact" else gauss_newton(point.F)
    if options.damping:
        hess = _core.ShiftedOperator(hess, options.damping)
    solver = solvers.make_solver(method, hess, point.F, options, monitor.hook)
    goal = Goal(tol, options.atol)
    answer = Answer(point, solver.name, goal, options)
    if not point.finite:
        return answer.fail("non_finite")
    answer.nhev += solver.setup(hess)

    # The adjoint q: H q = ∇θg.
    size = point.b_norm
    estimate = options.certify is not False
    as_asked = solver.fixed_terms or options.stop is not None or bool(options.solved)
    s = there = None
    if estimate and isinstance(solver, solvers.Cholesky) and not as_asked:
        # The factor serves for s = H⁻¹∇θf as well, which tells how far θ is from θ⋆.
        both = columns(point.b, point.gradient)
        solution = solver.solve(hess, both, [max(0.1 * tol, 1e-14), STEP_RTOL])
        q, s = solution.x[:, 0], solution.x[:, 1]
    elif isinstance(solver, solvers.CG) and not as_asked:
        rtol = solver.adjoint_rtol(tol, point.F)
        ahead, checkpoint = (solver.ahead, rtol) if estimate else (1.0, 0.0)
        solution = solver.solve(hess, point.b, [ahead * rtol], adjoint0, checkpoint)
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
    if solution.status == "negative_curvature" and not options.solved:
        return answer.fail(solution.status)
    answer.step = getattr(solver, "step", math.nan)
    if not estimate:
        why = "uncertified" if solution.status in _DONE else solution.status
        return answer.fail(why, final=True)
    if solution.status == "diverged" and not options.certify:
        return answer.fail("diverged")
    if solver.fixed_terms and not options.certify:
        return answer.fail("terms")
    not_convex = problem.native and not problem.convex
    if not_convex and not isinstance(solver, solvers.Cholesky):
        if answer.indefinite():
            return answer.fail("negative_curvature")
        if answer.flat():
            return answer.fail("singular")
    solver.monitor = None

    # How wrong that is; and a better answer, where one is wanted and at hand.
    checker = solver
    if not isinstance(solver, solvers.Cholesky) or options.solved:
        checker = solvers.make_checker(solver, point.hess, point.F, solution, as_asked)
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
            done = screen(problem, lam, point, linear, answer.goal, checker)
            if done is not None:
                return answer.certified(done, None)
        accuracy = correction_rtol(checker.worst_condition(point.F), solution.condition)
        wanted, rtols = point.gradient, [accuracy]
        closely = (
            (checker is solver and not checker.strong)
            and point.terms[0] is not None
            and converged(checker.precondition(point.gradient), theta, checker)
        )
        if closely:  # in the same passes: what q misses, and what rounding in ∇θf comes to
            residual = point.b - point.hess.apply(q)
            answer.nhev += 1
            wanted = np.stack([point.gradient, residual, gradient_noise(point)]).T
            rtols = [accuracy, accuracy, NOISE_RTOL]
        found = checker.solve(point.hess, wanted, rtols)
        answer.count(found)
        if found.status in ("negative_curvature", "singular", "non_finite"):
            return answer.fail(found.status)
        s = found.x
        if closely:
            s, dq, d = found.x.T
            linear.error = norm(point.carried(dq))
            done = screen_noise(problem, lam, point, linear, s + EPS * d, answer.goal, checker)
            if done is not None:
                return answer.certified(done, None)
        if checker is solver:
            there = problem.beside(theta - s, lam)
            done = screen_step(point, there, linear, s, answer.goal, checker)
            if done is not None:
                return answer.certified(done, None)
    as_asked = as_asked or solution.status in ("iteration_limit", "diverged")
    if not options.polish and not as_asked:
        q, rest, nhev = refine(point, q, checker, answer.goal, accuracy)
        answer.residual = rest / size if size > 0 else rest
        answer.nhev += nhev
    steps = POLISH_STEPS if options.polish and not as_asked else 0
    certified = certify(
        *(problem, lam, point, q, s, there, checker, answer.goal, steps),
        *(answer.residual * point.b_norm, answer.curvature or (0.0, 0.0), accuracy),
    )
    if certified.trouble == "newton" and not trained:
        # Too far from θ⋆ for Newton's bare step: train on from here, with a line search. What is found
        # there tells how far off this answer is; it is the better answer where f is known to be convex,
        # so that it cannot belong to another minimum than the one theta was meant for.
        further = _train.solve(problem.f, lam, theta, None, TRAIN_MAXITER)
        certified.nhev += further.nhev
        if further.success:
            polish = options.polish and not as_asked and problem.convex
            way = method if polish else "auto"
            given = options if polish else _options.DEFAULT
            found = _solve(problem, further.x, lam, way, tol, given, None, None, True)
            certified.nhev += found.nhev
            if polish:
                found.nit, found.nhev = answer.nit, answer.nhev + certified.nhev
                return found
            certified.error = norm(certified.value - found[point.answer]) + found.error
    limited = None
    if as_asked:
        named = solution.status in ("iteration_limit", "diverged")
        limited = solution.status if named else "as_asked"
    return answer.certified(certified, limited)
