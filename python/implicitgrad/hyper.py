"""Hyperparameters in the rows: sample weights, inputs and targets as blocks of λ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from . import _arrays, _core


class Block(NamedTuple):
    """A named stretch of λ, and the check of its range: refuse(entries, name of λ, where it begins)."""

    name: str
    size: int
    refuse: Callable[[np.ndarray, str, int], None]


def _anything(lam: np.ndarray, name: str, begin: int) -> None:
    """A block of λ that is used as it is."""


def _sigmoid(lam: np.ndarray, name: str, begin: int) -> None:
    _arrays.within(lam, name, begin, _arrays.LAM_MIN, -_arrays.LAM_MIN, "sigmoid")


def _softplus(lam: np.ndarray, name: str, begin: int) -> None:
    _arrays.within(lam, name, begin, _arrays.LAM_MIN, math.inf, "softplus")


def _softmax(lam: np.ndarray, name: str, begin: int) -> None:
    most = float(lam.max())
    _arrays.within(lam, name, begin, most + _arrays.LAM_MIN, most, "softmax")


_RANGES = {
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "exp": _arrays.logarithms,
    "softmax": _softmax,
}


class SampleWeights:
    r"""Weights of the rows as hyperparameters: s_i = t(λ_i) in (1/n) Σ_i s_i ℓ_i.

    Parameters
    ----------
    transform : {"sigmoid", "softplus", "exp", "softmax"}, default "sigmoid"
        t(λ): 1/(1 + e^{−λ}), log(1 + e^λ), e^λ, or m·softmax(λ), m being the length of the block.
        The weights are not scaled to any sum ("softmax" has mean 1 over its entries).
    groups : array of int, shape (n,), optional
        Rows with the same label 0 … G−1 share a weight (G of them); by default each has its own.

    Raises
    ------
    ValueError, TypeError
        Naming `transform` or `groups`.

    Notes
    -----
    Pass it as ``sample_weight``. With `cross_validated` and `leave_one_out`, weights must be fixed.

    References
    ----------
    .. [1] M. Ren, W. Zeng, B. Yang, R. Urtasun, "Learning to reweight examples for robust deep
           learning", ICML 2018.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> X, y = np.array([[1.0], [2.0], [3.0]]), [1.0, 2.0, 9.0]
    >>> f = ig.LeastSquares(X, y, penalty=ig.L2(), sample_weight=ig.SampleWeights("softplus"))
    >>> f.n_lam, list(f.split(np.zeros(4)))
    (4, ['penalty', 'sample_weight'])
    """

    def __init__(self, transform: str = "sigmoid", groups: Any = None):
        self.transform = _arrays.choice(transform, "transform", tuple(_RANGES))
        self.groups = None if groups is None else _arrays.group_labels(groups, "groups", "row")

    def _bind(self, n_rows: int) -> tuple[Any, Block]:
        slot = np.arange(n_rows) if self.groups is None else self.groups
        if slot.size != n_rows:
            raise ValueError(f"sample_weight has {slot.size} group labels, X has {n_rows} rows")
        size = int(slot.max()) + 1
        made = _core.RowMap(self.transform, size, slot)
        return made, Block("sample_weight", size, _RANGES[self.transform])

    def __repr__(self) -> str:
        groups = "" if self.groups is None else f", groups={self.groups.tolist()}"
        return f"SampleWeights({self.transform!r}{groups})"


class Targets:
    """Targets of rows as hyperparameters.

    For `LeastSquares` y_i = λ_i. For `Logistic` λ_i is the logit of a soft label: with
    t_i = 1/(1 + e^{−λ_i}) the probability of the class 1, the loss of row i is the cross-entropy
    t_i log(1 + e^{−z_i}) + (1 − t_i) log(1 + e^{z_i}), z_i = x_iᵀθ; as λ_i → ±∞ that is the loss of
    the label ±1.

    Parameters
    ----------
    rows : array of int, optional
        Different row numbers, in the order of λ; by default all rows. What y has there is not used.

    Raises
    ------
    ValueError, TypeError
        Naming `rows`.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(3), np.zeros(3), targets=ig.Targets([2]))
    >>> f.fun(np.zeros(3), [3.0])
    1.5
    """

    def __init__(self, rows: Any = None):
        self.rows = None if rows is None else _row_numbers(rows)

    def _bind(self, n_rows: int, transform: str) -> tuple[Any, Block]:
        rows = _rows_of(self.rows, n_rows, "targets")
        slot = np.full(n_rows, -1)
        slot[rows] = np.arange(rows.size)
        refuse = _RANGES.get(transform, _anything)
        return _core.RowMap(transform, rows.size, slot), Block("targets", rows.size, refuse)

    def __repr__(self) -> str:
        return f"Targets({'' if self.rows is None else self.rows.tolist()})"


class Inputs:
    """Rows of X as hyperparameters: the block of λ holds their entries, row after row.

    Parameters
    ----------
    rows : array of int, optional
        Different row numbers, in the order of λ; by default all rows. What X has there is not used.

    Raises
    ------
    ValueError, TypeError
        Naming `rows`; X must be dense.

    Notes
    -----
    λ is float64, and so is the copy of X that is made for each λ, even where X is float32: values of
    λ are never rounded to its type.

    References
    ----------
    .. [1] T. Wang, J.-Y. Zhu, A. Torralba, A. A. Efros, "Dataset distillation", arXiv:1811.10959,
           2018.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.Logistic(np.eye(2), [1, -1], penalty=ig.L2(), inputs=ig.Inputs([0]))
    >>> f.split(np.arange(3.0))["inputs"]
    array([1., 2.])
    """

    def __init__(self, rows: Any = None):
        self.rows = None if rows is None else _row_numbers(rows)

    def _bind(self, X: Any) -> tuple[Any, Block]:
        rows = _rows_of(self.rows, X.shape[0], "inputs")
        return (
            _core.InputRows(rows, X.shape[1]),
            Block("inputs", rows.size * X.shape[1], _anything),
        )

    def __repr__(self) -> str:
        return f"Inputs({'' if self.rows is None else self.rows.tolist()})"


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
    T(X; λ) is evaluated once per λ and kept, in float64. An error in `vjp` makes a wrong gradient with
    a small error estimate; `check_hypergrad` finds it. No guaranteed bound is known (`error_bound` is
    inf).

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
        return _callbacks(X, self.n_lam, self._value, self._vjp, self._jvp), Block(
            "inputs", self.n_lam, _anything
        )

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

        def refuse(lam: np.ndarray, name: str, begin: int) -> None:
            _arrays.logarithms(lam[:p], name, begin)

        return _callbacks(X, 2 * p, value, vjp, jvp), Block("inputs", 2 * p, refuse)

    def __repr__(self) -> str:
        return "Affine()"


class Noise:
    """Noise added to the inputs, of a strength that is λ: x_ij ↦ x_ij + e^{λ_j} ξ_ij.

    Parameters
    ----------
    per : {"all", "feature"}, default "all"
        One strength, or one for each feature.
    rng : seed or Generator, default 0
        ξ is drawn once for an objective, from the standard normal distribution, and kept (n p
        float64).

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
        try:
            self._rng = np.random.default_rng(rng)
        except (TypeError, ValueError):
            raise TypeError(
                f"rng must be a seed or a numpy.random.Generator, found {rng!r}"
            ) from None

    def _bind(self, X: Any) -> tuple[Any, Block]:
        noise = self._rng.standard_normal(X.shape)
        size = 1 if self.per == "all" else X.shape[1]

        def value(X: Any, lam: np.ndarray) -> np.ndarray:
            return X + np.exp(lam) * noise

        def vjp(X: Any, lam: np.ndarray, M: np.ndarray) -> np.ndarray:
            by_feature = np.einsum("ij,ij->j", M, noise)
            return np.exp(lam) * (by_feature.sum() if size == 1 else by_feature)

        def jvp(X: Any, lam: np.ndarray, u: np.ndarray) -> np.ndarray:
            return noise * (np.exp(lam) * u)

        return _callbacks(X, size, value, vjp, jvp), Block("inputs", size, _arrays.logarithms)

    def __repr__(self) -> str:
        return f"Noise({self.per!r})"


