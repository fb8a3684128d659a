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
from scipy.optimize import minimize

import implicitgrad as ig
from _tuning_data import Case, Split

CV = 5
BOUNDS = (-12.0, 4.0)  # of every λ, for all that search between bounds
WEAKER = 1.0  # how far below the best single λ the bounded search may go
STRONG = 2.0  # how far above the best single λ the descent in many begins
STEP = 2.0  # largest entry of the first step in λ
FTOL = 1e-5  # the relative gain in a step at which the descent stops
MAXITER = 15


@dataclass
class Tuned:
    theta: np.ndarray  # (p + 1[, targets]), the intercept last
    seconds: float
    cv: float | None = None  # the loss that was minimised, ½ r² or the logistic loss
    tried: str = ""


@dataclass
class Task:
    case: Case
    split: Split
    seed: int
    seconds: float = 0.0  # what our search with many penalties took, without the last fit
    one: np.ndarray = field(default_factory=lambda: np.empty(0))  # the best single λ
    cv: Any = CV

    @property
    def kind(self) -> Any:
        return ig.Logistic if self.case.logistic else ig.LeastSquares

    def folds(self, per: Any, target: int | None = None) -> tuple[Any, Any]:
        y = self.split.y if target is None else self.split.y[:, target]
        penalty = ig.L2(per)
        return ig.cross_validated(
            self.kind, self.split.X, y, self.cv, penalty=penalty, fit_intercept=True
        )

    def fit(self, per: Any, lam: np.ndarray, target: int | None = None) -> np.ndarray:
        """θ on all rows, of shape (p + 1[, targets])."""
        y = self.split.y if target is None else self.split.y[:, target]
        f = self.kind(self.split.X, y, penalty=ig.L2(per), fit_intercept=True)
        theta = ig.train(f, lam).x
        return theta.reshape(-1, self.split.X.shape[1] + 1).T if y.ndim == 2 else theta


def descend(
    f: Any,
    g: Any,
    start: np.ndarray,
    theta0: Any = None,
    ftol: float = FTOL,
    low: float = BOUNDS[0],
) -> Any:
    """L-BFGS-B from `start`. The loss is scaled so that the first step is of size STEP: dg/dλ is small
    where λ is, and unscaled the first step would be as small."""
    h = ig.HyperObjective(f, g, theta0=theta0, gtol=1e-7)
    grad = h(start)[1]
    scale = STEP / max(float(np.abs(grad).max()), 1e-300)

    def scaled(lam: np.ndarray) -> tuple[float, np.ndarray]:
        fun, grad = h(lam)
        return scale * fun, scale * grad

    res = minimize(
        scaled,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, BOUNDS[1])] * start.size,
        options={"maxiter": MAXITER, "ftol": ftol, "gtol": 1e-3 * STEP},
    )
    res.fun /= scale
    h(res.x)
    res.theta, res.h = h.theta, h
    return res


def best_one(task: Task, target: int | None = None) -> Any:
    return descend(*task.folds("all", target), np.array([-3.0]), ftol=1e-4)


def search(task: Task, per: Any, target: int | None = None, bounded: bool = False) -> Any:
    """One λ first, then all of them from above it."""
    one = best_one(task, target)
    f, g = task.folds(per, target)
    start = np.full(f.n_lam, min(one.x[0] + STRONG, BOUNDS[1]))
    low = max(one.x[0] - WEAKER, BOUNDS[0]) if bounded else BOUNDS[0]
    best = descend(f, g, start, one.theta, low=low)
    best.one, best.calls = one.x, one.h.nfev + best.h.nfev
    return best


def ours(task: Task) -> Tuned:
    return _ours(task, task.case.per, keep=True)


def ours_bounded(task: Task) -> Tuned:
    """No λ much below the best single one: features may be left out, not let loose."""
    return _ours(task, task.case.per, bounded=True)


def ours_groups(task: Task) -> Tuned:
    if task.case.groups is None:
        raise ImportError("the case has no groups")
    return _ours(task, task.case.groups)


def _ours(task: Task, per: Any, keep: bool = False, bounded: bool = False) -> Tuned:
    begin = time.perf_counter()
    best = search(task, per, bounded=bounded)
    if keep:
        task.seconds, task.one = time.perf_counter() - begin, best.one
    theta = task.fit(per, best.x)
    seconds = time.perf_counter() - begin
    return Tuned(theta, seconds, best.fun, f"{best.calls} hypergradients, {best.x.size} penalties")


def ours_one(task: Task) -> Tuned:
    begin = time.perf_counter()
    best = best_one(task)
    theta = task.fit("all", best.x)
    seconds = time.perf_counter() - begin
    return Tuned(theta, seconds, best.fun, f"{best.h.nfev} hypergradients, 1 penalty")


def ours_chosen(task: Task) -> Tuned:
    """The kind of penalty is chosen as well: each is tuned on four fifths of the rows, in turn, and
    judged on the last fifth, which no λ has seen; then the best is tuned on all."""
    from sklearn.model_selection import check_cv

    split, logistic = task.split, task.case.logistic
    kinds: dict[str, Callable[[Task], Tuned]] = {
        "one": ours_one, "groups": ours_groups, "bounded": ours_bounded, "many": ours,
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


def ours_per_target(task: Task) -> Tuned:
    """Penalties for each target by itself."""
    if task.split.y.ndim == 1:
        raise ImportError("the case has one target")
    begin = time.perf_counter()
    thetas, cv, calls = [], 0.0, 0
    for target in range(task.split.y.shape[1]):
        best = search(task, task.case.per, target)
        thetas.append(task.fit(task.case.per, best.x, target))
        cv, calls = cv + best.fun, calls + best.calls
    theta = np.stack(thetas, axis=1)
    return Tuned(theta, time.perf_counter() - begin, cv, f"{calls} hypergradients")


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
    "implicitgrad, bounded": ours_bounded,
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
