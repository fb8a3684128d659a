"""An objective at one (θ, λ): what the theorem needs of it, as values and linear operators."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from . import _core


class Noise(NamedTuple):
    """Absolute 2-norm errors of what a linearisation returns; zero where it is exact up to rounding."""

    jac: float = 0.0
    jac_lam: float = 0.0
    hess: float = 0.0
    cross: float = 0.0


EXACT = Noise()


class Terms(NamedTuple):
    """What bounds on an error need of an objective at one point, all rounded up (but `least`, down)."""

    hess: float  # the data term's Hessian is at most hess · I
    third: float  # and Lipschitz with this constant
    radius: float  # within this distance of θ; inf where ℓ'' is bounded
    least: float  # of the strengths: H ⪰ least · I; 0 with an intercept
    most: float
    cross: float  # ‖C‖₂
    rate: float  # and its Lipschitz constant
    reach: float  # ‖CᵀH^(−1/2)‖₂
    cross_rounding: float  # 2-norm of the rounding error in C
    gradient_rounding: float  # 2-norm of the rounding error in ∇θf
    product_rounding: float  # and in H v, relative to ‖v‖₂
    gradient_terms: float  # 2-norm of the sizes of the terms that ∇θf is the sum of, from above


class Linearization:
    """Value, gradients and second derivatives of an objective at one (θ, λ).

    Any object with these attributes will do; the library's own objectives return one.

    Attributes
    ----------
    fun : float
        f(θ, λ).
    jac : ndarray, shape (n_theta,)
        ∇θ f.
    jac_lam : ndarray, shape (n_lam,)
        ∂f/∂λ.
    hess : LinearOperator, shape (n_theta, n_theta)
        H = ∂²f/∂θ²; ``hess @ v`` is a Hessian-vector product.
    cross : LinearOperator, shape (n_theta, n_lam)
        C = ∂²f/∂θ∂λ; ``cross @ u`` is a cross-JVP, ``cross.T @ q`` a cross-VJP.
    noise : Noise
        How far off these are where they come from finite differences or from float32.
    """

    terms: Terms | None = None  # None where no such constants are known
    strength: np.ndarray | None = None  # H ⪰ diag(strength), where that is known

    def __init__(
        self, fun: float, jac: Any, jac_lam: Any, hess: Any, cross: Any, noise: Noise = EXACT
    ):
        self.fun = fun
        self.jac = jac
        self.jac_lam = jac_lam
        self.hess = hess
        self.cross = cross
        self.noise = noise


class NativeLinearization(Linearization):
    """A linearisation that lives in the core; its operators are made when they are asked for."""

    noise: Noise = EXACT
    theta_norm = 0.0  # ‖θ‖₂

    def __init__(self, core: Any, kept: Any = None):
        self._core = core
        self._kept: dict[tuple[str, float], Any] = {} if kept is None else {("auto", 0): kept}
        self.fun: float
        self.jac: np.ndarray
        self.jac_lam: np.ndarray
        self.fun, self.jac, self.jac_norm, self.jac_lam, self.jac_lam_norm = core.first_order()
        self._hess: LinearOperator | None = None
        self._cross: LinearOperator | None = None

    def preconditioner(self, kind: str, seed: int) -> Any:
        """The preconditioner of the solves at this point, built when it is first asked for; that of
        the training which ended here, if there was one."""
        if (kind, seed) not in self._kept:
            self._kept[kind, seed] = _core.KeptPreconditioner(kind, seed)
        return self._kept[kind, seed]

    def kronecker(self, shift: float) -> Any:
        """That of the Hessian of a network plus `shift` times the identity, from its layers; None
        where there are none."""
        if ("kronecker", shift) not in self._kept:
            made = _core.KroneckerPreconditioner.of(self._core, shift)
            self._kept["kronecker", shift] = made
        return self._kept["kronecker", shift]

    def forget(self) -> None:
        """Drop the preconditioners, which learn as they are used."""
        self._kept = {}

    @property
    def hess(self) -> LinearOperator:
        if self._hess is None:
            self._hess = HessianOperator(self._core.hess)
        return self._hess

    @property
    def cross(self) -> LinearOperator:
        if self._cross is None:
            self._cross = CrossOperator(self._core, self.jac.size, self.jac_lam.size)
        return self._cross


class LinearModelLinearization(NativeLinearization):
    """That of a linear model, of which bounds are known."""

    @cached_property
    def terms(self) -> Terms:  # type: ignore[override]
        return Terms(*self._core.errors())

    @cached_property
    def strength(self) -> np.ndarray:  # type: ignore[override]
        return self._core.strength


class HessianOperator(LinearOperator):
    """H, symmetric, applied by the core to a vector or to a block of vectors in one pass."""

    def __init__(self, core: Any):
        self.core = core
        super().__init__(np.dtype(np.float64), (core.size, core.size))

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self.core.apply(_real(v).reshape(-1))

    def _matmat(self, v: np.ndarray) -> np.ndarray:
        return self.core.apply(_real(v))

    def _adjoint(self) -> HessianOperator:
        return self

    _transpose = _adjoint
    _rmatvec = _matvec
    _rmatmat = _matmat


class CrossOperator(LinearOperator):
    """C, whose products cost O(n_theta + n_lam)."""

    def __init__(self, core: Any, n_theta: int, n_lam: int):
        self.core = core
        super().__init__(np.dtype(np.float64), (n_theta, n_lam))

    def _matvec(self, u: np.ndarray) -> np.ndarray:
        return self.core.cross(_real(u).reshape(-1))

    def _matmat(self, u: np.ndarray) -> np.ndarray:
        return self.core.cross(_real(u))

    def _rmatvec(self, q: np.ndarray) -> np.ndarray:
        return self.core.cross_transpose(_real(q).reshape(-1))

    def _rmatmat(self, q: np.ndarray) -> np.ndarray:
        return self.core.cross_transpose(_real(q))


def _real(v: np.ndarray) -> np.ndarray:
    if np.iscomplexobj(v):
        raise TypeError("the operator is real and applies to real vectors, found a complex one")
    return v


def cross_vjp(at: Any, q: np.ndarray) -> np.ndarray:
    """Cᵀ q, for any object with the attributes of a `Linearization`."""
    if isinstance(at, NativeLinearization):
        return at._core.cross_transpose(q)
    return np.asarray(at.cross.T @ q, dtype=np.float64)


def cross_vjp_and_scale(at: Any, q: np.ndarray) -> tuple[np.ndarray, float]:
    """Cᵀq, and ‖ |C|ᵀ|q| ‖₂, the size of its terms; where only products are known, ‖Cᵀq‖₂."""
    if isinstance(at, NativeLinearization):
        return at._core.cross_transpose_and_scale(q)
    product = cross_vjp(at, q)
    if isinstance(at.cross, np.ndarray):
        return product, _core.norm(np.abs(at.cross).T @ np.abs(q))
    return product, _core.norm(product)
