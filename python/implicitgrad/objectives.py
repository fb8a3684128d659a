"""The objectives of linear models, for users; their numerics live in the core."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import scipy.sparse

from . import _arrays, _core, hyper
from .linearization import LinearModelLinearization, NativeLinearization
from .penalties import L2


def effective_rows(weights: np.ndarray) -> float:
    """(Σw)² / Σw²: rows of equal weight whose mean varies as much."""
    return float(weights.sum() ** 2 / (weights @ weights))


class NativeObjective:
    """An objective of the core: what it is at a point, and the point it remembers."""

    convex = True  # in θ
    n_theta: int
    n_lam: int
    X: Any
    n_threads: int
    _core: Any
    _blocks: list[hyper.Block]  # of λ, the penalty's first
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
        if self._unchecked:
            self._passed(math.isfinite(at.fun) and bool(np.isfinite(at.jac).all()))
        return at

    def _passed(self, finite: bool) -> None:
        """After a first pass over an X that has not been checked: a NaN or infinity anywhere in it
        makes the value or the gradient NaN or infinite."""
        if self._unchecked and not finite:
            _arrays.check_finite(np.asarray(self.X), "X")
        self._unchecked = False

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


class LinearModel(NativeObjective):
    """What the linear models share; a loss adds its name and its kind of targets."""

    _loss: str
    _linearization = LinearModelLinearization
    _classes = 1  # entries of θ for each column of X
    _stratified = False  # whether y holds classes, which folds share out evenly
    # The loss whose targets may be hyperparameters, and how λ makes them; None: they may not.
    _soft_targets: tuple[str, str] | None = None

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        penalty: L2 | None = None,
        fit_intercept: bool = False,
        sample_weight: Any = None,
        inputs: Any = None,
        targets: Any = None,
        n_threads: int | None = None,
    ):
        self.n_threads = _arrays.threads(n_threads)
        self.fit_intercept = _arrays.boolean(fit_intercept, "fit_intercept")
        if penalty is not None and not isinstance(penalty, L2):
            raise TypeError(f"penalty must be an implicitgrad.L2 or None, found {penalty!r}")
        self.penalty = penalty
        handle, self.X, checked = _arrays.matrix(X, self.n_threads)
        n_rows = self.X.shape[0]
        self.y = self._targets(y, n_rows)
        as_lam = isinstance(sample_weight, hyper.SampleWeights)
        self._weights = weights = _arrays.weights(None if as_lam else sample_weight, n_rows)
        self._in_rows = (sample_weight if as_lam else None), inputs, targets
        self._own(self._build(handle))
        wrong = self._untrainable(self.y, self.fit_intercept, np.arange(self._classes))
        if wrong and self.n_lam and not self._free_targets:
            raise ValueError(_arrays.UNTRAINABLE.format(wrong))
        # Over how many rows of equal weight it averages.
        self.n_outer = effective_rows(weights) if weights.size else float(n_rows)
        # A memmap is checked in the first pass over it, anything else now, while norms of its rows
        # that bounds on errors need are computed: infinite or NaN where an entry is.
        self._unchecked = isinstance(X, np.memmap)
        if not (self._unchecked or self._core.finite() or checked):
            _arrays.check_finite(self.X, "X")

    _targets = staticmethod(_arrays.targets)

    def _build(self, handle: Any) -> Any:
        """The objective in the core, of X's handle there and what else has been validated."""
        transform = self._soft_targets[1] if self._soft_targets else None
        rows = hyper.bind(self.X, self._in_rows, transform)
        for block in rows.blocks:
            hyper.require_one_target(self.y, block.name)
        penalty = hyper.Block("penalty", self._strengths()["n_groups"], _arrays.logarithms)
        self._blocks = [penalty, *rows.blocks]
        self._free_targets = rows.free_targets
        if rows.blocks:
            return self._hyper_model(handle, rows)
        return _core.LinearModel(
            *(handle, self.y, self._weights),
            loss=self._loss,
            classes=self._classes,
            **self._strengths(),
        )

    def _strengths(self) -> dict[str, Any]:
        group, n_groups = (self.penalty or L2("none")).groups(self.X.shape[1])
        return {
            "fixed": self.penalty.fixed if self.penalty else 0.0,
            "n_groups": n_groups,
            "group": group,
            "intercept": self.fit_intercept,
            "n_threads": self.n_threads,
        }

    def _hyper_model(self, handle: Any, rows: hyper.Blocks) -> _core.HyperModel:
        """The same with blocks of λ in the rows."""
        w, n = self._weights, len(self.y)
        loss, y = self._loss, self.y
        if rows.targets and self._soft_targets and self._soft_targets[0] != loss:
            loss, y = self._soft_targets[0], (1.0 + y) / 2.0
        return _core.HyperModel(
            *(handle, y, w / w.sum() if w.size else np.full(n, 1.0 / n)),
            loss=loss,
            weights=rows.weights,
            inputs=rows.inputs,
            targets=rows.targets,
            classes=self._classes,
            **self._strengths(),
        )

    @staticmethod
    def _untrainable(y: np.ndarray, intercept: bool, classes: np.ndarray) -> str:
        """What leaves the θ that is trained on these targets undefined, if anything does; `classes`
        are what labels 0, 1, … are called."""
        return ""

    def __repr__(self) -> str:
        n, p = self.X.shape
        stored = f" CSR, {self.X.nnz} stored" if scipy.sparse.issparse(self.X) else ""
        return (
            f"{type(self).__name__}(<{n} × {p} {self.X.dtype}{stored}>, penalty={self.penalty!r}, "
            f"fit_intercept={self.fit_intercept}{hyper.shown(self._in_rows)})"
        )


