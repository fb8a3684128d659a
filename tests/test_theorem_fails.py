"""Where the implicit function theorem does not apply, or its numbers cannot be had: it is found,
named with its number, and never a success."""

import re

import numpy as np
import pytest

import implicitgrad as ig
from cases import linear, quadratic, replaced, spd, well_posed
from reference import assert_near, relative_error

QUIET = {"warn": False}
METHODS = ["auto", "cholesky", "cg", "nystrom", "minres", "neumann"]
ADVICE = re.compile(
    r"train further|check|add a penalty|loosen|raise maxiter|use |give |leave ", re.I
)
NUMBER = re.compile(r"\d\.\de[+-]\d\d")


def solve(f, g, theta, lam, method="auto", tol=1e-6, **options):
    return ig.implicit_grad(f, g, theta, lam, method, tol, {**options, **QUIET})


def assert_refused(res, *statuses):
    assert not res.success
    assert res.status in statuses, res.message
    assert np.isfinite(res.grad).all() and res.grad.shape == res.direct.shape
    assert NUMBER.search(res.message) and ADVICE.search(res.message), res.message
    assert "nan" not in res.message
    if res.status in (2, 3):
        assert res.error_bound == np.inf  # no curvature is proven


def indefinite(n, least, seed=0):
    """A symmetric matrix with the eigenvalue `least` < 0, the others in [0.5, 2]."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    H = (Q * np.concatenate([[least], np.geomspace(0.5, 2.0, n - 1)])) @ Q.T
    return (H + H.T) / 2


def stationary(H, seed=1):
    """f, g, θ and λ of a quadratic problem with this Hessian, at its stationary point."""
    rng, n = np.random.default_rng(seed), len(H)
    B, c, lam = rng.standard_normal((n, 2)), rng.standard_normal(n), np.array([0.3, -0.2])
    return quadratic(H, B), linear(c, 2), np.linalg.solve(H, B @ lam), lam, c


# Negative curvature: saddles and maxima


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2, 12, 100])
@pytest.mark.parametrize("least", [-1e-3, -0.1, -1.0, -30.0])
def test_saddle(least, n, method):
    f, g, theta, lam, _ = stationary(indefinite(n, least, seed=n))
    res = solve(f, g, theta, lam, method)
    assert_refused(res, 2)
    # "an eigenvalue of at most": the claim is a bound on the least one, with rounding in the claim.
    assert least * (1 + 1e-9) <= res.curvature[0] < 0
    if method in ("cholesky", "minres"):  # those that look at the whole spectrum
        assert res.curvature[0] <= least / 10
    largest = 2.0 if least > -2 else -least
    assert res.curvature[1] <= largest * (1 + 1e-9)


@pytest.mark.parametrize("n", [5, 40])
def test_saddle_dominated_by_its_negative_eigenvalue(n):
    """|λmin| is 15 times the other eigenvalues: what a factor of H says of it must not be less than
    what the power method would."""
    for seed in range(20):
        f, g, theta, lam, _ = stationary(indefinite(n, -30.0, seed), seed + 1)
        res = solve(f, g, theta, lam, "cholesky")
        assert_refused(res, 2)
        assert -30 * (1 + 1e-9) <= res.curvature[0] <= -3, f"seed {seed}: {res.curvature}"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_maximum(size, method):
    """Σ cos θ at 0, where the Hessian is -I."""
    B = np.cos(np.arange(10.0)).reshape(5, 2)
    f = ig.Objective(
        fun=lambda t, x: size * np.sum(np.cos(t)) - t @ (B @ x),
        jac=lambda t, x: -size * np.sin(t) - B @ x,
        hessp=lambda t, v, x: -size * np.cos(t) * v,
        cross_vjp=lambda t, q, x: -(B.T @ q),
    )
    res = solve(f, linear(np.ones(5), 2), np.zeros(5), np.zeros(2), method)
    assert_refused(res, 2)
    assert_near(np.array(res.curvature)[:1], [-size], 1e-9)


@pytest.mark.parametrize("method", ["identity", "neumann"])
def test_saddle_found_by_certify(method):
    """A fixed number of terms never looks; paying for the certificate does."""
    f, g, theta, lam, _ = stationary(indefinite(6, -0.5))
    blind = {"terms": 3, "step_size": 0.1} if method == "neumann" else {}
    assert solve(f, g, theta, lam, method, **blind).status == 1
    assert_refused(solve(f, g, theta, lam, method, certify=True, **blind), 2)


@pytest.mark.parametrize("n", [6, 100])
@pytest.mark.parametrize("method", ["cg", "nystrom", "cholesky", "minres"])
def test_damping_does_not_hide_a_saddle(method, n):
    """H + damping · I is definite and is solved; H is what the theorem is about."""
    H = indefinite(n, -0.5)
    f, g, theta, lam, c = stationary(H)
    res = solve(f, g, theta, lam, method, tol=1e-9, damping=2.0)
    assert_refused(res, 2)
    assert relative_error(res.adjoint, np.linalg.solve(H + 2 * np.eye(n), c)) <= 1e-8
    assert "damping = 2" in res.message


def test_leaps_of_newton_and_concave_stretches():
    """f = ¼θ⁴ − ½θ²: minima at ±1, a maximum at 0. From 0.6, H > 0 and Newton leaps to −5.4; at 0.5
    the Hessian itself is negative."""
    f = ig.Objective(
        fun=lambda t, x: float(np.sum(t**4 / 4 - t**2 / 2 - t * x)),
        jac=lambda t, x: t**3 - t - x,
        hessp=lambda t, v, x: (3 * t**2 - 1) * v,
        cross_vjp=lambda t, q, x: -q,
    )
    g = linear([1.0], 1)
    for method in METHODS:
        near = solve(f, g, np.array([1.01]), np.zeros(1), method)
        assert near.success and abs(near.grad[0] - 0.5) <= 1e-6
        assert_refused(solve(f, g, np.array([0.6]), np.zeros(1), method, polish=False), 4)
        concave = solve(f, g, np.array([0.5]), np.zeros(1), method)
        assert_refused(concave, 2)
        assert_near(np.array(concave.curvature), [-0.25, -0.25], 1e-9)


# MINRES


@pytest.mark.parametrize("n", [1, 2, 7, 60])
@pytest.mark.parametrize("least", [-1e-2, -1.0, -50.0])
def test_minres_solves_indefinite_systems(n, least):
    H = indefinite(n, least, seed=n)
    f, g, theta, lam, c = stationary(H)
    res = solve(f, g, theta, lam, "minres", 1e-11)
    q = np.linalg.solve(H, c)
    assert relative_error(res.adjoint, q) <= 1e-8
    assert_near(res.grad, f.linearize(theta, lam).cross.T @ -q, 1e-8)
    assert res.residual <= 1e-10
    assert_refused(res, 2)


@pytest.mark.parametrize("n", [1, 5, 40, 150])
@pytest.mark.parametrize("cond", [1, 100, 1e5])
def test_minres_succeeds_on_definite_systems(n, cond):
    H = spd(n, 1 / cond, 1.0, seed=n) if n > 1 else np.array([[1 / cond]])
    f, g, theta, lam, c = stationary(H)
    res = solve(f, g, theta, lam, "minres")
    assert res.success and res.method == "minres"
    assert (
        relative_error(res.grad, f.linearize(theta, lam).cross.T @ -np.linalg.solve(H, c)) <= 1e-6
    )
    if n <= 40:  # a matrix of that size is also factored, which shows its extremes
        assert 0.9 / cond <= res.curvature[0] <= 10 / cond


# Singular Hessians


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("in_range", [True, False])
@pytest.mark.parametrize("n", [3, 20])
def test_singular_hessian(n, in_range, method):
    """With ∇g and the cross matrix in the range the response is unique, and may be found; otherwise
    there is none."""
    rng = np.random.default_rng(n)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    H = (Q * np.concatenate([[0.0], np.geomspace(0.5, 2.0, n - 1)])) @ Q.T
    H = (H + H.T) / 2
    project = H @ np.linalg.pinv(H, rcond=1e-10) if in_range else np.eye(n)
    B, c = project @ rng.standard_normal((n, 2)), project @ rng.standard_normal(n)
    res = solve(quadratic(H, B), linear(c, 2), np.zeros(n), np.zeros(2), method)
    if in_range and res.success:
        exact = B.T @ np.linalg.pinv(H, rcond=1e-10) @ c
        assert relative_error(res.grad, exact) <= 3e-6
    else:
        assert_refused(res, 3)
        low, high = res.curvature
        assert abs(low) <= 1e-10 * high and 0.2 <= high <= 2 * (1 + 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_zero_hessian(method):
    f, g = quadratic(np.zeros((4, 4)), np.ones((4, 1))), linear(np.ones(4), 1)
    res = solve(f, g, np.zeros(4), np.zeros(1), method)
    assert_refused(res, 3)
    assert res.curvature == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
def test_rank_deficient_columns_without_a_penalty_to_speak_of(loss, method):
    """e^-600 is a penalty in name only; ∇g reaches into the null space of the equal columns."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((40, 4))[:, [0, 1, 2, 2, 3]]
    y = np.where(X[:, 0] + 2 * rng.standard_normal(40) > 0, 1.0, -1.0)
    f = getattr(ig, loss)(X, y, penalty=ig.L2("feature"))
    g = getattr(ig, loss)(rng.standard_normal((15, 5)), np.where(np.arange(15) % 2, 1.0, -1.0))
    theta = ig.train(f, np.full(5, -18.0)).x
    res = solve(f, g, theta, np.full(5, -600.0), method)
    assert_refused(res, 3)
    low, high = res.curvature
    H = f.linearize(theta, np.full(5, -600.0)).hess @ np.eye(5)
    largest = np.linalg.eigvalsh(H)[-1]
    assert largest / 10 <= high <= largest * (1 + 1e-9) and abs(low) <= 1e-9 * high


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [0.0, 3.0, 100.0, 1e4])
def test_separable_classes_with_a_vanishing_penalty(size, method):
    """The minimum lies at |θ| of about 600; nothing nearer is stationary, and beyond the curvature
    of the loss underflows."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((30, 3))
    y = np.sign(X[:, 0])
    X[:, 0] += y
    f = ig.Logistic(X, y, penalty=ig.L2("feature"))
    g = ig.Logistic(rng.standard_normal((9, 3)), np.resize([1.0, -1.0], 9))
    res = solve(f, g, np.array([size, 0.0, 0.0]), np.full(3, -600.0), method)
    # Where the curvature is gone altogether, H⁻¹ overflows before anything else is found out.
    assert_refused(res, 3, 4, 5)


# θ that Newton's method does not improve


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [1.5, 3.0, 50.0])
def test_newton_does_not_contract(start, method):
    """Σ √(1 + θ²): H > 0 everywhere, and Newton's step θ → -θ³ diverges from |θ| > 1. A line search
    finds the minimum at 0, where H = I."""
    f = ig.Objective(
        fun=lambda t, x: float(np.sum(np.sqrt(1 + t**2)) - t @ x),
        jac=lambda t, x: t / np.sqrt(1 + t**2) - x,
        hessp=lambda t, v, x: v * (1 + t**2) ** -1.5,
        cross_vjp=lambda t, q, x: -q,
    )
    c = np.array([1.0, 2.0, -1.0])
    theta = np.array([start, -start, start])
    as_given = solve(f, linear(c, 3), theta, np.zeros(3), method, polish=False)
    assert_refused(as_given, 4)
    assert np.array_equal(as_given.theta, theta)
    assert as_given.error >= np.linalg.norm(as_given.grad - c) / 1.01
    assert f"{np.linalg.norm(f.jac(theta, np.zeros(3))):.1e}" in as_given.message
    polished = solve(f, linear(c, 3), theta, np.zeros(3), method)
    assert not polished.success or relative_error(polished.grad, c) <= 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("polish", [True, False])
@pytest.mark.parametrize("start", [0.0, 5.0, 30.0])
def test_minimum_at_infinity(start, polish, method):
    """e^-(θ - λ) falls for ever: its gradient gets as small as one likes, and θ⋆ does not exist."""
    f = ig.Objective(
        fun=lambda t, x: float(np.sum(np.exp(x - t))),
        jac=lambda t, x: -np.exp(x - t),
        hessp=lambda t, v, x: np.exp(x - t) * v,
        cross_vjp=lambda t, q, x: -np.exp(x - t) * q,
        jac_lam=lambda t, x: np.exp(x - t),
    )
    g = linear(np.ones(2), 2)
    theta = np.array([start, start + 1])
    assert_refused(solve(f, g, theta, np.zeros(2), method, polish=polish), 3, 4)


@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
@pytest.mark.parametrize("log_penalty", [-25.0, -3.0])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e12, 1e20, 1e100])
def test_an_outer_loss_without_slope_far_from_the_minimum(size, log_penalty, loss):
    """∇g is exactly zero where the outer logistic loss is saturated. That makes the response zero
    at θ⋆ only: far from it, it says nothing."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 3))
    y = np.where(X[:, 0] + rng.standard_normal(30) > 0, 1.0, -1.0)
    f = getattr(ig, loss)(X, y, penalty=ig.L2("feature"))
    g = ig.Logistic(X[:3], np.sign(X[:3, 0]))
    lam = np.full(3, log_penalty)
    exact = solve(f, g, ig.train(f, lam).x, lam)
    assert exact.success and np.all(exact.grad != 0)
    for method in METHODS:
        for polish in (True, False):
            res = solve(f, g, np.array([size, 0.0, 0.0]), lam, method, polish=polish)
            error = np.linalg.norm(res.grad - exact.grad)
            assert not res.success or error <= 1e-5 * np.linalg.norm(exact.grad)


