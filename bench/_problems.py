"""Problems for the benchmarks, and their hypergradients by NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.signal
import scipy.sparse
from scipy.special import expit

import implicitgrad as ig


@dataclass
class Problem:
    loss: str  # "logistic" or "squared"
    X: Any
    y: np.ndarray
    X_val: Any
    y_val: np.ndarray
    penalty: ig.L2
    lam: np.ndarray

    def objectives(self, n_threads: int | None = None) -> tuple[Any, Any]:
        """Fresh f and g, on which nothing has been computed."""
        kind = ig.Logistic if self.loss == "logistic" else ig.LeastSquares
        f = kind(self.X, self.y, penalty=self.penalty, n_threads=n_threads)
        return f, kind(self.X_val, self.y_val, n_threads=n_threads)

    def train(self) -> np.ndarray:
        """θ⋆, as exactly as training gets: converged, and a Newton step more."""
        f, _ = self.objectives()
        return ig.train(f, self.lam, ig.train(f, self.lam).x).x

    @property
    def strength(self) -> np.ndarray:
        """exp λ, one a feature."""
        group, _ = self.penalty.groups(self.X.shape[1])
        return np.exp(self.lam)[group]


def make(
    n: int,
    p: int,
    loss: str = "logistic",
    *,
    smallest: float = 0.03,
    strength: float = 1e-3,
    n_val: int | None = None,
    groups: int | None = None,
    per_row: int | None = None,
    correlation: float = 0.0,
    seed: int = 0,
) -> Problem:
    """Linear predictors of standard deviation 2 on columns whose scales fall from 1 to `smallest`;
    labels from a logistic model, or targets with unit noise. Each column of a dense X has the
    `correlation` given with its neighbour. λ = log `strength`, one a feature or
    one for each of `groups`. Sparse (CSR), with about `per_row` entries a row, where that is given.
    """
    rng = np.random.default_rng(seed)
    scales = np.geomspace(1, smallest, p)

    def draw(rows: int) -> Any:
        if per_row is not None:
            # Rows of equally many draws; a column drawn twice in a row makes one entry.
            columns = rng.integers(0, p, rows * per_row)
            values = rng.standard_normal(rows * per_row) * scales[columns]
            starts = np.arange(0, rows * per_row + 1, per_row)
            X = scipy.sparse.csr_array((values, columns, starts), shape=(rows, p))
            X.sum_duplicates()
            return X
        X = np.empty((rows, p))
        for i in range(0, rows, 10_000):  # in pieces, so that memory beyond X stays small
            rng.standard_normal(out=X[i : i + 10_000])
            if correlation:
                part = X[i : i + 10_000]
                part[:, 1:] *= np.sqrt(1 - correlation**2)
                X[i : i + 10_000] = scipy.signal.lfilter([1.0], [1.0, -correlation], part)
            X[i : i + 10_000] *= scales
        return X

    X, X_val = draw(n), draw(n_val or min(20_000, max(n // 2, 1)))
    weight = rng.standard_normal(p)
    z = X @ weight
    weight *= 2 / np.std(z)

    def targets(X: Any) -> np.ndarray:
        z = X @ weight
        if loss == "squared":
            return z + rng.standard_normal(len(z))
        return np.where(rng.random(len(z)) < expit(z), 1.0, -1.0)

    penalty = ig.L2("feature") if groups is None else ig.L2(np.arange(p) * groups // p)
    lam = np.full(p if groups is None else groups, np.log(strength))
    return Problem(loss, X, targets(X), X_val, targets(X_val), penalty, lam)


def gradient(loss: str, X: Any, y: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """∇θ of the mean loss."""
    z = X @ theta
    slope = z - y if loss == "squared" else -y * expit(-y * z)
    return X.T @ (slope / len(y))


def curvature(loss: str, X: Any, theta: np.ndarray) -> np.ndarray:
    """The weights d of H = Xᵀ diag(d) X + diag(strength)."""
    if loss == "squared":
        return np.full(X.shape[0], 1 / X.shape[0])
    u = expit(X @ theta)
    return u * (1 - u) / X.shape[0]


@dataclass
class Reference:
    grad: np.ndarray
    stationarity: float  # ‖∇θf‖_∞ at θ
    newton_step: float  # ‖H⁻¹∇θf‖ / ‖θ‖: how far θ is from θ⋆
    residual: float  # ‖∇θg − Hq‖ / ‖∇θg‖

    def error(self, grad: np.ndarray) -> float:
        return float(np.linalg.norm(grad - self.grad) / np.linalg.norm(self.grad))


def hessian(problem: Problem, theta: np.ndarray) -> np.ndarray:
    d = curvature(problem.loss, problem.X, theta)
    H = np.diag(problem.strength)
    for i in range(0, len(d), 10_000):
        rows = problem.X[i : i + 10_000]
        H += rows.T @ (rows * d[i : i + 10_000, None])
    return H


def reference(problem: Problem, theta: np.ndarray) -> Reference:
    """The hypergradient at θ (one λ a feature), from H formed and factored in float64 by NumPy and
    SciPy: no code of ours."""
    loss, strength = problem.loss, problem.strength
    H = hessian(problem, theta)
    factor = scipy.linalg.cho_factor(H)
    b = gradient(loss, problem.X_val, problem.y_val, theta)
    q = scipy.linalg.cho_solve(factor, b)
    q += scipy.linalg.cho_solve(factor, b - H @ q)
    slope = gradient(loss, problem.X, problem.y, theta) + strength * theta
    step = scipy.linalg.cho_solve(factor, slope)
    return Reference(
        grad=-strength * theta * q,
        stationarity=float(np.abs(slope).max()),
        newton_step=float(np.linalg.norm(step) / np.linalg.norm(theta)),
        residual=float(np.linalg.norm(b - H @ q) / np.linalg.norm(b)),
    )
