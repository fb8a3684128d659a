"""What the demo compares on one split: no tuning, a grid search, and one, three and many penalties."""

from __future__ import annotations

import math
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import L2, Logistic, check_hypergrad, minimize, train
from .data import Problem

BOUNDS = (-10.0, 10.0)  # of λ: from practically no penalty to a coefficient of practically zero
GRID = np.linspace(*BOUNDS, 41)
GRID_ROW, ONE_ROW = f"scikit-learn, best of {GRID.size}", "1 penalty, tuned"


@dataclass
class Row:
    """What one way of choosing penalties gave on one split."""

    validation: float
    test: float
    score: float
    seconds: float
    lam: np.ndarray = field(default_factory=lambda: np.empty(0))
    counts: tuple[int, int, int] | None = None  # outer iterations, hypergradients, HVPs
    history: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    converged: bool = True
    succeeded: list[bool] = field(default_factory=list)  # of the hypergradients, at each iteration
    relative_error: float = 0.0  # the largest res.error / ‖res.grad‖


@dataclass
class Split:
    """All rows of the table for one split, and its checks."""

    problem: Problem
    rows: dict[str, Row]
    check: Any  # of check_hypergrad
    theta_gap: float  # between our θ and scikit-learn's, at scikit-learn's penalty


def _measure(problem: Problem, theta: np.ndarray, seconds: float, **found: Any) -> Row:
    validation, test = problem.objective(1).fun(theta), problem.objective(2).fun(theta)
    return Row(validation, test, problem.score(theta), seconds, **found)


def _grid_search(problem: Problem) -> tuple[float, np.ndarray]:
    """scikit-learn's best λ of GRID on the validation rows, by the validation loss, and its θ,
    fitted on the training rows alone."""
    from sklearn.linear_model import LogisticRegressionCV, Ridge, RidgeCV
    from sklearn.model_selection import PredefinedSplit

    for_train, validation, _ = problem.parts
    n = for_train.size
    both = np.concatenate([for_train, validation])
    cv = PredefinedSplit(np.repeat([-1, 0], [n, validation.size]))
    X, y = problem.X[both], problem.y[both]
    strength = np.exp(GRID)  # of the mean loss; scikit-learn's C and alpha refer to the sum
    if problem.loss is Logistic:
        search = LogisticRegressionCV(
            Cs=1.0 / (n * strength),
            cv=cv,
            refit=False,  # keeps the fit on the training rows
            scoring="neg_log_loss",
            solver="newton-cholesky",
            tol=1e-8,
        )
        with warnings.catch_warnings():  # about defaults that will change and are not used here
            warnings.simplefilter("ignore", FutureWarning)
            search.fit(X, y)
        lam = -math.log(n * float(np.ravel(search.C_)[0]))
        return lam, np.append(search.coef_[0], search.intercept_)
    search = RidgeCV(alphas=n * strength, cv=cv, scoring="neg_mean_squared_error").fit(X, y)
    fitted = Ridge(alpha=search.alpha_).fit(X[:n], y[:n])  # RidgeCV refits on all rows
    return math.log(search.alpha_ / n), np.append(fitted.coef_, fitted.intercept_)


def _tune(problem: Problem, penalty: L2, start: float) -> Row:
    f, g, test = problem.objective(0, penalty), problem.objective(1), problem.objective(2)
    lam0 = np.full(f.n_lam, start)
    theta0 = train(f, lam0).x
    history = ([g.fun(theta0)], [test.fun(theta0)])
    succeeded: list[bool] = []
    errors = [0.0]

    def watch(intermediate_result: Any) -> None:
        history[0].append(intermediate_result.fun)
        history[1].append(test.fun(intermediate_result.theta))
        found = intermediate_result.hypergradient
        succeeded.append(found.success)
        errors.append(found.error / max(float(np.linalg.norm(found.grad)), sys.float_info.min))

    begin = time.perf_counter()
    # Few outer rows for so many penalties: what the rows of the test say of that is shown.
    quiet = {"warn": False}
    res = minimize(f, g, lam0, bounds=[BOUNDS] * f.n_lam, callback=watch, options=quiet)
    return _measure(
        problem,
        res.theta,
        time.perf_counter() - begin,
        lam=res.x,
        counts=(res.nit, res.nfev, res.nhev),
        history=history,
        converged=bool(res.success),
        succeeded=succeeded,
        relative_error=max(errors),
    )


def run(problem: Problem) -> Split:
    """Every row of the table on one split."""
    n, p = problem.parts[0].size, problem.X.shape[1]
    shared = problem.objective(0, L2("all"))
    default = -math.log(n)  # strength 1/n, which is C = 1 and alpha = 1
    begin = time.perf_counter()
    theta = train(shared, [default]).x
    rows = {f"no tuning ({problem.default})": _measure(problem, theta, time.perf_counter() - begin)}
    begin = time.perf_counter()
    lam, theta = _grid_search(problem)
    rows[GRID_ROW] = _measure(problem, theta, time.perf_counter() - begin)
    gap = float(np.max(np.abs(theta - train(shared, [lam]).x)))

    one = _tune(problem, L2("all"), default)
    start = float(one.lam[0])
    rows[ONE_ROW] = one
    rows[f"{len(problem.group_names)} penalties, tuned"] = _tune(problem, L2(problem.groups), start)
    rows[f"{p} penalties, tuned"] = _tune(problem, L2("feature"), start)
    check = check_hypergrad(
        problem.objective(0, L2("feature")), problem.objective(1), np.full(p, start)
    )
    return Split(problem, rows, check, gap)
