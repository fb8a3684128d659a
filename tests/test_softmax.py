"""Softmax: what holds for several classes and not for one margin a row."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import implicitgrad as ig
from cases import BY_NAME, CASES, linear
from reference import assert_near

QUIET = {"warn": False}
METHODS = ["auto", "cholesky", "cg", "nystrom", "minres", "neumann"]
SOFTMAX = [c for c in CASES if c.loss == "Softmax" and c.n_lam]
WITH_INTERCEPT = [c for c in SOFTMAX if c.fit_intercept]


def relative(got, want):
    return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_two_classes_are_the_logistic_loss(seed, fit_intercept, weighted):
    """W = (−θ/2, θ/2) has half of θ's penalty: λ is larger by log 2."""
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((40, 4)), rng.integers(0, 2, 60)
    y[:2] = 0, 1
    X_val, lam = rng.standard_normal((20, 4)), rng.uniform(-5, 0, 4)
    given = {"fit_intercept": fit_intercept}
    w = rng.random(40) + 0.1 if weighted else None
    f2 = ig.Logistic(X, y[:40], penalty=ig.L2("feature"), sample_weight=w, **given)
    f = ig.Softmax(X, y[:40], penalty=ig.L2("feature"), sample_weight=w, n_classes=2, **given)
    g2 = ig.Logistic(X_val, y[40:], **given)
    g = ig.Softmax(X_val, y[40:], n_classes=2, **given)
    theta, W = ig.train(f2, lam).x, ig.train(f, lam + np.log(2)).x.reshape(-1, 2)
    np.testing.assert_allclose(W[:, 1] - W[:, 0], theta, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(W[:, 1] + W[:, 0], 0, atol=1e-12)
    one = ig.implicit_grad(f2, g2, theta, lam)
    two = ig.implicit_grad(f, g, W.ravel(), lam + np.log(2))
    assert one.success and two.success
    np.testing.assert_allclose(two.fun, one.fun, rtol=1e-10)
    np.testing.assert_allclose(two.grad, one.grad, rtol=1e-8, atol=2 * (one.error + two.error))


@pytest.mark.parametrize("case", WITH_INTERCEPT, ids=str)
def test_a_constant_added_to_all_classes_changes_nothing(case):
    pb, exact = case.problem(), case.solution()[1]
    theta = np.array(case.solution()[0], dtype=float)
    moved = theta.copy()
    moved[-case.classes :] += 7.0
    assert pb.f.fun(moved, pb.lam) == pytest.approx(pb.f.fun(theta, pb.lam), rel=1e-14)
    for method in METHODS:
        res = ig.implicit_grad(pb.f, pb.g, moved, pb.lam, method=method)
        assert res.success
        assert relative(res.grad, exact.astype(float)) <= 1e-6
    trained = ig.train(pb.f, pb.lam, theta0=np.full(case.n_theta, 0.5)).x
    assert trained[-case.classes :].mean() == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", WITH_INTERCEPT, ids=str)
def test_the_adjoint_is_the_least_solution(case, method):
    pb = case.problem()
    theta = ig.train(pb.f, pb.lam).x
    res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, method=method)
    q = res.adjoint[-case.classes :]
    assert abs(q.sum()) <= 1e-13 * np.abs(res.adjoint).sum()
    # H is singular, but not in the directions that are left.
    low, high = res.curvature
    spectrum = np.linalg.eigvalsh(pb.f.linearize(res.theta, pb.lam).hess @ np.eye(case.n_theta))
    assert abs(spectrum[0]) <= 1e-14 < spectrum[1]
    assert spectrum[1] * (1 - 1e-6) <= low <= high <= spectrum[-1] * (1 + 1e-6)


@pytest.mark.parametrize("name", ["softmax-tall-500x4", "softmax-csr-80x12"])
def test_an_outer_loss_that_sees_the_constant(name):
    """q is the least solution: the derivative of the θ⋆ that training from zero leads to."""
    case = BY_NAME[name]
    f, lam = case.objective("train"), case.lam()
    c = np.sin(1.0 + np.arange(case.n_theta))
    g = linear(c, case.n_lam)
    theta = ig.train(f, lam).x
    h, found = 1e-5, []
    for step in np.eye(case.n_lam) * h:
        up, down = (ig.train(f, lam + s, tol=1e-13).x for s in (step, -step))
        found.append(c @ (up - down) / (2 * h))
    for method in METHODS:
        res = ig.implicit_grad(f, g, theta, lam, method=method)
        assert res.success, res.message
        np.testing.assert_allclose(res.grad, found, rtol=1e-5, atol=1e-7 * np.linalg.norm(found))


def test_a_solver_of_ones_own_may_add_any_constant():
    case = BY_NAME["softmax-csr-80x12"]
    pb, exact = case.problem(), case.solution()[1].astype(float)
    constant = np.zeros(case.n_theta)
    constant[-case.classes :] = 3.0

    def solve(hess, b):
        return np.linalg.pinv(hess @ np.eye(len(b)), rcond=1e-12) @ b + constant

    res = ig.implicit_grad(pb.f, pb.g, ig.train(pb.f, pb.lam).x, pb.lam, method=solve)
    assert res.success and relative(res.grad, exact) <= 1e-9 and res.residual <= 1e-9


