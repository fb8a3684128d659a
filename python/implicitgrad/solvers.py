"""Linear solvers by name: H x = b for one vector b or a block of them.

A solver is set up once on a Hessian (a factorisation, a preconditioner, a step size), and may then
solve with that Hessian or with one nearby, for which the set-up still serves. They are in `_cg` and
`_methods`; here is the table of their names, and what "auto" picks.
"""

from __future__ import annotations

from typing import Any

from . import _arrays
from ._cg import CG, NATS, Nystrom
from ._methods import Cholesky, Custom, Identity, Minres, Neumann, extreme_eigenvalues
from ._solution import Monitor, Solution, core_operator
from .linearization import NativeLinearization

__all__ = [
    "CG",
    "Cholesky",
    "Custom",
    "Identity",
    "Minres",
    "Neumann",
    "Nystrom",
    "Solution",
    "core_operator",
    "extreme_eigenvalues",
]

# Up to this order the Hessian of a callable is formed and factored: p products, which CG needs as
# well where the spectrum is spread.
DIRECT_CALLABLE = 64
# And that of a network, in training: a factor says whether H is indefinite, and CG needs more.
DIRECT_NETWORK = 1000
# Seconds of the core that a few calls from Python outweigh.
SMALL = 2e-4


def is_direct(hess: Any, at: Any) -> bool:
    """Whether "auto" forms and factors this Hessian: where that costs less than CG."""
    if isinstance(at, NativeLinearization):
        _, direct, sketched, diagonal = at._core.costs(NATS)
        return direct <= max(min(sketched, diagonal), SMALL)
    return hess.size <= DIRECT_CALLABLE


METHODS = ("auto", "cholesky", "cg", "nystrom", "minres", "neumann", "identity")


def make_solver(method: Any, hess: Any, at: Any, options: Any, monitor: Monitor | None) -> Any:
    """The solver for `method`; "auto" decides from the shape alone."""
    if not isinstance(method, str):
        if isinstance(at, NativeLinearization):
            return Custom(method, at.hess, at._core.project)
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
