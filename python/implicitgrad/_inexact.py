"""The inexact outer method: training and solves only as accurate as the step at hand needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult

from . import _arrays
from ._core import norm
from ._estimates import Estimate, Estimator
from ._first_order import largest, projected
from ._outer import HyperObjective, failed_at_start
from ._quasi_newton import QuasiNewton
from ._rules import refuse_unknown
from ._watch import Watch

# An error of the gradient above this share of the projected gradient is lowered.
SHARE = 0.3
# The certificate at the end has this share of gtol for its error.
CERTIFIED = 0.1
# No step is longer than this in any logarithm or logit.
LONGEST = 4.0
ARMIJO = 1e-4
BACKTRACKS = 20


def inexact(
    h: HyperObjective,
    lam: np.ndarray,
    bounds: Bounds | None,
    gtol: float,
    watch: Watch,
    options: dict[str, Any],
) -> OptimizeResult:
    """Projected L-BFGS steps on estimates of h and its gradient (`_estimates`).

    An estimate's error is lowered where it is more than a share of the projected gradient, so that
    tolerances tighten as λ converges (HOAG [1]_, MAID [2]_). Where errors decide whether h has
    decreased they are lowered first, and a step is refused where h rises by more than is left of
    them. Once the projected gradient is within gtol, the certificate of `implicit_grad` is called
    in, and the loop ends where it agrees.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.
    .. [2] M. S. Salehi, S. Mukherjee, L. Roberts, M. J. Ehrhardt, "An adaptively inexact first-order
           method for bilevel optimization with application to hyperparameter learning", SIAM J.
           Math. Data Sci. 7 (2025).
    """
    maxiter = _arrays.integer(options.pop("maxiter", 1000), "maxiter", least=1)
    refuse_unknown(options)
    search = _Search(h, lam.size, bounds, gtol)
    here = search.estimator.first(lam)
    if here is None:
        return failed_at_start(h, lam)
    h.pass_by(here.theta)
    watch.start(lam)
    status, message, nit = 1, "The iteration limit was reached.", 0
    while True:
        here = search.sharpened(here)
        if search.small(here):
            here, verdict = search.verdict(here)
            if verdict is not None:
                status, message = verdict
                break
            continue
        if nit == maxiter:
            break
        following = search.step(here)
        if following is None:
            # No decrease that errors could not hide: see whether that is so with certified numbers.
            if search.certified_at is not None and np.array_equal(search.certified_at, here.lam):
                status, message = 4, STUCK
                break
            here, verdict = search.verdict(here)
            if verdict is not None:
                status, message = verdict
                break
            continue
        here, nit = following, nit + 1
        h.pass_by(here.theta)
        try:
            seen = OptimizeResult(x=here.lam.copy(), fun=here.fun, jac=here.grad)
            seen.update(error=here.error, fun_error=here.fun_error)
            watch(seen)
        except StopIteration:
            break
    fun, grad = h(here.lam)  # at once where it has been certified
    if not math.isfinite(fun):
        fun, grad = here.fun, here.grad
    return OptimizeResult(
        x=here.lam,
        fun=fun,
        jac=grad,
        nit=nit,
        success=status == 0,
        status=status,
        message=message,
    )


STUCK = (
    "No step decreases the outer loss any further, at a projected gradient above gtol: the outer "
    "loss may not be smooth there, or gtol may be below what rounding or finite differences allow."
)
CONVERGED = (
    "The projected gradient has infinity norm {size:.1e} with an estimated error of {error:.1e}, "
    "together within gtol."
)


class _Search:
    """The state of the loop beside λ."""

    def __init__(self, h: HyperObjective, n_lam: int, bounds: Bounds | None, gtol: float):
        self.h, self.bounds, self.gtol = h, bounds, gtol
        problem = h._problem
        # Entries of λ whose scale is not known.
        self.raw = problem.f._raw() if problem.native else np.ones(n_lam, bool)
        self.estimator = Estimator(h)
        self.model = QuasiNewton()
        self.share = SHARE
        self.certified_at: np.ndarray | None = None

    def projected(self, here: Estimate) -> np.ndarray:
        return projected(here.lam, here.grad, self.bounds)

    def small(self, here: Estimate) -> bool:
        return largest(self.projected(here)) <= (1 - CERTIFIED) * self.gtol

    def sharpened(self, here: Estimate, fun_target: float = math.inf) -> Estimate:
        target = max(self.share * norm(self.projected(here)), CERTIFIED * self.gtol)
        return self.estimator.sharpen(here, target, fun_target)

    def verdict(self, here: Estimate) -> tuple[Estimate, tuple[int, str] | None]:
        """Certified numbers in place of estimates; and how the loop ends, if it does."""
        result = self.estimator.certified(here, CERTIFIED * self.gtol)
        if not np.isfinite(result.grad).all() or not math.isfinite(result.fun):
            return here, (4, result.message)
        self.h.adopt(here.lam, result)
        self.certified_at = here.lam
        here = self.estimator.taken(result, here.lam)
        size = largest(self.projected(here))
        if size + result.error <= self.gtol and result.error < math.inf:
            return here, (0, CONVERGED.format(size=size, error=result.error))
        if size <= (1 - CERTIFIED) * self.gtol:
            return here, (4, f"The hypergradient could not be certified. {result.message}")
        self.share *= 0.5
        if not result.success:
            here.inner = 0.0  # nothing better is to be had
        return here, None

    def step(self, here: Estimate) -> Estimate | None:
        """The next λ, or None where no decrease is found."""
        grad = here.grad
        free = np.ones(grad.size, bool)
        if self.bounds is not None:
            free = ~(
                ((here.lam <= self.bounds.lb) & (grad > 0))
                | ((here.lam >= self.bounds.ub) & (grad < 0))
            )
        for attempt in range(2):
            found = self._along(here, self.model.direction(grad, free))
            if found is not None or not len(self.model) or attempt:
                break
            self.model.clear()
        if found is None:
            return None
        self.model.learn(found.lam - here.lam, found.grad - grad)
        return found

    def _moderation(self, d: np.ndarray) -> float:
        """The factor of a direction before the first trial: where there is no model yet, of a gradient,
        so that its largest logarithm becomes 1 and the norm of all entries of unknown scale at most 1;
        where both are there, none is longer than that."""
        logs = largest(d[~self.raw])
        if len(self.model):
            return min(1.0, LONGEST / max(logs, LONGEST))
        known = 0.0 if self.raw.all() else max(logs, 1e-300)
        unknown = max(norm(d[self.raw]), 1.0) if self.raw.any() else 0.0
        return 1.0 / max(known, unknown)

    def _along(self, here: Estimate, d: np.ndarray) -> Estimate | None:
        d = d * self._moderation(d)
        length = 1.0
        for _ in range(BACKTRACKS):
            lam = here.lam + length * d
            if self.bounds is not None:
                lam = np.clip(lam, self.bounds.lb, self.bounds.ub)
            slope = float(here.grad @ (lam - here.lam))
            if np.array_equal(lam, here.lam):
                return None
            if slope >= 0:
                length *= 0.5
                continue
            there = self.estimator.near(lam, here)
            if there is None:
                length *= 0.25
                continue
            there = self.sharpened(there)
            rise = there.fun - here.fun
            noise = there.fun_error + here.fun_error
            if abs(rise - ARMIJO * slope) <= noise:
                # The errors decide: make them smaller.
                there = self.sharpened(there, 0.1 * abs(slope))
                rise = there.fun - here.fun
                noise = there.fun_error + min(here.fun_error, abs(slope))
            if rise <= ARMIJO * slope + noise:
                return there
            curvature = 2 * (rise - slope)
            length *= min(0.5, max(0.1, -slope / curvature)) if curvature > 0 else 0.5
        return None
