r"""The outer problem to second order, for few λ: h(λ) = g(θ⋆(λ), λ), its gradient and its Hessian.

With the adjoint q = H⁻¹∇θg, the response J = dθ⋆/dλ = −H⁻¹C, and 𝓛(θ, λ) = g − qᵀ∇θf, q held fixed,

    ∇h = 𝓛_λ,      ∇²h = 𝓛_λλ + 𝓛_λθ J + (𝓛_λθ J)ᵀ + Jᵀ 𝓛_θθ J,

since 𝓛_θ = 0 at θ⋆ (R. Dyro, E. Schmerling, N. Aréchiga, M. Pavone, "Second-order sensitivity analysis
for bilevel optimization", AISTATS 2022). Cost: a block solve with a column for each λ, and products
with as many columns; where H was factored that is little beside the factor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import solvers
from ._core import norm
from ._outer import HyperObjective

# Residuals: of q, that a factor reaches at no cost and that CG is asked for; and of J, in Newton steps
# that correct themselves.
Q_RTOL, Q_RTOL_CG, J_RTOL = 1e-13, 1e-10, 1e-6
# Of the difference that H's derivative is taken from, beside θ; its error is of the order of its square.
STEP = 1e-3


class SecondOrder:
    """h at λ for objectives of the library, f with an `L2` penalty of which C is linear in θ, and g with
    a Hessian in λ that is diagonal, `hess_lam`; θ is trained from where the last call of `h` has been.
    `fun` is inf where training or the solve fails."""

    def __init__(self, h: HyperObjective, lam: np.ndarray):
        self.h, self.lam, self.fun, self.jac = h, lam, math.inf, np.zeros(lam.size)
        self.solver: Any = None
        h.nfev += 1
        if not h._train(lam):
            return
        assert h.theta is not None
        self.theta = h.theta
        self.point = point = h._problem.at(self.theta, lam)
        self.solver = solvers.make_solver(h._method, point.hess, point.F, h._options, None)
        h.nhev += self.solver.setup(point.hess)
        if not point.finite:
            return
        self.q = self._inverse(point.b, Q_RTOL)
        self.fun, self.jac = point.G.fun, point.value(self.q)
        if not np.isfinite(self.jac).all():
            self.fun = math.inf

    def hess(self, chosen: np.ndarray) -> np.ndarray:
        """∇²h in the λ that are `chosen`, numbers of them in increasing order. To be asked for once:
        the factor is let go, so that the next can have its memory."""
        F, G, q = self.point.F, self.point.G, self.q
        unit = np.zeros((self.lam.size, chosen.size))
        unit[chosen, np.arange(chosen.size)] = 1.0
        J = -self._inverse(F.cross @ unit, J_RTOL)
        self.solver = None
        # Of qᵀ∇θf: twice in λ, as ∂C/∂λ_l is C's own column l; in λ and θ; twice in θ.
        of_f = np.diag((F._core.cross_transpose(q))[chosen])
        mixed = F._core.cross_change(J, q)[chosen]
        of_f += mixed + mixed.T + J.T @ self._third(J)
        hess = np.diag(G.hess_lam[chosen]) + J.T @ (G.hess @ J) - of_f
        return 0.5 * (hess + hess.T)

    def _third(self, J: np.ndarray) -> np.ndarray:
        """(∂/∂t) H(θ + t q) J at t = 0."""
        f, size = self.h._problem.f, norm(self.q)
        if self.point.F._core.constant_curvature or size == 0:
            return np.zeros_like(J)
        t = STEP * max(norm(self.theta), 1.0) / size
        ends = [f._core.linearize(self.theta + s * self.q, self.lam, False) for s in (t, -t)]
        self.h.nhev += 2 * J.shape[1]
        ahead, behind = (at.hess.apply(J) for at in ends)
        return (ahead - behind) / (2 * t)

    def _inverse(self, b: np.ndarray, rtol: float) -> np.ndarray:
        """H⁻¹b; NaN where H is not positive definite."""
        solver = self.solver
        if isinstance(solver, solvers.Cholesky):
            if rtol == J_RTOL:
                return solver.apply_inverse(b)
            found = solver.refined(self.point.hess, b, [rtol])
        else:
            found = solver.solve(self.point.hess, b, [max(rtol, Q_RTOL_CG)])
        self.h.nhev += found.nhev
        usable = found.status in ("converged", "stagnated", "iteration_limit")
        return found.x if usable else np.full_like(found.x, np.nan)
