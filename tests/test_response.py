"""Forward mode: dθ⋆/dλ · u against closed forms, retrained models, the adjoint and an oracle."""

from decimal import localcontext

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

import generator
import implicitgrad as ig
import oracle as exactly
from cases import HYPER, quadratic, spd
from implicitgrad import solvers
from reference import relative_error

QUIET = {"warn": False}
METHODS = ["auto", "cholesky", "cg", "nystrom", "minres", "neumann"]


def ridge(n=30, p=5, seed=0):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, p)), rng.standard_normal(n)
    lam, u = rng.uniform(-2, 0, p), rng.standard_normal(p)
    H = X.T @ X / n + np.diag(np.exp(lam))
    theta = np.linalg.solve(H, X.T @ y / n)
    f = ig.LeastSquares(X, y, penalty=ig.L2("feature"))
    return f, theta, lam, u, -np.linalg.solve(H, np.exp(lam) * theta * u)


@pytest.mark.parametrize("method", METHODS)
def test_ridge_in_closed_form(method):
    f, theta, lam, u, exact = ridge()
    res = ig.response(f, theta, lam, u, method)
    assert isinstance(res, ig.ResponseResult) and isinstance(res, OptimizeResult)
    assert res.success and res.status == 0 and res.response.shape == (5,)
    error = np.linalg.norm(res.response - exact)
    assert error <= min(1e-6 * np.linalg.norm(exact), 3 * res.error + 1e-15)
    assert res.error <= res.error_bound * (1 + 1e-12) < np.inf
    assert error <= res.error_bound


@pytest.mark.parametrize("case", HYPER, ids=str)
def test_differences_of_retrained_models(case):
    pb = case.problem()
    u = np.random.default_rng(1).standard_normal(case.n_lam)
    h = 1e-4
    high, low = (ig.train(pb.f, pb.lam + t * u).x for t in (h, -h))
    res = ig.response(pb.f, ig.train(pb.f, pb.lam).x, pb.lam, u)
    assert res.success
    assert relative_error(res.response, (high - low) / (2 * h)) < 1e-5


@pytest.mark.parametrize("case", HYPER, ids=str)
def test_forward_and_reverse_are_the_same_jacobian(case):
    """(∇g)ᵀ(J u) = (Jᵀ∇g)ᵀu."""
    pb = case.problem()
    u = np.random.default_rng(2).standard_normal(case.n_lam)
    theta = ig.train(pb.f, pb.lam).x
    forward = ig.response(pb.f, theta, pb.lam, u, "cholesky", 1e-10)
    reverse = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, "cholesky", 1e-10)
    slope = pb.g.linearize(forward.theta, pb.lam if pb.g.n_lam else None).jac @ forward.response
    expected = (reverse.grad - reverse.direct) @ u
    size = np.linalg.norm(reverse.grad - reverse.direct) * np.linalg.norm(u)
    assert abs(slope - expected) <= 1e-8 * size


def test_against_extended_precision():
    """Random problems of the calibration: the estimate covers, the bound holds, success is true."""
    missed, false, ratios, broken, finite = [], [], [], [], 0
    for seed in range(900):
        problem = generator.draw(seed)
        if problem.kind != "linear" or not problem.inner.n_lam or problem.source == "values":
            continue
        with np.errstate(all="ignore"):
            try:
                oracle = exactly.Oracle(problem)
            except np.linalg.LinAlgError:
                continue
            if oracle.scaled_condition > 1e13:
                continue
            oracle.sharpen()
            star = exactly.double(oracle.theta)
            low = problem.inner.model(exactly.Double).at(problem.lam)
            reach = problem.offset * (exactly.norm(star) if problem.relative else 1.0)
            theta = star + reach * problem.direction
            method, options = problem.call(low, theta)
            u = np.random.default_rng(seed).standard_normal(problem.inner.n_lam)
            exact = oracle.response(u)
        f = problem.objectives()[0]
        res = ig.response(f, theta, problem.lam, u, method, problem.tol, options)
        with localcontext(prec=exactly.DIGITS):
            error = exactly.norm(exact - exactly.Decimals.array(res.response))
        if error > res.error_bound:
            broken.append(seed)
        allowed = max(
            (problem.tol or 1e-6) * exactly.norm(res.response),
            problem.options.get("atol", 64 * exactly.EPS * exactly.norm(res.response)),
        )
        if res.success and error > 3 * allowed:
            false.append((seed, error, allowed))
        if not np.isfinite(res.error):
            continue
        finite += 1
        if error > 3 * res.error:
            missed.append((seed, error, res.error))
        if error > 0:
            ratios.append(res.error / error)
    assert finite > 500
    assert broken == [] and false == []
    assert len(missed) <= 0.005 * finite, missed
    assert 0.7 <= np.median(ratios) <= 1.5


