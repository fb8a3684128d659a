"""Weights, inputs and soft labels of softmax models, and weights and inputs of Poisson models, as
hyperparameters, against naive formulas."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

import implicitgrad as ig
import reference
from reference import assert_near
from row_cases import BLOCKS, K, N, P
from row_oracle import OnRows


def problem(loss, blocks, intercept, sparse=False, soft=False, dtype="float64"):
    rng = np.random.default_rng(4)
    X, X_val = rng.standard_normal((N, P)).astype(dtype), rng.standard_normal((20, P))
    blocks = {name: BLOCKS[block] for name, block in blocks.items()}
    given = {name: block.given() for name, block in blocks.items()}
    if loss == "Softmax":
        y, y_val = np.arange(N) % K, np.arange(20) % K
        if soft:
            y, y_val = rng.dirichlet(np.ones(K), N), rng.dirichlet(np.ones(K), 20)

        def oracle(X, y, penalty="feature"):
            return reference.Softmax(X, y, K, penalty=penalty, fit_intercept=intercept)
    else:
        y, y_val = rng.poisson(np.exp(0.3 * X[:, 0])), rng.poisson(1.0, 20)

        def oracle(X, y, penalty="feature"):
            return reference.LinearModel(loss, X, y, penalty, fit_intercept=intercept)

    make = getattr(ig, loss)
    XX = scipy.sparse.csr_array(X) if sparse else X
    f = make(XX, y, penalty=ig.L2("feature"), fit_intercept=intercept, **given)
    g = make(X_val, y_val, fit_intercept=intercept)

    def build(X, y, s):
        model = oracle(X, y)
        model.s = s
        return model

    ref = OnRows(build, X, y, list(blocks.values()))
    lam = np.r_[rng.uniform(-3, -1, P), 0.5 * rng.standard_normal(ref.n_lam - P)]
    return f, g, ref, oracle(X_val, y_val, None), lam


WEIGHTS, INPUTS = {"sample_weight": "exp"}, {"inputs": "inputs-some"}
SHARES, SOME_SHARES = {"targets": "shares"}, {"targets": "shares-some"}
ALL_BLOCKS = WEIGHTS | INPUTS | SHARES
WAYS = [
    (loss, blocks, intercept)
    for loss, sets in (
        ("Softmax", (WEIGHTS, INPUTS, WEIGHTS | INPUTS, SHARES, SOME_SHARES, ALL_BLOCKS)),
        ("Poisson", (WEIGHTS, INPUTS, WEIGHTS | INPUTS)),
    )
    for blocks in sets
    for intercept in (False, True)
]
WAYS = [(way, {}) for way in WAYS] + [
    (("Softmax", SHARES, True), {"sparse": True}),
    (("Softmax", WEIGHTS | SOME_SHARES, True), {"dtype": "float32"}),
    (("Softmax", WEIGHTS | INPUTS, True), {"soft": True}),
    (("Softmax", WEIGHTS | SOME_SHARES, False), {"soft": True, "sparse": True}),
]


def named(way):
    return "-".join(map(str, way if isinstance(way, tuple) else [*way.items()]))


@pytest.mark.parametrize(("way", "more"), WAYS, ids=named)
def test_against_the_definition(way, more, rng):
    f, g, ref, ref_g, lam = problem(*way, **more)
    assert (f.n_theta, f.n_lam) == (ref.n_theta, ref.n_lam)
    theta, q = rng.standard_normal(f.n_theta) / 2, rng.standard_normal(f.n_theta)
    u = rng.standard_normal(f.n_lam)
    at = f.linearize(theta, lam)
    assert_near(np.float64(at.fun), ref.fun(theta, lam), 1e-13, "fun")
    assert_near(at.jac, ref.jac(theta, lam), 1e-12, "jac")
    assert_near(at.hess @ q, ref.hess(theta, lam) @ q, 1e-12, "hess")
    assert_near(at.jac_lam, ref.jac_lam(theta, lam), 2e-11, "jac_lam")
    C = ref.cross(theta, lam)
    assert_near(at.cross.T @ q, C.T @ q, 2e-11, "cross.T")
    assert_near(at.cross @ u, C @ u, 2e-11, "cross")
    there, back = q @ (at.cross @ u), u @ (at.cross.T @ q)
    assert abs(there - back) <= 1e-12 * np.linalg.norm(q) * np.linalg.norm(at.cross @ u)
    best = ref.train(lam)
    exact = reference.hypergradient(ref, ref_g, best, lam)[0].astype(float)
    for off in (0.0, 1e-4):
        start = best.astype(float) + off * rng.standard_normal(f.n_theta)
        res = ig.implicit_grad(f, g, start, lam)
        error = np.linalg.norm(res.grad - exact)
        assert res.success and error <= 1e-6 * np.linalg.norm(exact)
        assert error <= 3 * res.error + 1e-12 and error <= res.error_bound + 1e-12
        assert np.isfinite(res.error_bound) == (way[0] == "Softmax" and "inputs" not in way[1])
    assert ig.check_hypergrad(f, g, lam).success


@pytest.mark.parametrize("loss", ["Softmax", "Poisson"])
def test_sparse_rows_and_influence(loss, rng):
    f, g, _, _, lam = problem(loss, WEIGHTS, True)
    twin = problem(loss, WEIGHTS, True, sparse=True)[0]
    theta, q = rng.standard_normal(f.n_theta) / 2, rng.standard_normal(f.n_theta)
    for a, b in ((f, twin), (twin, f)):
        assert_near(a.linearize(theta, lam).cross.T @ q, b.linearize(theta, lam).cross.T @ q, 1e-13)
    lam[P:] = 0.0
    theta = ig.train(f, lam).x
    plain = getattr(ig, loss)(f.X, f.y, penalty=ig.L2("feature"), fit_intercept=True)
    res = ig.influence(plain, g, theta, lam[:P])
    want = f.split(ig.implicit_grad(f, g, theta, lam).grad)["sample_weight"]
    assert res.success and np.allclose(res.influence, want, rtol=1e-9, atol=1e-12)


def test_targets_of_counts_are_refused():
    with pytest.raises(TypeError, match="targets"):
        ig.Poisson(np.eye(3), [0, 1, 2], targets=ig.Targets())


def test_soft_labels_as_given_are_those_that_lam_makes(rng):
    f, _, _, _, lam = problem("Softmax", SHARES, True)
    shares = rng.dirichlet(np.ones(K), N)
    lam[P:] = np.log(shares).ravel() + 3.0  # a constant on all classes of a row changes nothing
    fixed = ig.Softmax(f.X, shares, penalty=ig.L2("feature"), fit_intercept=True)
    theta, v = rng.standard_normal((2, f.n_theta))
    a, b = f.linearize(theta, lam), fixed.linearize(theta, lam[:P])
    assert a.fun == pytest.approx(b.fun, rel=1e-14)
    assert_near(a.jac, b.jac, 1e-13)
    assert_near(a.hess @ v, b.hess @ v, 1e-13)
    by_row = f.split(a.jac_lam)["targets"].reshape(N, K)
    assert np.abs(by_row.sum(axis=1)).max() <= 1e-15


@settings(max_examples=40, deadline=None)
@drawn(
    seed=st.integers(0, 10**6),
    exponent=st.integers(-10, -1),
    sharpness=st.sampled_from([0.3, 3.0, 30.0]),
    intercept=st.booleans(),
)
def test_error_estimates_and_bounds_with_soft_labels(seed, exponent, sharpness, intercept):
    """Random problems, columns of different scale, labels from nearly even to nearly certain, θ off."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, P)) * np.geomspace(1, 10 ** rng.uniform(0, 2), P)
    block = BLOCKS["shares"]
    lam = np.r_[rng.uniform(-8, 1, P), sharpness * rng.standard_normal(N * K)]
    given = {"fit_intercept": intercept}
    f = ig.Softmax(X, np.arange(N) % K, penalty=ig.L2("feature"), targets=ig.Targets(), **given)
    X_val, y_val = rng.standard_normal((20, P)), np.arange(20) % K
    g = ig.Softmax(X_val, y_val, **given)

    def build(X, y, s):
        return reference.Softmax(X, y, K, penalty="feature", **given)

    ref = OnRows(build, X, f.y, [block])
    theta = ref.train(lam)
    ref_g = reference.Softmax(X_val, y_val, K, penalty=None, **given)
    exact = reference.hypergradient(ref, ref_g, theta, lam)[0].astype(float)
    size = np.linalg.norm(exact)
    off = theta.astype(float) + 10.0**exponent * rng.standard_normal(f.n_theta)
    for polish in (True, False):
        res = ig.implicit_grad(f, g, off, lam, options={"polish": polish, "warn": False})
        error = np.linalg.norm(res.grad - exact)
        assert error <= res.error_bound + 1e-13 * size
        at = f.linearize(res.theta, lam)
        level = 64 * np.finfo(float).eps * at._core.cross_transpose_and_scale(res.adjoint)[1]
        if res.success:
            assert error <= 1.1 * max(1e-6 * size, level) + 1e-13 * size


