"""Training of linear models with one penalty, by ours and by scikit-learn, to the same gradient."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

import implicitgrad as ig
from _problems import gradient, make

# Of scikit-learn. sag and saga are left out of logistic regression: on columns of such different
# scales they take thousands of epochs.
SOLVERS = {
    "logistic": ("lbfgs", "newton-cg", "newton-cholesky", "liblinear"),
    "ridge": ("cholesky", "lsqr", "sparse_cg", "sag"),
}
DIRECT = ("cholesky",)  # to which a tolerance means nothing
HIGHEST_DIRECT = 5000  # features up to which solvers that form a Hessian are asked


@dataclass
class Found:
    tol: float | None
    slope: float
    iterations: int | None
    reached: bool
    spent: float


class Case:
    """f = mean loss + ½ e^λ ‖θ‖² with e^λ = 1/n, which is scikit-learn's C = 1/(n e^λ) = 1 and, for
    ridge regression (twice the sum of our losses), alpha = n e^λ = 1."""

    def __init__(self, part: str, n: int, p: int, threads: int, tol: float):
        self.part, self.threads, self.n = part, threads, n
        self.problem = make(n, p, "logistic" if part == "logistic" else "squared", n_val=1)
        self.lam = np.array([-np.log(n)])
        self.start = self.slope(np.zeros(p))
        self.goal = tol * self.start
        self.names = ["implicitgrad"] + [
            f"scikit-learn {solver}"
            for solver in SOLVERS[part]
            if p <= HIGHEST_DIRECT or "cholesky" not in solver
        ]

    def slope(self, theta: np.ndarray) -> float:
        """‖∇θf‖_∞, by NumPy."""
        problem = self.problem
        whole = gradient(problem.loss, problem.X, problem.y, theta) + theta / self.n
        return float(np.abs(whole).max())

    def fit(self, name: str, tol: float | None) -> tuple[np.ndarray, int | None]:
        """θ from zero, and the iterations it took where they are told."""
        X, y = self.problem.X, self.problem.y
        if name == "implicitgrad":
            kind = ig.Logistic if self.part == "logistic" else ig.LeastSquares
            f = kind(X, y, penalty=ig.L2("all"), n_threads=self.threads)
            res = ig.train(f, self.lam, tol=tol)
            return res.x, res.nit
        from sklearn.linear_model import LogisticRegression, Ridge

        solver = name.removeprefix("scikit-learn ")
        model: Any
        if self.part == "logistic":
            model = LogisticRegression(solver=solver, fit_intercept=False, tol=tol, max_iter=10_000)
        else:
            model = Ridge(solver=solver, fit_intercept=False, tol=tol or 1e-4, copy_X=False)
            if solver in ("sag", "sparse_cg", "lsqr"):
                model.max_iter = 10_000
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence, which is judged here
            model.fit(X, y)
        iterations = None if model.n_iter_ is None else int(np.max(model.n_iter_))
        return model.coef_.ravel(), iterations

    def calibrate(self, name: str, give_up: float) -> Found:
        """The loosest tolerance, in steps of √10 from √10 times the goal, that reaches the goal. Ours
        is asked for the goal itself."""
        solver = name.removeprefix("scikit-learn ")
        ladder: list[float | None] = [self.goal * 10 ** (0.5 - 0.5 * k) for k in range(12)]
        if name == "implicitgrad":
            ladder = [self.goal]
        elif self.part == "ridge":
            ladder = [None] if solver in DIRECT else [10 ** (-3 - 0.5 * k) for k in range(20)]
        begin = time.perf_counter()
        for tol in ladder:
            theta, iterations = self.fit(name, tol)
            found = self.slope(theta)
            spent = time.perf_counter() - begin
            if found <= self.goal or spent > give_up:
                break
        return Found(tol, found, iterations, found <= self.goal, spent)