class Blocks(NamedTuple):
    """The blocks of λ that one objective's rows have, in order, and what the core makes of them."""

    weights: Any
    inputs: Any
    targets: Any
    blocks: list[Block]
    all_targets: bool  # whether no target is fixed
    shown: str  # for __repr__


NO_BLOCKS = Blocks(None, None, None, [], False, "")


def bind(
    X: Any, y: np.ndarray, sample_weight: Any, inputs: Any, targets: Any, transform: str | None
) -> Blocks:
    """The blocks that these arguments stand for, on this data. `transform` makes targets of λ; None
    where the loss has no such targets."""
    made: dict[str, Any] = {"weights": None, "inputs": None, "targets": None}
    blocks = []
    if isinstance(sample_weight, SampleWeights):
        made["weights"], block = sample_weight._bind(X.shape[0])
        blocks.append(block)
    if inputs is not None:
        if not isinstance(inputs, (Inputs, Transform, Affine, Noise)):
            raise TypeError(
                "inputs must be an implicitgrad.Inputs, Transform, Affine or Noise, or None, found "
                f"{inputs!r}"
            )
        if scipy.sparse.issparse(X):
            raise TypeError("inputs as hyperparameters need a dense X, found a sparse one")
        made["inputs"], block = inputs._bind(X)
        blocks.append(block)
    if targets is not None:
        if not isinstance(targets, Targets):
            raise TypeError(f"targets must be an implicitgrad.Targets or None, found {targets!r}")
        if transform is None:
            raise TypeError("targets of this loss cannot be hyperparameters")
        made["targets"], block = targets._bind(X.shape[0], transform)
        blocks.append(block)
    if blocks and y.ndim != 1:
        raise ValueError(
            f"y must be one-dimensional where {blocks[0].name} is a hyperparameter, found shape "
            f"{y.shape}"
        )
    given = (sample_weight if made["weights"] else None, inputs, targets)
    names = ("sample_weight", "inputs", "targets")
    shown = [f", {n}={block!r}" for n, block in zip(names, given, strict=True) if block is not None]
    all_targets = targets is not None and blocks[-1].size == X.shape[0]
    return Blocks(**made, blocks=blocks, all_targets=all_targets, shown="".join(shown))