_NO_LAM = np.empty(0)

_PARAMETERS = """
    Parameters
    ----------
    X : array or sparse array, shape (n, p)
        C- or F-ordered float64 or float32 (a memmap too) is borrowed, not copied: it must not
        change while the objective lives. So are the three arrays of a `scipy.sparse.csr_array` or
        `csr_matrix` with int32 or int64 indices. Other real dtypes, layouts and sparse formats are
        converted once, and so is a CSR matrix with unsorted or repeated indices.
    y : array, shape (n,)
        {y}
    penalty : L2, optional
        How λ enters; without it the objective is a plain loss with n_lam = 0.
    fit_intercept : bool, default False
        Adds an unpenalised intercept, the last entry of θ.
    sample_weight : array, shape (n,), or SampleWeights, optional
        Weights w ≥ 0, used as s_i = n w_i / Σ w: a weight of k equals k copies of the row. With
        `SampleWeights` they are hyperparameters.
    inputs : Inputs, Transform, Affine or Noise, optional
        Rows of X, or a transform of all of them, as hyperparameters.
    targets : Targets, optional
        Targets as hyperparameters; see there what a loss makes of them, and which refuse them.
    n_threads : int, optional
        Threads for all that is done with this objective; by default what OpenMP allows. The
        results do not depend on it.

    Attributes
    ----------
    n_theta, n_lam : int
        Lengths of θ (p, plus 1 with an intercept; for each target or class) and λ.
    n_outer : float
        Over how many rows of equal weight it averages: (Σw)² / Σw².

    Raises
    ------
    ValueError, TypeError
        Naming the argument at fault, before any work.
"""


class LeastSquares(LinearModel):
    __doc__ = f"""Squared loss of a linear model.

    f(θ, λ) = (1/n) Σ_i s_i ½ (x_iᵀθ − y_i)² + ½ Σ_j (fixed + exp λ_j) θ_j²; with several targets,
    the sum of that over them. θ is then W.ravel(), W of shape (t, p [+ 1]) as in scikit-learn's
    `coef_`, and the penalties are shared by the targets.
{_PARAMETERS.format(y="Real targets; or of shape (n, t), a column for each of t targets.")}
    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(3), [1.0, 2.0, 3.0], penalty=ig.L2("feature"))
    >>> f.n_theta, f.n_lam, round(f.fun(np.zeros(3), np.zeros(3)), 6)
    (3, 3, 2.333333)
    """

    _loss = "squared"
    _soft_targets = "squared", "identity"


