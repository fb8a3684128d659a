"""Hyperparameters in the rows: sample weights, inputs and targets as blocks of λ."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse

from . import _arrays, _core
from ._blocks import RANGES, Block, anything, shares
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
        made = _core.RowMap(self.transform, size, slot, 1)
        return made, Block("sample_weight", size, RANGES[self.transform])

    def _of(self, rows: np.ndarray, shape: tuple[int, int]) -> SampleWeights:
        """Those of some rows of such an X, which are made of the same block of λ."""
        part = SampleWeights(self.transform)
        part.groups = rows % shape[0] if self.groups is None else self.groups[rows]
        part._size = self._size or shape[0]
        return part

    def __repr__(self) -> str:
        groups = "" if self.groups is None else f", groups={self.groups.tolist()}"
        return f"SampleWeights({self.transform!r}{groups})"


class SomeRows:
    """Rows that a block of λ holds, one after another."""

    _name: str  # of the argument that is given them
    # In a minibatch: of each row its number in λ, -1 where it is not λ's; and how many λ has.
    _part: tuple[np.ndarray, int] | None = None

    def __init__(self, rows: Any = None):
        self.rows = None if rows is None else _row_numbers(rows)

    def _slots(self, n_rows: int) -> tuple[np.ndarray, int]:
        """Of each row of X its number in λ, -1 where it is not λ's; and how many λ has."""
        if self._part:
            return self._part
        if self.rows is None:
            return np.arange(n_rows), n_rows
        if self.rows.max() >= n_rows:
            raise ValueError(f"{self._name} names row {self.rows.max()}, X has {n_rows} rows")
        slot = np.full(n_rows, -1)
        slot[self.rows] = np.arange(self.rows.size)
        return slot, self.rows.size

    def _of(self, rows: np.ndarray, shape: tuple[int, int]) -> Any:
        """Those of some rows of such an X, which are in the same block of λ."""
        part = copy.copy(self)
        slot, count = self._slots(shape[0])
        part._part = slot[rows], count
        return part

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.rows is None else self.rows.tolist()})"


class Targets(SomeRows):
    """Targets of rows as hyperparameters.

    The block of λ holds a number for each row, or one for each output, row after row. For the squared
    loss, of `LeastSquares` and of `MLP` with any number of outputs, they are the targets:
    y_i = λ_i.

    For classes they are logits of soft labels, so that any λ stands for a distribution. For `Logistic`,
    t_i = 1/(1 + e^{−λ_i}) is the probability of the class 1, and the loss of row i is the cross-entropy
    t_i log(1 + e^{−z_i}) + (1 − t_i) log(1 + e^{z_i}), z_i = x_iᵀθ; as λ_i → ±∞ that is the loss of the
    label ±1. For the softmax loss, of `Softmax` and of `MLP`, t_i = softmax(λ_i) with K entries of λ
    for each row, and its loss is log Σ_c e^{z_ic} − t_iᵀz_i. A constant added to the K entries of a row
    changes nothing. `Poisson` refuses targets.

    Parameters
    ----------
    rows : array of int, optional
        Different row numbers, in the order of λ; by default all rows. What y has there is not used.

    Raises
    ------
    ValueError, TypeError
        Naming `rows`.

    Notes
    -----
    To start from given labels y is to start from smoothed ones, since a label of probability one is
    infinitely far away: ``log((1 − e) * eye(K)[y] + e / K).ravel()`` gives the label y_i the share
    1 − e, and e to all K alike.

    References
    ----------
    .. [1] I. Sucholutsky, M. Schonlau, "Soft-label dataset distillation and text dataset
           distillation", IJCNN 2021.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(3), np.zeros(3), targets=ig.Targets([2]))
    >>> f.fun(np.zeros(3), [3.0])
    1.5
    >>> f = ig.Softmax(np.eye(3), [0, 1, 2], penalty=ig.L2(), targets=ig.Targets())
    >>> lam0 = np.r_[-2.0, np.log(0.9 * np.eye(3)[[0, 1, 2]] + 0.1 / 3).ravel()]
    >>> f.n_lam, round(f.fun(np.zeros(9), lam0), 6)
    (10, 1.098612)
    """

    _name = "targets"

    def _bind(self, n_rows: int, transform: str, width: int) -> tuple[Any, Block]:
        slot, count = self._slots(n_rows)
        of_entries = slot[:, None] * width + np.arange(width)
        of_entries[slot < 0] = -1
        size = count * width
        refuse = partial(shares, width) if transform == "shares" else RANGES[transform]
        made = _core.RowMap(transform, size, of_entries.ravel(), width)
        return made, Block("targets", size, refuse, raw=size if refuse is anything else 0)


class Inputs(SomeRows):
    """Rows of X as hyperparameters: the block of λ holds their entries, row after row.

    Parameters
    ----------
    rows : array of int, optional
        Different row numbers, in the order of λ; by default all rows. What X has there is not used,
        and may be NaN.

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

    _name = "inputs"

    def _bind(self, X: Any) -> tuple[Any, Block]:
        slot, count = self._slots(X.shape[0])
        rows, width = np.flatnonzero(slot >= 0), X.shape[1]
        made = _core.InputRows(rows, slot[rows], count, width)
        return made, Block("inputs", count * width, anything, raw=count * width)


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


def part(in_rows: InRows, rows: np.ndarray, shape: tuple[int, int]) -> InRows:
    """The same of some rows of such an X, with the same λ."""
    weights, inputs, targets = (given and given._of(rows, shape) for given in in_rows)
    return weights, inputs, targets


def read(X: Any, inputs: Any) -> Any:
    """X, or a copy with zeros in the rows that λ replaces."""
    if not isinstance(inputs, Inputs):
        return np.asarray(X)
    return np.where((inputs._slots(X.shape[0])[0] < 0)[:, None], X, 0.0)


def bind(X: Any, in_rows: InRows, of_targets: tuple[str, int] | None) -> Blocks:
    """The blocks that these stand for, on this data. `of_targets` are the transform that makes targets
    of λ and the entries of each; None where the loss has no such targets."""
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
        if of_targets is None:
            raise TypeError("targets of this loss cannot be hyperparameters")
        made["targets"], block = targets._bind(X.shape[0], *of_targets)
        blocks.append(block)
    free = targets is not None and bool((targets._slots(X.shape[0])[0] >= 0).all())
    return Blocks(**made, blocks=blocks, free_targets=free)


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