# Solvers of the caller's own that do not solve


@pytest.mark.parametrize("wrong", [0.0, 1e-3, 1.0])
def test_a_solver_that_returns_a_constant_does_not_make_the_hessian_singular(wrong):
    """It is corrected (the Hessian is well conditioned), or blamed; the Hessian is neither."""
    w = well_posed()
    mine = lambda hess, b: np.full(12, wrong)  # noqa: E731
    res = solve(w.f, w.g, w.theta, w.lam, mine)
    assert res.status != 3 and "singular" not in res.message
    if res.success:
        assert relative_error(res.grad, w.exact) <= 1e-6


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_the_blame_for_theta_is_not_put_on_a_solver_that_was_corrected(wrong):
    """The adjoint is refined at the given θ; what is left is due to θ: status 4, not 3."""
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((40, 5)), np.where(rng.standard_normal(40) > 0, 1.0, -1.0)
    f, g = ig.Logistic(X[:30], y[:30], penalty=ig.L2()), ig.Logistic(X[30:], y[30:])
    lam = np.zeros(1)
    theta = ig.train(f, lam).x + 1e-2
    mine = lambda hess, b: np.full(5, wrong)  # noqa: E731
    assert_refused(solve(f, g, theta, lam, "cholesky", polish=False), 4)
    assert_refused(solve(f, g, theta, lam, mine, polish=False), 4)


# Numbers that are none


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_products_that_turn_bad(after, bad, method):
    """Whatever is met late, in the solve or in the certificate, ends in status 5."""
    w, calls = well_posed(), []

    def hessp(t, v, x):
        calls.append(1)
        return w.H @ v if len(calls) <= after else np.full(12, bad)

    res = solve(replaced(w.f, hessp=hessp), w.g, w.theta, w.lam, method)
    assert (res.status, res.success) == (5, False)
    assert np.isfinite(res.grad).all()
    assert "NaN" in res.message
    assert not res.error < np.inf