@pytest.mark.parametrize("method", ["auto", "cg"])
@pytest.mark.parametrize("own", [False, True])
def test_theta_off_is_polished_or_named(method, own, monkeypatch):
    if own:
        monkeypatch.setattr(solvers, "make_checker", lambda solver, *rest: solver)
    rng = np.random.default_rng(3)
    X = rng.standard_normal((80, 6))
    f = ig.Logistic(X, X[:, 0] + rng.standard_normal(80) > 0, penalty=ig.L2("feature"))
    lam, u = np.full(6, -4.0), rng.standard_normal(6)
    theta = ig.train(f, lam).x
    exact = ig.response(f, theta, lam, u, "cholesky", 1e-12).response
    polished = ig.response(f, theta + 1e-3, lam, u, method)
    assert polished.success and relative_error(polished.response, exact) < 1e-6
    assert np.linalg.norm(polished.theta - theta) < 1e-4
    given = ig.response(f, theta + 1e-3, lam, u, method, options={"polish": False, **QUIET})
    assert given.status == 4 and np.array_equal(given.theta, theta + 1e-3)
    error = np.linalg.norm(given.response - exact)
    assert error / 1.5 <= given.error <= 1.5 * error
    assert "response" in polished.message and "gradient of f" in given.message


def test_no_direction_no_response():
    f, theta, lam, *_ = ridge()
    res = ig.response(f, theta + 1.0, lam, np.zeros(5))
    assert res.success and not res.response.any()


@pytest.mark.parametrize("method", METHODS)
def test_saddles_and_singular_hessians(method):
    rng = np.random.default_rng(0)
    B, lam, u = rng.standard_normal((6, 2)), np.zeros(2), np.ones(2)
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    for least, status in ((-0.5, 2), (0.0, 3)):
        H = (Q * np.array([least, 0.5, 0.8, 1.0, 1.5, 2.0])) @ Q.T
        H = (H + H.T) / 2
        res = ig.response(quadratic(H, B), np.zeros(6), lam, u, method, options=QUIET)
        assert (res.success, res.status) == (False, status), res.message
        assert res.error_bound == np.inf and np.isfinite(res.response).all()
        assert "hypergradient" not in res.message and "adjoint" not in res.message


def test_statuses_1_5_and_99():
    f, theta, lam, u, exact = ridge(60, 20)
    one = {"maxiter": 1, "preconditioner": "jacobi"}
    short = ig.response(f, theta, lam, u, "cg", options={**one, **QUIET})
    assert (short.status, short.nit) == (1, 1) and short.residual > 1e-3
    seen = []

    def stop(intermediate_result):
        seen.append(intermediate_result.response)
        raise StopIteration

    stopped = ig.response(f, theta, lam, u, "cg", options=QUIET, callback=stop)
    assert stopped.status == 99 and len(seen) == 1 and seen[0].shape == (20,)
    terms = ig.response(f, theta, lam, u, "neumann", options={"terms": 3, **QUIET})
    assert (terms.status, terms.error) == (1, np.inf) and "how far the response" in terms.message
    paid = ig.response(f, theta, lam, u, "neumann", options={"terms": 3, "certify": True, **QUIET})
    error = np.linalg.norm(paid.response - exact)
    assert paid.status == 1 and error / 1.01 <= paid.error <= 1.01 * error
    bare = ig.response(f, theta, lam, u, options={"certify": False})
    assert bare.error == np.inf and relative_error(bare.response, exact) < 1e-6
    bad = ig.Objective(
        lambda t, x: 0.0, lambda t, x: t * 0, lambda t, v, x: v * np.nan, lambda t, q, x: q
    )
    assert ig.response(bad, np.ones(3), np.zeros(3), np.ones(3), options=QUIET).status == 5
    with pytest.warns(ig.ImplicitGradWarning, match="maxiter"):
        ig.response(f, theta, lam, u, "cg", options=one)


def test_functions_of_the_callers_own():
    """With cross_vjp only, C u is formed from its rows; from values alone, by differences."""
    H, B = spd(5, 0.1, 1.0), np.random.default_rng(1).standard_normal((5, 3))
    u, lam = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -0.2])
    exact, theta = np.linalg.solve(H, B @ u), np.linalg.solve(H, B @ lam)
    res = ig.response(quadratic(H, B), theta, lam, u)
    assert res.success and relative_error(res.response, exact) < 1e-6
    res = ig.response(lambda t, x: float(t @ H @ t / 2 - t @ (B @ x)), theta, lam, u)
    assert res.success and relative_error(res.response, exact) < 1e-3
    assert np.linalg.norm(res.response - exact) <= 3 * res.error


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"u": np.ones(4)}, ValueError, "u has 4 entries, f expects 5"),
        ({"u": np.ones((5, 1))}, ValueError, "u must be one-dimensional"),
        ({"u": [1, 2, np.nan, 4, 5]}, ValueError, "u"),
        ({"u": "abc"}, (TypeError, ValueError), "u"),
        ({"theta": np.ones(4)}, ValueError, "theta has 4 entries"),
        ({"lam": np.full(5, 1e4)}, ValueError, "lam"),
        ({"f": 3}, TypeError, "f must be"),
        ({"tol": 0.0}, ValueError, "tol"),
        ({"method": "magic"}, ValueError, "method"),
        ({"callback": 1}, TypeError, "callback"),
        ({"options": 1}, TypeError, "options"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_input(change, error, text):
    f, theta, lam, u, _ = ridge()
    with pytest.raises(error, match=text):
        ig.response(**{"f": f, "theta": theta, "lam": lam, "u": u, **change})


def test_inputs_are_not_modified():
    f, theta, lam, u, _ = ridge()
    copies = theta.copy(), lam.copy(), u.copy()
    res = ig.response(f, theta, lam, u)
    res.response[:], res.theta[:] = 7.0, 7.0
    assert all(np.array_equal(a, b) for a, b in zip((theta, lam, u), copies, strict=True))
