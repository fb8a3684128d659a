"""Distributions over the classes in the place of labels, as a teacher or label smoothing gives them:
against their definition, labels, and each other; and what is refused."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse

import implicitgrad as ig
import reference
from reference import assert_near, relative_error

N, P, K = 40, 4, 3
RNG = np.random.default_rng(5)
X, X_VAL = RNG.standard_normal((N, P)), RNG.standard_normal((25, P))
LABELS = np.arange(N) % K
SHARES, SHARES_VAL = RNG.dirichlet(np.ones(K), N), RNG.dirichlet(np.ones(K), 25)
SHARES[3] = [0.0, 1.0, 0.0]
WEIGHTS = np.arange(N) % 4 * RNG.random(N)
LAM = np.array([-3.0, -2.0, -1.0, -4.0])

LINEAR = {
    "dense": {},
    "intercept-weights": {"fit_intercept": True, "sample_weight": WEIGHTS},
    "float32-F": {"dtype": "float32", "order": "F"},
    "csr": {"sparse": True, "fit_intercept": True},
}


def linear(dtype="float64", order="C", sparse=False, **given):
    A = np.asarray(X * (RNG.random((N, P)) < 0.6) if sparse else X, dtype=dtype, order=order)
    f = ig.Softmax(
        scipy.sparse.csr_array(A) if sparse else A, SHARES, penalty=ig.L2("feature"), **given
    )
    ref = reference.Softmax(A, SHARES, K, penalty="feature", **given)
    return f, ref


@pytest.mark.parametrize("name", LINEAR)
def test_linear_models_against_the_definition(name, rng):
    f, ref = linear(**LINEAR[name])
    theta, v = rng.standard_normal((2, f.n_theta))
    assert f.n_classes == K
    at = f.linearize(theta, LAM)
    assert_near(np.float64(at.fun), ref.fun(theta, LAM), 1e-13, "fun")
    assert_near(at.jac, ref.jac(theta, LAM), 1e-12, "jac")
    assert_near(at.hess @ v, ref.hess(theta, LAM) @ v, 1e-12, "hess")
    intercept = LINEAR[name].get("fit_intercept", False)
    g = ig.Softmax(X_VAL, SHARES_VAL, fit_intercept=intercept)
    ref_g = reference.Softmax(X_VAL, SHARES_VAL, K, penalty=None, fit_intercept=intercept)
    best = ref.train(LAM)
    exact = reference.hypergradient(ref, ref_g, best, LAM)[0]
    assert_near(ig.train(f, LAM).x, best, 1e-6)
    res = ig.implicit_grad(f, g, best.astype(float) + 1e-5, LAM)
    assert res.success and relative_error(res.grad, exact) <= 1e-6
    size = float(np.linalg.norm(exact.astype(float)))
    assert relative_error(res.grad, exact) * size <= min(3 * res.error, res.error_bound) + 1e-13


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
def test_networks_against_the_definition(hidden, dtype, rng):
    A = X.astype(dtype)
    f = ig.MLP(A, SHARES, hidden=hidden, penalty=ig.L2("layer"), sample_weight=WEIGHTS)
    ref = reference.MLP(A, SHARES, hidden, "tanh", "softmax", "layer", sample_weight=WEIGHTS)
    theta, v = rng.standard_normal((2, f.n_theta))
    lam = np.linspace(-4, -2, f.n_lam)
    at, rtol = f.linearize(theta, lam), 1e-11 if dtype == "float64" else 2e-5
    assert_near(np.float64(at.fun), ref.fun(theta, lam), rtol, "fun")
    assert_near(at.jac, ref.jac(theta, lam), rtol, "jac")
    assert_near(at.hess @ v, ref.hess(theta, lam) @ v, rtol, "hess")
    v[-K:] -= v[-K:].mean()  # along a common shift of the outputs it has a curvature of its own
    assert_near(at.gauss_newton @ v, ref.gauss_newton(theta, lam) @ v, rtol, "gauss_newton")


def models(y, **given):
    yield ig.Softmax(X, y, fit_intercept=True, n_classes=K, **given)
    yield ig.Softmax(scipy.sparse.csr_array(X), y, n_classes=K, **given)
    yield ig.MLP(X, y, hidden=(4,), n_classes=K, **given)
    yield ig.MLP(X.astype(np.float32), y, hidden=(), n_classes=K, **given)


def test_certain_ones_are_labels_and_smoothed_ones_are_their_mixture(rng):
    e = 0.1
    hard, soft = models(LABELS), models(np.eye(K)[LABELS])
    smooth = models((1 - e) * np.eye(K)[LABELS] + e / K)
    each = [models(np.full(N, c)) for c in range(K)]
    for f, one_hot, smoothed, *single in zip(hard, soft, smooth, *each, strict=True):
        theta = rng.standard_normal(f.n_theta)
        rtol = 1e-6 if f.X.dtype == np.float32 else 1e-13
        assert one_hot.fun(theta) == pytest.approx(f.fun(theta), rel=rtol)
        assert_near(one_hot.jac(theta), f.jac(theta), rtol)
        mixture = (1 - e) * f.fun(theta) + e * np.mean([g.fun(theta) for g in single])
        assert smoothed.fun(theta) == pytest.approx(mixture, rel=rtol)


def test_a_student_of_its_own_teacher_says_how_exact_it_is(rng):
    """Slopes p − y that are nothing but rounding: at θ⋆ of a model that fits its targets."""
    teacher = 3 * rng.standard_normal((P, K))
    z = X @ teacher
    shares = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    lam = np.full(P, -18.0)
    f = ig.Softmax(X, shares, penalty=ig.L2("feature"))
    ref = reference.Softmax(X, f.y, K, penalty="feature")
    g = ig.Softmax(X_VAL, SHARES_VAL)
    ref_g = reference.Softmax(X_VAL, SHARES_VAL, K, penalty=None)
    best = ref.train(lam)
    exact = reference.hypergradient(ref, ref_g, best, lam)[0].astype(float)
    for polish in (True, False):
        res = ig.implicit_grad(
            f, g, best.astype(float), lam, options={"polish": polish, "warn": False}
        )
        error = np.linalg.norm(res.grad - exact)
        assert error <= 3 * res.error and error <= res.error_bound
        assert res.success


def test_cross_validation_holds_a_model_a_fold(rng):
    splits = [(np.arange(N)[np.arange(N) % 4 != k], np.arange(k, N, 4)) for k in range(4)]
    f, g = ig.cross_validated(
        ig.Softmax, X, SHARES, cv=splits, penalty=ig.L2("feature"), fit_intercept=True
    )
    theta = rng.standard_normal(f.n_theta)
    models = f.unravel(theta)
    assert models.shape == (4, P + 1, K) and f.values(theta).shape == (4,)
    train, test = 0.0, 0.0
    for (a, b), W in zip(splits, models, strict=True):
        of_fold = ig.Softmax(X[a], SHARES[a], penalty=ig.L2("feature"), fit_intercept=True)
        train += of_fold.fun(W.ravel(), LAM) / 4
        test += ig.Softmax(X[b], SHARES[b], fit_intercept=True).fun(W.ravel()) / 4
    assert f.fun(theta, LAM) == pytest.approx(train, rel=1e-13)
    assert g.fun(theta) == pytest.approx(test, rel=1e-13)
    assert ig.check_hypergrad(f, g, LAM).success
    by_class, _ = ig.cross_validated(ig.Softmax, X, SHARES, cv=3, penalty=ig.L2())
    assert by_class.n_folds == 3


def test_influence_is_the_hypergradient_of_weights():
    g = ig.Softmax(X_VAL, SHARES_VAL)
    f = ig.Softmax(X, SHARES, penalty=ig.L2("feature"))
    weighted = ig.Softmax(
        X, SHARES, penalty=ig.L2("feature"), sample_weight=ig.SampleWeights("exp")
    )
    theta, lam = ig.train(f, LAM).x, np.r_[LAM, np.zeros(N)]
    res = ig.influence(f, g, theta, LAM)
    want = weighted.split(ig.implicit_grad(weighted, g, theta, lam).grad)["sample_weight"]
    assert res.success and np.allclose(res.influence, want, rtol=1e-9, atol=1e-13)


def test_what_is_nearly_a_distribution_is_scaled_and_kept():
    given = SHARES.astype(np.float16)
    f = ig.Softmax(X, given, penalty=ig.L2("feature"))
    assert np.abs(f.y.sum(axis=1) - 1).max() <= 1e-15
    assert np.abs(f.y - SHARES).max() <= 1e-3 and given.dtype == np.float16
    theta = np.linspace(-1, 1, f.n_theta)
    for twin in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        assert twin.fun(theta, LAM) == f.fun(theta, LAM) and repr(twin) == repr(f)


EYE = np.eye(3)
BAD = {
    r"y has shape \(2, 3\), expected .*X has 3 rows": EYE[:2],
    r"y has shape \(3, 1\), expected \(3,\) for labels or \(3, K\)": np.ones((3, 1)),
    r"y has shape \(3, 3, 1\)|y must be one-dimensional": EYE[:, :, None],
    r"row 1 of y sums to 0.9, expected shares that sum to 1": EYE - [[0], [0.1], [0]] * EYE,
    r"y contains -0.5 at index \(2, 0\), expected a share >= 0": EYE
    + [[0], [0], [1]] * (EYE[1] - EYE[0]) / 2,
    r"y contains nan at index \(0, 1\)": np.where(EYE[[1, 0, 2]] > 0, np.nan, EYE),
    r"y has dtype": EYE.astype(str),
    r"y holds one class only": np.eye(3)[[1, 1, 1]],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_by_name(message):
    for make in (ig.Softmax, ig.MLP):
        with pytest.raises((ValueError, TypeError), match=message):
            make(EYE, BAD[message], penalty=ig.L2())


def test_a_number_of_classes_must_be_that_of_the_columns():
    for make in (ig.Softmax, ig.MLP):
        assert make(EYE, EYE, n_classes=3).n_theta
        with pytest.raises(ValueError, match="y has 3 columns, n_classes is 4"):
            make(EYE, EYE, n_classes=4)
    with pytest.raises(ValueError, match="no label 0, whose intercept"):
        ig.Softmax(EYE, EYE[[1, 2, 1]], penalty=ig.L2(), fit_intercept=True)