def test_labels_that_are_all_hyperparameters_may_be_of_one_class():
    zeros, given = np.zeros(N), {"penalty": ig.L2(), "n_classes": K}
    for make, block in ((ig.Softmax, {}), (ig.MLP, {"hidden": (2,)})):
        f = make(np.eye(N), zeros, targets=ig.Targets(), **given, **block)
        assert f.n_lam == make(np.eye(N), zeros, n_classes=K, **block).n_lam + (
            f.split(np.zeros(f.n_lam))["penalty"].size + N * K
        )
        with pytest.raises(ValueError, match="one class"):
            make(np.eye(N), zeros, targets=ig.Targets([0]), **given, **block)


def test_logits_out_of_range_are_refused():
    f, *_ = problem("Softmax", SOME_SHARES, False)
    lam = np.zeros(f.n_lam)
    lam[P + 2 * K + 1] = -800.0  # beside zeros, in the third row
    with pytest.raises(ValueError, match=rf"lam\[{P + 2 * K + 1}\].*softmax"):
        f.fun(np.zeros(f.n_theta), lam)
    lam[P + 2 * K :] = -800.0  # all alike: nothing underflows
    assert np.isfinite(f.fun(np.zeros(f.n_theta), lam))


def test_minimize_finds_the_labels_that_were_wrong(rng):
    """Soft labels of flipped rows move away from what they were given as."""
    W = np.array([[2.0, -1.0, 0.0], [0.0, 2.0, -1.0]])
    X, X_val = rng.standard_normal((60, 2)), rng.standard_normal((300, 2))
    truth, y_val = (X @ W).argmax(axis=1), (X_val @ W).argmax(axis=1)
    flipped = np.arange(60) % 6 == 0
    y = np.where(flipped, (truth + 1) % K, truth)
    start = np.log(0.9 * np.eye(K)[y] + 0.1 / K)
    f = ig.Softmax(X, y, penalty=ig.L2("none", fixed=0.01), targets=ig.Targets())
    best = ig.minimize(f, ig.Softmax(X_val, y_val), start.ravel(), options={"warn": False})
    logits = best.x.reshape(60, K)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    given = (shares / shares.sum(axis=1, keepdims=True))[np.arange(60), y]
    assert given[flipped].mean() < 0.7 * given[~flipped].mean()
    assert best.fun < ig.Softmax(X_val, y_val).fun(ig.train(f, start.ravel()).x)
