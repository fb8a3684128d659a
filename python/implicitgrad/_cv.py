"""Cross-validation: the models of all folds as one pair of objectives, trained and differentiated
together, so that they share each pass over X."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from . import _arrays, _classes, _core
from ._blocks import Block
from ._native_objective import effective_rows
from .hyper import refuse_weights
from .objectives import LeastSquares, LinearModel, Softmax
from .penalties import L2

# Least squares is held as Gram matrices where those, with the factors that are made of them, stay
# below this many bytes, and where X is not much wider than it is long.
MOST_GRAM_BYTES = 2**31
# Of a total, what must be left for a difference to be used; and how often a column's mean squared may
# be its variance, for the Gram matrix of an X that is not centred.
LEAST_LEFT, MOST_OFF_CENTRE = 0.1, 1e4


def cross_validated(
    objective: type[LinearModel],
    X: Any,
    y: Any,
    cv: Any = 5,
    *,
    penalty: L2 | None = None,
    fit_intercept: bool = False,
    sample_weight: Any = None,
    groups: Any = None,
    n_threads: int | None = None,
) -> tuple[FoldedModel, FoldedModel]:
    """The pair (f, g) of K-fold cross-validation.

    f is the mean of the folds' training objectives and g the mean of their validation losses; θ holds
    a model for each fold, λ is shared by them:

    f(θ, λ) = (1/K) Σ_k [ Σ_i w_ik ℓ_i(θ_k) / Σ_i w_ik + ½ Σ_j (fixed + exp λ_j) θ_kj² ],
    g(θ)    = (1/K) Σ_k Σ_i v_ik ℓ_i(θ_k) / Σ_i v_ik,

    w_ik being the weights of the rows that fold k trains on, v_ik of those that it leaves out.

    Parameters
    ----------
    objective : type
        `LeastSquares`, `Logistic`, `Poisson` or `Softmax`, of which y then shows the classes.
    X, y, penalty, fit_intercept, sample_weight, n_threads
        As for the objective. X is borrowed where it need not be copied, and read once for all folds;
        for `LeastSquares` that is not much wider than long it is read once in all: the folds are then
        held as Gram matrices, each the total minus that of the fold's own rows. Values of f and g are
        then known to ε times the mean of y² (less its mean, with an intercept).
    cv : int, splitter or iterable, default 5
        As in scikit-learn: a number of folds (stratified by class for `Logistic` and `Softmax`), an
        object with ``split(X, y, groups)``, or an iterable of pairs (training rows, validation rows).
        A row that is named k times counts k times. All but the iterable need scikit-learn.
    groups : array, shape (n,), optional
        Passed to the splitter.

    Returns
    -------
    f, g : FoldedModel
        For `implicit_grad`, `minimize`, `HyperObjective` and the rest.

    Raises
    ------
    ValueError, TypeError
        Naming the argument; `cv` where a fold is empty, holds rows that X has not, or trains on
        targets that leave θ undefined, as of one class only.
    ImportError
        Where `cv` needs scikit-learn and that is not installed.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 4))
    >>> y = X @ [1.0, 2.0, 0.0, 0.0] + rng.standard_normal(60)
    >>> f, g = ig.cross_validated(ig.LeastSquares, X, y, cv=3, penalty=ig.L2("feature"))
    >>> best = ig.minimize(f, g, np.zeros(4), bounds=[(-10, 10)] * 4)
    >>> best.x.shape, f.unravel(best.theta).shape
    ((4,), (3, 4))
    """
    folds = Folds(
        objective,
        X,
        y,
        cv,
        fit_intercept=fit_intercept,
        sample_weight=sample_weight,
        groups=groups,
        n_threads=n_threads,
    )
    return folds.pair(penalty)


class Folds:
    """The data of a cross-validation, checked, and what its pairs (f, g) share."""

    def __init__(
        self,
        objective: type[LinearModel],
        X: Any,
        y: Any,
        cv: Any = 5,
        *,
        fit_intercept: bool = False,
        sample_weight: Any = None,
        groups: Any = None,
        n_threads: int | None = None,
        class_names: np.ndarray | None = None,  # where the user has others than 0, 1, …
    ):
        if not (isinstance(objective, type) and issubclass(objective, LinearModel)):
            raise TypeError(
                "objective must be LeastSquares, Logistic, Poisson or Softmax, the class itself, "
                f"found {objective!r}"
            )
        self.objective = objective
        self.n_threads = _arrays.threads(n_threads)
        self.fit_intercept = _arrays.boolean(fit_intercept, "fit_intercept")
        self.handle, self.X, checked = _arrays.matrix(X, self.n_threads)
        n = self.X.shape[0]
        self.y = objective._targets(y, n)
        if not (checked or self.handle.all_finite(self.n_threads)):
            _arrays.check_finite(np.asarray(self.X), "X")
        refuse_weights(sample_weight, "cross_validated")
        weights = _arrays.weights(sample_weight, n)
        self.weights = weights if weights.size else np.ones(n)
        self.classes = _classes.number(y, None) if issubclass(objective, Softmax) else 1
        self.soft = self.classes > 1 and self.y.ndim == 2
        # Distributions are shared out by their likeliest class.
        strata = self.y.argmax(axis=1) if self.soft else self.y
        self.splits = list(_splits(cv, self.X, strata, groups, objective._stratified))
        if not self.splits:
            raise ValueError("cv gives no folds")
        self.counts = [
            tuple(
                _counts(rows, n, k, what)
                for rows, what in zip(split, ("training", "validation"), strict=True)
            )
            for k, split in enumerate(self.splits)
        ]
        self._check_folds(np.arange(self.classes) if class_names is None else class_names)
        self._grams: tuple[list[Any], list[Any]] | None = None
        q, n_folds = self.X.shape[1] + self.fit_intercept, len(self.splits)
        self.in_gram_form = (
            issubclass(objective, LeastSquares)
            and q <= 2 * n
            and 40 * n_folds * q * q <= MOST_GRAM_BYTES
        )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"handle": None, "_grams": None}  # both are made of X

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.handle, self.X, _ = _arrays.matrix(self.X, self.n_threads)

    def _check_folds(self, class_names: np.ndarray) -> None:
        for k, (train, test) in enumerate(self.counts):
            for count, what in ((train, "training"), (test, "validation")):
                if not (count * self.weights > 0).any():
                    raise ValueError(f"sample_weight is zero on all {what} rows of fold {k} of cv")
            targets = self.y[train * self.weights > 0]
            wrong = self.objective._untrainable(targets, self.fit_intercept, class_names)
            if wrong:
                raise ValueError(f"y {wrong} in the training rows of fold {k} of cv")

    def pair(
        self, penalty: L2 | None, target: int | None = None
    ) -> tuple[FoldedModel, FoldedModel]:
        """(f, g) with this penalty, for one target or for all."""
        if penalty is not None and not isinstance(penalty, L2):
            raise TypeError(f"penalty must be an implicitgrad.L2 or None, found {penalty!r}")
        return tuple(
            FoldedModel(self, part, given, target) for part, given in ((0, penalty), (1, None))
        )  # type: ignore[return-value]

    def core(self, part: int, target: int | None, **penalty: Any) -> Any:
        """The training (part 0) or validation (part 1) objective of all folds, in the core."""
        if self.in_gram_form and self._grams is None:
            self._grams = self._sum_grams()
            self.in_gram_form = self._grams is not None
        if self.in_gram_form:
            assert self._grams is not None
            return _core.LinearModel.of_grams(
                self._grams[part],
                -1 if target is None else target,
                n_threads=self.n_threads,
                **penalty,
            )
        weights = np.empty((self.X.shape[0], len(self.counts)), order="F")
        for k, counts in enumerate(self.counts):
            np.multiply(counts[part], self.weights, out=weights[:, k])
        y = self.y.ravel() if self.soft else self.y
        return _core.LinearModel(
            self.handle,
            y if target is None else y[:, target],
            weights,
            loss=self.objective._loss,
            intercept=self.fit_intercept,
            n_threads=self.n_threads,
            classes=self.classes,
            **penalty,
        )

    def _sum_grams(self) -> tuple[list[Any], list[Any]] | None:
        """Of the training and of the validation rows of each fold, or None where sums of squares would
        lose too many digits. Where the training rows are all but the others, their sum is the total
        minus that of those, if that leaves enough of it."""
        weights, y = self.weights, self.y
        offset = np.empty(0)
        if self.fit_intercept:
            offset = np.atleast_1d(np.average(y, axis=0, weights=weights))

        def sums(counts: np.ndarray) -> Any:
            rows = np.flatnonzero(counts)
            w = weights if counts.max() == 1 else counts * weights
            return _core.GramSums(
                self.handle, self.fit_intercept, y, w, rows, offset, self.n_threads
            )

        everything = sums(np.ones(self.X.shape[0], dtype=np.int64))
        if self.fit_intercept and _off_centre(everything):
            return None
        train, test = [], []
        for counts, left_out in self.counts:
            test.append(sums(left_out))
            rest = None
            if (counts + left_out == 1).all():
                rest = everything.minus(test[-1])
            if rest is None or _share_left(rest, everything) < LEAST_LEFT:
                rest = sums(counts)
            train.append(rest)
        return train, test


def _off_centre(sums: Any) -> bool:
    """Whether some column's mean is so far from zero, beside its spread, that with an intercept its
    squares say little of the spread. (Constant columns have none.)"""
    mean, square = sums.last_column[:-1] / sums.weight, sums.diagonal[:-1] / sums.weight
    spread = square - mean**2
    return bool(((mean**2 > MOST_OFF_CENTRE * spread) & (spread > 1e-13 * square)).any())


def _share_left(rest: Any, everything: Any) -> float:
    """The least share of the total that a difference leaves of a weight or sum of squares."""
    shares = [np.array([rest.weight / everything.weight])]
    for part, whole in ((rest.diagonal, everything.diagonal), (rest.squares, everything.squares)):
        shares.append(part[whole > 0] / whole[whole > 0])
    return float(np.concatenate(shares).min())


class FoldedModel(LinearModel):
    """The training or the validation objective of all folds; made by `cross_validated`.

    Attributes
    ----------
    n_theta, n_lam : int
        Lengths of θ, fold after fold (within a fold target after target), and λ.
    n_folds, n_targets : int
    n_rows : int
        Rows of X.
    n_outer : float
        Over how many different rows of equal weight it averages, each target's counting.
    """

    def __init__(self, folds: Folds, part: int, penalty: L2 | None, target: int | None):
        group, n_groups = (penalty or L2("none")).groups(folds.X.shape[1])
        self._blocks = [Block("penalty", n_groups, _arrays.logarithms)]
        self.n_threads, self.fit_intercept = folds.n_threads, folds.fit_intercept
        self.penalty, self.X = penalty, folds.X
        self.y = folds.y if target is None else folds.y[:, target]
        self.n_folds, self.n_rows = len(folds.splits), folds.X.shape[0]
        self._several = self.y.ndim == 2 and not folds.soft
        self.n_targets = self.y.shape[1] if self._several else 1
        self._loss, self._name = folds.objective._loss, folds.objective.__name__
        self._width = folds.classes
        fixed = penalty.fixed if penalty else 0.0
        self._own(folds.core(part, target, fixed=fixed, n_groups=n_groups, group=group))
        # Rows that are left out in several folds are still the same rows.
        seen = sum(counts[part] for counts in folds.counts) * folds.weights
        self.n_outer = effective_rows(np.where(seen > 0, folds.weights, 0.0)) * self.n_targets
        self._made_of = folds, part, penalty, target

    def __reduce__(self) -> Any:
        return FoldedModel, self._made_of

    def rows(self, idx: Any) -> Any:
        """Refused: a fold is made of all rows."""
        raise TypeError(f"rows(idx) is not for folds, found {self!r}")

    def unravel(self, theta: Any) -> np.ndarray:
        """θ as a view of shape (n_folds, p [+ 1]), (n_folds, n_targets, p [+ 1]) where y has columns,
        or (n_folds, p [+ 1], K) for `Softmax`: the intercept is the last of p + 1."""
        theta = _arrays.vector(theta, self.n_theta, "theta", type(self).__name__)
        width = self.X.shape[1] + self.fit_intercept
        targets = (self.n_targets,) if self._several else ()
        classes = (self._width,) if self._width > 1 else ()
        return theta.reshape(self.n_folds, *targets, width, *classes)

    def values(self, theta: Any) -> np.ndarray:
        """The mean loss in each fold, without the penalty: shape (n_folds,), or (n_folds,
        n_targets)."""
        lam = np.zeros(self.n_lam)
        values = self.linearize(theta, lam)._core.values
        return values.reshape(self.n_folds, self.n_targets) if self._several else values

    def __repr__(self) -> str:
        n, p = self.X.shape
        of = f"{self._name}, <{n} × {p}>"
        return f"FoldedModel({of}, n_folds={self.n_folds}, penalty={self.penalty!r})"


def _splits(
    cv: Any, X: Any, y: np.ndarray, groups: Any, classifier: bool
) -> Iterable[tuple[Any, Any]]:
    """Pairs (training rows, validation rows)."""
    if isinstance(cv, (bool, str, bytes)) or cv is None:
        raise TypeError(f"cv must be an int, a splitter or an iterable of splits, found {cv!r}")
    if isinstance(cv, Iterable) and not hasattr(cv, "split"):
        for split in cv:
            if not (isinstance(split, (tuple, list)) and len(split) == 2):
                raise TypeError(
                    f"cv must give pairs (training rows, validation rows), found {split!r}"
                )
            yield split[0], split[1]
        return
    if not hasattr(cv, "split"):
        cv = _arrays.integer(cv, "cv", least=2)
        if cv > X.shape[0]:
            raise ValueError(f"cv = {cv} asks for more folds than X has rows, {X.shape[0]}")
        try:
            from sklearn.model_selection import check_cv
        except ImportError:
            raise ImportError(
                "cv as a number of folds needs scikit-learn: pip install 'implicitgrad[sklearn]', "
                "or pass the splits themselves"
            ) from None
        if classifier:
            least = int(np.unique(y, return_counts=True)[1].min())
            if least < cv:
                raise ValueError(
                    f"cv = {cv} asks for more folds than the smaller class of y has rows, {least}"
                )
        cv = check_cv(cv, y, classifier=classifier)
    yield from cv.split(X, y, groups)


def _counts(rows: Any, n: int, fold: int, what: str) -> np.ndarray:
    """How often each row is named."""
    rows = np.asarray(rows)
    where = f"the {what} rows of fold {fold} of cv"
    if rows.dtype == bool and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if rows.size == 0:
        raise ValueError(f"{where} are none")
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise TypeError(f"{where} must be an array of row numbers or a mask of {n} rows")
    if rows.min() < -n or rows.max() >= n:
        bad = rows.min() if rows.min() < -n else rows.max()
        raise ValueError(f"{where} name row {bad}, X has {n} rows")
    rows = rows.astype(np.int64)
    return np.bincount(np.where(rows < 0, rows + n, rows), minlength=n)
