"""The objectives of linear models, for users; their numerics live in the core."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from . import _arrays, _classes, _core, hyper
from ._native_objective import NativeObjective, effective_rows
from .linearization import LinearModelLinearization
from .penalties import L2


class LinearModel(NativeObjective):
    """What the linear models share; a loss adds its name and its kind of targets."""

    _loss: str
    _linearization = LinearModelLinearization
    _width = 1  # entries of θ for each column of X
    _stratified = False  # whether y holds classes, which folds share out evenly
    _of_lam: str | None = None  # the transform that makes targets of λ; None: they cannot be

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
        self._several = self.y.ndim == 2 and self._width == 1
        self._own(self._build(handle))
        counted = self.y[weights > 0] if weights.size else self.y
        wrong = self._untrainable(counted, self.fit_intercept, np.arange(self._width))
        if wrong and self.n_lam and not self._free_targets:
            where = "" if len(counted) == n_rows else "on the rows of positive weight "
            raise ValueError(_arrays.UNTRAINABLE.format(where + wrong))
        # Over how many rows of equal weight it averages, each target's counting.
        self.n_outer = effective_rows(weights) if weights.size else float(n_rows)
        self.n_outer *= self.y.shape[1] if self._several else 1
        # A memmap is checked in the first pass over it, anything else now, while norms of its rows
        # that bounds on errors need are computed: infinite or NaN where an entry is.
        self._unchecked = isinstance(X, np.memmap)
        if not (self._unchecked or self._core.finite() or checked):
            self._refuse_non_finite()

    _targets = staticmethod(_arrays.targets)

    def _build(self, handle: Any) -> Any:
        """The objective in the core, of X's handle there and what else has been validated."""
        of_targets = (self._of_lam, self._width) if self._of_lam else None
        rows = hyper.bind(self.X, self._in_rows, of_targets)
        if rows.blocks and self._several:
            raise ValueError(
                f"y must be one-dimensional where {rows.blocks[0].name} is a hyperparameter, found "
                f"shape {self.y.shape}"
            )
        penalty = hyper.Block("penalty", self._strengths()["n_groups"], _arrays.logarithms)
        self._blocks = [penalty, *rows.blocks]
        self._free_targets = rows.free_targets
        if rows.blocks or self._part:
            return self._hyper_model(handle, rows)
        loss, y = self._for_core(False)
        return _core.LinearModel(
            *(handle, y, self._weights),
            loss=loss,
            classes=self._width,
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
        loss, y = self._for_core(rows.targets is not None)
        return _core.HyperModel(
            *(handle, y, self._coefficients()),
            loss=loss,
            weights=rows.weights,
            inputs=rows.inputs,
            targets=rows.targets,
            classes=self._width,
            **self._strengths(),
        )

    def _coefficients(self) -> np.ndarray:
        w, n = self._weights, len(self.y)
        if self._part:
            return w
        return w / w.sum() if w.size else np.full(n, 1.0 / n)

    def _for_core(self, soft: bool) -> tuple[str, np.ndarray]:
        """The name of the loss and y as the core has them: of `soft` targets where λ is among them."""
        return self._loss, self.y

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
    _of_lam = "identity"


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
    _of_lam = "sigmoid"
    _targets = staticmethod(_arrays.labels)

    def _for_core(self, soft: bool) -> tuple[str, np.ndarray]:
        return ("soft logistic", (1.0 + self.y) / 2.0) if soft else (self._loss, self.y)

    @staticmethod
    def _untrainable(y: np.ndarray, intercept: bool, classes: np.ndarray) -> str:
        return "holds one class only" if np.all(y == y[0]) else ""


_CLASSES = """Labels 0, 1, …, K − 1; or soft labels, of shape (n, K): for each row a distribution over
        the classes, as a teacher or label smoothing gives it (of sum 1 within 1e-3; it is divided by its
        sum). With hyperparameters, not one class only, rows of weight 0 left out."""


class Softmax(LinearModel):
    __doc__ = f"""Softmax loss of a linear model for K classes: multinomial logistic regression.

    f(θ, λ) = (1/n) Σ_i s_i [log Σ_c exp(z_ic) − z_{{i,y_i}}] + ½ Σ_jc (fixed + exp λ_j) W_jc²,
    Z = X W, with θ = W.ravel() for W of shape (p [+ 1], K): a row for each column of X, whose classes
    share a strength, and with an intercept one more, which is not penalised.
{_PARAMETERS.format(y=_CLASSES)}
    Other Parameters
    ----------------
    n_classes : int, optional
        K, where y may lack the last classes; by default the largest label plus one, or the columns of
        y.

    Notes
    -----
    Of a soft label y_i the loss is log Σ_c exp(z_ic) − y_iᵀz_i: the mean over labels drawn from it. H
    does not depend on y.

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
    _of_lam = "shares"
    _targets = staticmethod(_classes.targets)

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
        self._width = _classes.number(y, n_classes)
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
        return self._width

    def _for_core(self, soft: bool) -> tuple[str, np.ndarray]:
        y = _classes.one_hot(self.y, self._width) if soft else self.y
        return self._loss, y.ravel()

    @staticmethod
    def _untrainable(y: np.ndarray, intercept: bool, classes: np.ndarray) -> str:
        counts = _classes.counts(y, classes.size)
        if np.count_nonzero(counts) == 1:
            return "holds one class only"
        if intercept and not counts.all():
            missing = classes[np.argmin(counts)]
            return f"has no label {missing}, whose intercept nothing then keeps finite"
        return ""
