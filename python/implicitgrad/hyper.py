"""Hyperparameters in the rows: sample weights, inputs and targets as blocks of λ."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse

from . import _arrays, _core
from ._blocks import RANGES, Block, anything
from .transforms import Affine, Noise, Transform

TRANSFORMS = ("sigmoid", "softplus", "exp", "softmax")


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
        self.transform = _arrays.choice(transform, "transform", TRANSFORMS)
        self.groups = None if groups is None else _arrays.group_labels(groups, "groups", "row")
        self._size: int | None = None if self.groups is None else int(self.groups.max()) + 1

    def _bind(self, n_rows: int) -> tuple[Any, Block]:
        slot = np.arange(n_rows) if self.groups is None else self.groups
        if slot.size != n_rows:
            raise ValueError(f"sample_weight has {slot.size} group labels, X has {n_rows} rows")
        size = self._size or n_rows
        made = _core.RowMap(self.transform, size, slot)
        return made, Block("sample_weight", size, RANGES[self.transform])

    def _of(self, rows: np.ndarray, n_rows: int) -> SampleWeights:
        """Those of some of n rows, which are made of the same block of λ."""
        part = SampleWeights(self.transform)
        part.groups = rows % n_rows if self.groups is None else self.groups[rows]
        part._size = self._size or n_rows
        return part

    def __repr__(self) -> str:
        groups = "" if self.groups is None else f", groups={self.groups.tolist()}"
        return f"SampleWeights({self.transform!r}{groups})"


class Targets:
    """Targets of rows as hyperparameters.

    For `LeastSquares`, and for `MLP` with the squared loss and one output, y_i = λ_i. For `Logistic` λ_i
    is the logit of a soft label: with t_i = 1/(1 + e^{−λ_i}) the probability of the class 1, the loss of
    row i is the cross-entropy t_i log(1 + e^{−z_i}) + (1 − t_i) log(1 + e^{z_i}), z_i = x_iᵀθ; as
    λ_i → ±∞ that is the loss of the label ±1. Other losses refuse them.

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
        refuse = RANGES[transform]
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
            Block("inputs", rows.size * X.shape[1], anything),
        )

    def __repr__(self) -> str:
        return f"Inputs({'' if self.rows is None else self.rows.tolist()})"


# sample_weight, inputs and targets as they were given; None for what is no hyperparameter.
InRows: TypeAlias = tuple[Any, Any, Any]


class Blocks(NamedTuple):
    """The blocks of λ that one objective's rows have, in order, and what the core makes of them."""

    weights: Any
    inputs: Any
    targets: Any
    blocks: list[Block]
    free_targets: bool  # whether no target is fixed


NO_BLOCKS = Blocks(None, None, None, [], False)


def shown(in_rows: InRows) -> str:
    """What __repr__ shows of the arguments that make such blocks."""
    names = ("sample_weight", "inputs", "targets")
    return "".join(f", {n}={a!r}" for n, a in zip(names, in_rows, strict=True) if a is not None)


def bind(X: Any, in_rows: InRows, transform: str | None) -> Blocks:
    """The blocks that these stand for, on this data. `transform` makes targets of λ; None
    where the loss has no such targets."""
    sample_weight, inputs, targets = in_rows
    made: dict[str, Any] = {"weights": None, "inputs": None, "targets": None}
    blocks = []
    if sample_weight is not None:
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
    free = targets is not None and blocks[-1].size == X.shape[0]
    return Blocks(**made, blocks=blocks, free_targets=free)


def require_one_target(y: np.ndarray, name: str) -> None:
    if y.ndim != 1:
        raise ValueError(
            f"y must be one-dimensional where {name} is a hyperparameter, found shape {y.shape}"
        )


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
