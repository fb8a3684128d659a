"""scikit-learn estimators whose penalties, one a feature or one a group, are tuned by gradients of the
cross-validated loss. Needs the extra ``sklearn``; nothing else imports this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, log_expit

try:
    from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError(
        "implicitgrad.sklearn needs scikit-learn >= 1.6: pip install 'implicitgrad[sklearn]'"
    ) from error

from . import _arrays
from ._group_cv import GroupCV
from .objectives import LeastSquares, Logistic

__all__ = ["GroupLogisticRegressionCV", "GroupRidgeCV"]


class GroupRidgeCV(RegressorMixin, MultiOutputMixin, GroupCV):
    """Ridge regression with a penalty for each feature, or each group of features, tuned by gradients
    of the cross-validated squared error.

    Parameters
    ----------
    groups : {"feature", "all"} or array of labels, shape (p,), default "feature"
        Which features share a penalty: none, all, or those with the same label (numbers or
        strings).
    cv : int, splitter, iterable or None, default 5
        As in scikit-learn: a number of folds (None: 5), an object with ``split``, or pairs of
        training and validation rows.
    fit_intercept : bool, default True
        Whether the model has an intercept; it is not penalised.
    alpha_per_target : bool, default False
        Whether each of several targets has penalties of its own; by default they share them.
        Either way the sums over rows are taken once for all folds and targets.
    log_alpha_bounds : (float, float), default (-10, 10)
        How far the logarithm of each strength may go from that which would halve the coefficient
        of a feature on its own. The units of the features do not matter.
    method : str, default "L-BFGS-B"
        Of `implicitgrad.minimize`; one that keeps to bounds.
    tol : float, default 1e-6
        The search by `method` stops where the slopes of the logarithm of the loss, in the logarithm
        of each strength, are within tol.
    max_iter : int, default 1000
        The most iterations of that search.
    n_threads : int, optional
        As for `implicitgrad.LeastSquares`. No processes are started.
    progress : bool, default False
        Whether to show a bar of the iterations (needs tqdm).
    callback : callable, optional
        ``callback(intermediate_result)`` after each iteration, with an OptimizeResult of x (λ), fun
        (the cross-validated loss), nit and, with alpha_per_target, target; raising StopIteration
        ends the search there.

    Attributes
    ----------
    coef_ : ndarray, shape (p,) or (n_targets, p)
        Of X's floating dtype.
    intercept_ : float or ndarray, shape (n_targets,)
    alphas_ : ndarray, shape (n_groups,), or (n_targets, n_groups) with alpha_per_target
        The penalties of the groups; see Notes.
    lam_ : ndarray, of the same shape
        The library's λ, log(alphas_ / Σ sample_weight).
    groups_ : ndarray, shape (n_groups,)
        The labels of the groups, in the order of `alphas_`; for "feature" the names of the
        features, or numbers where they have none.
    feature_groups_ : ndarray of int, shape (p,)
        Each feature's place in `groups_`: ``alphas_[..., feature_groups_]`` are the penalties of
        the features.
    cv_loss_ : ndarray, shape (n_folds,) or (n_folds, n_targets)
        Half the mean squared error on the validation rows of each fold.
    best_loss_ : float, or ndarray of shape (n_targets,) with alpha_per_target
        What was minimised: the mean of `cv_loss_` over the folds, summed over targets that share
        penalties.
    n_iter_ : int, or ndarray of shape (n_targets,) with alpha_per_target
        Iterations; the search for the start counts as one.
    result_ : OptimizeResult, or a list of them with alpha_per_target
        How the search ended: jac, nfev, nhev, success, status, message.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Warns
    -----
    ConvergenceWarning
        Where the search has not converged.

    Notes
    -----
    The model minimises Σ_i w_i (y_i − x_iᵀθ − b)² + Σ_j alpha_j θ_j², which with a single alpha is
    scikit-learn's `Ridge`. The penalties minimise the mean of the folds' validation losses, each a
    weighted mean over rows, with gradients from the implicit function theorem [1]_. A model in a fold
    has the same penalty relative to the mean loss, that is, alpha times its share of Σ w_i.

    The search is deterministic, and ends so close to a minimum that data which are equivalent (a row
    of weight 2, or two copies of it in the same folds) give equal models to many digits:

    - It starts from one strength, relative to the scale of each feature, that all share: the best of
      some ten, but moved to where it neither switches features off nor leaves them free, since the
      gradient sees little there. Should it end above the best of the ten, it starts again from that.
    - It minimises log(loss + 1e-4 × the null model's) + 5e-6 × the mean square of how far the
      logarithms of the strengths have moved. The second term decides what the data leave open, how
      strongly to penalise what is switched off; it can cost 0.1 % of the loss, and mostly costs
      far less.
    - Where at most 50 strengths are off their bounds, Newton's method, with a Hessian from
      differences of gradients, takes it from where `method` stops to the accuracy of rounding.

    The loss need not be convex in the strengths: what is found is a local minimum. With many
    penalties and few rows the tuning itself may overfit: `best_loss_` is then optimistic, and
    `cross_val_score` of the estimator tells.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitgrad.sklearn import GroupRidgeCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((80, 4))
    >>> y = X @ [3.0, 1.0, 0.0, 0.0] + rng.standard_normal(80)
    >>> model = GroupRidgeCV().fit(X, y)
    >>> model.alphas_.shape, round(model.score(X, y), 2)
    ((4,), 0.93)
    >>> GroupRidgeCV(groups=["signal", "signal", "noise", "noise"]).fit(X, y).groups_.tolist()
    ['noise', 'signal']
    """

    _objective = LeastSquares

    def __init__(
        self,
        groups: Any = "feature",
        *,
        cv: Any = 5,
        fit_intercept: bool = True,
        alpha_per_target: bool = False,
        log_alpha_bounds: tuple[float, float] = (-10.0, 10.0),
        method: str = "L-BFGS-B",
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_threads: int | None = None,
        progress: bool = False,
        callback: Callable[..., Any] | None = None,
    ):
        super().__init__(
            groups,
            cv=cv,
            fit_intercept=fit_intercept,
            log_alpha_bounds=log_alpha_bounds,
            method=method,
            tol=tol,
            max_iter=max_iter,
            n_threads=n_threads,
            progress=progress,
            callback=callback,
        )
        self.alpha_per_target = alpha_per_target

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> GroupRidgeCV:
        """Tune the penalties by cross-validation, then train on all rows.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)
        y : array, shape (n,) or (n, n_targets)
        sample_weight : array, shape (n,), optional
            A weight of k counts as k copies of the row, in training and in validation.
        **params
            Passed to the splitter `cv` (``groups`` for `GroupKFold`, say) where metadata routing is
            enabled.

        Returns
        -------
        self
        """
        self._check_params()
        per_target = _arrays.boolean(self.alpha_per_target, "alpha_per_target")
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=(np.float64, np.float32),
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        y = np.asarray(y, dtype=np.float64)
        splits = self._splits(X, y, sample_weight, params)
        weights = _arrays.weights(sample_weight, X.shape[0])
        mean = np.zeros(y.shape[1:])
        if self.fit_intercept:
            mean = np.average(y, axis=0, weights=weights if weights.size else None)
        # Without what rounding leaves of targets that are constant.
        centred = y - mean
        centred *= np.abs(centred).max(axis=0) > 1e-14 * np.abs(mean)
        several = y.ndim == 2
        theta = self._tune(X, centred, sample_weight, splits, several and per_target)
        coef, intercept = theta, mean
        if self.fit_intercept:
            coef, intercept = theta[:, :-1], theta[:, -1] + mean
        self.coef_ = np.ascontiguousarray(coef if several else coef[0], dtype=X.dtype)
        self.intercept_ = (
            np.asarray(intercept, dtype=X.dtype) if several else float(np.ravel(intercept)[0])
        )
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predicted targets.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n,) or (n, n_targets)
        """
        return self._linear(X)


