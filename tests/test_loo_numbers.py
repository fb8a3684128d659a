"""Leave-one-out: what must make no difference, and numbers at the limits of double precision."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import implicitgrad as ig
import reference
from implicitgrad import _loo_algebra
from loo_oracle import LOG, LS, Oracle, pointwise, problem
from reference import assert_near

QUIET = {"warn": False}


def stored(X):
    padded = np.zeros((X.shape[0], X.shape[1] + 3))
    padded[:, :-3] = X
    return {
        "F": np.asfortranarray(X),
        "csr": scipy.sparse.csr_array(X),
        "csr, 64-bit": scipy.sparse.csr_matrix(X.astype(np.float32)),
        "csc": scipy.sparse.csc_array(X),
        "padded": padded[:, :-3],
        "every other": X.repeat(2, 0)[::2],
        "float32": X.astype(np.float32),
        "float32 F": np.asfortranarray(X, dtype=np.float32),
        "lists": X.tolist(),
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [LS, LOG])
@pytest.mark.parametrize("shape", [(30, 7), (9, 20)])
def test_storage_and_blocks_and_threads_make_no_difference(shape, loss, weighted, monkeypatch):
    pb = problem(loss, *shape, per="groups")
    X = np.asarray(pb.X * (pb.rng.random(shape) < 0.6), dtype=np.float32).astype(float)
    w = np.where(np.arange(shape[0]) % 4, 1.5, 0.0) if weighted else None
    theta = pb.rng.standard_normal(shape[1] + 1)

    def at(X, per, **options):
        _, g = ig.leave_one_out(
            *(getattr(ig, loss), X, pb.y),
            **{"penalty": ig.L2(per), "fit_intercept": True, "sample_weight": w, **options},
        )
        return g.linearize(theta, np.linspace(-3, -2, g.n_lam))

    def check(got, want):
        assert_near(np.float64(got.fun), want.fun, 1e-13)
        assert_near(got.jac, want.jac, 1e-12)
        assert_near(got.jac_lam, want.jac_lam, 1e-12)

    for per in ("all", "feature"):
        want = at(X, per)
        for other in stored(X).values():
            check(at(other, per), want)
        for n_threads in (1, 3):
            check(at(X, per, n_threads=n_threads), want)
        monkeypatch.setattr(_loo_algebra, "BLOCK", 8)
        monkeypatch.setattr(_loo_algebra, "LEAST", 4)
        for other in (X, *stored(X).values()):
            check(at(other, per), want)
        monkeypatch.undo()


@pytest.mark.parametrize("kind", ["C", "F", "float32", "csr"])
@pytest.mark.parametrize("loss", [LS, LOG])
@pytest.mark.parametrize("shape", [(12_000, 200), (200, 12_000)])
def test_no_copy_of_the_data_is_made(shape, loss, kind, rng):
    X = rng.standard_normal(shape)
    y = np.where(X[:, 0] > 0, 1.0, -1.0)
    X = {"F": np.asfortranarray(X), "csr": scipy.sparse.csr_array(X)}.get(kind, X)
    X = X.astype(np.float32) if kind == "float32" else X
    f, g = ig.leave_one_out(getattr(ig, loss), X, y, penalty=ig.L2("all"), fit_intercept=True)
    theta = 1e-3 * rng.standard_normal(f.n_theta)
    tracemalloc.start()
    try:
        assert np.isfinite(g.fun(theta, [-1.0]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 0.6 * 8 * X.shape[0] * X.shape[1]  # some blocks of 2 MB, and vectors


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 12), st.sampled_from([LS, LOG])
)
def test_the_order_of_the_rows_does_not_matter(seed, n, p, loss):
    rng = np.random.default_rng(seed)
    X, w = rng.standard_normal((n, p)), rng.random(n) + 0.1
    y = np.where(rng.random(n) > 0.5, 1.0, -1.0)
    y[:2] = -1.0, 1.0
    order = rng.permutation(n)
    theta = rng.standard_normal(p + 1)
    found = []
    for rows in (np.arange(n), order):
        _, g = ig.leave_one_out(
            *(getattr(ig, loss), X[rows], y[rows]),
            penalty=ig.L2("feature"),
            fit_intercept=True,
            sample_weight=w[rows],
        )
        found.append(g.linearize(theta, np.linspace(-1, 0, p)))
    one, other = found
    if np.isinf(one.fun):  # where t_i is at rounding level
        assert np.isinf(other.fun)
        return
    assert_near(np.float64(one.fun), other.fun, 1e-10)
    assert_near(one.jac, other.jac, 1e-8)
    assert_near(one.jac_lam, other.jac_lam, 1e-8)


def test_weights_are_not_copies_here():
    pb = problem(LS, 12, 3)
    w = np.ones(12)
    theta = pb.rng.standard_normal(3)

    def at(rows, w):
        _, g = ig.leave_one_out(
            ig.LeastSquares, pb.X[rows], pb.y[rows], penalty=ig.L2("feature"), sample_weight=w
        )
        return g.fun(theta, pb.lam)

    every = np.arange(12)
    assert at(every, w) == at(every, 2 * w) == at(every, None)
    w[3] = 2.0
    copied, weighted = at(np.append(every, 3), None), at(every, w)
    assert abs(copied - weighted) > 1e-3 * weighted  # the copy stays in when its twin is left out
    w[3] = 0.0
    assert_near(np.float64(at(every, w)), at(np.delete(every, 3), None), 1e-14)


def test_the_last_point_is_remembered():
    pb = problem(LS, 20, 4)
    at = pb.g.linearize(np.ones(4), pb.lam)
    assert pb.g.linearize(np.ones(4), pb.lam.copy()) is at
    jac = pb.g.jac(np.ones(4), pb.lam)
    jac[:] = 0
    assert at.jac.any()
    assert pb.g.linearize(np.zeros(4), pb.lam) is not at


def test_inputs_are_left_alone(sealed):
    for loss, shape in ((LS, (20, 4)), (LOG, (5, 9))):
        pb = problem(loss, *shape)
        X, y, w = sealed(pb.X.copy(), pb.y.copy(), np.ones(shape[0]))
        theta, lam = sealed(np.ones(shape[1]), pb.lam.copy())
        objective = getattr(ig, loss)
        f, g = ig.leave_one_out(objective, X, y, penalty=ig.L2("feature"), sample_weight=w)
        ig.implicit_grad(f, g, theta, lam, options=QUIET)


@pytest.mark.parametrize("loss", [LS, LOG])
def test_a_row_that_alone_determines_something_gives_infinity(loss):
    """A column of its own, without a penalty."""
    pb = problem(loss, 20, 3)
    X = np.column_stack([pb.X, np.eye(20)[5]])
    _, g = ig.leave_one_out(getattr(ig, loss), X, pb.y, penalty=ig.L2("none"))
    at = g.linearize(np.zeros(4))
    assert at.fun == np.inf and np.isnan(at.jac).all() and at.jac_lam.shape == (0,)


def test_what_is_not_determined_is_a_status_and_no_exception():
    pb = problem(LS, 6, 9)
    lam = np.full(9, -60.0)  # residuals are at rounding level, and so is every t_i
    res = ig.implicit_grad(pb.f, pb.g, ig.train(pb.f, lam).x, lam, options=QUIET)
    assert res.status == 5 and not res.success
    assert ig.HyperObjective(pb.f, pb.g, options=QUIET)(lam)[0] == np.inf
    X = np.column_stack([pb.X[:, 0], pb.X[:, 0]])
    _, g = ig.leave_one_out(ig.LeastSquares, X, pb.y)  # singular, up to rounding at least
    g.linearize(np.zeros(2))


def test_rounding_that_is_blown_up_is_reported():
    """Residuals are t_i times what the left-out model's are: where t_i is 1e-9, seven of θ's sixteen
    digits are left, and a hypergradient to twelve is out of reach."""
    pb = problem(LS, 6, 9, seed=3)
    lam = np.full(9, -20.0)
    theta = ig.train(pb.f, lam).x
    noise = pb.g.linearize(theta, lam).noise
    assert noise.jac > 0 and noise.jac_lam > 0
    res = ig.implicit_grad(pb.f, pb.g, theta, lam, tol=1e-12, options=QUIET)
    assert not res.success and res.error > 1e-10 * np.linalg.norm(res.grad)
    quiet = problem(LS, 30, 5)
    assert quiet.g.linearize(np.ones(5), quiet.lam).noise.jac == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_no_success_where_columns_are_all_but_alike(seed):
    """H has a condition number of 1e10 and more, and what a factorisation loses must be counted."""
    rng = np.random.default_rng(seed)
    X, y, lam = rng.standard_normal((9, 4)), rng.standard_normal(9), np.full(4, -28.0)
    X[:, 1] = X[:, 0] + 1e-5 * X[:, 1]
    f, g = ig.leave_one_out(ig.LeastSquares, X, y, penalty=ig.L2("feature"))
    oracle = Oracle(reference.LinearModel(LS, X, y, penalty="feature"))
    theta = ig.train(f, lam).x
    at = g.linearize(theta, lam)
    size = np.linalg.norm(at.jac)
    off = reference.relative_error(at.jac, oracle.jac(theta, lam))
    assert 1e-10 < off <= 100 * at.noise.jac / size
    assert not ig.implicit_grad(f, g, theta, lam, options=QUIET).success


@pytest.mark.parametrize("loss", [LS, LOG])
@pytest.mark.parametrize("shape", [(15, 3), (5, 8)])
@pytest.mark.parametrize("scale", [2.0**40, 2.0**-40])
def test_scales_of_columns_do_not_matter(loss, shape, scale):
    """X diag(s) with strengths s² e^λ is the same model in other units, but for exact powers of two in
    X and roundings in λ."""
    pb = problem(loss, *shape, fit_intercept=True)
    units = np.where(np.arange(shape[1]) % 2, scale, 1.0)
    _, g = ig.leave_one_out(
        *(getattr(ig, loss), pb.X * units, pb.y), penalty=ig.L2("feature"), fit_intercept=True
    )
    theta = pb.rng.standard_normal(shape[1] + 1)
    want = pb.g.linearize(theta, pb.lam)
    units = np.append(units, 1.0)
    at = g.linearize(theta / units, pb.lam + 2 * np.log(units[:-1]))
    assert_near(np.float64(at.fun), want.fun, 1e-12)
    assert_near(at.jac / units, want.jac, 1e-11)
    assert_near(at.jac_lam, want.jac_lam, 1e-11)


@pytest.mark.parametrize("lam", [-700.0, -300.0, 300.0, 709.0])
@pytest.mark.parametrize("loss", [LS, LOG])
def test_extreme_strengths(loss, lam):
    """No penalty, or no model."""
    pb = problem(loss, 30, 4)
    strengths = np.full(4, lam)
    res = ig.implicit_grad(pb.f, pb.g, ig.train(pb.f, strengths).x, strengths)
    assert res.success and np.linalg.norm(res.grad) < 1e-100
    if lam > 0:
        want = pointwise(pb.model, np.zeros(30)).mean()
    else:
        plain = reference.LinearModel(loss, pb.X, pb.y)
        want = Oracle(plain).fun(plain.train(), ())
    assert_near(np.float64(res.fun), want, 1e-12)


@pytest.mark.parametrize("shape", [(12, 3), (6, 9)])
def test_saturated_rows(shape):
    """Margins of 1000 on the wrong side and on the right one: ℓ'' underflows to zero."""
    pb = problem(LOG, *shape)
    X = pb.X.copy()
    X[0], X[1] = 0.0, 0.0
    X[0, 0], X[1, 0] = 1000.0, 1000.0
    y = np.where(np.arange(shape[0]) % 2, 1.0, -1.0)
    _, g = ig.leave_one_out(ig.Logistic, X, y, penalty=ig.L2("feature"))
    model = reference.LinearModel(LOG, X, y, penalty="feature")
    theta = np.ones(shape[1])
    at, oracle = g.linearize(theta, pb.lam), Oracle(model)
    assert_near(np.float64(at.fun), oracle.fun(theta, pb.lam), 1e-13)
    assert_near(at.jac, oracle.jac(theta, pb.lam), 1e-8)
    assert_near(at.jac_lam, oracle.jac_lam(theta, pb.lam), 1e-8)
