"""Random problems for CG with each of its preconditioners, each from one integer seed."""

import numpy as np

from designs import design, pick, targets
from generator import Problem
from oracle import Data, norm

# What CG is preconditioned with; "rows" is a sketch of a given number of rows, however poor.
LANES = ("auto", "jacobi", "sketch", "gram", "rows")


def draw_lanes(seed):
    """A native problem for CG with each of the LANES: larger, with rows and columns of all kinds."""
    data, where, asked = (np.random.default_rng([seed, 7, k]) for k in range(3))
    inner, outer, lam, traits = _linear_model(data)

    placed = pick(where, {"exact": 30, "off": 45, "trained": 15, "again": 10})
    exact = placed == "exact" or (placed == "again" and where.random() < 0.5)
    offset = 0.0 if exact or placed == "trained" else 10 ** where.uniform(-12, 0)
    direction = where.standard_normal(inner.n_theta)
    direction /= norm(direction)

    tol = None if asked.random() < 0.3 else 10 ** asked.uniform(-10, -1)
    options = {"polish": bool(asked.random() < 0.6), "rng": int(asked.integers(5))}
    # The certificate by CG too, as in larger problems: a factor is too cheap to do without here.
    own = bool(asked.random() < 0.8)
    how = {"name": "cg", "placed": placed, "own": own}
    n = inner.X.shape[0]
    how["rows"] = int(np.clip(10 ** asked.uniform(-0.6, 1.5) * inner.n_theta, 2, n))
    traits |= {"placed": placed, "checked by": "cg" if own else "factor", "atol": "default"}
    return Problem(
        *(seed, inner, outer, lam, "linear", "native", offset, True, direction),
        *(tol, "cg", options, how, traits),
    )


def _linear_model(rng):
    p = int(10 ** (rng.uniform(0.5, 2.2) if rng.random() < 0.2 else rng.uniform(0.3, 1.5)))
    wide = p > 2 and rng.random() < 0.3
    n = int(rng.integers(max(2, p // 4), p)) if wide else int(p * 10 ** rng.uniform(0.05, 1)) + 3
    n, n_val = min(n, 600), int(rng.integers(2, 40))
    loss = pick(rng, {"LeastSquares": 2, "Logistic": 3})
    outer_loss = loss if rng.random() < 0.75 else pick(rng, {"LeastSquares": 1, "Logistic": 1})
    condition = 10 ** rng.uniform(0, 11)
    spread = pick(rng, {"spectrum": 35, "columns": 30, "penalty": 35})
    X = design(rng, n + n_val, p, condition, spread)
    if rng.random() < 0.4:
        X[n:] = rng.standard_normal((n_val, p))

    rows = pick(rng, {"plain": 50, "heavy": 20, "duplicated": 15, "few matter": 15})
    if rows == "heavy":
        X *= np.abs(rng.standard_cauchy(n + n_val))[:, None].clip(1e-3, 1e6)
    elif rows == "duplicated":
        X[:n] = X[rng.integers(0, max(2, n // 4), n)]
    elif rows == "few matter":  # a direction that a handful of rows know of
        k = rng.integers(p)
        X[:n, k] = 0.0
        few = rng.choice(n, min(n, int(rng.integers(1, 4))), replace=False)
        X[few, k] = 10 ** rng.uniform(-2, 3) * rng.standard_normal(len(few))
    columns = pick(rng, {"plain": 70, "sparse": 15, "duplicated": 10, "zero": 5})
    if columns == "sparse":
        X = X * (rng.random(X.shape) < 10 ** rng.uniform(-1.5, -0.3, p))
    elif columns == "duplicated":
        X[:, rng.integers(p)] = X[:, rng.integers(p)]
    elif columns == "zero":
        X[:n, rng.integers(p)] = 0.0

    saturated = loss == "Logistic" and rng.random() < 0.3
    y = targets(rng, loss, X[:n], 0.0 if saturated else 0.5, 1.0)
    outer_y = targets(rng, outer_loss, X[n:], 0.5, 1.0)
    if (X[:n] == X[0]).all():
        rows = (
            "identical"  # the intercept explains all that can be: the exact hypergradient is zero
        )
    w = None
    weighted = rng.random() < 0.35
    if weighted:
        w = 10 ** rng.uniform(-4, 0, n) if rng.random() < 0.3 else rng.random(n) + 0.1
        w[rng.random(n) < rng.choice([0.15, 0.7])] = 0.0
        w[np.argmin(y)] = w[np.argmax(y)] = 1.0

    size = float(np.max(np.sum(X[:n] ** 2, axis=0))) / n or 1.0
    per = pick(rng, {"feature": 60, "all": 40})
    n_lam = p if per == "feature" else 1
    lam = np.log(size) - np.log(condition) * rng.random(n_lam)
    if rng.random() < 0.4:
        lam[:] = np.log(size) - np.log(condition)
    fixed = float(size / condition) if rng.random() < 0.1 else 0.0
    intercept = bool(rng.random() < 0.4)
    inner = Data(loss, X[:n].copy(), y, w, per, fixed, intercept)
    outer = Data(outer_loss, X[n:].copy(), outer_y, intercept=intercept)
    traits = {
        "loss": loss + (" saturated" if saturated else ""),
        "outer": outer_loss,
        "penalty": per,
        "ill by": spread,
        "shape": "n < p" if n < p else "n > p",
        "size": "p < 10" if p < 10 else "p < 40" if p < 40 else "p >= 40",
        "columns": columns,
        "rows": rows,
        "intercept": str(intercept),
        "weights": str(weighted),
    }
    return inner, outer, lam, traits
