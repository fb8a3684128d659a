"""Linear solvers by name: H x = b for one vector b or a block of them.

A solver is set up once on a Hessian (a factorisation, a preconditioner, a step size), and may then
solve with that Hessian or with one nearby, for which the set-up still serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from . import _arrays, _core
from .linearization import NativeLinearization

Monitor = Callable[[int, float, np.ndarray], bool]

# Up to this order the Hessian of a callable is formed and factored: p products, which CG needs as
# well where the spectrum is spread.
DIRECT_CALLABLE = 64
# What a solve gains, in nats, when its cost is foreseen: the logarithm of its last residual.
NATS = 16.0
# Seconds of the core that a few calls from Python outweigh.
SMALL = 2e-4


@dataclass
class Solution:
    """x ≈ H⁻¹b and what the solver saw on the way."""

    x: np.ndarray
    status: str  # a name of the core's solve_status, or "terms" for a fixed number of terms
    residual: list[float]  # true ‖b − Hx‖/‖b‖, one a column
    nit: int
    nhev: int
    curvature: tuple[float, float] | None  # (smallest, largest) eigenvalue estimates
    condition: float = 1.0  # of the preconditioned Hessian, as far as the solve saw it
    least: float = 0.0  # its smallest Ritz value; 0 if unknown
    checkpoint: np.ndarray | None = None  # the first column at an earlier iteration


def core_operator(at: Any) -> Any:
    """The Hessian of a linearisation as an operator of the core: native, or one that calls back."""
    if isinstance(at, NativeLinearization):
        return at._core.hess
    return callback_operator(at.hess, np.size(at.jac))


def callback_operator(operator: Any, n: int) -> Any:
    """Anything with `@` as an operator of the core."""
    shape = getattr(operator, "shape", None)
    if shape is not None and tuple(shape) != (n, n):
        raise ValueError(f"a linear operator has shape {tuple(shape)}, expected {(n, n)}")

    def apply(v: np.ndarray) -> np.ndarray:
        return np.asarray(operator @ v, dtype=np.float64)

    return _core.CallbackOperator(apply, n)


def is_direct(hess: Any, at: Any) -> bool:
    """Whether "auto" forms and factors this Hessian: where that costs less than CG."""
    if isinstance(at, NativeLinearization):
        _, direct, sketched, diagonal = at._core.costs(NATS)
        return direct <= max(min(sketched, diagonal), SMALL)
    return hess.size <= DIRECT_CALLABLE


def _span(report: Any) -> tuple[float, float] | None:
    low, high = report.curvature_min, report.curvature_max
    return (low, high) if low <= high else None


def _columns(b: np.ndarray) -> int:
    return 1 if b.ndim == 1 else b.shape[1]


# Preconditioners that an objective of the library keeps between solves.
KEPT = ("auto", "jacobi", "sketch", "gram")


@dataclass
class CG:
    """Conjugate gradients, with the diagonal of H as preconditioner where it is known."""

    maxiter: int | None = None
    preconditioner: Any = "auto"
    monitor: Monitor | None = None
    at: Any = None  # the linearisation whose preconditioner is kept from solve to solve
    seed: int = 0

    name = "cg"
    fixed_terms = False

    def worst_condition(self, at: Any) -> float:
        """A limit on the condition number of the preconditioned Hessian, from the penalty:
        H ⪰ diag(strength). 1 where there is none, and only the solve's Ritz values can tell."""
        if self.strong:
            return 1.0
        strength = at._core.strength if isinstance(at, NativeLinearization) else None
        if strength is None or not strength.min() > 0 or self.diagonal is None:
            return 1.0
        size: Any = self.diagonal if self._m is not None else np.max(self.diagonal)
        return float(np.max(size / strength))

    @property
    def strong(self) -> bool:
        """Whether a sketch of the data is the preconditioner, so that each iteration gains much."""
        return self._kept is not None and self._kept.rows > 0

    @property
    def ahead(self) -> float:
        """How far beyond the residual that should do a solve goes, so that what it adds on the way
        tells the error that it had there."""
        return 0.25 if self.strong else 0.05

    def adjoint_rtol(self, tol: float, at: Any) -> float:
        """The residual of q that should make the hypergradient accurate to tol: a small residual
        hides an error that is larger by up to √condition in energy."""
        if self.strong:
            return max(1e-13, 0.3 * tol)
        return max(1e-13, tol * min(0.1, 1 / math.sqrt(self.worst_condition(at))))

    def energy(self, v: np.ndarray) -> float:
        """An estimate of √(vᵀH⁻¹v), not from below: by the preconditioner M, as large as the smallest
        Ritz value of MH makes it, with a margin of two for what the solve did not see."""
        size = _core.norm(v)
        if not 0 < size < math.inf or self._least == math.inf:
            return 0.0 if size == 0 else math.inf
        v = v / size
        square = float(v @ self.precondition(v))
        return 2 * size * math.sqrt(square / self._least) if square >= 0 else math.inf

    def curvature_from_below(self) -> float:
        """An estimate of H's smallest eigenvalue, not from above, by a few powers of M."""
        if self._least == math.inf:
            return 0.0
        v, largest = np.cos(1.7 * np.arange(1, self._hess.size + 1) ** 1.5), 0.0
        for _ in range(4):
            v = self.precondition(v / _core.norm(v))
            largest = _core.norm(v)
            if not 0 < largest < math.inf:
                return 0.0
        return 0.25 * self._least / largest

    def precondition(self, v: np.ndarray) -> np.ndarray:
        m = self._kept if self._kept is not None else self._m
        return v if m is None else m.apply(v)

    @cached_property
    def diagonal(self) -> np.ndarray | None:
        jacobi = _core.JacobiPreconditioner.of(self._hess)
        return None if jacobi is None else jacobi.diagonal

    def setup(self, hess: Any) -> int:
        """Prepare for this Hessian; returns the number of products that took."""
        given = self.preconditioner
        named = given if isinstance(given, str) else None
        self._hess = hess
        self._m: Any = None
        self._kept: Any = None
        self._least = math.inf
        self._maxiter = self.maxiter or max(100, min(10 * hess.size, 20_000))
        if isinstance(self.at, NativeLinearization) and hess.rows_can_be_sampled and named in KEPT:
            self._kept = self.at.preconditioner(named, self.seed)
            self._kept.prepare(hess, NATS)
            return 0
        if named in ("sketch", "gram"):
            raise ValueError(
                f"preconditioner = {given!r} needs one of the library's objectives, undamped"
            )
        jacobi = _core.JacobiPreconditioner.of(hess)
        if jacobi is not None:
            self._m = jacobi if isinstance(given, str) and given != "none" else None
        elif isinstance(given, str) and given == "jacobi":
            raise ValueError(
                "preconditioner = 'jacobi' needs the diagonal of the Hessian, which callables do "
                "not give: pass an operator that applies an approximate inverse"
            )
        if given is not None and not isinstance(given, str):
            self._m = callback_operator(_as_operator(given), hess.size)
        return 0

    def solve(
        self,
        hess: Any,
        b: np.ndarray,
        rtol: list[float],
        x0: np.ndarray | None = None,
        checkpoint_rtol: float = 0.0,
    ) -> Solution:
        x, report, checkpoint = self._run(
            hess, b, rtol, x0, self._maxiter, self.monitor, checkpoint_rtol
        )
        if report.least > 0:
            self._least = min(self._least, report.least)
        return Solution(
            *(x, report.status, report.residual, report.iterations, report.products),
            *(_span(report), report.condition, report.least, checkpoint),
        )

    def _run(self, hess: Any, b: np.ndarray, rtol: list[float], *rest: Any) -> Any:
        if self._kept is not None and hess.rows_can_be_sampled:
            return self._kept.solve(hess, b, rtol, *rest)
        return _core.cg(hess, b, rtol, self._m, *rest)


