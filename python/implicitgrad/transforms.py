"""Transforms of the inputs, x ↦ T(x; λ), as hyperparameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import _arrays, _core
from ._blocks import Block, anything


class Transform:
    """Inputs that are transformed, x_i ↦ T(x_i; λ), by functions of all rows at once.

    Parameters
    ----------
    value : callable
        ``value(X, lam)`` returns T(X; λ), shape (n, p). X is as it was given.
    vjp : callable
        ``vjp(X, lam, M)`` returns the gradient in λ of Σ_ij M_ij T(X; λ)_ij, shape (n_lam,).
    n_lam : int
        Length of the block of λ.
    jvp : callable, optional
        ``jvp(X, lam, u)`` returns the derivative of T(X; λ) along u, shape (n, p): for
        ``cross @ u`` and `response`, which are refused without it.

    Raises
    ------
    ValueError, TypeError
        Naming the argument; `inputs` where a function returns an array of the wrong shape; X must be
        dense.

    Notes
    -----
    T(X; λ) is evaluated once per λ and kept, in float64. Of a minibatch, ``f.rows(idx)``, the functions
    are given its rows as X: each row must be transformed by itself.

    An error in `vjp` makes a wrong gradient with a small error estimate; `check_hypergrad` finds it. No
    guaranteed bound is known (`error_bound` is inf).

    References
    ----------
    .. [1] J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing millions of hyperparameters by implicit
           differentiation", AISTATS 2020: learned augmentation.

    Examples
    --------
    One number that scales all inputs:

    >>> import numpy as np, implicitgrad as ig
    >>> scaled = ig.Transform(lambda X, lam: lam[0] * X, lambda X, lam, M: [np.sum(M * X)], n_lam=1)
    >>> f = ig.LeastSquares(np.eye(2), [2.0, 4.0], inputs=scaled)
    >>> f.fun([1.0, 2.0], [2.0])
    0.0
    """

    def __init__(
        self,
        value: Callable[..., Any],
        vjp: Callable[..., Any],
        n_lam: int,
        jvp: Callable[..., Any] | None = None,
    ):
        for name, given in (("value", value), ("vjp", vjp), ("jvp", jvp)):
            if not (callable(given) or (name == "jvp" and given is None)):
                raise TypeError(f"{name} must be callable, found {given!r}")
        self.n_lam = _arrays.integer(n_lam, "n_lam", least=1)
        self._value, self._vjp, self._jvp = value, vjp, jvp

    def _bind(self, X: Any) -> tuple[Any, Block]:
        X = X.view()
        X.flags.writeable = False  # the caller's own
        return _core.CallbackInputs(
            partial(self._call, "value", X.shape, self._value, X),
            partial(self._call, "vjp", (self.n_lam,), self._vjp, X),
            partial(self._call, "jvp", X.shape, self._jvp, X),
            X.shape[0],
            X.shape[1],
            self.n_lam,
        ), Block("inputs", self.n_lam, anything, raw=self.n_lam)

    def _of(self, rows: np.ndarray, shape: tuple[int, int]) -> Transform:
        """For some rows of such an X: the same."""
        return self

    @staticmethod
    def _call(what: str, shape: tuple[int, ...], function: Any, *given: Any) -> np.ndarray:
        if function is None:
            raise TypeError(f"{what} of inputs is missing: products C u need it")
        array = np.asarray(function(*given))
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{what} of inputs returned {array!r}, expected real numbers")
        if array.shape != shape:
            raise ValueError(f"{what} of inputs returned shape {array.shape}, expected {shape}")
        return np.ascontiguousarray(array, dtype=np.float64)

    def __repr__(self) -> str:
        return f"Transform(n_lam={self.n_lam})"


class Affine:
    """Inputs scaled and shifted by feature: x_ij ↦ e^{α_j} x_ij + β_j, the block of λ being (α, β).

    λ = 0 leaves X as it is.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(2), [1.0, 1.0], inputs=ig.Affine())
    >>> f.n_lam, f.fun([1.0, 1.0], np.zeros(4))
    (4, 0.0)
    """

    def _bind(self, X: Any) -> tuple[Any, Block]:
        p = X.shape[1]

        def value(X: Any, lam: np.ndarray) -> np.ndarray:
            return X * np.exp(lam[:p]) + lam[p:]

        def vjp(X: Any, lam: np.ndarray, M: np.ndarray) -> np.ndarray:
            of_scale = np.exp(lam[:p]) * np.einsum("ij,ij->j", M, X)
            return np.concatenate([of_scale, M.sum(axis=0)])

        def jvp(X: Any, lam: np.ndarray, u: np.ndarray) -> np.ndarray:
            return X * (np.exp(lam[:p]) * u[:p]) + u[p:]

        made, block = Transform(value, vjp, 2 * p, jvp)._bind(X)
        return made, block._replace(refuse=partial(_scales, p), raw=p)

    def _of(self, rows: np.ndarray, shape: tuple[int, int]) -> Affine:
        return self

    def __repr__(self) -> str:
        return "Affine()"


def _scales(p: int, lam: np.ndarray, name: str, begin: int) -> None:
    """The first p entries are logarithms."""
    _arrays.logarithms(lam[:p], name, begin)


class Noise:
    """Noise added to the inputs, of a strength that is λ: x_ij ↦ x_ij + e^{λ_j} ξ_ij.

    Parameters
    ----------
    per : {"all", "feature"}, default "all"
        One strength, or one for each feature.
    rng : seed or Generator, default 0
        ξ is drawn for an objective from the standard normal distribution, and kept (n p float64):
        the same again for every X of that shape.

    Raises
    ------
    ValueError, TypeError
        Naming `per` or `rng`.

    References
    ----------
    .. [1] C. M. Bishop, "Training with noise is equivalent to Tikhonov regularization", Neural
           Computation 7 (1995).

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(2), [1.0, 1.0], inputs=ig.Noise("feature"))
    >>> f.n_lam
    2
    """

    def __init__(self, per: str = "all", rng: Any = 0):
        self.per = _arrays.choice(per, "per", ("all", "feature"))
        self._rng = _arrays.generator(rng, "rng")
        self._drawn = np.empty((0, 0))  # for the last X, of which minibatches take their rows
        self._part: np.ndarray | None = None  # in a minibatch, ξ of its rows

    def _noise(self, shape: tuple[int, int]) -> np.ndarray:
        if self._part is not None:
            return self._part
        drawn = self._drawn
        if drawn.shape != shape:
            drawn = self._drawn = copy.deepcopy(self._rng).standard_normal(shape)
        return drawn

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_drawn": np.empty((0, 0))}

    def _of(self, rows: np.ndarray, shape: tuple[int, int]) -> Noise:
        part = copy.copy(self)
        part._part = self._noise(shape)[rows]
        return part

    def _bind(self, X: Any) -> tuple[Any, Block]:
        noise = self._noise(X.shape)
        size = 1 if self.per == "all" else X.shape[1]

        def value(X: Any, lam: np.ndarray) -> np.ndarray:
            return X + np.exp(lam) * noise

        def vjp(X: Any, lam: np.ndarray, M: np.ndarray) -> np.ndarray:
            by_feature = np.einsum("ij,ij->j", M, noise)
            return np.exp(lam) * (by_feature.sum() if size == 1 else by_feature)

        def jvp(X: Any, lam: np.ndarray, u: np.ndarray) -> np.ndarray:
            return noise * (np.exp(lam) * u)

        made, block = Transform(value, vjp, size, jvp)._bind(X)
        return made, block._replace(refuse=_arrays.logarithms, raw=0)

    def __repr__(self) -> str:
        return f"Noise({self.per!r})"
