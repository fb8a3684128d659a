"""Ways of choosing penalties by 5-fold cross-validation, each with the fit on all rows that follows.

A tuner is called with a task and returns what it found; what it needs that is not installed raises
ImportError. Names of the searches end in how much of our time they are given.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

import implicitgrad as ig
from _tuning_data import Case, Split
from implicitgrad.sklearn import GroupLogisticRegressionCV, GroupRidgeCV

CV = 5
BOUNDS = (-12.0, 4.0)  # of every λ, for the searches by Optuna


@dataclass
class Tuned:
    theta: np.ndarray  # (p + 1[, targets]), the intercept last
    seconds: float
    cv: float | None = None  # the loss that was minimised, ½ r² or the logistic loss
    tried: str = ""
    lam: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass
class Task:
    case: Case
    split: Split
    seed: int
    seconds: float = 0.0  # what our estimator with many penalties took
    one: np.ndarray = field(default_factory=lambda: np.empty(0))  # the best single λ
    cv: Any = CV

    @property
    def estimator(self) -> Any:
        return GroupLogisticRegressionCV if self.case.logistic else GroupRidgeCV

    @property
    def kind(self) -> Any:
        return ig.Logistic if self.case.logistic else ig.LeastSquares

    def folds(self, per: Any) -> tuple[Any, Any]:
        """The pair (f, g) that our estimators tune."""
        return ig.cross_validated(
            *(self.kind, self.split.X, self.split.y, self.cv),
            penalty=ig.L2(per),
            fit_intercept=True,
        )

    def fit(self, per: Any, lam: np.ndarray) -> np.ndarray:
        """θ on all rows, of shape (p + 1[, targets])."""
        y = self.split.y
        theta = ig.train(self.kind(self.split.X, y, penalty=ig.L2(per), fit_intercept=True), lam).x
        return theta.reshape(-1, self.split.X.shape[1] + 1).T if y.ndim == 2 else theta


def _ours(task: Task, groups: Any, **params: Any) -> Tuned:
    """Our estimator, tuned and fitted on all rows."""
    model = task.estimator(groups, cv=task.cv, **params)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told below
        model.fit(task.split.X, task.split.y)
    seconds = time.perf_counter() - begin
    results = model.result_ if isinstance(model.result_, list) else [model.result_]
    calls = sum(result.nfev for result in results)
    open_end = "" if all(result.success for result in results) else ", not converged"
    intercept = np.atleast_1d(model.intercept_)[:, None]
    theta = np.concatenate([np.atleast_2d(model.coef_), intercept], axis=1).T
    return Tuned(
        *(theta if task.split.y.ndim == 2 else theta[:, 0], seconds),
        *(
            float(np.sum(model.best_loss_)),
            f"{calls} evaluations, {model.lam_.size} penalties{open_end}",
        ),
        lam=model.lam_,
    )


def ours(task: Task) -> Tuned:
    tuned = _ours(task, task.case.per)
    task.seconds = tuned.seconds
    return tuned


def ours_free(task: Task) -> Tuned:
    """No strength is bounded by the best shared one."""
    return _ours(task, task.case.per, below_shared=None)


def ours_groups(task: Task) -> Tuned:
    if task.case.groups is None:
        raise ImportError("the case has no groups")
    return _ours(task, task.case.groups)


def ours_one(task: Task) -> Tuned:
    tuned = _ours(task, "all")
    task.one = tuned.lam
    return tuned


def ours_per_target(task: Task) -> Tuned:
    """Penalties for each target by itself."""
    if task.split.y.ndim == 1:
        raise ImportError("the case has one target")
    return _ours(task, task.case.per, alpha_per_target=True)


def ours_chosen(task: Task) -> Tuned:
    """The kind of penalty is chosen as well: each is tuned on four fifths of the rows, in turn, and
    judged on the last fifth, which no λ has seen; then the best is tuned on all."""
    from sklearn.model_selection import check_cv

    split, logistic = task.split, task.case.logistic
    kinds: dict[str, Callable[[Task], Tuned]] = {
        "one": ours_one, "groups": ours_groups, "many": ours, "free": ours_free,
    }  # fmt: skip
    if task.case.groups is None:
        del kinds["groups"]
    losses = dict.fromkeys(kinds, 0.0)
    begin = time.perf_counter()
    for train, test in check_cv(CV, split.y, classifier=logistic).split(split.X, split.y):
        part = Split(split.X[train], split.y[train], split.X[test], split.y[test])
        for name, kind in kinds.items():
            losses[name] += part.loss(logistic, kind(Task(task.case, part, task.seed)).theta)
    name = min(losses, key=lambda each: losses[each])
    theta = kinds[name](Task(task.case, split, task.seed)).theta
    return Tuned(theta, time.perf_counter() - begin, None, f"chose {name}")


def _searched(task: Task, factor: float, from_one: bool, sampler: Callable[[int], Any]) -> Tuned:
    """Optuna between the same bounds, on our folds, trained by our `train` from the last θ, in
    `factor` times our time. `from_one`: its first trial is our best single λ, given to it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    f, g = task.folds(task.case.per)
    state = {"theta": np.zeros(f.n_theta)}
    names = [f"lam{j}" for j in range(f.n_lam)]

    def loss(trial: Any) -> float:
        lam = np.array([trial.suggest_float(name, *BOUNDS) for name in names])
        res = ig.train(f, lam, theta0=state["theta"])
        state["theta"] = res.x
        return float(g.linearize(res.x, np.empty(0)).fun)

    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=sampler(task.seed))
        if from_one:
            study.enqueue_trial(dict.fromkeys(names, float(task.one[0])))
        study.optimize(loss, timeout=factor * task.seconds)
    best = np.array([study.best_params[name] for name in names])
    theta = task.fit(task.case.per, best)
    seconds = time.perf_counter() - begin
    return Tuned(theta, seconds, study.best_value, f"{len(study.trials)} trials")


