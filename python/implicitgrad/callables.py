"""Objectives built from a user's functions; what is not given is differentiated numerically."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from . import _arrays, _differences
from .linearization import Linearization

# Forming H or C from values alone takes about 4 n_theta² or 8 n_theta n_lam evaluations.
MOST_ENTRIES_FROM_VALUES = 10_000


class Objective:
    """An objective f(θ, λ) given by Python functions.

    Only `fun` is required. A derivative that is not given is taken by central differences of those
    that are, and its estimated loss of accuracy enters the `error` of every result.

    Parameters
    ----------
    fun : callable, ``fun(theta, lam) -> float``
    jac : callable, ``jac(theta, lam) -> (n_theta,)``, optional
        ∇θ f.
    hessp : callable, ``hessp(theta, v, lam) -> (n_theta,)``, optional
        ∂²f/∂θ² v. Without it, 4 evaluations of `jac` a product.
    cross_vjp : callable, ``cross_vjp(theta, q, lam) -> (n_lam,)``, optional
        (∂²f/∂θ∂λ)ᵀ q. Without it, 4 evaluations of `jac_lam` a product, or 4 n_lam of `jac`.
    jac_lam : callable, ``jac_lam(theta, lam) -> (n_lam,)``, optional
        ∂f/∂λ. Without it, 4 n_lam evaluations of `fun`.
    n_theta, n_lam : int, optional
        Lengths of θ and λ; by default those of the arguments. ``n_lam=0`` says that f does not
        depend on λ.

    Notes
    -----
    Without `jac`, second derivatives are formed from values, which is for small problems: they lose
    about ten of the sixteen digits that the values carry. Functions must not keep or change the
    arrays they are given.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.Objective(lambda w, lam: 0.5 * np.sum((w - lam) ** 2), lambda w, lam: w - lam)
    >>> at = f.linearize([1.0], [3.0])
    >>> float(at.fun), at.jac
    (2.0, array([-2.]))
    """

    def __init__(
        self,
        fun: Callable[..., float],
        jac: Callable[..., Any] | None = None,
        hessp: Callable[..., Any] | None = None,
        cross_vjp: Callable[..., Any] | None = None,
        jac_lam: Callable[..., Any] | None = None,
        n_theta: int | None = None,
        n_lam: int | None = None,
    ):
        if not callable(fun):
            raise TypeError(f"fun must be callable, found {fun!r}")
        given = {"jac": jac, "hessp": hessp, "cross_vjp": cross_vjp, "jac_lam": jac_lam}
        for name, function in given.items():
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable or None, found {function!r}")
        self._fun, self._jac, self._hessp = fun, jac, hessp
        self._cross_vjp, self._jac_lam = cross_vjp, jac_lam
        self.n_theta = None if n_theta is None else _arrays.integer(n_theta, "n_theta", least=1)
        self.n_lam = None if n_lam is None else _arrays.integer(n_lam, "n_lam", least=0)

    @property
    def from_values(self) -> bool:
        """Whether everything is differentiated from values of `fun` alone."""
        return self._jac is None

    def fun(self, theta: Any, lam: Any = None) -> float:
        """f(θ, λ)."""
        return self._value(*self._point(theta, lam))

    def jac(self, theta: Any, lam: Any = None) -> np.ndarray:
        """∇θ f(θ, λ), shape (n_theta,)."""
        return self._gradient(*self._point(theta, lam))[0]

    def hessp(self, theta: Any, v: Any, lam: Any = None) -> np.ndarray:
        """∂²f/∂θ² v, shape (n_theta,)."""
        theta, lam = self._point(theta, lam)
        v = _arrays.vector(v, theta.size, "v", "Objective")
        return self._linearize(theta, lam).hess @ v

    def linearize(self, theta: Any, lam: Any = None) -> Linearization:
        """Value, gradients and second derivatives at (θ, λ); see `implicitgrad.Linearization`."""
        return self._linearize(*self._point(theta, lam))

    def _point(self, theta: Any, lam: Any) -> tuple[np.ndarray, np.ndarray]:
        size = np.size(theta) if self.n_theta is None else self.n_theta
        theta = _arrays.vector(theta, size, "theta", "Objective")
        if self.n_lam == 0 or lam is None:
            return theta, np.empty(0) if lam is None else np.asarray(lam, dtype=np.float64)
        size = np.size(lam) if self.n_lam is None else self.n_lam
        return theta, _arrays.vector(lam, size, "lam", "Objective")

    # Each of the following returns (value, error of the value).

    def _value(self, theta: np.ndarray, lam: np.ndarray) -> float:
        return float(_arrays.returned(self._fun(theta.copy(), lam.copy()), None, "fun"))

    def _call(self, name: str, function: Callable[..., Any], size: int, *args: np.ndarray):
        return _arrays.returned(function(*(a.copy() for a in args)), size, name)

    def _gradient(self, theta: np.ndarray, lam: np.ndarray) -> tuple[np.ndarray, float]:
        if self._jac is not None:
            return self._call("jac", self._jac, theta.size, theta, lam), 0.0
        return _differences.gradient(lambda t: self._value(t, lam), theta)

    def _gradient_lam(self, theta: np.ndarray, lam: np.ndarray) -> tuple[np.ndarray, float]:
        if self.n_lam == 0:
            return np.empty(0), 0.0
        if self._jac_lam is not None:
            return self._call("jac_lam", self._jac_lam, lam.size, theta, lam), 0.0
        return _differences.gradient(lambda v: self._value(theta, v), lam)

    def _linearize(self, theta: np.ndarray, lam: np.ndarray) -> Linearization:
        return _Lazy(self, theta, lam)

    def _hessian(self, theta: np.ndarray, lam: np.ndarray) -> tuple[Any, float]:
        n = theta.size
        if self._hessp is not None:
            hessp = self._hessp
            return _operator(n, n, lambda v: self._call("hessp", hessp, n, theta, v, lam)), 0.0
        if self._jac is not None:
            jac = self._jac

            at = lambda t: self._call("jac", jac, n, t, lam)  # noqa: E731
            shrink, error = _probe(at, theta)
            product = lambda v: _differences.directional(at, theta, v, shrink)[0]  # noqa: E731
            return _operator(n, n, product), error
        _check_small("second derivatives in theta", n * n)
        return _differences.hessian(lambda t: self._value(t, lam), theta)

    def _cross(self, theta: np.ndarray, lam: np.ndarray) -> tuple[Any, float]:
        n, m = theta.size, 0 if self.n_lam == 0 else lam.size
        if m == 0:
            return np.empty((n, 0)), 0.0
        if self._cross_vjp is not None:
            vjp = self._cross_vjp
            return _transposed(n, m, lambda q: self._call("cross_vjp", vjp, m, theta, q, lam)), 0.0
        if self._jac_lam is not None:
            jac_lam = self._jac_lam
            at = lambda t: self._call("jac_lam", jac_lam, m, t, lam)  # noqa: E731
            shrink, error = _probe(at, theta)
            vjp = lambda q: _differences.directional(at, theta, q, shrink)[0]  # noqa: E731
            return _transposed(n, m, vjp), error
        if self._jac is not None:
            jac = self._jac
            return _differences.gradient(lambda v: self._call("jac", jac, n, theta, v), lam)
        _check_small("mixed derivatives", n * m)
        return _differences.mixed(self._value, theta, lam)


class _Lazy(Linearization):
    """A linearisation whose parts are computed when they are first asked for: a line search needs no
    Hessian, and an outer loss neither Hessian nor cross derivatives."""

    def __init__(self, objective: Objective, theta: np.ndarray, lam: np.ndarray):
        self._objective, self._theta, self._lam = objective, theta, lam
        self.fun = objective._value(theta, lam)

    @cached_property
    def _jac(self) -> tuple[np.ndarray, float]:
        return self._objective._gradient(self._theta, self._lam)

    @cached_property
    def _jac_lam(self) -> tuple[np.ndarray, float]:
        return self._objective._gradient_lam(self._theta, self._lam)

    @cached_property
    def _hess(self) -> tuple[Any, float]:
        return self._objective._hessian(self._theta, self._lam)

    @cached_property
    def _cross(self) -> tuple[Any, float]:
        return self._objective._cross(self._theta, self._lam)

    jac = property(lambda self: self._jac[0])
    jac_lam = property(lambda self: self._jac_lam[0])
    hess = property(lambda self: self._hess[0])
    cross = property(lambda self: self._cross[0])

    @property
    def noise(self) -> Any:  # type: ignore[override]
        return _LazyNoise(self)


class _LazyNoise:
    """The `Noise` of a lazy linearisation, each part with the derivative that it belongs to."""

    def __init__(self, at: _Lazy):
        self._at = at

    jac = property(lambda self: self._at._jac[1])
    jac_lam = property(lambda self: self._at._jac_lam[1])
    hess = property(lambda self: self._at._hess[1])
    cross = property(lambda self: self._at._cross[1])


def _probe(fun: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> tuple[float, float]:
    """The step factor that suits `fun` near x, and the error per unit length it leaves, both seen
    along one random direction."""
    direction = np.random.default_rng(0).standard_normal(x.size)
    shrink, error = _differences.suit(fun, x, direction)
    return shrink, error / float(np.linalg.norm(direction))


def _check_small(what: str, entries: int) -> None:
    if entries > MOST_ENTRIES_FROM_VALUES:
        raise ValueError(
            f"fun alone would need {what} with {entries} entries from its values, more than "
            f"{MOST_ENTRIES_FROM_VALUES}: give jac, or use one of the library's objectives"
        )


def _operator(n: int, m: int, matvec: Callable[[np.ndarray], np.ndarray]) -> LinearOperator:
    """A symmetric operator from its product with one vector."""
    flat = lambda v: matvec(np.asarray(v, dtype=np.float64).reshape(-1))  # noqa: E731
    return LinearOperator((n, m), matvec=flat, rmatvec=flat, dtype=np.float64)


def _transposed(n: int, m: int, vjp: Callable[[np.ndarray], np.ndarray]) -> LinearOperator:
    """C from q ↦ Cᵀq; C itself is applied by way of its rows, one vjp each, when asked for."""

    def rows() -> np.ndarray:
        return np.stack([vjp(row) for row in np.eye(n)])

    return LinearOperator(
        (n, m),
        matvec=lambda u: rows() @ np.asarray(u, dtype=np.float64).reshape(-1),
        matmat=lambda U: rows() @ np.asarray(U, dtype=np.float64),
        rmatvec=lambda q: vjp(np.asarray(q, dtype=np.float64).reshape(-1)),
        dtype=np.float64,
    )


def as_objective(value: Any, name: str) -> Any:
    """`value` where it has `linearize`, or an `Objective` around a plain function."""
    if hasattr(value, "linearize"):
        return value
    if callable(value) and not isinstance(value, type):
        return Objective(value)
    raise TypeError(
        f"{name} must be an objective (an object with linearize) or a function of (theta, lam), "
        f"found {value!r}"
    )
