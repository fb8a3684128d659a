"""The data sets that bench/tuning.py tunes on: real ones, and made ones whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

import _files


@dataclass
class Split:
    """Rows to tune and fit on, and rows for the test alone. Targets are ±1 for logistic regression."""

    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray
    truth: float | None = None  # test loss of the weights that the data was made with

    def loss(self, logistic: bool, theta: np.ndarray) -> float:
        """Mean test loss, ½ r² or log(1 + exp(−yz)); θ of shape (p + 1[, targets]), intercept last."""
        z = self.X_test @ theta[:-1] + theta[-1]
        if logistic:
            return float(np.mean(np.logaddexp(0.0, -self.y_test * z)))
        return float(0.5 * np.mean((self.y_test - z) ** 2))

    def score(self, logistic: bool, theta: np.ndarray) -> float:
        """Accuracy, or the mean R² of the targets."""
        z = self.X_test @ theta[:-1] + theta[-1]
        if logistic:
            return float(np.mean((z > 0) == (self.y_test > 0)))
        rest = np.sum((self.y_test - z) ** 2, axis=0)
        return float(np.mean(1.0 - rest / np.sum((self.y_test - self.y_test.mean(0)) ** 2, axis=0)))


@dataclass
class Case:
    logistic: bool
    draw: Callable[[int], Split]  # the split, or the sample, of a seed
    draws: int = 1
    per: Any = "feature"  # which features share a penalty, in the row with many of them
    groups: np.ndarray | None = None  # labels of a coarser choice
    methods: tuple[str, ...] | None = None  # only names that hold one of these; all by default


def synthetic(
    logistic: bool,
    n: int,
    p: int,
    useful: int,
    size: float,
    noise: float,
    seed: int,
    n_test: int = 50_000,
) -> Split:
    """Standard normal features, `useful` of them with weights of `size`·N(0, 1)."""
    rng = np.random.default_rng(seed)
    weights = np.zeros(p + 1)
    weights[:useful] = size * rng.standard_normal(useful)
    X, X_test = rng.standard_normal((n, p)), rng.standard_normal((n_test, p))

    def targets(X: np.ndarray) -> np.ndarray:
        z = X @ weights[:-1]
        if logistic:
            return np.where(rng.random(len(z)) < expit(z), 1.0, -1.0)
        return z + noise * rng.standard_normal(len(z))

    split = Split(X, targets(X), X_test, targets(X_test))
    split.truth = split.loss(logistic, weights)
    return split


def grouped(n: int, groups: int, width: int, targets: int, seed: int) -> Split:
    """`groups` blocks of features, the weights of which are of size 1, 0.5, 0.2, 0, 0, …"""
    rng = np.random.default_rng(seed)
    p = groups * width
    size = np.zeros(groups)
    size[:3] = (1.0, 0.5, 0.2)
    W = np.repeat(size, width)[:, None] * rng.standard_normal((p, targets)) / np.sqrt(width)
    if targets == 1:
        W = W[:, 0]
    X, X_test = rng.standard_normal((n, p)), rng.standard_normal((5000, p))
    y, y_test = (A @ W + 0.5 * rng.standard_normal((len(A), *W.shape[1:])) for A in (X, X_test))
    split = Split(X, y, X_test, y_test)
    split.truth = split.loss(False, np.concatenate([W, np.zeros((1, *W.shape[1:]))]))
    return split


def _scaled(X: np.ndarray, X_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardised by the training rows; a column that is constant there becomes zero."""
    centre, scale = X.mean(axis=0), X.std(axis=0)
    constant = scale <= 1e-12 * np.abs(X).max(initial=1.0)
    scale[constant] = 1.0
    parts = [(A - centre) / scale for A in (X, X_test)]
    for part in parts:
        part[:, constant] = 0.0
    return parts[0], parts[1]


