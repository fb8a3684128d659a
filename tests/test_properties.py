"""Properties that hold for every problem, found by search: shapes odd and even, all layouts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import implicitgrad as ig
from reference import assert_near

EPS = np.finfo(float).eps


@st.composite
def problems(draw):
    """(f, theta, lam, rng, how to rebuild f with other arrays or keywords)."""
    loss = draw(st.sampled_from(["LeastSquares", "Logistic"]))
    n, p = draw(st.integers(2, 70)), draw(st.integers(1, 41))
    intercept, weighted = draw(st.booleans()), draw(st.booleans())
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    order = draw(st.sampled_from("CF"))
    kind = draw(st.sampled_from(["all", "feature", "groups"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = np.asarray(rng.standard_normal((n, p)), dtype=dtype, order=order)
    y = np.where(rng.standard_normal(n) > 0, 1.0, -1.0)
    y[:2] = -1.0, 1.0
    w = rng.random(n) + 0.01 if weighted else None
    per = rng.permutation(np.arange(p) % min(p, 4)) if kind == "groups" else kind

    def make(X=X, **kwargs):
        pen = ig.L2(per, fixed=0.01)
        return getattr(ig, loss)(
            X, y, penalty=pen, fit_intercept=intercept, sample_weight=w, **kwargs
        )

    f = make()
    theta = rng.standard_normal(f.n_theta)
    return f, theta, rng.uniform(-3, 1, f.n_lam), rng, make, X


many = settings(max_examples=80, deadline=None, derandomize=True)


@many
@given(problems())
def test_hessian_is_symmetric_and_positive(problem):
    f, theta, lam, rng, *_ = problem
    H = f.linearize(theta, lam).hess @ np.eye(f.n_theta)
    assert_near(H, H.T, 1e-13)
    # Weyl: rounding moves no eigenvalue by more than the norm of the perturbation.
    low, *_, high = np.linalg.eigvalsh((H + H.T) / 2)[[0, -1]]
    assert low >= -1e-13 * high
    u, v = rng.standard_normal((2, f.n_theta))
    hess = f.linearize(theta, lam).hess
    slack = 1e-13 * np.linalg.norm(H, 2) * np.linalg.norm(u) * np.linalg.norm(v)
    assert abs(u @ (hess @ v) - v @ (hess @ u)) <= slack


@many
@given(problems())
def test_cross_and_its_transpose_are_adjoint(problem):
    f, theta, lam, rng, *_ = problem
    cross = f.linearize(theta, lam).cross
    u, q = rng.standard_normal(f.n_lam), rng.standard_normal(f.n_theta)
    left, right = (cross @ u) @ q, u @ (cross.T @ q)
    scale = np.abs(cross @ np.eye(f.n_lam)) @ np.abs(u) @ np.abs(q)
    assert abs(left - right) <= 8 * (f.n_theta + 1) * EPS * scale


@many
@given(problems())
def test_operators_are_linear(problem):
    f, theta, lam, rng, *_ = problem
    L = f.linearize(theta, lam)
    for op in (L.hess, L.cross, L.cross.T):
        u, v = rng.standard_normal((2, op.shape[1]))
        scale = np.linalg.norm(op @ np.eye(op.shape[1]), 2)
        off = op @ (3.0 * u - 0.7 * v) - (3.0 * (op @ u) - 0.7 * (op @ v))
        assert np.max(np.abs(off)) <= 1e-13 * scale * (np.linalg.norm(u) + np.linalg.norm(v)) * 4
        assert np.array_equal(op @ np.zeros(op.shape[1]), np.zeros(op.shape[0]))
        # Multiplying by a power of two commutes with every rounding.
        assert np.array_equal(op @ (4.0 * u), 4.0 * (op @ u))


@many
@given(problems(), st.integers(1, 9))
def test_block_equals_columns(problem, k):
    f, theta, lam, rng, *_ = problem
    L = f.linearize(theta, lam)
    for op in (L.hess, L.cross, L.cross.T):
        V = rng.standard_normal((op.shape[1], k))
        columns = np.column_stack([op @ v for v in V.T])
        assert_near(op @ V, columns, 1e-13)


@many
@given(problems())
def test_layouts_agree(problem):
    f, theta, lam, rng, make, X = problem
    L, v = f.linearize(theta, lam), rng.standard_normal(f.n_theta)
    other = np.ascontiguousarray(X) if X.flags.f_contiguous else np.asfortranarray(X)
    views = [other, X.repeat(2, 0)[::2], X[:, ::-1].copy()[:, ::-1], X.astype(np.float64)]
    for view in views:
        M = make(view).linearize(theta, lam)
        assert_near(np.float64(M.fun), L.fun, 1e-13)
        # The gradient of a fit can be small beside its terms; the Hessian's cannot.
        terms = np.abs(X).T.astype(float) @ np.ones(len(X)) / len(X)
        scale = np.max(terms) + np.max(np.abs(L.jac)) + 1
        assert np.max(np.abs(M.jac - L.jac)) <= 1e-13 * scale * (1 + np.linalg.norm(theta))
        assert_near(M.hess @ v, L.hess @ v, 1e-12)


@many
@given(problems())
def test_gradient_is_the_slope_of_the_value(problem):
    f, theta, lam, rng, *_ = problem
    u, x = rng.standard_normal(f.n_theta), rng.standard_normal(f.n_lam)
    h = 1e-5
    slope = (f.fun(theta + h * u, lam) - f.fun(theta - h * u, lam)) / (2 * h)
    L = f.linearize(theta, lam)
    # Truncation h² times a third derivative, rounding ε/h times the value.
    scale = 1 + abs(L.fun) + np.linalg.norm(u) ** 3
    assert abs(slope - L.jac @ u) <= 1e-8 * scale
    slope = (f.fun(theta, lam + h * x) - f.fun(theta, lam - h * x)) / (2 * h)
    scale = 1 + abs(L.fun) + np.linalg.norm(x) ** 3 * (1 + np.sum(np.abs(L.jac_lam)))
    assert abs(slope - L.jac_lam @ x) <= 1e-8 * scale


# Large enough for several row blocks, and not a multiple of any power of two.
LARGE = [(20011, 37), (5003, 301), (131, 2053)]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
def test_same_bits_at_any_number_of_threads(loss, shape, dtype, order, rng):
    n, p = shape
    X = np.asarray(rng.standard_normal(shape), dtype=dtype, order=order)
    y = np.where(rng.standard_normal(n) > 0, 1.0, -1.0)
    w, lam = rng.random(n), rng.uniform(-3, 0, p)
    theta, v = rng.standard_normal((2, p + 1)) / np.sqrt(p)
    V = rng.standard_normal((p + 1, 3))
    results = []
    for threads in (1, 2, 3, None):
        f = getattr(ig, loss)(
            X,
            y,
            penalty=ig.L2("feature"),
            fit_intercept=True,
            sample_weight=w,
            n_threads=threads,
        )
        L = f.linearize(theta, lam)
        results.append((np.float64(L.fun), L.jac, L.jac_lam, L.hess @ v, L.hess @ V, L.cross.T @ v))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("method", ["cg", "nystrom", "neumann"])
def test_hypergradient_has_the_same_bits_at_any_number_of_threads(method, rng):
    X, X_val = rng.standard_normal((20011, 37)), rng.standard_normal((997, 37))
    truth = rng.standard_normal(37)
    y, y_val = np.sign(X @ truth + 1e-9), np.sign(X_val @ truth + 1e-9)
    lam, grads = np.full(37, -3.0), []
    for threads in (1, 2, 3):
        f = ig.Logistic(X, y, penalty=ig.L2("feature"), n_threads=threads)
        g = ig.Logistic(X_val, y_val, n_threads=threads)
        theta = ig.train(f, lam).x
        grads.append((theta, ig.implicit_grad(f, g, theta, lam, method=method).grad))
    assert np.isfinite(grads[0][1]).all() and grads[0][1].any()
    for theta, grad in grads[1:]:
        assert np.array_equal(theta, grads[0][0])
        assert np.array_equal(grad, grads[0][1])
