"""Cross-validation as one pair of objectives: against an oracle of separate models, one a fold."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import KFold

import implicitgrad as ig
from cv_oracle import N, Oracle, P, problem, splits_of
from implicitgrad import _cv
from reference import assert_near

GROUPS = np.array([0, 1, 0, 2, 1])
KINDS = list(
    itertools.product(
        ("LeastSquares", "Logistic"), ("feature", "all", "groups"), (False, True), (False, True)
    )
)


@pytest.mark.parametrize(("loss", "per", "intercept", "weighted"), KINDS)
def test_folds_are_separate_models(loss, per, intercept, weighted):
    X, y = problem(loss)
    w = np.random.default_rng(3).integers(0, 4, N).astype(float) if weighted else None
    per = GROUPS if per == "groups" else per
    f, g = ig.cross_validated(
        getattr(ig, loss),
        X,
        y,
        cv=3,
        penalty=ig.L2(per),
        fit_intercept=intercept,
        sample_weight=w,
    )
    want = Oracle(loss, X, y, splits_of(y, loss), per, intercept, w)
    rng = np.random.default_rng(5)
    lam = rng.uniform(-4, 0, f.n_lam)
    theta, v = rng.standard_normal((2, f.n_theta))
    assert f.n_theta == g.n_theta == 3 * (P + intercept) and g.n_lam == 0
    assert f.unravel(theta).shape == (3, P + intercept)
    assert_near(f.fun(theta, lam), want.fun(theta, lam))
    assert_near(g.fun(theta), want.outer_fun(theta))
    assert_near(f.jac(theta, lam), want.jac(theta, lam))
    assert_near(f.hessp(theta, v, lam), want.hessp(theta, v, lam))
    each = [o.fun(t) for o, t in zip(want.outer, want.parts(theta), strict=True)]
    assert_near(g.values(theta), each)

    trained = ig.train(f, lam)
    assert trained.success
    assert_near(trained.x, want.train(lam), 1e-9)
    exact = want.grad(lam)
    for method in ("auto", "cg", "cholesky", "minres"):
        res = ig.implicit_grad(f, g, trained.x, lam, method=method)
        assert res.success, (method, res.message)
        off = float(np.linalg.norm(res.grad - exact.astype(float)))
        assert off <= 3 * res.error + 1e-16 and off <= 1e-6 * np.linalg.norm(res.grad), method
        assert off <= res.error_bound
    assert ig.check_hypergrad(f, g, lam).success


@pytest.mark.parametrize("form", ["gram", "rows"])
@pytest.mark.parametrize("intercept", [False, True])
def test_several_targets_share_penalties(form, intercept, monkeypatch):
    if form == "rows":
        monkeypatch.setattr(_cv, "MOST_GRAM_BYTES", 0)
    X, Y = problem(targets=4)
    folds = _cv.Folds(ig.LeastSquares, X, Y, 3, fit_intercept=intercept)
    assert folds.in_gram_form == (form == "gram")
    f, g = folds.pair(ig.L2("feature"))
    want = Oracle("LeastSquares", X, Y, splits_of(Y, "LeastSquares"), "feature", intercept)
    lam = np.linspace(-4, 0, P)
    theta = ig.train(f, lam).x
    assert f.unravel(theta).shape == (3, 4, P + intercept)
    assert_near(theta, want.train(lam), 1e-9)
    assert_near(f.fun(theta, lam), want.fun(theta, lam))
    assert_near(g.fun(theta), want.outer_fun(theta))
    assert g.values(theta).shape == (3, 4)
    assert_near(3 * g.fun(theta), g.values(theta).sum())
    for method in ("auto", "cg", "cholesky"):
        res = ig.implicit_grad(f, g, theta, lam, method=method)
        assert res.success
        assert_near(res.grad, want.grad(lam), 1e-8)

    # One of them, by itself.
    f, g = folds.pair(ig.L2("feature"), target=2)
    alone = ig.cross_validated(
        ig.LeastSquares, X, Y[:, 2], cv=3, penalty=ig.L2("feature"), fit_intercept=intercept
    )
    theta = ig.train(f, lam).x
    assert_near(theta, ig.train(alone[0], lam).x, 1e-10)
    assert_near(g.fun(theta), alone[1].fun(theta), 1e-10)


def test_a_model_of_several_targets_is_one_of_each():
    X, Y = problem(targets=3)
    f = ig.LeastSquares(X, Y, penalty=ig.L2("feature"), fit_intercept=True)
    assert f.n_theta == 3 * (P + 1)
    lam = np.linspace(-3, 0, P)
    W = ig.train(f, lam).x.reshape(3, P + 1)
    for t in range(3):
        one = ig.LeastSquares(X, Y[:, t], penalty=ig.L2("feature"), fit_intercept=True)
        assert_near(W[t], ig.train(one, lam).x, 1e-10)
    want = Oracle("LeastSquares", X, Y, [(np.arange(N), np.arange(N))], "feature", True)
    assert_near(f.fun(W.ravel(), lam), want.fun(W.ravel(), lam))
    g = ig.LeastSquares(X[::-1], Y, fit_intercept=True)
    assert ig.check_hypergrad(f, g, lam).success


@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
@pytest.mark.parametrize("how", ["float32", "F", "csr", "memmap"])
def test_every_kind_of_x(loss, how, tmp_path):
    X, y = problem(loss)
    X[np.abs(X) < 0.1] = 0.0
    given = X.astype(np.float32) if how == "float32" else X
    if how == "F":
        given = np.asfortranarray(X)
    elif how == "csr":
        given = scipy.sparse.csr_array(X)
    elif how == "memmap":
        given = np.memmap(tmp_path / "X", np.float64, "w+", shape=X.shape)
        given[:] = X
    make = {"cv": 4, "penalty": ig.L2("feature"), "fit_intercept": True}
    f, g = ig.cross_validated(getattr(ig, loss), given, y, **make)
    dense = np.asarray(given, np.float64) if how != "csr" else X
    want = ig.cross_validated(getattr(ig, loss), dense, y, **make)
    lam = np.full(P, -2.0)
    theta = ig.train(f, lam).x
    assert_near(theta, ig.train(want[0], lam).x, 1e-6 if how == "float32" else 1e-9)
    res = ig.implicit_grad(f, g, theta, lam)
    assert res.success
    assert_near(
        res.grad, ig.implicit_grad(*want, theta, lam).grad, 1e-5 if how == "float32" else 1e-8
    )


@given(
    st.integers(6, 40),
    st.integers(1, 6),
    st.integers(2, 5),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_gram_form_agrees_with_rows(n, p, k, intercept, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * 10.0 ** rng.integers(-2, 3, p) + rng.integers(0, 2) * 3
    y, w = rng.standard_normal(n), rng.random(n) + 0.01
    folds = _cv.Folds(ig.LeastSquares, X, y, KFold(k), fit_intercept=intercept, sample_weight=w)
    f, g = folds.pair(ig.L2("feature"))
    folds.in_gram_form = False
    rows_f, rows_g = folds.pair(ig.L2("feature"))
    theta, lam = rng.standard_normal(f.n_theta), rng.uniform(-3, 3, p)
    assert_near(f.fun(theta, lam), rows_f.fun(theta, lam), 1e-11)
    assert_near(g.fun(theta), rows_g.fun(theta), 1e-11)
    assert_near(f.jac(theta, lam), rows_f.jac(theta, lam), 1e-11)
    trained = ig.train(f, lam)
    res = ig.implicit_grad(f, g, trained.x, lam)
    same = ig.implicit_grad(rows_f, rows_g, trained.x, lam)
    assert res.success and same.success
    assert np.linalg.norm(res.grad - same.grad) <= 3 * (res.error + same.error) + 1e-15


@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
def test_the_same_bits_at_any_number_of_threads(loss):
    X, y = problem(loss, n=3000, p=20)
    found = []
    for n_threads in (1, 2, 3):
        f, g = ig.cross_validated(
            getattr(ig, loss), X, y, cv=5, penalty=ig.L2("feature"), n_threads=n_threads
        )
        res = ig.minimize(f, g, np.full(20, -3.0), bounds=[(-8, 4)] * 20, options={"maxiter": 5})
        found.append(res)
    for other in found[1:]:
        assert np.array_equal(found[0].x, other.x) and np.array_equal(found[0].theta, other.theta)


def test_tuning_real_data_beats_one_penalty_on_its_own_criterion():
    for objective, (X, y) in (
        (ig.LeastSquares, load_diabetes(return_X_y=True)),
        (ig.Logistic, load_breast_cancer(return_X_y=True)),
    ):
        X = (X - X.mean(0)) / X.std(0)
        y = (y - y.mean()) / y.std() if objective is ig.LeastSquares else y
        common = {"cv": 5, "fit_intercept": True}
        f, g = ig.cross_validated(objective, X, y, penalty=ig.L2("all"), **common)
        one = ig.minimize(f, g, [-3.0], bounds=[(-12, 4)])
        f, g = ig.cross_validated(objective, X, y, penalty=ig.L2("feature"), **common)
        # Where a penalty is next to nothing the slope in its logarithm is, too: not a start.
        start = np.full(X.shape[1], max(one.x[0], -5.0))
        many = ig.minimize(f, g, start, bounds=[(-12, 4)] * X.shape[1])
        assert one.success and many.success
        assert many.fun < 0.99 * one.fun
        assert many.hypergradient.success


def test_estimate_is_honest_where_folds_are_close_to_singular():
    # The null space of each fold's data is held by the penalty alone.
    rng = np.random.default_rng(11)
    X = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 12))
    y = rng.standard_normal(40)
    want = Oracle("LeastSquares", X, y, splits_of(y, "LeastSquares"), "feature", False)
    f, g = ig.cross_validated(ig.LeastSquares, X, y, cv=3, penalty=ig.L2("feature"))
    for level in (-4.0, -8.0, -12.0, -16.0):
        lam = np.full(12, level)
        res = ig.implicit_grad(f, g, ig.train(f, lam).x, lam, options={"warn": False})
        off = float(np.linalg.norm(res.grad - want.grad(lam).astype(float)))
        assert off <= 3 * res.error, level
        assert off <= res.error_bound, level


def test_inputs_are_left_alone():
    X, y = problem()
    w = np.ones(N)
    copies = X.copy(), y.copy(), w.copy()
    f, g = ig.cross_validated(ig.LeastSquares, X, y, penalty=ig.L2(), sample_weight=w)
    ig.minimize(f, g, [0.0])
    for a, b in zip((X, y, w), copies, strict=True):
        assert np.array_equal(a, b)


def test_it_says_what_it_is():
    X, y = problem()
    f, g = ig.cross_validated(ig.LeastSquares, X, y, cv=3, penalty=ig.L2("feature"))
    assert "n_folds=3" in repr(f) and "LeastSquares" in repr(f)
    assert g.n_rows == N and g.n_folds == 3 and g.n_targets == 1
    assert f.split(np.zeros(P)).keys() == {"penalty"}
    with pytest.raises(ValueError, match="theta has 3 entries"):
        f.unravel(np.zeros(3))


HEAVY = [1e8, 1e13, 1e16]


@pytest.mark.parametrize("heavy", HEAVY)
def test_a_fold_that_outweighs_the_rest_is_not_taken_off_the_total(heavy):
    X, y = problem(n=24, p=3)
    w = np.ones(24)
    w[:3] = heavy
    splits = [(np.setdiff1d(np.arange(24), t), t) for t in np.array_split(np.arange(24), 4)]
    f, g = ig.cross_validated(
        ig.LeastSquares, X, y, cv=splits, penalty=ig.L2("feature"), sample_weight=w
    )
    lam = np.full(3, -3.0)
    res = ig.implicit_grad(f, g, ig.train(f, lam).x, lam, tol=1e-9)
    want = Oracle("LeastSquares", X, y, splits, "feature", False, w).grad(lam).astype(float)
    off = np.linalg.norm(res.grad - want)
    assert res.success and off <= 3 * res.error + 1e-16 and off <= res.error_bound


@pytest.mark.parametrize("shift", [1e4, 1e6, 1e8])
def test_a_large_mean_of_y_costs_no_digits_where_there_is_an_intercept(shift):
    X, y = problem(n=40, p=3)
    pairs = [
        ig.cross_validated(
            ig.LeastSquares, X, y + m, cv=4, penalty=ig.L2("feature"), fit_intercept=True
        )
        for m in (0.0, shift)
    ]
    found = [ig.minimize(f, g, np.zeros(3), bounds=[(-9, 9)] * 3) for f, g in pairs]
    assert all(r.success for r in found)
    assert found[1].fun == pytest.approx(found[0].fun, rel=1e-14 * shift)


def test_columns_far_from_zero_are_kept_as_rows():
    X, y = problem(n=60, p=3)
    folds = _cv.Folds(ig.LeastSquares, X + 1e5, y, 4, fit_intercept=True)
    f, g = folds.pair(ig.L2("feature"))
    assert not folds.in_gram_form
    want = ig.cross_validated(
        ig.LeastSquares, X, y, cv=4, penalty=ig.L2("feature"), fit_intercept=True
    )
    lam = np.full(3, -3.0)
    values = [b.fun(ig.train(a, lam).x) for a, b in ((f, g), want)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