def test_a_further_direction_without_curvature_is_singular():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 3))
    X[:, 2] = X[:, 1]
    y = np.arange(30) % 3
    f = ig.Softmax(X, y, penalty=ig.L2("feature"), fit_intercept=True)
    g = ig.Softmax(rng.standard_normal((20, 3)), np.arange(20) % 3, fit_intercept=True)
    lam = np.full(3, -80.0)
    theta = ig.train(f, lam).x
    for method in ("cholesky", "cg"):
        res = ig.implicit_grad(f, g, theta, lam, method=method, options=QUIET)
        assert not res.success and res.status == 3
    assert ig.implicit_grad(f, g, theta, np.full(3, -4.0)).success


def test_a_plain_loss_trains_in_spite_of_all_its_null_directions():
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((80, 3)), rng.integers(0, 3, 80)
    for fit_intercept in (False, True):
        f = ig.Softmax(X, y, fit_intercept=fit_intercept)
        W = ig.train(f).x.reshape(-1, 3)
        assert np.abs(f.jac(W.ravel())).max() <= 1e-12
        np.testing.assert_allclose(W.sum(axis=1), 0, atol=1e-12)


def test_saturated_rows_keep_their_curvature():
    """p (1 − p) of a sure row is far below ε, and still decides where nothing else does."""
    f = ig.Softmax([[1.0], [1.0]], [0, 1], penalty=ig.L2(fixed=0.0), n_classes=3)
    W = np.array([100.0, 0.0, 0.0])
    H = f.linearize(W, [-200.0]).hess @ np.eye(3)
    e = np.exp(-100.0)
    want = e * np.array([[2.0, -1.0, -1.0], [-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    np.testing.assert_allclose(H, want, rtol=1e-12, atol=1e-80)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_wide_sparse_data_whose_columns_are_shared_out(fit_intercept, rng):
    n, p, classes = 120, 100_000, 3
    X = scipy.sparse.random_array((n, p), density=1e-4, random_state=rng, format="csr")
    y, lam = np.arange(n) % classes, np.array([-5.0])
    f = ig.Softmax(X, y, penalty=ig.L2("all"), fit_intercept=fit_intercept)
    theta, v = 0.1 * rng.standard_normal((2, f.n_theta))
    A = scipy.sparse.hstack([X, np.ones((n, 1))]).tocsr() if fit_intercept else X
    s = np.where(np.arange(f.n_theta) < p * classes, np.exp(lam[0]), 0.0)
    Z, dZ = A @ theta.reshape(-1, classes), A @ v.reshape(-1, classes)
    P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    at = f.linearize(theta, lam)
    assert_near(at.jac, (A.T @ (P - np.eye(classes)[y]) / n).ravel() + s * theta)
    W = P * (dZ - (P * dZ).sum(axis=1, keepdims=True)) / n
    assert_near(at.hess @ v, (A.T @ W).ravel() + s * v)
    res = ig.implicit_grad(f, f, ig.train(f, lam).x, lam)
    assert res.success and abs(res.grad - res.direct) <= 1e-10


@pytest.mark.parametrize("seed", range(3))
def test_digits_against_refits_by_scikit_learn(seed):
    """Its penalty is one for all: columns are scaled to have each its own."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X, rng = X[:, X.std(axis=0) > 1] / 16, np.random.default_rng(seed)
    rows = rng.permutation(len(y))
    train, val = rows[:700], rows[700:1100]
    lam = rng.uniform(-6, -2, X.shape[1])
    f = ig.Softmax(X[train], y[train], penalty=ig.L2("feature"), fit_intercept=True)
    g = ig.Softmax(X[val], y[val], fit_intercept=True)
    theta = ig.train(f, lam).x
    res = ig.implicit_grad(f, g, theta, lam)
    assert res.success

    def loss(lam):
        scale = np.exp(-lam / 2)
        model = linear_model.LogisticRegression(
            C=1 / len(train), solver="newton-cg", tol=1e-9, max_iter=1000
        ).fit(X[train] * scale, y[train])
        p = model.predict_proba(X[val] * scale)
        return -np.mean(np.log(p[np.arange(len(val)), y[val]]))

    assert loss(lam) == pytest.approx(res.fun, rel=1e-6)
    u = rng.standard_normal(len(lam))
    h = 1e-2
    d = [(loss(lam + t * u) - loss(lam - t * u)) / (2 * t) for t in (h, h / 2)]
    assert (4 * d[1] - d[0]) / 3 == pytest.approx(res.grad @ u, rel=1e-4)


def test_folds_are_models_that_share_their_strengths():
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((60, 3)), np.arange(60) % 3
    X[:, 0] += y
    splits = [(np.flatnonzero(np.arange(60) // 3 % 4 != k), np.arange(60)[k::4]) for k in range(4)]
    lam = np.array([-3.0, -2.0, -1.0])
    given = {"penalty": ig.L2("feature"), "fit_intercept": True}
    f, g = ig.cross_validated(ig.Softmax, X, y, cv=splits, **given)
    theta = ig.train(f, lam).x
    res = ig.implicit_grad(f, g, theta, lam)
    assert res.success
    grads = []
    for k, (rows, held) in enumerate(splits):
        one = ig.Softmax(X[rows], y[rows], **given)
        other = ig.Softmax(X[held], y[held], fit_intercept=True, n_classes=3)
        alone = ig.train(one, lam).x
        np.testing.assert_allclose(f.unravel(theta)[k].ravel(), alone, rtol=1e-9, atol=1e-9)
        assert g.values(theta)[k] == pytest.approx(other.fun(alone), rel=1e-9)
        grads.append(ig.implicit_grad(one, other, alone, lam).grad)
    np.testing.assert_allclose(res.grad, np.mean(grads, axis=0), rtol=1e-9, atol=1e-12)
    with pytest.raises(
        ValueError, match=r"y has no label 2.* in the training rows of fold 0 of cv"
    ):
        ig.cross_validated(ig.Softmax, X, y, cv=[(y < 2, y == 2)], **given)


@pytest.mark.parametrize("case", SOFTMAX[:3], ids=str)
def test_everything_that_is_done_with_an_objective(case):
    pb = case.problem()
    assert ig.check_hypergrad(pb.f, pb.g, pb.lam).success
    h = ig.HyperObjective(pb.f, pb.g)
    value, grad = h(pb.lam)
    assert relative(grad, case.solution()[1].astype(float)) <= 1e-6
    best = ig.minimize(pb.f, pb.g, pb.lam, bounds=[(-8, 4)] * case.n_lam, options=QUIET)
    assert best.success and best.fun <= value
    u = np.ones(case.n_lam)
    step = 1e-5
    moved = [ig.train(pb.f, pb.lam + s * step * u, tol=1e-13).x for s in (1, -1)]
    response = ig.response(pb.f, h.theta, pb.lam, u)
    assert response.success
    assert relative(response.response, (moved[0] - moved[1]) / (2 * step)) <= 1e-6


@pytest.mark.parametrize(
    ("y", "given", "message"),
    [
        (
            [0, 1, 0.5],
            {},
            r"y must hold integer labels 0, 1, …, K − 1, K at most 1048576; found y\[2\] = 0.5",
        ),
        (
            [0, 1, -1],
            {},
            r"y must hold integer labels 0, 1, …, K − 1, K at most 1048576; found y\[2\] = -1",
        ),
        ([0, 2, 2], {}, r"y has no label 1: .*n_classes"),
        ([0, 0, 0], {}, r"y has no label 1: .*n_classes"),
        ([0, 1, 2], {"n_classes": 2}, r"y holds the label 2, n_classes is 2"),
        ([0, 1, 1], {"n_classes": 1}, r"n_classes must be at least 2, found 1"),
        ([0, 1], {}, r"y has 2 entries, X has 3 rows"),
        ([1, 1, 1], {"n_classes": 2, "penalty": ig.L2()}, r"y holds one class only"),
        (
            [0, 2, 2],
            {"n_classes": 3, "penalty": ig.L2(), "fit_intercept": True},
            r"y has no label 1, whose intercept nothing then keeps finite",
        ),
    ],
)
def test_targets_that_are_refused(y, given, message):
    with pytest.raises(ValueError, match=message):
        ig.Softmax(np.eye(3), y, **given)


def test_a_class_whose_rows_weigh_nothing_is_missing():
    """Its intercept has no minimum: θ runs off, and H tends to a singular matrix."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 2)), np.arange(30) % 3
    given = {"penalty": ig.L2(), "sample_weight": (y != 1) + 0.0}
    with pytest.raises(ValueError, match="y on the rows of positive weight has no label 1"):
        ig.Softmax(X, y, fit_intercept=True, **given)
    lone = {"penalty": ig.L2(), "sample_weight": (y == 1) + 0.0}
    for make in (ig.Softmax, ig.MLP):
        with pytest.raises(ValueError, match="one class"):
            make(X, y, **lone)
    with pytest.raises(ValueError, match="one class"):
        ig.Logistic(X, y == 1, **lone)
    # Without an intercept the penalty keeps it finite; without λ it is a plain loss.
    f, g = ig.Softmax(X, y, **given), ig.Softmax(X, y, sample_weight=given["sample_weight"])
    assert ig.implicit_grad(f, g, ig.train(f, [-2.0]).x, [-2.0]).success
    assert ig.Softmax(X, y, fit_intercept=True, sample_weight=given["sample_weight"]).n_lam == 0


def test_classes_may_be_missing_where_that_is_said():
    g = ig.Softmax(np.eye(3), [0, 0, 0], n_classes=3, fit_intercept=True)
    assert g.n_theta == 12 and g.n_classes == 3
    assert ig.Softmax(np.eye(3), [True, False, True]).n_classes == 2
    with pytest.raises(TypeError, match="n_classes must be an integer"):
        ig.Softmax(np.eye(3), [0, 1, 2], n_classes=3.0)
