"""Poisson: what comes of a curvature that has no bound."""

import numpy as np
import pytest

import implicitgrad as ig
from cases import CASES, HYPER

QUIET = {"warn": False}
POISSON = [c for c in HYPER if c.loss == "Poisson"]


def counts(scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((120, 5))
    y = rng.poisson(scale * np.exp(X @ [0.6, -0.4, 0.2, 0.0, 0.0]))
    given = {"fit_intercept": True}
    f = ig.Poisson(X[:80], y[:80], penalty=ig.L2("feature"), **given)
    return f, ig.Poisson(X[80:], y[80:], **given)


@pytest.mark.parametrize("scale", [1e-1, 1.0, 1e3, 1e6])
def test_training_where_the_first_steps_overflow(scale):
    f, g = counts(scale)
    lam = np.full(5, -2.0)
    trained = ig.train(f, lam)
    assert trained.success
    assert trained.stationarity <= 1e-8 * max(scale, 1.0)
    res = ig.implicit_grad(f, g, trained.x, lam)
    assert res.success and np.isfinite(res.error_bound)


def test_against_refits_by_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    f, g = counts()
    lam = np.log([0.1])
    f = ig.Poisson(f.X, f.y, penalty=ig.L2("all"), fit_intercept=True)
    res = ig.implicit_grad(f, g, ig.train(f, lam).x, lam)

    def loss(alpha):
        model = linear_model.PoissonRegressor(alpha=alpha, tol=1e-10, max_iter=10_000).fit(f.X, f.y)
        return g.fun(np.append(model.coef_, model.intercept_))

    h = 1e-3
    difference = (loss(0.1 * np.exp(h)) - loss(0.1 * np.exp(-h))) / (2 * h)
    assert difference == pytest.approx(res.grad[0], rel=1e-4)


@pytest.mark.parametrize("case", POISSON, ids=str)
def test_everything_that_is_done_with_an_objective(case):
    pb = case.problem()
    assert ig.check_hypergrad(pb.f, pb.g, pb.lam).success
    h = ig.HyperObjective(pb.f, pb.g)
    value, _ = h(pb.lam)
    best = ig.minimize(pb.f, pb.g, pb.lam, bounds=[(-6, 4)] * case.n_lam, options=QUIET)
    assert best.success and best.fun <= value
    assert ig.response(pb.f, h.theta, pb.lam, np.ones(case.n_lam)).success


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "minres", "neumann", "nystrom"])
def test_overflow_is_a_status(method):
    f, g = counts()
    lam, theta = np.zeros(5), np.full(6, 500.0)
    res = ig.implicit_grad(f, g, theta, lam, method=method, options=QUIET)
    assert not res.success and res.status == 5


def test_no_certificate_is_nan_however_far_theta_is():
    """Bounds hold near a point only; beyond that they are infinite, and no product of 0 and inf."""
    f, g = counts()
    lam = np.zeros(5)
    best = ig.train(f, lam).x
    exact = ig.implicit_grad(f, g, best, lam).grad
    for offset in (0.0, 1e-12, 1e-6, 1e-2, 0.3, 1.0, 3.0, 10.0):
        for method in ("cholesky", "cg"):
            for polish in (False, True):
                res = ig.implicit_grad(
                    *(f, g, best + offset, lam, method), options=QUIET | {"polish": polish}
                )
                error = np.linalg.norm(res.grad - exact)
                assert not np.isnan(res.error) and not np.isnan(res.error_bound)
                assert error <= res.error_bound + 1e-12
                if res.success:
                    assert error <= 1e-6 * np.linalg.norm(res.grad) + 1e-13
    at = f.linearize(np.zeros(6), lam)
    assert np.isfinite(at._core.errors()).all()


def test_folds_ride_on_shared_passes():
    pytest.importorskip("sklearn")
    f, _ = counts()
    folded = ig.cross_validated(
        ig.Poisson, f.X, f.y, cv=4, penalty=ig.L2("feature"), fit_intercept=True
    )
    assert ig.check_hypergrad(*folded, np.full(5, -2.0)).success
    assert "Poisson" in repr(folded[0])


def test_targets_that_are_refused():
    X = np.eye(3)
    with pytest.raises(ValueError, match=r"y\[1\] = -1 is negative; y must hold counts or rates"):
        ig.Poisson(X, [0, -1, 2])
    with pytest.raises(ValueError, match="y must be one-dimensional"):
        ig.Poisson(X, np.ones((3, 2)))
    with pytest.raises(ValueError, match="y is zero everywhere, so that no model can be trained"):
        ig.Poisson(X, np.zeros(3), penalty=ig.L2(), fit_intercept=True)
    assert ig.Poisson(X, np.zeros(3), fit_intercept=True).n_lam == 0
    assert ig.train(ig.Poisson(X, np.zeros(3), penalty=ig.L2()), [0.0]).success
    with pytest.raises(ValueError, match="X"):
        ig.Poisson([[np.nan], [1.0]], [0, 1])
    with pytest.raises(ValueError, match="X"):
        ig.Poisson([[np.inf], [1.0]], [0, 1])


def test_rates_and_counts_of_every_size():
    f = ig.Poisson([[1.0], [2.0]], [0.25, 1e300])
    assert np.isfinite(f.fun([1.0]))
    assert len(POISSON) == sum(c.loss == "Poisson" for c in CASES)