@dataclass
class Nystrom(CG):
    """Conjugate gradients with a randomised Nyström preconditioner, from products with H alone."""

    rank: int | None = None

    name = "nystrom"

    @property
    def spread(self) -> float:
        """The range of eigenvalues that the preconditioner evens out."""
        return self._m.largest / self._m.smallest if self._m.rank > 0 else 1.0

    def worst_condition(self, at: Any) -> float:
        # That of H, or an estimate from below: residuals are measured as CG alone measures them, so
        # that a small one hides as large an error.
        return max(super().worst_condition(at), self.spread)

    def setup(self, hess: Any) -> int:
        if not (isinstance(self.preconditioner, str) and self.preconditioner == "auto"):
            raise ValueError(
                "method = 'nystrom' brings its own preconditioner, found preconditioner = "
                f"{self.preconditioner!r}: leave it at 'auto', or use method = 'cg'"
            )
        self._hess, self._kept, self._least = hess, None, math.inf
        self._maxiter = self.maxiter or max(100, min(10 * hess.size, 20_000))
        self._m = _core.NystromPreconditioner(hess, self.rank or 0, self.seed)
        return self._m.products

    def _run(self, hess: Any, b: np.ndarray, rtol: list[float], *rest: Any) -> Any:
        return _core.nystrom(self._m, hess, b, rtol, *rest)

    def solve(
        self,
        hess: Any,
        b: np.ndarray,
        rtol: list[float],
        x0: np.ndarray | None = None,
        checkpoint_rtol: float = 0.0,
    ) -> Solution:
        solution = super().solve(hess, b, rtol, x0, checkpoint_rtol)
        solution.condition *= self.spread
        if (self._m.rank == 0 and self._m.verdict == "positive") or solution.status == "non_finite":
            return solution
        # Preconditioned directions may all lie where H is flat: the sketch knows its size.
        low, high = solution.curvature or (math.inf, -math.inf)
        low, high = min(low, self._m.curvature_min or low), max(high, self._m.curvature_max)
        solution.curvature = (min(low, high), high)
        if self._m.verdict == "indefinite":
            solution.status = "negative_curvature"
        elif solution.status == "negative_curvature" and low >= -1e-15 * high:
            solution.status = "singular"
        return solution