def refuse_weights(sample_weight: Any, where: str) -> None:
    """Weights that are hyperparameters, where they must be fixed."""
    if isinstance(sample_weight, SampleWeights):
        raise TypeError(
            f"sample_weight must be fixed weights in {where}, found {sample_weight!r}: build the "
            "training and the validation objective by themselves"
        )


def _row_numbers(rows: Any) -> np.ndarray:
    array = _arrays.real_array(rows, "rows")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"rows must hold row numbers, found shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"rows must hold integer row numbers, found dtype {array.dtype}")
    if array.min() < 0:
        raise ValueError(f"rows holds the negative number {array.min()}")
    if np.unique(array).size != array.size:
        raise ValueError("rows names a row twice")
    return array.astype(np.int64)


def _rows_of(rows: np.ndarray | None, n_rows: int, name: str) -> np.ndarray:
    if rows is None:
        return np.arange(n_rows)
    if rows.max() >= n_rows:
        raise ValueError(f"{name} names row {rows.max()}, X has {n_rows} rows")
    return rows


def _callbacks(
    X: Any, n_lam: int, value: Callable[..., Any], vjp: Callable[..., Any], jvp: Any
) -> Any:
    n, p = X.shape

    def shaped(result: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
        array = np.asarray(result)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{what} of inputs returned {result!r}, expected real numbers")
        if array.shape != shape:
            raise ValueError(f"{what} of inputs returned shape {array.shape}, expected {shape}")
        return np.ascontiguousarray(array, dtype=np.float64)

    def push(lam: np.ndarray, u: np.ndarray) -> np.ndarray:
        if jvp is None:
            raise TypeError("jvp of inputs is missing: products C u need it")
        return shaped(jvp(X, lam, u), (n, p), "jvp")

    return _core.CallbackInputs(
        lambda lam: shaped(value(X, lam), (n, p), "value"),
        lambda lam, m: shaped(vjp(X, lam, m), (n_lam,), "vjp"),
        push,
        n,
        p,
        n_lam,
    )
