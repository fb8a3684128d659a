"""The leave-one-out formula as it is written, in extended precision, and problems to try it on."""

from types import SimpleNamespace

import numpy as np

import implicitgrad as ig
import reference
from reference import WIDE, cholesky_solve

LS, LOG = "LeastSquares", "Logistic"


class Oracle:
    """g(θ, λ) as the formula is written, in extended precision."""

    def __init__(self, model):
        self.model = model

    def losses(self, theta, lam):
        m = self.model
        c = m.s / m.n
        _, first, second = m.pointwise(theta)
        a = c * np.sum(m.A.T * cholesky_solve(m.hess(theta, lam), m.A.T), axis=0)
        z = m.A @ np.asarray(theta, dtype=WIDE) + first * a / (1 - second * a)
        return c, pointwise(m, z)

    def fun(self, theta, lam):
        c, losses = self.losses(theta, lam)
        return np.sum(c * losses)

    def jac(self, theta, lam):
        return slopes(lambda t: self.fun(t, lam), theta)

    def jac_lam(self, theta, lam):
        return slopes(lambda x: self.fun(theta, x), lam)


def pointwise(model, z):
    if model.loss == LS:
        return (z - model.y) ** 2 / 2
    return np.logaddexp(0, -model.y * z)


def slopes(fun, x):
    """∂fun/∂x by central differences, extrapolated twice: O(h⁶)."""
    x = np.asarray(x, dtype=WIDE)

    def one(e):
        a, b, c = ((fun(x + h * e) - fun(x - h * e)) / (2 * h) for h in WIDE(4e-3) / [1, 2, 4])
        return (64 * c - 20 * b + a) / 45

    return np.array([one(e) for e in np.eye(x.size, dtype=WIDE)])


def problem(loss, n, p, per="feature", seed=0, **options):
    """f, g, the matching model and oracle, and a λ."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    y = X[:, 0] + 0.3 + rng.standard_normal(n)
    if loss == LOG:
        y = np.where(y > 0, 1.0, -1.0)
        y[:2] = -1.0, 1.0
    if options.pop("weighted", False):
        options["sample_weight"] = rng.random(n) * (rng.random(n) < 0.8)
    groups = np.arange(p) % 3 if per == "groups" else per
    fixed = options.pop("fixed", 0.0)
    f, g = ig.leave_one_out(getattr(ig, loss), X, y, penalty=ig.L2(groups, fixed=fixed), **options)
    model = reference.LinearModel(loss, X, y, penalty=groups, fixed=fixed, **options)
    lam = rng.uniform(-4, 0, f.n_lam)
    return SimpleNamespace(f=f, g=g, model=model, oracle=Oracle(model), lam=lam, X=X, y=y, rng=rng)