@dataclass
class Minres:
    """The minimum residual method, for a Hessian that may be indefinite."""

    maxiter: int | None = None
    monitor: Monitor | None = None

    name = "minres"
    fixed_terms = False

    def setup(self, hess: Any) -> int:
        self._maxiter = self.maxiter or max(100, min(10 * hess.size, 20_000))
        return 0

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        x, report = _core.minres(hess, b, rtol, x0, self._maxiter, self.monitor)
        return Solution(
            *(x, report.status, report.residual, report.iterations, report.products),
            *(_span(report), report.condition),
        )


@dataclass
class Cholesky:
    """H is formed and factored; CG with the factor as preconditioner refines and checks the result."""

    monitor: Monitor | None = None

    name = "cholesky"
    fixed_terms = False

    @property
    def diagonal(self) -> np.ndarray:
        return self._factor.diagonal

    def worst_condition(self, at: Any) -> float:
        return 1.0

    @property
    def curvature_min(self) -> float:
        return self._factor.curvature_min

    @property
    def positive(self) -> bool:
        """Whether H is positive definite."""
        return self._factor.verdict == "positive"

    def apply_inverse(self, v: np.ndarray) -> np.ndarray:
        """H⁻¹v by the factor alone."""
        return self._factor.apply(v)

    def proven_minimum(self, slack: float) -> float:
        """A proven lower limit of H's eigenvalues where it was factored, or 0; `slack` is the
        rounding that H was formed with."""
        return self._factor.proven_minimum(slack)

    def setup(self, hess: Any) -> int:
        self._factor = _core.CholeskyFactor(hess)
        return hess.dense_products

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        x, report, _ = _core.cg(hess, b, rtol, self._factor, x0, 100, self.monitor)
        status, verdict = report.status, self._factor.verdict
        low, high = self._factor.curvature_min, self._factor.curvature_max
        if report.status != "non_finite" and verdict != "positive":
            status = "singular" if verdict == "singular" else "negative_curvature"
        return Solution(x, status, report.residual, report.iterations, report.products, (low, high))


@dataclass
class Neumann:
    """The Neumann series, to a tolerance or to a fixed number of terms."""

    terms: int | None = None
    step_size: float | None = None
    maxiter: int | None = None
    rng: Any = 0
    monitor: Monitor | None = None

    name = "neumann"

    @property
    def fixed_terms(self) -> bool:
        return self.terms is not None

    def setup(self, hess: Any) -> int:
        if self.step_size is not None:
            self.step = self.step_size
            return 0
        largest, products = largest_eigenvalue(hess, self.rng)
        # An estimate from inside the spectrum: 1/estimate is well below the limit 2/λmax.
        self.step = 1.0 / largest if largest > 0 and math.isfinite(largest) else 1.0
        return products

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        x, report = _core.neumann(
            hess, b, rtol, self.step, self.terms or 0, self.maxiter or 10_000, self.monitor
        )
        status = report.status
        if status == "converged" and self.terms is not None:
            status = "terms"
        return Solution(
            x, status, report.residual, report.iterations, report.products, _span(report)
        )


