"""Random data of all kinds: designs with a given spectrum, or none to speak of, and their targets."""

import numpy as np


def pick(rng, shares):
    names = list(shares)
    weights = np.array([shares[name] for name in names], dtype=float)
    return names[rng.choice(len(names), p=weights / weights.sum())]


def scale(rng, share):
    """1, or in a share of cases anything between 1e-8 and 1e8."""
    return 10.0 ** rng.uniform(-8, 8) if rng.random() < share else 1.0


def design(rng, n, p, condition, how):
    """n rows with a spectrum of XᵀX spread over `condition`, by its singular values or columns."""
    X = rng.standard_normal((n, p))
    if how == "columns":
        return X * rng.permutation(np.geomspace(1.0, condition**-0.5, p))
    if how == "spectrum":
        U, _, V = np.linalg.svd(X, full_matrices=False)
        k = min(n, p)
        s = np.geomspace(1.0, condition**-0.5, k)
        if rng.random() < 0.4:  # one direction far below the rest, or anything in between
            s = np.where(np.arange(k) < k - 1, 1.0, s[-1])
        elif rng.random() < 0.5:
            s = condition ** -(0.5 * rng.random(k))
        return np.sqrt(n) * (U * s) @ V
    return X


DEGENERATE = ("low rank", "nearly low rank", "constant columns", "equal rows", "few kinds of rows")


def low_rank(rng, X, how):
    """A design that has not full rank, or hardly."""
    n, p = X.shape
    k = int(rng.integers(1, max(2, min(n, p))))
    if how == "constant columns":
        X = X.copy()
        X[:, :k] = rng.choice([1.0, 3.0, 0.1, -2.0], k)
        return X
    if how == "equal rows":
        return np.repeat(X[:1], n, axis=0)
    if how == "few kinds of rows":
        return X[np.arange(n) % k]
    low = X[:, :k] @ rng.standard_normal((k, p))
    if how == "nearly low rank":
        low = low + 10 ** rng.uniform(-12, -4) * rng.standard_normal((n, p))
    return low


def targets(rng, loss, X, noise, scale):
    z = X @ rng.standard_normal(X.shape[1])
    z = z / (np.std(z) or 1.0)
    z = z + rng.standard_normal(len(z)) * noise + 0.3
    if loss == "LeastSquares":
        return z * scale
    y = np.where(z > np.median(z), 1.0, -1.0)
    if np.all(y == y[0]):
        y[0] = -y[0]
    return y