def _sampled(
    factor: float, random: bool = False, from_one: bool = False
) -> Callable[[Task], Tuned]:
    def run(task: Task) -> Tuned:
        import optuna

        kind = optuna.samplers.RandomSampler if random else optuna.samplers.TPESampler
        return _searched(task, factor, from_one, lambda seed: kind(seed=seed))

    return run


def _sklearn_logistic(scoring: str) -> Callable[[Task], Tuned]:
    def run(task: Task) -> Tuned:
        from sklearn.linear_model import LogisticRegressionCV

        if not task.case.logistic:
            raise ImportError("for logistic regression")
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what later versions will do
            model = LogisticRegressionCV(Cs=10, cv=CV, scoring=scoring)
            model.fit(_sklearn_matrix(task.split.X), task.split.y)
        seconds = time.perf_counter() - begin
        theta = np.append(model.coef_.ravel(), model.intercept_)
        return Tuned(theta, seconds, None, f"C = {float(np.ravel(model.C_)[0]):.2g}")

    return run


def _sklearn_matrix(X: Any) -> Any:
    """Some of its solvers take the older sparse matrices only."""
    return scipy.sparse.csr_matrix(X) if scipy.sparse.issparse(X) else X


def sklearn_ridge(task: Task) -> Tuned:
    from sklearn.linear_model import RidgeCV

    if task.case.logistic:
        raise ImportError("for least squares")
    begin = time.perf_counter()
    alphas = len(task.split.X) * np.logspace(-5, 2, 25)
    model = RidgeCV(alphas=alphas, cv=CV).fit(task.split.X, task.split.y)
    seconds = time.perf_counter() - begin
    theta = (
        np.concatenate([model.coef_.T, np.atleast_1d(model.intercept_)[None]])
        if task.split.y.ndim == 2
        else np.append(model.coef_, model.intercept_)
    )
    return Tuned(theta, seconds, None, f"alpha = {float(model.alpha_):.2g}")