@dataclass
class Identity:
    """q = ∇θ g: the Hessian is taken to be the identity."""

    name = "identity"
    fixed_terms = True

    def setup(self, hess: Any) -> int:
        return 0

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        return _checked(hess, b, b.copy(), "terms")


@dataclass
class Custom:
    """A user's ``solve(hess, b) -> x`` or ``(x, info)``, info ≠ 0 saying that it did not converge."""

    function: Callable[..., Any]
    hess: Any = field(repr=False)

    name = "custom"
    fixed_terms = False

    def setup(self, hess: Any) -> int:
        return 0

    def solve(
        self, hess: Any, b: np.ndarray, rtol: list[float], x0: np.ndarray | None = None
    ) -> Solution:
        answer = self.function(self.hess, b.copy())
        x, info = answer if isinstance(answer, tuple) else (answer, 0)
        x = np.asarray(x, dtype=np.float64)
        if x.shape != b.shape:
            raise ValueError(f"method returned shape {x.shape}, expected {b.shape}")
        return _checked(hess, b, x, "converged" if info == 0 else "iteration_limit")


def _checked(hess: Any, b: np.ndarray, x: np.ndarray, status: str) -> Solution:
    """A solution found elsewhere, with its true residual."""
    scale = np.linalg.norm(b, axis=0)
    rest = np.linalg.norm(b - hess.apply(x), axis=0)
    residual = np.atleast_1d(np.divide(rest, scale, out=np.zeros_like(rest), where=scale > 0))
    if not np.isfinite(residual).all():
        status = "non_finite"
    return Solution(x, status, residual.tolist(), 0, _columns(b), None)


def _as_operator(value: Any) -> Any:
    """A preconditioner as something with `@`: an operator, an array, or a function v ↦ M⁻¹v."""
    if hasattr(value, "__matmul__"):
        return value
    if callable(value):
        return _Applied(value)
    raise TypeError(
        f"preconditioner must be 'auto', 'jacobi', 'none', an operator or a function, found {value!r}"
    )


@dataclass
class _Applied:
    function: Callable[[np.ndarray], np.ndarray]

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        if v.ndim == 1:
            return self.function(v)
        return np.stack([self.function(column) for column in v.T], axis=1)


def largest_eigenvalue(hess: Any, rng: Any = 0, steps: int = 20) -> tuple[float, int]:
    """An estimate of λmax from below, by Lanczos from a random vector; and the products it took."""
    b = np.random.default_rng(rng).standard_normal(hess.size)
    _, report = _core.minres(hess, b, [1e-12], None, steps, None)
    return report.curvature_max, report.products


METHODS = ("auto", "cholesky", "cg", "nystrom", "minres", "neumann", "identity")


def make_solver(method: Any, hess: Any, at: Any, options: Any, monitor: Monitor | None) -> Any:
    """The solver for `method`; "auto" decides from the shape alone."""
    if not isinstance(method, str):
        return Custom(method, at.hess)
    if method == "auto":
        own = isinstance(options.preconditioner, str) and options.preconditioner == "auto"
        method = "cholesky" if own and is_direct(hess, at) else "cg"
    if method == "cholesky":
        return Cholesky(monitor)
    if method == "cg":
        return CG(options.maxiter, options.preconditioner, monitor, at, options.seed)
    if method == "nystrom":
        given = options.preconditioner
        return Nystrom(options.maxiter, given, monitor, at, options.seed, options.rank)
    if method == "minres":
        return Minres(options.maxiter, monitor)
    if method == "neumann":
        return Neumann(options.terms, options.step_size, options.maxiter, options.rng, monitor)
    return Identity()


def make_checker(solver: Any, hess: Any, at: Any, solution: Solution, as_asked: bool) -> Any:
    """The solver for the certificate of a `solution`: a factor of H where that is cheap beside what
    has been spent, or else CG."""
    if isinstance(at, NativeLinearization):
        product, direct, *_ = at._core.costs(NATS)
        cheap = direct <= max(product * (4 + solution.nit / 4), SMALL)
    else:
        cheap = hess.size <= DIRECT_CALLABLE
    if cheap:
        return Cholesky()
    return solver if isinstance(solver, CG) and not as_asked else CG(at=at)


def check_method(method: Any) -> Any:
    if callable(method):
        return method
    return _arrays.choice(method, "method", METHODS)
