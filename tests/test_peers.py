"""Problems that other libraries test themselves with, to tighter tolerances where they allow it."""

import numpy as np
import pytest
from sklearn.datasets import make_regression

import implicitgrad as ig
import reference
from cases import linear, quadratic, spd
from reference import relative_error

QUIET = {"warn": False}


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
def test_case_1_jacobian_of_ridge(method):
    """jaxopt: ½ mean r² + ½ λ‖θ‖² on make_regression(10, 3) at λ = 5, dθ⋆/dλ by rows. Theirs:
    5e-2 against differences; here 1e-6 against the closed form -A⁻¹ θ⋆ (λ itself is exp of ours,
    hence the factor 5)."""
    X, y = make_regression(n_samples=10, n_features=3, random_state=0)
    A = X.T @ X / 10 + 5 * np.eye(3)
    theta = np.linalg.solve(A, X.T @ y / 10)
    expected = -5 * np.linalg.solve(A, theta)
    f, lam = ig.LeastSquares(X, y, penalty=ig.L2()), np.log([5.0])
    trained = ig.train(f, lam).x
    assert relative_error(trained, theta) <= 1e-6
    for j in range(3):
        res = ig.implicit_grad(f, linear(np.eye(3)[j], 1), trained, lam, method=method)
        assert res.success
        assert abs(res.grad[0] - expected[j]) <= 1e-6 * abs(expected[j])


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
def test_case_4_random_5_by_5_with_ridge(method):
    """jaxopt: A from RandomState(0), AᵀA + 1·I, against a dense solve; theirs: atol 1e-4."""
    rng = np.random.RandomState(0)
    A, b = rng.randn(5, 5), rng.randn(5)
    K = A.T @ A
    dense = np.linalg.solve(K + np.eye(5), b)
    lam = np.zeros(5)
    inside = ig.implicit_grad(
        quadratic(K + np.eye(5), np.eye(5)), linear(b, 5), np.zeros(5), lam, method
    )
    assert inside.success
    assert np.max(np.abs(inside.adjoint - dense)) <= 1e-6
    damped = ig.implicit_grad(
        quadratic(K, np.eye(5)),
        linear(b, 5),
        np.zeros(5),
        lam,
        method,
        options={"damping": 1.0, **QUIET},
    )
    assert np.max(np.abs(damped.adjoint - dense)) <= 1e-4
    assert not damped.success  # it is not the hypergradient of the undamped problem


@pytest.mark.parametrize("method", ["cg", "cholesky"])
def test_case_4_rank_deficient(method):
    """10 × 10 with duplicated rows, right-hand side and cross matrix in the range, where the
    hypergradient Bᵀ H⁺ b is still unique. CG must find it, or say why not; Cholesky cannot."""
    rng = np.random.RandomState(0)
    half = rng.randn(5, 10)
    rows = np.vstack([half, half])
    H = rows.T @ rows
    B, b = H @ rng.randn(10, 2), H @ rng.randn(10)
    exact = B.T @ np.linalg.pinv(H, rcond=1e-10) @ b
    f, g = quadratic(H, B), linear(b, 2)
    res = ig.implicit_grad(f, g, np.zeros(10), np.zeros(2), method, options=QUIET)
    if method == "cg":
        assert res.residual < 1e-3
        assert relative_error(res.grad, exact) <= 1e-3
    if res.success:
        assert relative_error(res.grad, exact) <= 3e-6
    else:
        assert res.status in (2, 3)
        assert res.status == 3 or res.curvature[0] < 0


def betty_data(seed):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(20)
    X = rng.standard_normal((1000, 20))
    y = X @ w + 0.1 * rng.standard_normal(1000) > 0
    return X[:500], y[:500], X[500:], y[500:]


def test_case_6_gradient_descent_on_per_feature_penalties():
    """betty: logistic 500/500, d = 20, penalties from 1, 2000 outer steps of size 1: below 0.48.
    From log λ = 0, without momentum."""
    X, y, X_val, y_val = betty_data(0)
    f, g = ig.Logistic(X, y, penalty=ig.L2("feature")), ig.Logistic(X_val, y_val)
    lam0 = np.zeros(20)
    start = g.fun(ig.train(f, lam0).x, lam0[:0])
    assert start > 0.48  # there is something to gain
    options = {"learning_rate": 1.0, "maxiter": 2000}
    res = ig.minimize(f, g, lam0, method="gd", options=options)
    assert res.fun < 0.48
    # The value belongs to the point: retrain there with the oracle.
    ref_f = reference.LinearModel("Logistic", X, y, "feature")
    ref_g = reference.LinearModel("Logistic", X_val, y_val)
    assert abs(float(ref_g.fun(ref_f.train(res.x))) - res.fun) <= 1e-6


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "neumann"])
def test_case_10_quadratic_bilevel_problem(method):
    """benchmark_bilevel: d = p = 100, inner spectrum in [.1, 1], cross terms up to .1; both
    levels quadratic in both variables, so that everything has a closed form. The samples enter
    through their averages only."""
    rng = np.random.default_rng(2442)

    def cross_term():
        M = rng.standard_normal((100, 100))
        return 0.1 * M / np.linalg.norm(M, 2)

    A, A_out, D_out = spd(100, 0.1, 1, 1), spd(100, 0.1, 1, 2), spd(100, 0.1, 1, 3)
    C, C_out = cross_term(), cross_term()  # λᵀ C θ
    a, a_out, d_out = rng.standard_normal((3, 100))
    lam = rng.standard_normal(100)

    f = ig.Objective(
        fun=lambda t, x: 0.5 * t @ A @ t + x @ C @ t + a @ t,
        jac=lambda t, x: A @ t + C.T @ x + a,
        hessp=lambda t, v, x: A @ v,
        cross_vjp=lambda t, q, x: C @ q,
        jac_lam=lambda t, x: C @ t,
    )
    g = ig.Objective(
        fun=lambda t, x: (
            0.5 * t @ A_out @ t + 0.5 * x @ D_out @ x + x @ C_out @ t + a_out @ t + d_out @ x
        ),
        jac=lambda t, x: A_out @ t + C_out.T @ x + a_out,
        jac_lam=lambda t, x: D_out @ x + C_out @ t + d_out,
    )
    theta = np.linalg.solve(A, -(C.T @ lam + a))
    g_in = A_out @ theta + C_out.T @ lam + a_out
    g_out = D_out @ lam + C_out @ theta + d_out
    expected = g_out - C @ np.linalg.solve(A, g_in)
    res = ig.implicit_grad(f, g, theta, lam, method=method, tol=1e-9)
    assert res.success
    assert relative_error(res.grad, expected) <= 1e-8
    assert relative_error(res.direct, g_out) <= 1e-14
