"""Logistic regression with tuned penalties. Needs the extra ``sklearn``."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from . import _arrays
from ._group_cv import GroupCV
from .objectives import LinearModel, Logistic, Softmax


class GroupLogisticRegressionCV(ClassifierMixin, GroupCV):
    """Logistic regression, of more classes than two the multinomial one, with a penalty for each
    feature, or each group of features, tuned by gradients of the cross-validated log loss.

    Parameters
    ----------
    groups : {"feature", "all"} or array of labels, shape (p,), default "feature"
        Which features share a penalty: none, all, or those with the same label (numbers or
        strings).
    cv : int, splitter, iterable or None, default 5
        As in scikit-learn: a number of folds (None: 5), stratified by class, an object with
        ``split``, or pairs of training and validation rows.
    fit_intercept, log_alpha_bounds, below_shared, method, tol, max_iter, n_threads, progress, callback
        As for `GroupRidgeCV`.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The labels.
    coef_ : ndarray, shape (K, p), or (1, p) for two classes, of which it gives the odds of the second
        Of X's floating dtype.
    intercept_ : ndarray, shape (K,), or (1,) for two classes
        Those of K > 2 classes sum to zero.
    alphas_ : ndarray, shape (n_groups,)
        The penalties of the groups, which the classes share; see Notes.
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
    OverfitWarning
        Where there are more penalties than rows.

    Notes
    -----
    For two classes the model minimises Σ_i w_i log(1 + exp(−y_i (x_iᵀθ + b))) + ½ Σ_j alpha_j θ_j²,
    y_i ∈ {−1, 1}; for more, Σ_i w_i [log Σ_c exp(z_ic) − z_{i,y_i}] + ½ Σ_j alpha_j Σ_c W_cj², with
    z_ic = Σ_j W_cj x_ij + b_c. Of a constant added to all b_c, which changes nothing, the one is chosen
    that makes them sum to zero. With a single alpha either is scikit-learn's `LogisticRegression` with
    C = 1 / alpha. How the penalties are found, and what to be careful about, is said at `GroupRidgeCV`.

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

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, **params: Any
    ) -> GroupLogisticRegressionCV:
        """Tune the penalties by cross-validation, then train on all rows.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)
        y : array, shape (n,)
            Labels of K ≥ 2 classes.
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
        self.classes_, labels = np.unique(y, return_inverse=True)
        weights = _arrays.weights(sample_weight, X.shape[0])
        seen = np.unique(labels[weights > 0] if weights.size else labels)
        if seen.size < 2:
            raise ValueError(
                "y must hold two classes among the rows whose weight is not zero, found only one "
                f"class: {self.classes_[seen[0]]!r}"
            )
        if seen.size < self.classes_.size:
            unseen = np.setdiff1d(np.arange(self.classes_.size), seen)[0]
            raise ValueError(f"sample_weight is zero on all rows of class {self.classes_[unseen]}")
        splits = self._splits(X, labels, sample_weight, params)
        objective: type[LinearModel] = Logistic if self.classes_.size == 2 else Softmax
        theta = self._tune(
            objective, X, labels.astype(np.float64), sample_weight, splits, classes=self.classes_
        )
        self.C_ = 1 / self.alphas_
        p = self.n_features_in_
        self.coef_ = np.ascontiguousarray(theta[:, :p], dtype=X.dtype)
        self.intercept_ = np.zeros(len(theta), dtype=X.dtype)
        if self.fit_intercept:
            self.intercept_ = theta[:, p].astype(X.dtype)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Of two classes, the log odds of the second; of more, each one's z, see Notes.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n,), or (n, K) for K > 2
        """
        z = self._linear(X)
        return z[:, 0] if self.classes_.size == 2 else z

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n,)
        """
        z = self.decision_function(X)
        return self.classes_[z.argmax(axis=1) if z.ndim == 2 else (z > 0).astype(np.intp)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n, K)
        """
        z = self.decision_function(X)
        return softmax(z, axis=1) if z.ndim == 2 else expit(np.column_stack([-z, z]))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of `predict_proba`, exact where those are 0 or 1 to rounding.

        Parameters
        ----------
        X : array, sparse array or data frame, shape (n, p)

        Returns
        -------
        ndarray, shape (n, K)
        """
        z = self.decision_function(X)
        return log_softmax(z, axis=1) if z.ndim == 2 else log_expit(np.column_stack([-z, z]))
