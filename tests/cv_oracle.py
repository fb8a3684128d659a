"""The models of all folds one by one, in extended precision, and problems to try them on."""

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

import reference

N, P = 61, 5


def problem(loss="LeastSquares", seed=0, n=N, p=P, targets=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * np.geomspace(1, 0.2, p)
    z = X @ rng.standard_normal((p, max(targets, 1))) + 0.3
    z += 0.5 * rng.standard_normal(z.shape)
    if loss == "Logistic":
        return X, np.where(z[:, 0] > 0, 1.0, -1.0)
    return X, z if targets else z[:, 0]


class Oracle:
    """The folds' models one by one, in extended precision; θ is fold-major."""

    def __init__(self, loss, X, y, splits, penalty, fit_intercept, weights=None):
        w = np.ones(len(y)) if weights is None else weights
        y = y.reshape(len(y), -1)
        self.K, self.inner, self.outer = len(splits), [], []
        for train, test in splits:
            for t in range(y.shape[1]):
                common = {"fit_intercept": fit_intercept}
                self.inner.append(
                    reference.LinearModel(
                        loss, X[train], y[train, t], penalty, sample_weight=w[train], **common
                    )
                )
                self.outer.append(
                    reference.LinearModel(
                        loss, X[test], y[test, t], sample_weight=w[test], **common
                    )
                )
        self.width = self.inner[0].n_theta

    def parts(self, theta):
        return np.asarray(theta).reshape(len(self.inner), self.width)

    def fun(self, theta, lam):
        return (
            sum(f.fun(t, lam) for f, t in zip(self.inner, self.parts(theta), strict=True)) / self.K
        )

    def outer_fun(self, theta):
        return sum(g.fun(t) for g, t in zip(self.outer, self.parts(theta), strict=True)) / self.K

    def jac(self, theta, lam):
        rows = [f.jac(t, lam) for f, t in zip(self.inner, self.parts(theta), strict=True)]
        return np.concatenate(rows) / self.K

    def hessp(self, theta, v, lam):
        rows = [
            f.hess(t, lam) @ u
            for f, t, u in zip(self.inner, self.parts(theta), self.parts(v), strict=True)
        ]
        return np.concatenate(rows) / self.K

    def train(self, lam):
        return np.concatenate([f.train(lam) for f in self.inner])

    def grad(self, lam):
        pairs = zip(self.inner, self.outer, strict=True)
        return sum(reference.exact_hypergradient(f, g, lam) for f, g in pairs) / self.K


def splits_of(y, loss, n_splits=3):
    splitter = StratifiedKFold(n_splits) if loss == "Logistic" else KFold(n_splits)
    return list(splitter.split(np.zeros((len(y), 1)), y))
