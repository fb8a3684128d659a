"""The alternating outer method: θ and λ move together, and θ is never trained to the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult

from . import _arrays, _core, _descent, _implicit, _options, _train, solvers
from ._core import norm
from ._first_order import largest, projected
from ._outer import HyperObjective, failed_at_start
from ._result import ImplicitGradResult
from ._rules import adam, descent, refuse_unknown
from ._watch import Watch

# Steps of λ between two measurements of λmax(H), for the step size of the Neumann series.
REFRESH = 50
RULES: dict[str, Callable[..., _core.StepRule]] = {"adam": adam, "gd": descent}


def alternating(
    h: HyperObjective,
    lam: np.ndarray,
    bounds: Bounds | None,
    gtol: float,
    watch: Watch,
    options: dict[str, Any],
) -> OptimizeResult:
    """A few steps of training, one step of λ, and again [1]_:

        θ ← θ − step(∇θf(θ, λ))            inner_steps times, on all rows or on minibatches
        q ≈ H⁻¹∇θg                          by a few terms, at the θ at hand
        λ ← P(λ − step(∂g/∂λ − Cᵀq))

    with the rules of both steps remembering theirs throughout. At a θ that is not θ⋆ the theorem does
    not hold, and few terms leave much of q out: at intervals a certified hypergradient tells how far
    off that is, and whether λ is where the loop was to go.

    References
    ----------
    .. [1] J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing millions of hyperparameters by implicit
           differentiation", AISTATS 2020, algorithm 1.
    """
    name = _arrays.choice(options.pop("inner_method", "adam"), "inner_method", (*_descent.RULES,))
    inner = _descent.Steps(h._problem.f, name, options, prefix="inner_")
    steps = _arrays.integer(options.pop("inner_steps", 5), "inner_steps", least=1)
    warmup = _arrays.integer(options.pop("warmup", steps), "warmup", least=0)
    optimizer = _arrays.choice(options.pop("optimizer", "adam"), "optimizer", (*RULES,))
    rule = _core.Stepper(RULES[optimizer](options))
    maxiter = _arrays.integer(options.pop("maxiter", 1000), "maxiter", least=1)
    every = _arrays.integer(options.pop("check_every", 100), "check_every", least=1)
    shortcut, checks = Shortcut(h, options), Checks(h, bounds, gtol, options)
    refuse_unknown(options)
    low, high = (bounds.lb, bounds.ub) if bounds else (-np.inf, np.inf)
    status, message, nit = 1, "The iteration limit was reached.", 0

    theta = inner.run(h._theta0, lam, warmup)
    quick = shortcut(theta, lam)
    if quick is None:
        failed = failed_at_start(h, lam)
        failed.update(message=f"{failed.message} {DIVERGED}", checks=[])
        return failed
    h.pass_by(theta)
    watch.start(lam)
    while nit < maxiter:
        following = np.clip(lam - rule.step(quick.grad), low, high)
        found = None
        if h._problem.in_range(following):
            moved = inner.run(theta, following, steps)
            found = shortcut(moved, following)
        if found is None:
            status, message = 4, DIVERGED
            break
        theta, lam, quick, nit = moved, following, found, nit + 1
        h.pass_by(theta)
        state = OptimizeResult(x=lam.copy(), fun=quick.fun, jac=quick.grad)
        if nit % every == 0:
            state.check = checks(nit, theta, lam, quick)
        try:
            watch(state)
        except StopIteration:
            break
        if checks.done:
            status, message = 0, CONVERGED.format(**checks.seen[-1])
            break

    third = watch.third
    if third is not None and third.best is not None:  # its λ is the one to return, not the last
        value, lam, theta = third.best
        nit, quick = third.values.index(value), shortcut(theta, lam) or quick
    certified = checks.last(nit, theta, lam, quick)
    if checks.done and status == 1:
        status, message = 0, CONVERGED.format(**checks.seen[-1])
    h.adopt(lam, certified)
    good = certified if math.isfinite(certified.fun) else quick
    return OptimizeResult(
        x=lam,
        fun=good.fun,
        jac=good.grad,
        nit=watch.nit,
        success=status == 0,
        status=status,
        message=message,
        checks=checks.seen,
        loop_theta=theta,
    )


CONVERGED = (
    "The certified projected gradient has infinity norm {size:.1e} with an estimated error of "
    "{error:.1e}, together within gtol."
)
DIVERGED = (
    "f, g or the hypergradient is not finite after the steps of training: use a smaller "
    "inner_learning_rate or learning_rate, or bounds."
)


class Shortcut:
    """dg/dλ at a θ on its way, from an adjoint of a few terms: no certificate.

    Cost: terms − 1 products with H and one that tells the residual; and now and then those that find
    the step size of the Neumann series.
    """

    def __init__(self, h: HyperObjective, options: dict[str, Any]):
        self.h = h
        names = ("neumann", "cg", "identity")
        self.method = _arrays.choice(options.pop("solver", "neumann"), "solver", names)
        given: dict[str, Any] = {}
        if self.method != "identity":
            terms = _arrays.integer(options.pop("terms", 20), "terms", least=1)
            given = {"terms" if self.method == "neumann" else "maxiter": terms}
        if self.method == "neumann":
            given["step_size"] = options.pop("step_size", None)
        self.options = _options.Options(certify=False, warn=False, **given)
        self.own_step = self.method == "neumann" and self.options.step_size is None
        self.age = 0
        self.adjoint: np.ndarray | None = None

    def __call__(self, theta: np.ndarray, lam: np.ndarray) -> ImplicitGradResult | None:
        """None where numbers go bad."""
        if self.own_step and self.age % REFRESH == 0:
            self._measure(theta, lam)
        self.age += 1
        found = self._solve(theta, lam)
        step, seen = self.options.step_size, found.curvature
        if self.own_step and step and seen and step * seen[1] > 1.5:
            # λmax has grown so much that the series may soon diverge.
            self._measure(theta, lam)
            found = self._solve(theta, lam)
        if not (math.isfinite(found.fun) and np.isfinite(found.grad).all()):
            return None
        self.adjoint = found.adjoint
        return found

    def _solve(self, theta: np.ndarray, lam: np.ndarray) -> ImplicitGradResult:
        found = _implicit.solve(
            *(self.h._problem, theta, lam, self.method, self.h._tol, self.options),
            adjoint0=self.adjoint,
        )
        self.h.nhev += found.nhev
        return found

    def _measure(self, theta: np.ndarray, lam: np.ndarray) -> None:
        """α = 1/λmax, from an estimate: well below the limit of 2/λmax."""
        with np.errstate(all="ignore"):
            hess = self.h._problem.at(theta, lam).hess
            _, largest, products = solvers.extreme_eigenvalues(hess)
        self.h.nhev += products
        step = 1.0 / largest if 0 < largest < math.inf else 1.0
        self.options = replace(self.options, step_size=step)


class Checks:
    """Certified hypergradients at some λ of the loop, to compare its own with: θ is trained further
    from where the loop has it, which the loop does not see."""

    def __init__(
        self, h: HyperObjective, bounds: Bounds | None, gtol: float, options: dict[str, Any]
    ):
        self.h, self.bounds, self.gtol = h, bounds, gtol
        self.maxiter = _arrays.integer(options.pop("check_maxiter", 200), "check_maxiter", least=1)
        self.seen: list[OptimizeResult] = []
        self.done = False  # whether the last one is as small as was asked for
        self._result: ImplicitGradResult | None = None

    def __call__(
        self, nit: int, theta: np.ndarray, lam: np.ndarray, quick: ImplicitGradResult
    ) -> OptimizeResult:
        h = self.h
        h.nfev += 1
        newton = max(1, self.maxiter // 20)
        h.training = _train.solve(h._problem.f, lam, theta, None, newton, h._kept, self.maxiter)
        further = h.training.x
        result = self._result = _implicit.solve(
            h._problem,
            further if np.isfinite(further).all() else theta,
            lam,
            h._method,
            h._tol,
            h._options,
            adjoint0=None if self._result is None else self._result.adjoint,
            trained=True,
        )
        h.nhev += h.training.nhev + result.nhev
        size = largest(projected(lam, result.grad, self.bounds))
        self.done = result.success and size + result.error <= self.gtol
        ours, theirs = norm(quick.grad), norm(result.grad)
        product = ours * theirs
        self.seen.append(
            OptimizeResult(
                nit=nit,
                x=lam.copy(),
                fun=result.fun,
                grad=result.grad,
                size=size,
                error=result.error,
                success=result.success,
                status=result.status,
                message=result.message,
                cosine=float(quick.grad @ result.grad) / product if product > 0 else math.nan,
                ratio=ours / theirs if theirs > 0 else math.nan,
                difference=norm(quick.grad - result.grad) / theirs if theirs > 0 else math.nan,
            )
        )
        return self.seen[-1]

    def last(
        self, nit: int, theta: np.ndarray, lam: np.ndarray, quick: ImplicitGradResult
    ) -> ImplicitGradResult:
        """The certified hypergradient at the λ to be returned, at once where that has been checked."""
        if not (self.seen and self.seen[-1].nit == nit):
            self(nit, theta, lam, quick)
        assert self._result is not None
        return self._result