def _halves(X: Any, y: np.ndarray, seed: int, stratify: bool) -> tuple[Any, Any, Any, Any]:
    from sklearn.model_selection import train_test_split

    return train_test_split(
        X, y, train_size=0.5, random_state=seed, stratify=y if stratify else None
    )


def breast_cancer(seed: int) -> Split:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = _halves(X, np.where(y > 0, 1.0, -1.0), seed, True)
    X, X_test = _scaled(X, X_test)
    return Split(X, y, X_test, y_test)


def digits(one: int, other: int, seed: int) -> Split:
    """Two of the digits, 8 × 8 pixels."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    chosen = (y == one) | (y == other)
    X, X_test, y, y_test = _halves(X[chosen], np.where(y[chosen] == one, 1.0, -1.0), seed, True)
    X, X_test = _scaled(X, X_test)
    return Split(X, y, X_test, y_test)


def diabetes(seed: int) -> Split:
    """Ten features, their squares and products: the 64 columns of Efron, Hastie, Johnstone and
    Tibshirani, "Least angle regression", Annals of Statistics 32 (2004)."""
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True, scaled=False)
    X, X_test, y, y_test = _halves(X, y, seed, False)
    X, X_test = _scaled(X, X_test)
    both = [
        np.hstack([A, np.stack([A[:, i] * A[:, j] for i, j in _pairs()], axis=1)])
        for A in (X, X_test)
    ]
    centre, scale = y.mean(), y.std()
    X, X_test = _scaled(*both)
    return Split(X, (y - centre) / scale, X_test, (y_test - centre) / scale)


def _pairs() -> list[tuple[int, int]]:
    """The square of sex (column 1), which takes two values, would be sex again."""
    return [(i, j) for i in range(10) for j in range(i, 10) if (i, j) != (1, 1)]


def diabetes_groups() -> np.ndarray:
    return np.array([0] * 10 + [1 if i == j else 2 for i, j in _pairs()])


def a9a(folder: Path, seed: int) -> Split:
    """The publisher's own split, as it is; the features are 0 or 1."""
    return Split(*_files.svm(folder / "a9a/a9a.gz", 123), *_files.svm(folder / "a9a/a9a.t.gz", 123))


def basehock(folder: Path, seed: int) -> Split:
    """Counts of words as log(1 + count); all columns on the same scale."""
    X, y = _files.svm(folder / "basehock/basehock.svm.gz")
    X, X_test, y, y_test = _halves(X.log1p(), y, seed, True)
    return Split(X, y, X_test, y_test)


def cases(folder: Path) -> dict[str, Case]:
    five = np.repeat(np.arange(5), 200)
    rows = np.repeat(np.arange(8), 8)
    peers = ("scikit-learn", "himalaya", "equal time", "from our one", "free", "per target")
    return {
        "useful": Case(True, partial(synthetic, True, 50_000, 300, 30, 0.3, 0.0), 3, methods=peers),
        "groups": Case(False, partial(grouped, 1000, 5, 200, 1), 1, five, methods=peers),
        "groups20": Case(False, partial(grouped, 1000, 5, 200, 20), 1, five, methods=peers),
        "breast_cancer": Case(True, breast_cancer, 10, groups=np.repeat(np.arange(3), 10)),
        "digits38": Case(True, partial(digits, 3, 8), 10, groups=rows),
        "digits49": Case(True, partial(digits, 4, 9), 10, groups=rows),
        "diabetes": Case(False, diabetes, 10, groups=diabetes_groups()),
        "a9a": Case(True, partial(a9a, folder), 1),
        "basehock": Case(True, partial(basehock, folder), 2, methods=peers),
        "sparse_logistic": Case(True, partial(synthetic, True, 2000, 100, 10, 0.5, 0.0), 10),
        "sparse_ridge": Case(False, partial(synthetic, False, 500, 100, 10, 0.5, 1.0), 10,
                             methods=(*peers[2:], "scikit-learn", "chosen", "5 x")),
    }  # fmt: skip
