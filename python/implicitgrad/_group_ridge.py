"""Ridge regression with tuned penalties. Needs the extra ``sklearn``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from . import _arrays
from ._group_cv import GroupCV
from .objectives import LeastSquares


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
    below_shared : float or None, default 1.0
        How far the logarithm of a strength may go below about the best that all share (each relative
        to the scale of its feature): features may be left out, but not let loose, which is how many
        penalties overfit. None leaves that to `log_alpha_bounds`.
    method : str, default "auto"
        "auto", or of `implicitgrad.minimize` one that keeps to bounds; see Notes.
    tol : float, default 1e-6
        The search stops where the slopes of the logarithm of the loss, in the logarithm of each
        strength, are within tol; with more penalties than Newton's method is used for, also where ten
        iterations have lowered that logarithm by less than 1000 tol.
    max_iter : int, default 1000
        The most iterations, of which the search for the start is one; at least one follows it.
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
    OverfitWarning
        Where there are more penalties than rows.

    Notes
    -----
    The model minimises Σ_i w_i (y_i − x_iᵀθ − b)² + Σ_j alpha_j θ_j², which with a single alpha is
    scikit-learn's `Ridge`. The penalties minimise the mean of the folds' validation losses, each a
    weighted mean over rows, with gradients from the implicit function theorem [1]_. A model in a fold
    has the same penalty relative to the mean loss, that is, alpha times its share of Σ w_i.

    The search is deterministic, and ends so close to a minimum that data which are equivalent (a row
    of weight 2, or two copies of it in the same folds) give equal models to many digits:

    - It starts a little above one strength, relative to the scale of each feature, that all share and
      that is about the best such, but where it neither switches features off nor leaves them free,
      since the gradient sees little there. Should it end above the loss at the best shared strength
      that was tried, it starts again from about the best.
    - It minimises log(loss + 1e-4 × the null model's) + 5e-6 × the mean square of how far the
      logarithms of the strengths have moved. The second term decides what the data leave open, how
      strongly to penalise what is switched off; it can cost 0.1 % of the loss, and mostly costs
      far less.
    - With at most 20 strengths, or 200 where the Hessian of the model is best factored, it is Newton's
      method, with the exact Hessian of the cross-validated loss; with more, ``method="inexact"`` of
      `implicitgrad.minimize`. Any other `method` goes to a gradient of 1e-2 where so few strengths are
      off their bounds, and Newton's takes over.

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

    def __init__(
        self,
        groups: Any = "feature",
        *,
        cv: Any = 5,
        fit_intercept: bool = True,
        alpha_per_target: bool = False,
        log_alpha_bounds: tuple[float, float] = (-10.0, 10.0),
        below_shared: float | None = 1.0,
        method: str = "auto",
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
            below_shared=below_shared,
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
        theta = self._tune(
            LeastSquares, X, centred, sample_weight, splits, per_target=several and per_target
        )
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
