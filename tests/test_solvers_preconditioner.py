"""Preconditioners given by the user, in every form they may have."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import aslinearoperator

import implicitgrad as ig


def problem():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 4)), rng.standard_normal(60)
    f = ig.LeastSquares(X[:40], y[:40], penalty=ig.L2("feature"))
    g = ig.LeastSquares(X[40:], y[40:])
    lam = np.zeros(4)
    return f, g, ig.train(f, lam).x, lam


@pytest.mark.parametrize(
    "given",
    [np.eye(4), scipy.sparse.eye_array(4), aslinearoperator(np.eye(4)), lambda v: 1.0 * v],
    ids=["array", "sparse", "operator", "function"],
)
def test_an_operator_is_taken_as_it_is(given):
    f, g, theta, lam = problem()
    res = ig.implicit_grad(f, g, theta, lam, "cg", options={"preconditioner": given})
    best = ig.implicit_grad(f, g, theta, lam, "cholesky")
    assert res.success and np.allclose(res.grad, best.grad, rtol=1e-6)


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "nystrom"])
def test_a_column_of_another_scale_hides_no_distance_from_the_minimum(method):
    """One row alone has a large entry in a column, so that its θ is tiny: plain norms of θ and of
    Newton's steps do not see it."""
    rng = np.random.default_rng(1)
    n, p = 60, 4
    X = rng.standard_normal((n, p))
    X[:, 0] = 0.0
    X[7, 0] = 1e8
    y = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    f = ig.Logistic(X, y, penalty=ig.L2("feature"))
    X_val = rng.standard_normal((30, p))
    X_val[:, 0] *= 1e7
    g = ig.Logistic(X_val, np.where(rng.random(30) < 0.5, -1.0, 1.0))
    lam = np.full(p, -4.0)
    exact = ig.implicit_grad(f, g, ig.train(f, lam, tol=1e-8).x, lam, "cholesky")
    theta = ig.train(f, lam).x
    theta[0] *= 1 - 1e-3
    for tol in (1e-3, 1e-5):
        given = {"warn": False, "polish": False}
        res = ig.implicit_grad(f, g, theta, lam, method, tol, given)
        error = np.linalg.norm(res.grad - exact.grad)
        assert error <= 3 * max(tol * np.linalg.norm(res.grad), 1e-12) or not res.success
