"""The demo's two data sets, each split at random into training (50 %), validation (25 %) and test
rows (25 %)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import L2, LeastSquares, Logistic


@dataclass
class Problem:
    """One data set, one split: standardised features, and what the table calls things."""

    title: str
    loss: type[Logistic] | type[LeastSquares]
    X: np.ndarray
    y: np.ndarray
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]  # rows of train, validation, test
    names: list[str]
    groups: np.ndarray
    group_names: tuple[str, ...]
    default: str
    score_name: str

    def objective(self, part: int, penalty: L2 | None = None) -> Any:
        rows = self.parts[part]
        return self.loss(self.X[rows], self.y[rows], penalty=penalty, fit_intercept=True)

    def score(self, theta: np.ndarray) -> float:
        """Accuracy or R² on the test rows."""
        rows = self.parts[2]
        y, z = self.y[rows], self.X[rows] @ theta[:-1] + theta[-1]
        if self.loss is Logistic:
            return float(np.mean((z > 0) == (y > 0)))
        return 1.0 - float(np.sum((y - z) ** 2) / np.sum((y - y.mean()) ** 2))


def _split(y: np.ndarray, seed: int, stratify: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    rows = np.arange(y.size)
    for_train, rest = train_test_split(
        rows, train_size=0.5, random_state=seed, stratify=y if stratify else None
    )
    validation, test = train_test_split(
        rest, train_size=0.5, random_state=seed, stratify=y[rest] if stratify else None
    )
    return for_train, validation, test


def _standardise(X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return (X - X[rows].mean(axis=0)) / X[rows].std(axis=0)


def breast_cancer(seed: int) -> Problem:
    """Malignant or benign, from ten measurements of cell nuclei: mean, error and worst of each."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    parts = _split(data.target, seed, stratify=True)
    return Problem(
        title="breast_cancer: logistic regression",
        loss=Logistic,
        X=_standardise(data.data, parts[0]),
        y=data.target.astype(float),
        parts=parts,
        names=[str(name) for name in data.feature_names],
        groups=np.repeat([0, 1, 2], 10),
        group_names=("mean", "error", "worst"),
        default="C = 1",
        score_name="accuracy",
    )


def diabetes(seed: int) -> Problem:
    """Disease progression from ten features, their products and squares: the 64 columns of Efron,
    Hastie, Johnstone and Tibshirani, "Least angle regression", Annals of Statistics 32 (2004). (The
    square of sex, which takes two values, would be sex again.) The target is standardised too."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    parts = _split(data.target, seed, stratify=False)
    X = _standardise(data.data, parts[0])
    base = [str(name) for name in data.feature_names]
    pairs = [(i, j) for i in range(10) for j in range(i, 10) if i != j or base[i] != "sex"]
    products = np.stack([X[:, i] * X[:, j] for i, j in pairs], axis=1)
    return Problem(
        title="diabetes with squares and products: ridge regression",
        loss=LeastSquares,
        X=_standardise(np.hstack([X, products]), parts[0]),
        y=_standardise(data.target, parts[0]),
        parts=parts,
        names=base + [f"{base[i]}²" if i == j else f"{base[i]}·{base[j]}" for i, j in pairs],
        groups=np.array([0] * 10 + [1 if i == j else 2 for i, j in pairs]),
        group_names=("features", "squares", "products"),
        default="alpha = 1",
        score_name="R²",
    )