class GroupLogisticRegressionCV(ClassifierMixin, GroupCV):
    """Logistic regression of two classes with a penalty for each feature, or each group of features,
    tuned by gradients of the cross-validated log loss.

    Parameters
    ----------
    groups : {"feature", "all"} or array of labels, shape (p,), default "feature"
        Which features share a penalty: none, all, or those with the same label (numbers or
        strings).
    cv : int, splitter, iterable or None, default 5
        As in scikit-learn: a number of folds (None: 5), stratified by class, an object with
        ``split``, or pairs of training and validation rows.
    fit_intercept, log_alpha_bounds, method, tol, max_iter, n_threads, progress, callback
        As for `GroupRidgeCV`.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
        The labels. The model gives the odds of the second.
    coef_ : ndarray, shape (1, p)
        Of X's floating dtype.
    intercept_ : ndarray, shape (1,)
    alphas_ : ndarray, shape (n_groups,)
        The penalties of the groups; see Notes.
    C_ : ndarray, shape (n_groups,)
        1 / alphas_.
    cv_loss_ : ndarray, shape (n_folds,)
        The mean log loss on the validation rows of each fold.
    best_loss_ : float
        What was minimised: the mean of `cv_loss_`.
    lam_, groups_, feature_groups_, n_iter_, result_, n_features_in_, feature_names_in_
        As for `GroupRidgeCV`.

    Warns
    -----
    ConvergenceWarning
        Where the search has not converged.

    Notes
    -----
    The model minimises Σ_i w_i log(1 + exp(−y_i (x_iᵀθ + b))) + ½ Σ_j alpha_j θ_j², y_i ∈ {−1, 1},
    which with a single alpha is scikit-learn's `LogisticRegression` with C = 1 / alpha. How the
    penalties are found, and what to be careful about, is said at `GroupRidgeCV`.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitgrad.sklearn import GroupLogisticRegressionCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 4))
    >>> y = np.where(X @ [3.0, 1.0, 0.0, 0.0] + rng.standard_normal(200) > 0, "yes", "no")
    >>> model = GroupLogisticRegressionCV().fit(X, y)
    >>> model.classes_.tolist(), model.alphas_.shape, model.predict_proba(X).shape
    (['no', 'yes'], (4,), (200, 2))
    """

    _objective = Logistic

    def __init__(
        self,
        groups: Any = "feature",
        *,
        cv: Any = 5,
        fit_intercept: bool = True,
        log_alpha_bounds: tuple[float, float] = (-10.0, 10.0),
        method: str = "L-BFGS-B",
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_threads: int | None = None,
        progress: bool = False,
        callback: Callable[..., Any] | None = None,
    ):
        super().__init__(
            groups,
            cv=cv,
            fit_intercept=fit_intercept,
            log_alpha_bounds=log_alpha_bounds,
            method=method,
            tol=tol,
            max_iter=max_iter,
            n_threads=n_threads,
            progress=progress,
            callback=callback,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, **params: Any
    ) -> GroupLogisticRegressionCV:
        """Tune the penalties by cross-validation, then train on all rows.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)
        y : array, shape (n,)
            Labels of two classes.
        sample_weight : array, shape (n,), optional
            A weight of k counts as k copies of the row, in training and in validation.
        **params
            Passed to the splitter `cv` (``groups`` for `StratifiedGroupKFold`, say) where metadata
            routing is enabled.

        Returns
        -------
        self
        """
        self._check_params()
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=(np.float64, np.float32),
            ensure_min_samples=2,
        )
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if kind != "binary":
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {kind}."
            )
        self.classes_, labels = np.unique(y, return_inverse=True)
        weights = _arrays.weights(sample_weight, X.shape[0])
        seen = np.unique(labels[weights > 0] if weights.size else labels)
        if seen.size < 2:
            raise ValueError(
                "y must hold two classes among the rows whose weight is not zero, found only one "
                f"class: {self.classes_[seen[0]]!r}"
            )
        splits = self._splits(X, labels, sample_weight, params)
        theta = self._tune(X, labels.astype(np.float64), sample_weight, splits)
        self.C_ = 1 / self.alphas_
        p = self.n_features_in_
        self.coef_ = np.ascontiguousarray(theta[:, :p], dtype=X.dtype)
        self.intercept_ = np.zeros(1, dtype=X.dtype)
        if self.fit_intercept:
            self.intercept_ = theta[:, p].astype(X.dtype)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Log odds of the second class.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n,)
        """
        return self._linear(X)[:, 0]

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class of each row.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n,)
        """
        second = self.decision_function(X) > 0
        return self.classes_[second.astype(np.intp)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n, 2)
        """
        odds = self.decision_function(X)
        return expit(np.column_stack([-odds, odds]))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of `predict_proba`, exact where those are 0 or 1 to rounding.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n, 2)
        """
        odds = self.decision_function(X)
        return log_expit(np.column_stack([-odds, odds]))
