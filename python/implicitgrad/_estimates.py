"""The outer problem seen through loose training and loose solves, with estimates of what they miss.

At a new λ, θ takes one Newton step of training from where it was, and the adjoint some iterations
from what it was. The value is then corrected to first order,

    g(θ⋆) ≈ g(θ) − qᵀ∇θf(θ),    since θ − θ⋆ ≈ H⁻¹∇θf and q = H⁻¹∇θg,

which leaves an error of second order. What the hypergradient misses is taken from how it moved: the
solve changed it by so much over its last iterations, and it changed by so much while θ moved from one
λ to the next, of which a known part of the way is left. These are estimates to steer by; where the
outer loop ends, the certificate of `implicit_grad` decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import _implicit, _train, solvers
from ._core import norm
from ._outer import HyperObjective
from ._result import NON_FINITE, ImplicitGradResult
from .linearization import cross_vjp

# Of the residual that the adjoint starts from, this much is left: where the preconditioner makes of a
# residual an error of like size, and at the checkpoint of a solve that must show its error.
REDUCTION = 0.03
CHECKPOINT = 0.2
# The first training goes on until a Newton step is this short beside θ.
SHORT = 0.1
NEWTON_STEPS = 20
SHARPENINGS = 8
# Endings of a solve whose result is worth an estimate.
_USABLE = ("converged", "stagnated", "iteration_limit")


@dataclass
class Estimate:
    """h and its gradient at λ, and what is thought to be wrong with them."""

    lam: np.ndarray
    theta: np.ndarray
    point: Any
    q: np.ndarray
    solver: Any = None
    linear: float = 0.0  # error of the gradient in the 2-norm: what the adjoint's residual makes,
    inner: float = 0.0  # and the distance of θ from θ⋆

    @property
    def error(self) -> float:
        return self.linear + self.inner

    @property
    def correction(self) -> float:
        """qᵀ∇θf, by which g(θ) exceeds g(θ⋆), to first order."""
        return float(self.q @ self.point.gradient)

    @property
    def fun(self) -> float:
        return self.point.G.fun - self.correction

    @property
    def fun_error(self) -> float:
        """What is left is of second order, and taken to be no more than the first."""
        return abs(self.correction)

    @property
    def grad(self) -> np.ndarray:
        return self.point.value(self.q)


class Estimator:
    """Makes estimates for one outer loop; counts what they cost in the hyper-objective `h`."""

    def __init__(self, h: HyperObjective):
        self.h, self.problem = h, h._problem
        self._gain: dict[str, float] = {}
        self._scale: Any = None

    def first(self, lam: np.ndarray) -> Estimate | None:
        """At the start: θ trained until a Newton step is short beside it, the adjoint from zero."""
        h = self.h
        h.nfev += 1
        theta = h._theta0
        for _ in range(NEWTON_STEPS):
            following = self._train(lam, theta)
            if following is None:
                break
            short = norm(following - theta) <= SHORT * norm(following)
            theta = following
            if short:
                return self._complete(theta, lam, h._theta0, None)
        if not h._train(lam):  # far away, or nowhere: as ever
            return None
        assert h.theta is not None
        return self._complete(h.theta, lam, h._theta0, None)

    def near(self, lam: np.ndarray, there: Estimate) -> Estimate | None:
        """At λ, from the estimate at a λ not far away; None where training or the solve fails."""
        self.h.nfev += 1
        if not self.problem.in_range(lam):
            return None
        return self._newton(lam, there)

    def sharpen(self, here: Estimate, target: float, fun_target: float = math.inf) -> Estimate:
        """Lower the errors to what is wanted, as far as that goes."""
        for _ in range(SHARPENINGS):
            if here.error <= target and here.fun_error <= fun_target:
                break
            before = here.error, here.fun_error
            if here.inner >= here.linear or here.fun_error > fun_target:
                better = self._newton(here.lam, here)
            else:
                wanted = min(0.1, 0.3 * target / here.linear)
                better = self._solve(replace(here), here.q, max(1e-10, wanted))
            if better is None:
                break
            here = better
            if here.error > 0.5 * before[0] and here.fun_error > 0.5 * before[1]:
                break
        return here

    def certified(self, here: Estimate, atol: float) -> ImplicitGradResult:
        """The hypergradient at θ as training leaves it otherwise, with the certificate of
        `implicit_grad`, to an error of `atol`."""
        h = self.h
        h.pass_by(here.theta)
        theta = h.theta if h._train(here.lam) else here.theta
        assert theta is not None
        tol = min(h._tol, max(atol / max(norm(here.grad), atol), 1e-12))
        options = replace(h._options, atol=atol)
        result = _implicit.solve(
            self.problem, theta, here.lam, h._method, tol, options, adjoint0=here.q
        )
        h.nhev += result.nhev
        return result

    def taken(self, result: ImplicitGradResult, lam: np.ndarray) -> Estimate:
        """A certified hypergradient as the estimate to go on from."""
        point = self.problem.at(result.theta, lam)
        return Estimate(lam, result.theta, point, result.adjoint, inner=result.error)

    def _newton(self, lam: np.ndarray, there: Estimate) -> Estimate | None:
        """One Newton step of training from the θ of an estimate, and all the rest there."""
        theta = self._train(lam, there.theta)
        return None if theta is None else self._complete(theta, lam, there.theta, there)

    def _train(self, lam: np.ndarray, theta: np.ndarray) -> np.ndarray | None:
        """θ after a Newton step, solved for to a tenth; None where numbers go bad."""
        h = self.h
        h.training = _train.solve(self.problem.f, lam, theta, None, 1, h._kept)
        h.nhev += h.training.nhev
        return None if h.training.status == NON_FINITE else h.training.x

    def _complete(
        self, theta: np.ndarray, lam: np.ndarray, before: np.ndarray, there: Estimate | None
    ) -> Estimate | None:
        """The estimate at θ, which was `before` when the adjoint was that of `there`; None where H is
        not positive definite or numbers go bad."""
        with np.errstate(all="ignore"):
            point = self.problem.at(theta, lam)
            if not point.finite:
                return None
            q, grad = (np.zeros(theta.size), 0.0) if there is None else (there.q, there.grad)
            here = Estimate(lam, theta, point, q)
            here.solver = solvers.make_solver(
                self.h._method, point.hess, point.F, self.h._options, None
            )
            self.h.nhev += here.solver.setup(point.hess)
            solved = self._solve(here, q)
            if solved is None:
                return None
            here = solved
            # The hypergradient has changed while θ moved; what θ has still to go changes it as much
            # for its length.
            moved, left = self._lengths(here, theta - before)
            gain = norm(here.grad - grad) / moved if moved > 0 else 0.0
            name = here.solver.name
            self._gain[name] = max(gain, 0.5 * self._gain.get(name, 0.0))
            here.inner = self._gain[name] * left if left > 0 else 0.0
        return here if math.isfinite(here.error + here.fun) else None

    def _solve(
        self, here: Estimate, q0: np.ndarray, reduction: float | None = None
    ) -> Estimate | None:
        """The adjoint, from q0 with its residual brought down to the share `reduction`."""
        point, solver = here.point, here.solver
        if isinstance(solver, solvers.Cholesky):
            if not solver.positive:
                return None
            here.q, here.linear = solver.apply_inverse(point.b), 0.0
            return here
        reduction = reduction or (REDUCTION if solver.strong else CHECKPOINT)
        rho = point.b - point.hess.apply(q0) if q0.any() else point.b
        self.h.nhev += int(q0.any())
        if solver.strong:
            solution = solver.solve(point.hess, rho, [reduction], recompute=False)
        else:
            aim = solver.ahead * reduction
            solution = solver.solve(point.hess, rho, [aim], None, reduction)
        self.h.nhev += solution.nhev
        if solution.status not in _USABLE:
            return None
        here.q = q0 + solution.x
        if solver.strong:  # what is left of the residual is left of the way
            change = norm(cross_vjp(point.F, solution.x))
            here.linear = 2 * min(solution.residual[0], 1.0) * change
        else:  # what came after the checkpoint was missing there
            here.linear = norm(cross_vjp(point.F, solution.x - solution.checkpoint))
        return here

    def _lengths(self, here: Estimate, move: np.ndarray) -> tuple[float, float]:
        """How far θ has moved and how far it has to go, in one norm."""
        point, solver = here.point, here.solver
        if isinstance(solver, solvers.CG) and not solver.strong:
            # Only the energy norm is at hand of what is left: √(∇fᵀH⁻¹∇f).
            self.h.nhev += 1
            square = float(move @ point.hess.apply(move))
            return math.sqrt(max(square, 0.0)), solver.energy(point.gradient)
        if isinstance(solver, solvers.CG):
            left = solver.precondition(point.gradient)
        else:
            left = solver.apply_inverse(point.gradient)
        if (
            self._scale is None
        ):  # it only has to tell large coordinates from small ones: once is enough
            diagonal = solver.diagonal
            self._scale = 1.0 if diagonal is None else np.sqrt(np.maximum(diagonal, 0.0))
        return norm(self._scale * move), norm(self._scale * left)
