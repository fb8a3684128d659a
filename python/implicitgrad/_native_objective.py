"""What the objectives that live in the core share, whatever their model."""

from __future__ import annotations

import math
import threading
from typing import Any, Self

import numpy as np

from . import _arrays, hyper
from ._core import norm
from .linearization import NativeLinearization

_NO_LAM = np.empty(0)


def effective_rows(weights: np.ndarray) -> float:
    """(Σw)² / Σw²: rows of equal weight whose mean varies as much."""
    return float(weights.sum() ** 2 / (weights @ weights))


class NativeObjective:
    """An objective of the core: what it is at a point, and the point it remembers."""

    convex = True  # in θ
    n_theta: int
    n_lam: int
    X: Any
    y: np.ndarray
    n_outer: float
    n_threads: int
    _core: Any
    _blocks: list[hyper.Block]  # of λ, the penalty's first
    _in_rows: hyper.InRows
    _weights: np.ndarray
    _several = False  # whether it is several models, one for each column of y
    _part = False  # whether this is some rows of another, with their coefficients as weights
    _linearization = NativeLinearization
    _unchecked = False  # whether X may still hold NaN or infinity

    def _own(self, core: Any) -> None:
        self._core, self.n_theta, self.n_lam = core, core.n_theta, core.n_lam
        # The last linearisation, for each thread its own, so that threads do not disturb each other.
        self._memory = threading.local()

    def _build(self, handle: Any) -> Any:
        """The objective in the core, of X's handle there and what else has been validated."""
        raise NotImplementedError

    def _hyper_model(self, handle: Any, rows: hyper.Blocks) -> Any:
        """The same with blocks of λ in the rows."""
        raise NotImplementedError

    def _reweighted(self, lam: np.ndarray) -> Any:
        """In the core: this at λ, its only hyperparameters being logarithms of factors of the rows."""
        core = self._core
        if len(self._blocks) == 1:
            handle = _arrays.matrix(self.X, self.n_threads)[0]
            core = self._hyper_model(handle, hyper.NO_BLOCKS)
        return core.reweighted(lam)

    # Copies and pickles hold the data; the core's part is made of it anew, with the same numbers.

    _transient: tuple[str, ...] = ("_core", "_memory")

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in self._transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        handle, self.X, _ = _arrays.matrix(self.X, self.n_threads)
        self._own(self._build(handle))

    def _coefficients(self) -> np.ndarray:
        """The b_i of Σ_i b_i s_i(λ) ℓ_i."""
        raise NotImplementedError

    def rows(self, idx: Any) -> Self:
        """The objective on some of the rows, for minibatches.

        Parameters
        ----------
        idx : array of int, shape (m,)
            Row numbers; a row may occur several times.

        Returns
        -------
        objective
            (1/m) Σ_{i in idx} s_i ℓ_i + the same penalty, with the s_i of all rows: its mean over
            random idx is f. Costs a copy of these rows. λ is that of f, with all of its blocks: the
            weights, inputs and targets of other rows have the derivative zero.

        Raises
        ------
        ValueError, TypeError
            Naming `idx`; for linear models of several targets.

        Examples
        --------
        >>> import numpy as np, implicitgrad as ig
        >>> f = ig.LeastSquares(np.eye(3), [1.0, 2.0, 3.0], targets=ig.Targets([0, 2]))
        >>> f.rows([1, 2]).fun(np.zeros(3), [5.0, 4.0])
        5.0
        """
        if self._several:
            raise ValueError(f"rows(idx) needs one target a row, found y of shape {self.y.shape}")
        rows, n = np.asarray(idx), self.X.shape[0]
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or rows.size == 0:
            raise TypeError(f"idx must be a non-empty vector of row numbers, found {idx!r}")
        if rows.min() < -n or rows.max() >= n:
            bad = rows.min() if rows.min() < -n else rows.max()
            raise ValueError(f"idx names row {bad}, X has {n} rows")
        part = object.__new__(type(self))
        vars(part).update(vars(self))
        part.X, part.y = self.X[rows], self.y[rows]
        part._weights, part._part = self._coefficients()[rows] * (n / rows.size), True
        part._in_rows = hyper.part(self._in_rows, rows, self.X.shape)
        part.n_outer = effective_rows(part._weights) if part._weights.any() else 0.0
        handle, part.X, _ = _arrays.matrix(part.X, self.n_threads)
        part._own(part._build(handle))
        return part

    def linearize(self, theta: Any, lam: Any = None) -> NativeLinearization:
        """Value, gradients and second derivatives at (θ, λ), in one pass over X.

        Parameters
        ----------
        theta : array, shape (n_theta,)
        lam : array, shape (n_lam,)
            The blocks of λ that `split` names, in its order; ignored where n_lam is 0.

        Returns
        -------
        Linearization
            fun, jac, jac_lam, hess and cross; see `implicitgrad.Linearization`.
        """
        theta, lam = self._point(theta, lam)
        return self._linearize(theta, lam)

    def _point(self, theta: Any, lam: Any) -> tuple[np.ndarray, np.ndarray]:
        owner = type(self).__name__
        theta = _arrays.vector(theta, self.n_theta, "theta", owner)
        if self.n_lam == 0:
            return theta, _NO_LAM
        if lam is None:
            raise ValueError(f"lam is missing: this {owner} has n_lam = {self.n_lam}")
        return theta, self._hyperparameters(lam, "lam", owner)

    def _hyperparameters(self, lam: Any, name: str, owner: str) -> np.ndarray:
        """λ as a vector of which nothing overflows or underflows."""
        lam = _arrays.vector(lam, self.n_lam, name, owner)
        begin = 0
        for block in self._blocks:
            block.refuse(lam[begin : begin + block.size], name, begin)
            begin += block.size
        return lam

    def _raw(self) -> np.ndarray:
        """Which entries of λ are in units of the data (`Block`)."""
        return np.concatenate([np.arange(b.size) >= b.size - b.raw for b in self._blocks])

    def _linearize(self, theta: np.ndarray, lam: np.ndarray) -> NativeLinearization:
        """`linearize` for arguments that have been validated. The last point's is kept: optimisers ask
        for value, gradient and products there, and training ends where a hypergradient begins."""
        key = self._key(theta, lam)
        last = getattr(self._memory, "last", None)
        if last and last[0] == key:
            return last[1]
        at = self._memory.last = key, self._evaluate(theta, lam)
        return at[1]

    def _key(self, theta: np.ndarray, lam: np.ndarray) -> tuple[bytes, bytes]:
        return theta.tobytes(), lam.tobytes() if self.n_lam else b""

    def _remember(
        self, theta: np.ndarray, lam: np.ndarray, core: Any, kept: Any = None
    ) -> NativeLinearization:
        """A linearisation of the core, with the preconditioner of the training that ended there."""
        at = self._linearization(core, kept)
        at.theta_norm = norm(theta)
        self._memory.last = self._key(theta, lam), at
        return at

    def _pass(self, theta: np.ndarray, lam: np.ndarray) -> NativeLinearization:
        """`_linearize` for a point that is looked at in passing: the last point stays in memory, but
        solves to come there start afresh, as they would had it left."""
        last = getattr(self._memory, "last", None)
        if last:
            last[1].forget()
        return self._evaluate(theta, lam, remember=False)

    def _evaluate(
        self, theta: np.ndarray, lam: np.ndarray, remember: bool = True
    ) -> NativeLinearization:
        hyper = lam if self.n_lam else _NO_LAM
        at = self._linearization(self._core.linearize(theta, hyper, remember))
        at.theta_norm = norm(theta)
        if self._unchecked:
            self._passed(math.isfinite(at.fun) and bool(np.isfinite(at.jac).all()))
        return at

    def _passed(self, finite: bool) -> None:
        """After a first pass over an X that has not been checked: a NaN or infinity anywhere in it
        makes the value or the gradient NaN or infinite."""
        if self._unchecked and not finite:
            self._refuse_non_finite()
        self._unchecked = False

    def _refuse_non_finite(self) -> None:
        """An X that holds NaN or infinity, but for rows that are λ's."""
        _arrays.check_finite(hyper.read(self.X, self._in_rows[1]), "X")

    def fun(self, theta: Any, lam: Any = None) -> float:
        """f(θ, λ)."""
        return self.linearize(theta, lam).fun

    def jac(self, theta: Any, lam: Any = None) -> np.ndarray:
        """∇θ f(θ, λ), shape (n_theta,)."""
        return self.linearize(theta, lam).jac.copy()

    def hessp(self, theta: Any, v: Any, lam: Any = None) -> np.ndarray:
        """∂²f/∂θ² v, shape (n_theta,)."""
        v = _arrays.vector(v, self.n_theta, "v", type(self).__name__)
        return self.linearize(theta, lam)._core.hess.apply(v)

    def split(self, lam: Any) -> dict[str, np.ndarray]:
        """The blocks of λ by name, as views, in their order: "penalty", "sample_weight", "inputs" and
        "targets", those that there are."""
        lam = self._hyperparameters(lam, "lam", type(self).__name__)
        ends = np.cumsum([block.size for block in self._blocks])
        parts = zip(self._blocks, np.split(lam, ends[:-1]), strict=True)
        return {block.name: part for block, part in parts if block.size}