class Poisson(LinearModel):
    __doc__ = f"""Poisson loss of a linear model with a logarithmic link, for counts and rates.

    f(θ, λ) = (1/n) Σ_i s_i (exp(x_iᵀθ) − y_i x_iᵀθ) + ½ Σ_j (fixed + exp λ_j) θ_j²: the negative
    log-likelihood of counts y_i of mean exp(x_iᵀθ), up to a constant.
{_PARAMETERS.format(y="Targets y ≥ 0. With hyperparameters and an intercept, not all zero.")}
    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.Poisson([[1.0], [2.0]], [1, 3], penalty=ig.L2())
    >>> round(f.fun([0.5], [0.0]), 6)
    0.558502
    """

    _loss = "poisson"
    _targets = staticmethod(_arrays.counts)

    @staticmethod
    def _untrainable(y: np.ndarray, intercept: bool, classes: np.ndarray) -> str:
        return "is zero everywhere" if intercept and not y.any() else ""


class Logistic(LinearModel):
    __doc__ = f"""Logistic loss of a linear model.

    f(θ, λ) = (1/n) Σ_i s_i log(1 + exp(−y_i x_iᵀθ)) + ½ Σ_j (fixed + exp λ_j) θ_j², y_i ∈ {{−1, 1}}.
{_PARAMETERS.format(y="Labels −1 and 1, 0 and 1, or booleans. With hyperparameters, both classes.")}
    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.Logistic([[1.0], [-1.0]], [True, False], penalty=ig.L2())
    >>> round(f.fun([0.0], [0.0]), 6)
    0.693147
    """

    _loss = "logistic"
    _stratified = True
    _soft_targets = "soft logistic", "sigmoid"
    _targets = staticmethod(_arrays.labels)

    @staticmethod
    def _untrainable(y: np.ndarray, intercept: bool, classes: np.ndarray) -> str:
        return "holds one class only" if np.all(y == y[0]) else ""


class Softmax(LinearModel):
    __doc__ = f"""Softmax loss of a linear model for K classes: multinomial logistic regression.

    f(θ, λ) = (1/n) Σ_i s_i [log Σ_c exp(z_ic) − z_{{i,y_i}}] + ½ Σ_jc (fixed + exp λ_j) W_jc²,
    Z = X W, with θ = W.ravel() for W of shape (p [+ 1], K): a row for each column of X, whose classes
    share a strength, and with an intercept one more, which is not penalised.
{_PARAMETERS.format(y="Labels 0, 1, …, K − 1. With hyperparameters, not one class only.")}
    Other Parameters
    ----------------
    n_classes : int, optional
        K, where y may lack the last classes; by default the largest label plus one.

    Notes
    -----
    A constant added to all entries of a row of W that is not penalised changes nothing: with an
    intercept H is singular, in a direction that is known. θ⋆ is then the minimum that has as much of
    that direction as the θ that training started from, and q the solution of H q = ∇θg without any,
    which gives the derivative of just that θ⋆, also where g is not a softmax loss and changes along
    it. `curvature` leaves the direction out.

    References
    ----------
    .. [1] D. Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Statist. Math. 44
           (1992).

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.Softmax(np.eye(3), [0, 1, 2], penalty=ig.L2("feature"), fit_intercept=True)
    >>> f.n_theta, f.n_lam, round(f.fun(np.zeros(12), np.zeros(3)), 6)
    (12, 3, 1.098612)
    """

    _loss = "softmax"
    _stratified = True

    _targets = staticmethod(_arrays.class_labels)

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        penalty: L2 | None = None,
        fit_intercept: bool = False,
        sample_weight: Any = None,
        inputs: Any = None,
        targets: Any = None,
        n_classes: int | None = None,
        n_threads: int | None = None,
    ):
        self._classes = _arrays.n_classes(y, n_classes)
        super().__init__(
            X,
            y,
            penalty=penalty,
            fit_intercept=fit_intercept,
            sample_weight=sample_weight,
            inputs=inputs,
            targets=targets,
            n_threads=n_threads,
        )

    @property
    def n_classes(self) -> int:
        """K."""
        return self._classes

    @staticmethod
    def _untrainable(y: np.ndarray, intercept: bool, classes: np.ndarray) -> str:
        counts = np.bincount(y.astype(np.intp), minlength=classes.size)
        if np.count_nonzero(counts) == 1:
            return "holds one class only"
        if intercept and not counts.all():
            missing = classes[np.argmin(counts)]
            return f"has no label {missing}, whose intercept nothing then keeps finite"
        return ""
