"""Weights and inputs of softmax and Poisson models as hyperparameters, against naive formulas."""

import numpy as np
import pytest
import scipy.sparse

import implicitgrad as ig
import reference
from reference import assert_near
from row_cases import BLOCKS, N, P
from row_oracle import OnRows

K = 4


def problem(loss, weights, inputs, intercept, sparse=False):
    rng = np.random.default_rng(4)
    X, X_val = rng.standard_normal((N, P)), rng.standard_normal((20, P))
    blocks = {"sample_weight": BLOCKS["exp"]} if weights else {}
    if inputs:
        blocks["inputs"] = BLOCKS["inputs-some"]
    given = {name: block.given() for name, block in blocks.items()}
    if loss == "Softmax":
        y, y_val = np.arange(N) % K, np.arange(20) % K

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


WAYS = [
    (loss, weights, inputs, intercept)
    for loss in ("Softmax", "Poisson")
    for weights, inputs in ((True, False), (False, True), (True, True))
    for intercept in (False, True)
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
def test_against_the_definition(way, rng):
    f, g, ref, ref_g, lam = problem(*way)
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
    best = ref.train(lam)
    exact = reference.hypergradient(ref, ref_g, best, lam)[0].astype(float)
    for off in (0.0, 1e-4):
        start = best.astype(float) + off * rng.standard_normal(f.n_theta)
        res = ig.implicit_grad(f, g, start, lam)
        error = np.linalg.norm(res.grad - exact)
        assert res.success and error <= 1e-6 * np.linalg.norm(exact)
        assert error <= 3 * res.error + 1e-12 and error <= res.error_bound + 1e-12
    assert ig.check_hypergrad(f, g, lam).success


@pytest.mark.parametrize("loss", ["Softmax", "Poisson"])
def test_sparse_rows_and_influence(loss, rng):
    f, g, _, _, lam = problem(loss, True, False, True)
    twin = problem(loss, True, False, True, sparse=True)[0]
    theta, q = rng.standard_normal(f.n_theta) / 2, rng.standard_normal(f.n_theta)
    for a, b in ((f, twin), (twin, f)):
        assert_near(a.linearize(theta, lam).cross.T @ q, b.linearize(theta, lam).cross.T @ q, 1e-13)
    lam[P:] = 0.0
    theta = ig.train(f, lam).x
    plain = getattr(ig, loss)(f.X, f.y, penalty=ig.L2("feature"), fit_intercept=True)
    res = ig.influence(plain, g, theta, lam[:P])
    want = f.split(ig.implicit_grad(f, g, theta, lam).grad)["sample_weight"]
    assert res.success and np.allclose(res.influence, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["Softmax", "Poisson"])
def test_targets_of_classes_and_counts_are_refused(loss):
    with pytest.raises(TypeError, match="targets"):
        getattr(ig, loss)(np.eye(3), [0, 1, 2], targets=ig.Targets())