def _himalaya_labels(task: Task) -> np.ndarray:
    if task.case.logistic:
        raise ImportError("for least squares")
    per = task.case.per
    return np.arange(task.split.X.shape[1]) if isinstance(per, str) else per


ALPHAS = np.logspace(-2, 4, 7)
DRAWS = 20


def himalaya_group(task: Task) -> Tuned:
    """GroupRidgeCV's random search on the features, 20 draws × 7 alphas."""
    labels = _himalaya_labels(task)
    from himalaya.ridge import GroupRidgeCV

    params = {"n_iter": DRAWS, "alphas": ALPHAS, "progress_bar": False}
    begin = time.perf_counter()
    model = GroupRidgeCV(
        groups=labels, solver_params=params, cv=CV, fit_intercept=True, random_state=task.seed
    )
    model.fit(task.split.X, task.split.y)
    seconds = time.perf_counter() - begin
    theta = (
        np.concatenate([model.coef_, np.atleast_1d(model.intercept_)[None]])
        if task.split.y.ndim == 2
        else np.append(model.coef_, model.intercept_)
    )
    cv = -0.5 * float(np.sum(np.max(model.cv_scores_, axis=0)))
    return Tuned(theta, seconds, cv, f"{DRAWS} x {ALPHAS.size}")


def _himalaya_kernels(solver: str, params: dict[str, Any]) -> Callable[[Task], Tuned]:
    def run(task: Task) -> Tuned:
        labels = _himalaya_labels(task)
        from himalaya.kernel_ridge import MultipleKernelRidgeCV

        X, y = task.split.X, task.split.y
        begin = time.perf_counter()
        parts = [X[:, labels == g] for g in range(labels.max() + 1)]
        shift = y.mean(axis=0)
        model = MultipleKernelRidgeCV(
            kernels="precomputed", solver=solver, cv=CV, random_state=task.seed,
            solver_params={"progress_bar": False, **params},
        )  # fmt: skip
        model.fit(np.stack([part @ part.T for part in parts]), y - shift)
        # The dual weights give the primal ones: of group g, e^δ_g X_gᵀ w.
        scale = np.exp(model.deltas_).reshape(labels.max() + 1, -1)
        dual = model.dual_coef_.reshape(len(X), -1)
        theta = np.concatenate([X.T @ dual * scale[labels], np.atleast_1d(shift)[None]])
        seconds = time.perf_counter() - begin
        cv = None  # the hyper-gradient solver keeps none of the best
        if solver == "random_search":
            cv = -0.5 * float(np.sum(np.max(model.cv_scores_, axis=0)))
        return Tuned(theta if y.ndim == 2 else theta[:, 0], seconds, cv, solver)

    return run


TUNERS: dict[str, Callable[[Task], Tuned]] = {
    "implicitgrad": ours,
    "implicitgrad, per target": ours_per_target,
    "implicitgrad, groups": ours_groups,
    "implicitgrad, free": ours_free,
    "implicitgrad, one": ours_one,
    "implicitgrad, chosen": ours_chosen,
    "scikit-learn": _sklearn_logistic("neg_log_loss"),
    "scikit-learn, by accuracy": _sklearn_logistic("accuracy"),
    "scikit-learn, ridge": sklearn_ridge,
    "himalaya, random": himalaya_group,
    "himalaya, kernels, random": _himalaya_kernels(
        "random_search", {"n_iter": DRAWS, "alphas": ALPHAS}
    ),
    "himalaya, hyper-gradient": _himalaya_kernels(
        "hyper_gradient", {"max_iter": 50, "initial_deltas": "ridgecv"}
    ),
    "TPE, equal time": _sampled(1.0),
    "random, equal time": _sampled(1.0, random=True),
    "TPE, 5 x our time": _sampled(5.0),
    "TPE, from our one": _sampled(1.0, from_one=True),
}
