"""What the estimators share: everything but the targets. Needs scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult
from sklearn import get_config
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted, validate_data

from . import _arrays, _search
from ._callback import takes_intermediate_result
from ._cv import Folds
from ._overfit import OverfitWarning, outnumbered
from ._train import train
from .objectives import LinearModel
from .penalties import L2

# The methods of `minimize` that keep to bounds.
KEEP_TO_BOUNDS = ("l-bfgs-b", "tnc", "slsqp", "trust-constr", "inexact", "gd", "adam")


class GroupCV(BaseEstimator):
    """Parameters, folds, tuning and the attributes that tell of it."""

    def __init__(
        self,
        groups: Any = "feature",
        *,
        cv: Any = 5,
        fit_intercept: bool = True,
        log_alpha_bounds: tuple[float, float] = (-10.0, 10.0),
        below_shared: float | None = 1.0,
        method: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_threads: int | None = None,
        progress: bool = False,
        callback: Callable[..., Any] | None = None,
    ):
        self.groups = groups
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.log_alpha_bounds = log_alpha_bounds
        self.below_shared = below_shared
        self.method = method
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.progress = progress
        self.callback = callback

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def get_metadata_routing(self) -> MetadataRouter:
        """How metadata are passed on: sample_weight to `fit` itself, others to the splitter `cv`.

        Returns
        -------
        MetadataRouter
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        if hasattr(self.cv, "split"):
            mapping = MethodMapping().add(caller="fit", callee="split")
            router.add(splitter=self.cv, method_mapping=mapping)
        return router

    def _check_params(self) -> None:
        _arrays.boolean(self.fit_intercept, "fit_intercept")
        _arrays.boolean(self.progress, "progress")
        _arrays.number(self.tol, "tol", positive=True)
        _arrays.integer(self.max_iter, "max_iter", least=1)
        known = self.method.lower() if isinstance(self.method, str) else self.method
        _arrays.choice(known, "method", ("auto", *KEEP_TO_BOUNDS))
        if self.below_shared is not None:
            _arrays.number(self.below_shared, "below_shared", nonnegative=True)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback must be callable or None, found {self.callback!r}")
        try:
            low, high = (float(v) for v in self.log_alpha_bounds)
        except (TypeError, ValueError):
            low = high = np.nan
        if not -100 <= low < high <= 100:
            raise ValueError(
                "log_alpha_bounds must be two numbers from -100 to 100, the lower one first, found "
                f"{self.log_alpha_bounds!r}"
            )

    def _splits(self, X: Any, y: np.ndarray, sample_weight: Any, params: dict[str, Any]) -> list:
        """Pairs (training rows, validation rows)."""
        given: dict[str, Any] = {}
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
            if "splitter" in routed:
                given = routed.splitter.split
        elif params:
            raise ValueError(
                f"{', '.join(map(repr, params))} cannot be passed to the splitter unless metadata "
                "routing is enabled: sklearn.set_config(enable_metadata_routing=True)"
            )
        cv = check_cv(5 if self.cv is None else self.cv, y, classifier=is_classifier(self))
        return list(cv.split(X, y, **given))

    def _label_features(self) -> None:
        """Sets groups_, the labels, and feature_groups_, where each feature's is among them."""
        p = self.n_features_in_
        if isinstance(self.groups, str):
            if _arrays.choice(self.groups, "groups", ("feature", "all")) == "all":
                self.groups_, self.feature_groups_ = np.array(["all"]), np.zeros(p, dtype=np.intp)
                return
            names = getattr(self, "feature_names_in_", None)
            self.feature_groups_ = np.arange(p)
            self.groups_ = self.feature_groups_.copy() if names is None else names.copy()
            return
        labels = np.asarray(self.groups)
        if labels.shape != (p,):
            raise ValueError(
                f"groups must be 'feature', 'all' or an array of {p} labels, one a feature; found "
                f"shape {labels.shape}"
            )
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError("groups holds labels that are not finite")
        try:
            self.groups_, self.feature_groups_ = np.unique(labels, return_inverse=True)
        except TypeError:
            raise TypeError(
                "groups holds labels of several types, which cannot be sorted"
            ) from None

    def _tune(
        self,
        objective: type[LinearModel],
        X: Any,
        y: np.ndarray,
        sample_weight: Any,
        splits: list,
        per_target: bool = False,
        classes: np.ndarray | None = None,
    ) -> np.ndarray:
        """Tunes, trains on all rows, and returns θ, a row for each target or class; `classes` are what
        the user calls those."""
        self._label_features()
        common = {
            "fit_intercept": self.fit_intercept,
            "sample_weight": sample_weight,
            "n_threads": self.n_threads,
        }
        labels, penalty = self.feature_groups_, L2(self.feature_groups_)
        folds = Folds(objective, X, y, splits, class_names=classes, **common)
        results: list[OptimizeResult] = []
        theta = []
        with Watch(self.callback, self.progress) as watch:
            for target in range(y.shape[1]) if per_target else [None]:
                own = y if target is None else y[:, target]
                model = objective(X, own, penalty=penalty, **common)
                null_loss, curvature = _search.null_model(model, labels.size)
                f, g = folds.pair(penalty, target)
                if not results and outnumbered(g, f.n_lam):
                    warnings.warn(
                        f"{f.n_lam} penalties are tuned on {g.n_outer:.0f} rows (those of little "
                        "weight count for less), which cannot tell them apart: the loss of the "
                        "cross-validation will be too small to be believed, and that on other rows may "
                        "be larger than with a single penalty. Use groups of features.",
                        OverfitWarning,
                        stacklevel=3,
                    )
                result = _search.search(
                    *(f, g),
                    np.bincount(labels, curvature) / np.bincount(labels),
                    null_loss,
                    (float(self.log_alpha_bounds[0]), float(self.log_alpha_bounds[1])),
                    below_shared=self.below_shared,
                    method=self.method,
                    tol=self.tol,
                    max_iter=self.max_iter,
                    callback=watch.of(target),
                )
                trained = train(model, result.x)
                for what, done in (
                    ("search for the penalties", result),
                    ("last training", trained),
                ):
                    if not done.success and done.status != 99:
                        warnings.warn(
                            f"The {what} has not converged. {done.message}",
                            ConvergenceWarning,
                            stacklevel=3,
                        )
                results.append(result)
                width = labels.size + self.fit_intercept
                by_class = trained.x.reshape(-1, width, model._width)
                theta.append(by_class.swapaxes(1, 2).reshape(-1, width))
        self._keep(results, y.ndim == 2 and per_target, X.shape[0], sample_weight)
        return np.concatenate(theta)

    def _keep(
        self, results: list[OptimizeResult], per_target: bool, n: int, sample_weight: Any
    ) -> None:
        """Sets the attributes that tell of the tuning."""
        total = (
            float(n)
            if sample_weight is None
            else float(np.sum(np.asarray(sample_weight, np.float64)))
        )
        for result in results:
            del result["theta"]  # the folds' models: large, and of no use without the splits

        def each(name: str) -> Any:
            values = [result[name] for result in results]
            return np.array(values) if per_target else values[0]

        self.lam_, self.n_iter_, self.best_loss_ = each("x"), each("nit"), each("fun")
        self.alphas_ = total * np.exp(self.lam_)
        self.cv_loss_ = (
            np.column_stack([r.losses for r in results]) if per_target else each("losses")
        )
        self.result_ = results if per_target else results[0]

    def _linear(self, X: Any) -> np.ndarray:
        """X coef_ᵀ + intercept_."""
        check_is_fitted(self)
        X = validate_data(
            self,
            X,
            accept_sparse=("csr", "csc", "coo"),
            dtype=(np.float64, np.float32),
            reset=False,
        )
        return safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_


class Watch:
    """The user's callback and the progress bar, open while a `with` block lasts."""

    def __init__(self, callback: Callable[..., Any] | None, progress: bool):
        self.callback, self.bar = callback, None
        self.whole = callback is not None and takes_intermediate_result(callback)
        if progress:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                raise ImportError(
                    "progress=True needs tqdm: pip install 'implicitgrad[progress]'"
                ) from None
            self.bar = tqdm(desc="penalties", unit="it")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def of(self, target: int | None) -> Callable[[OptimizeResult], None] | None:
        """What the search calls for this target after each iteration."""
        if self.callback is None and self.bar is None:
            return None

        def watch(state: OptimizeResult) -> None:
            if target is not None:
                state.target = target
            if self.bar is not None:
                self.bar.update()
                self.bar.set_postfix({"loss": f"{state.fun:.6g}"}, refresh=False)
            if self.callback is not None:
                if self.whole:
                    self.callback(intermediate_result=state)
                else:
                    self.callback(np.copy(state.x))

        return watch
