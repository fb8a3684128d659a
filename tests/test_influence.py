"""The influence of training rows, against the oracle and against models retrained without a row."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from scipy.stats import spearmanr

import implicitgrad as ig
import reference
from cases import Wrapped
from row_cases import CASES as ROW_CASES


def draw(n=200, p=8, seed=0):
    rng = np.random.default_rng(seed)
    truth, d = rng.standard_normal(p), SimpleNamespace()
    d.X, d.X_val = rng.standard_normal((n, p)), rng.standard_normal((300, p))
    d.y = d.X @ truth + rng.standard_normal(n) > 0
    d.y_val = d.X_val @ truth + rng.standard_normal(300) > 0
    return d


def pair(d, **given):
    f = ig.Logistic(d.X, d.y, penalty=ig.L2("feature"), fit_intercept=True, **given)
    return f, ig.Logistic(d.X_val, d.y_val, fit_intercept=True)


def without(d, i, lam):
    """g after training on all rows but one, whose coefficients stay 1/n."""
    n = len(d.y)
    rest = np.arange(n) != i
    f, g = pair(SimpleNamespace(X=d.X[rest], y=d.y[rest], X_val=d.X_val, y_val=d.y_val))
    # (1/n) Σ ℓ + penalty is (n−1)/n times (1/(n−1)) Σ ℓ + n/(n−1) penalty.
    return g.fun(ig.train(f, lam + np.log(n / (n - 1))).x)


def test_it_orders_rows_as_leaving_them_out_does():
    d, lam = draw(), np.full(8, -4.0)
    f, g = pair(d)
    theta = ig.train(f, lam).x
    res = ig.influence(f, g, theta, lam)
    assert res.success and res.influence.shape == (200,)
    changes = np.array([without(d, i, lam) for i in range(200)]) - g.fun(theta)
    assert spearmanr(-res.influence, changes).statistic >= 0.99
    # Sign and scale: right to first order, but rows of high leverage change more.
    assert np.polyfit(-res.influence, changes, 1)[0] == pytest.approx(1.0, abs=0.25)


def exact(f, g, lam, c):
    """−c_i (∇θℓ_i)ᵀq in extended precision."""
    theta = f.train(lam)
    q = reference.cholesky_solve(f.hess(theta, lam), g.jac(theta, lam))
    return -c * f.pointwise(theta)[1] * (f.A @ q)


@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
@pytest.mark.parametrize("method", ["auto", "cg"])
@pytest.mark.parametrize("sparse", [False, True])
def test_it_is_the_derivative_in_each_weight(loss, method, sparse, rng):
    X, X_val = rng.standard_normal((40, 5)), rng.standard_normal((20, 5))
    y, y_val = np.sign(X[:, 0] + X[:, 1] ** 2 - 0.5), np.sign(X_val[:, 0])
    w, lam = rng.integers(0, 3, 40), rng.uniform(-4, -1, 5)  # rows of weight 0 among them
    given = {"penalty": ig.L2("feature"), "fit_intercept": True}
    f = getattr(ig, loss)(scipy.sparse.csr_array(X) if sparse else X, y, sample_weight=w, **given)
    g = getattr(ig, loss)(X_val, y_val, fit_intercept=True)
    ref_f = reference.LinearModel(loss, X, y, "feature", fit_intercept=True, sample_weight=w)
    ref_g = reference.LinearModel(loss, X_val, y_val, fit_intercept=True)
    want = exact(ref_f, ref_g, lam, w / w.sum()).astype(float)
    theta = ig.train(f, lam).x
    for start in (theta, theta + 1e-4 * rng.standard_normal(6)):
        res = ig.influence(f, g, start, lam, method)
        error = np.linalg.norm(res.influence - want)
        assert res.success and error <= 1e-6 * np.linalg.norm(want)
        assert error <= res.error_bound < np.inf and error <= 3 * res.error + 1e-15
    assert (res.influence[w == 0] == 0).all()


@pytest.mark.parametrize("case", [c for c in ROW_CASES if "all-blocks" in c.name], ids=str)
def test_hyperparameters_in_the_rows_are_held(case):
    f, g = case.objectives()
    ref, ref_g = case.references()
    lam = case.lam()
    model, strengths = ref.at(lam)
    want = exact(model, ref_g, strengths, model.s / model.n).astype(float)
    res = ig.influence(f, g, ig.train(f, lam).x, lam)
    assert res.success
    assert np.linalg.norm(res.influence - want) <= 1e-10 * np.linalg.norm(want)


def test_any_outer_loss_will_do():
    d, lam = draw(60, 4), np.full(4, -3.0)
    f, g = pair(d)
    theta = ig.train(f, lam).x
    plain = ig.influence(f, g, theta, lam)
    wrapped = ig.influence(f, Wrapped(g), theta, lam)
    assert np.allclose(wrapped.influence, plain.influence, rtol=1e-10)
    penalised = ig.Logistic(d.X_val, d.y_val, penalty=ig.L2("feature"), fit_intercept=True)
    res = ig.influence(f, penalised, theta, lam)
    want = ig.implicit_grad(f, penalised, theta, lam).adjoint
    assert res.success and np.allclose(res.adjoint, want, rtol=1e-6)


def test_it_says_how_good_it_is():
    d, lam = draw(60, 4), np.full(4, -3.0)
    f, g = pair(d)
    theta = ig.train(f, lam).x + 0.01
    best = ig.influence(f, g, theta, lam, tol=1e-10).influence
    poor = ig.influence(f, g, theta, lam, options={"polish": False, "warn": False})
    assert not poor.success and poor.status == 4
    assert poor.error == pytest.approx(np.linalg.norm(poor.influence - best), rel=0.2)
    assert "influence" in ig.influence(f, g, theta, lam).message


def test_bad_input_is_refused_by_name(rng):
    d = draw(20, 3)
    f, g = pair(d)
    theta, lam = np.zeros(4), np.zeros(3)
    folds, held_out = ig.cross_validated(ig.LeastSquares, d.X, d.y, cv=[(range(10), range(10, 20))])
    several = ig.LeastSquares(d.X, rng.standard_normal((20, 2)))
    for call, name in (
        (lambda: ig.influence(folds, held_out, np.zeros(3)), "f must"),
        (lambda: ig.influence(lambda theta, lam: 0.0, g, theta, lam), "f must"),
        (lambda: ig.influence(several, several, np.zeros(6)), "f must have one target"),
        (lambda: ig.influence(f, g, theta), "lam is missing"),
        (lambda: ig.influence(f, g, theta[1:], lam), "theta"),
        (lambda: ig.influence(f, g, theta, lam[1:]), "lam"),
        (lambda: ig.influence(f, g, theta, lam, method="best"), "method"),
        (lambda: ig.influence(f, g, theta, lam, tol=0), "tol"),
        (lambda: ig.influence(f, g, theta, lam, callback=3), "callback"),
    ):
        with pytest.raises((ValueError, TypeError), match=name):
            call()


def test_an_outer_loss_from_callables_will_do():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    f = ig.Logistic(X, np.where(X[:, 0] + rng.standard_normal(40) > 0, 1.0, -1.0), penalty=ig.L2())
    theta = ig.train(f, [-2.0]).x
    g = ig.Objective(lambda t, lam: float(t @ t), jac=lambda t, lam: 2 * t, n_theta=3)
    by_jac = ig.influence(f, g, theta, [-2.0])
    by_value = ig.influence(f, lambda t, lam: float(t @ t), theta, [-2.0])
    assert by_jac.success and by_value.success
    np.testing.assert_allclose(by_value.influence, by_jac.influence, rtol=1e-4, atol=1e-7)
