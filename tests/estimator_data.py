"""Data for the estimators, and what they share in tests."""

import numpy as np
import pytest

from implicitgrad.sklearn import GroupLogisticRegressionCV, GroupRidgeCV


def regression(n=80, p=6, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return X, X @ np.resize([2.0, -1.0, 0.3, 0.0], p) + noise * rng.standard_normal(n) + 3.0


def classes(n=120, p=5, seed=0):
    X, z = regression(n, p, seed)
    return X, np.where(z > 3, "yes", "no")


def three_classes(n=120, p=5, seed=0):
    X, z = regression(n, p, seed)
    steep = z + 2 * X[:, -1]
    return X, np.where(z > 4, "up", np.where(steep < 2, "down", "nowhere"))


KINDS = pytest.mark.parametrize(
    ("kind", "data"),
    [
        (GroupRidgeCV, regression),
        (GroupLogisticRegressionCV, classes),
        (GroupLogisticRegressionCV, three_classes),
    ],
)


def output(model, X):
    return model.decision_function(X) if hasattr(model, "decision_function") else model.predict(X)
