"""The solvers on quadratic problems whose matrices are known, through the public interface."""

import numpy as np
import pytest
from scipy.optimize import brentq

import implicitgrad as ig
from cases import BY_NAME, linear, quadratic, replaced, spd, well_posed
from implicitgrad import solvers
from implicitgrad._solution import callback_operator
from reference import assert_near, relative_error

QUIET = {"warn": False}
SOLVERS = ["auto", "cholesky", "cg", "nystrom", "neumann"]


def truncated_series(H, b, alpha, terms):
    """α Σ_{j<K} (I - αH)ʲ b, term by term."""
    total, term = np.zeros_like(b), b.copy()
    for _ in range(terms):
        total = total + term
        term = term - alpha * (H @ term)
    return alpha * total


@pytest.mark.parametrize("terms", [1, 5, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.6])
def test_neumann_is_the_truncated_series(terms, alpha):
    w = well_posed(30)
    options = {"terms": terms, "step_size": alpha, **QUIET}
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, "neumann", options=options)
    expected = truncated_series(w.H, w.c, alpha, terms)
    assert_near(res.adjoint, expected, 1e-12)
    assert_near(res.grad, w.B.T @ expected, 1e-12)


@pytest.mark.parametrize("terms", [1, 5, 20])
def test_neumann_is_the_truncated_series_for_built_in_losses(terms):
    case = BY_NAME["logistic-597x43"]
    pb = case.problem()
    theta = case.solution()[0].astype(float)
    H = pb.ref_f.hess(theta, pb.lam)
    b = pb.ref_g.jac(theta, pb.lam)
    alpha = 1 / float(np.linalg.eigvalsh(H.astype(float))[-1])
    options = {"terms": terms, "step_size": alpha, **QUIET}
    res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, "neumann", options=options)
    assert_near(res.adjoint, truncated_series(H, b, alpha, terms), 1e-12)


@pytest.mark.parametrize("terms", [1, 5, 20])
def test_neumann_costs_one_product_a_term(terms):
    """K-1 products for the series and one for the residual, by the caller's own count."""
    w = well_posed()
    calls = []

    def hessp(t, v, x):
        calls.append(1)
        return w.H @ v

    options = {"terms": terms, "step_size": 0.3, **QUIET}
    f = replaced(w.f, hessp=hessp)
    res = ig.implicit_grad(f, w.g, w.theta, w.lam, "neumann", options=options)
    assert res.nhev == len(calls) == terms


def test_products_are_counted():
    w = well_posed()
    calls = []

    def hessp(t, v, x):
        calls.append(1)
        return w.H @ v

    f = replaced(w.f, hessp=hessp)
    res = ig.implicit_grad(f, w.g, w.theta, w.lam, "cg")
    assert res.nhev == len(calls) > 0


@pytest.mark.parametrize("factor", [2.01, 3.0, 1e3, 1e200])
@pytest.mark.parametrize("fixed", [{"terms": 3000}, {}], ids=["terms", "to-tolerance"])
def test_neumann_reports_divergence(factor, fixed):
    w = well_posed(low=0.1, high=3.0)
    options = {"step_size": factor / 3.0, **fixed, **QUIET}
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, "neumann", options=options)
    assert not res.success and res.status != 0
    assert "diverg" in res.message.lower()
    assert np.isfinite(res.grad).all()


def test_neumann_chooses_its_own_step():
    for scale in (1e-8, 1.0, 1e8):
        H, B, c = scale * spd(15, 0.05, 1.0), np.ones((15, 1)), np.cos(np.arange(15.0))
        theta = np.linalg.solve(H, B @ [1.0])
        res = ig.implicit_grad(quadratic(H, B), linear(c, 1), theta, np.ones(1), "neumann")
        assert res.success
        assert relative_error(res.grad, B.T @ np.linalg.solve(H, c)) <= 1e-6


# Peers' case 12: plain Neumann diverges here (λmax = 6.2), scaled by 0.3 it converges slowly.
A3 = np.array([[5.0, 1.0, 1.0], [1.0, 4.0, 1.0], [1.0, 1.0, 3.0]])


def neumann_on_a3(b, **options):
    f, g = quadratic(A3, np.eye(3)), linear(b, 3)
    options = {**options, **QUIET}
    return ig.implicit_grad(f, g, np.zeros(3), np.zeros(3), "neumann", options=options)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_case_12_neumann(column):
    b = np.eye(3)[column]
    dense = np.linalg.solve(A3, b)
    plain = neumann_on_a3(b, terms=1000, step_size=1.0)
    assert not plain.success and "diverg" in plain.message.lower()
    near = {"rtol": 1e-3, "atol": 1e-5}
    assert np.allclose(neumann_on_a3(b, terms=100, step_size=0.3).adjoint, dense, **near)
    assert not np.allclose(neumann_on_a3(b, terms=20, step_size=0.3).adjoint, dense, **near)


@pytest.mark.parametrize("method", SOLVERS)
def test_case_14_random_systems(method):
    rng, tried = np.random.default_rng(14), 0
    while tried < 5:
        A = rng.standard_normal((3, 3))
        H = A @ A.T
        if np.linalg.cond(H) > 1000:
            continue
        tried += 1
        b = rng.standard_normal(3)
        f, g = quadratic(H, np.eye(3)), linear(b, 3)
        options = {"maxiter": 500_000}
        res = ig.implicit_grad(f, g, np.zeros(3), np.zeros(3), method, 1e-11, options)
        assert res.success
        assert relative_error(res.adjoint, np.linalg.solve(H, b)) <= 1e-10


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize(
    "H",
    [
        np.diag([1.0, 0.0, 2.0]),
        np.outer([1.0, 2.0, -1.0], [1.0, 2.0, -1.0]),
        np.array([[1.0, np.nan, 0.0], [np.nan, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        np.array([[1.0, 0.0, 0.0], [0.0, np.inf, 0.0], [0.0, 0.0, 1.0]]),
        np.array([[1.0, 2.0, 0.0], [0.5, 1.0, 0.0], [0.0, 3.0, 1.0]]),
    ],
    ids=["singular", "rank-one", "nan", "inf", "not-symmetric"],
)
def test_case_14_impossible_systems_are_not_a_success(H, method):
    def product(t, v, x):
        with np.errstate(invalid="ignore"):
            return H @ v

    f = replaced(quadratic(np.eye(3), np.eye(3)), hessp=product)
    g = linear(np.array([1.0, -1.0, 1.0]), 3)
    res = ig.implicit_grad(f, g, np.zeros(3), np.zeros(3), method, options=QUIET)
    assert not res.success and res.status != 0


@pytest.mark.parametrize("cond", [10, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_case_23_cg_residual_is_what_was_asked(cond, seed):
    """The iterate returned is the one that was checked, not the one before it."""
    H = spd(20, 1.0 / cond, 1.0, seed)
    b = np.random.default_rng(seed).standard_normal(20)
    f, g = quadratic(H, np.eye(20)), linear(b, 20)
    for eps in (1e-3, 1e-8):
        options = {"stop": eps * np.linalg.norm(b), **QUIET}
        res = ig.implicit_grad(f, g, np.zeros(20), np.zeros(20), "cg", 1e-12, options)
        true = np.linalg.norm(b - H @ res.adjoint) / np.linalg.norm(b)
        assert true <= eps
        # Either residual carries the rounding of Hq.
        rounding = 1e-14 * np.linalg.norm(res.adjoint) / np.linalg.norm(b)
        assert abs(res.residual - true) <= 1e-6 * true + rounding


@pytest.mark.parametrize("cond", [10, 1000, 1e5])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-6, 1e-9])
def test_tolerance_of_the_answer_is_met(cond, tol):
    for seed in range(5):
        H, B = spd(40, 1.0 / cond, 1.0, seed), np.random.default_rng(seed).standard_normal((40, 2))
        b = np.random.default_rng(seed + 100).standard_normal(40)
        f, g = quadratic(H, B), linear(b, 2)
        res = ig.implicit_grad(f, g, np.zeros(40), np.zeros(2), "cg", tol)
        exact = B.T @ np.linalg.solve(H, b)
        assert res.success
        # The estimate of a linear error may fall short, but not by its own size and more.
        assert relative_error(res.grad, exact) <= 3 * tol


def test_cg_finishes_in_as_many_steps_as_there_are_eigenvalues():
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 30)))
    H = (Q * np.repeat([0.5, 1.0, 4.0], 10)) @ Q.T
    H, b = (H + H.T) / 2, np.cos(np.arange(30.0))
    f, g = quadratic(H, np.eye(30)), linear(b, 30)
    steps = []

    def callback(intermediate_result):
        steps.append(intermediate_result.nit)

    res = ig.implicit_grad(f, g, np.zeros(30), np.zeros(30), "cg", 1e-8, callback=callback)
    assert res.success and len(steps) <= 4
    low, high = res.curvature
    assert 0.49 < low < 0.51 and 3.9 < high < 4.1


def test_cg_sees_through_the_scale_of_single_variables():
    """Jacobi: a diagonal Hessian of condition 1e6 takes one iteration, not hundreds."""
    d, n = np.geomspace(1e-3, 1e3, 12), 12
    root, lam = np.sqrt(n * d), np.full(12, -20.0)
    f, g = ig.LeastSquares(np.diag(root), root, penalty=ig.L2("feature")), linear(np.ones(n), n)
    H = d + np.exp(lam)
    jacobi = {"preconditioner": "jacobi"}
    res = ig.implicit_grad(f, g, d / H, lam, "cg", options=jacobi)
    assert res.success and res.nit <= 2
    assert_near(res.adjoint * H, np.ones(n), 1e-6)
    assert_near(res.grad, -np.exp(lam) * (d / H) / H, 1e-6)


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_truncation_moves_the_textbook_optimum(terms):
    """Inner ½(w-λ)², outer ½w² + ½(λ-3)²: K terms with α = ½ find 3/(2 - 2⁻ᴷ), not 1.5."""
    f = quadratic(np.eye(1), np.eye(1))
    g = ig.Objective(
        fun=lambda t, x: 0.5 * t @ t + 0.5 * (x - 3) @ (x - 3),
        jac=lambda t, x: t.copy(),
        jac_lam=lambda t, x: x - 3,
    )
    options = {"terms": terms, "step_size": 0.5, **QUIET}

    def slope(x):
        lam = np.array([x])
        return ig.implicit_grad(f, g, lam, lam, "neumann", options=options).grad[0]

    assert brentq(slope, 0, 5, xtol=1e-13) == pytest.approx(3 / (2 - 0.5**terms), abs=1e-12)


# The Nyström preconditioner.


def decaying(n, rate, floor, seed=0):
    """A symmetric positive definite matrix whose eigenvalues fall exponentially to a floor."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    H = (Q * (np.exp(-rate * np.arange(n)) + floor)) @ Q.T
    return (H + H.T) / 2


def test_nystrom_takes_fewer_products_than_cg_where_eigenvalues_fall_fast():
    for rate, gain in ((0.1, 5.0), (0.5, 2.0)):
        H, b = decaying(200, rate, 1e-6), np.cos(np.arange(200.0))
        f, g = quadratic(H, np.ones((200, 1))), linear(b, 1)
        plain, sketched = (
            ig.implicit_grad(f, g, np.zeros(200), np.zeros(1), method, options=QUIET)
            for method in ("cg", "nystrom")
        )
        assert sketched.success and sketched.nhev * gain < plain.nhev
        exact = np.ones(200) @ np.linalg.solve(H, b)
        assert abs(sketched.grad[0] - exact) <= 1e-6 * abs(exact)


@pytest.mark.parametrize("rank", [1, 7, 30, 1000])
def test_nystrom_costs_one_product_a_direction(rank):
    w = well_posed(40)
    calls = []

    def hessp(t, v, x):
        calls.append(1)
        return w.H @ v

    f = replaced(w.f, hessp=hessp)
    res = ig.implicit_grad(f, w.g, w.theta, w.lam, "nystrom", options={"rank": rank})
    assert res.success and res.method == "nystrom"
    assert res.nhev == len(calls) >= min(rank, 40)
    assert_near(res.grad, w.exact, 1e-6)
    if rank >= 40:  # the sketch is H itself
        assert res.nit <= 3


@pytest.mark.parametrize("name", ["logistic-597x43", "ridge-wide-11x29", "ridge-badly-scaled"])
def test_nystrom_is_repeatable_at_any_number_of_threads(name):
    case = BY_NAME[name]
    theta, grad = case.solution()

    def solve(rng=0, **kwargs):
        pb = case.problem(**kwargs)
        theta64 = theta.astype(float)
        options = {"rng": rng, "rank": 5}
        return ig.implicit_grad(pb.f, pb.g, theta64, pb.lam, "nystrom", options=options)

    first = solve()
    assert first.success and relative_error(first.grad, grad) <= 1e-6
    for n_threads in (1, 2, 3):
        again = solve(n_threads=n_threads)
        assert np.array_equal(again.grad, first.grad) and again.nhev == first.nhev
    assert not np.array_equal(solve(rng=1).adjoint, first.adjoint)


@pytest.mark.parametrize("given", ["jacobi", "none", "sketch", None, np.eye(12)])
def test_nystrom_brings_its_own_preconditioner(given):
    w = well_posed(12)
    options = {"preconditioner": given}
    with pytest.raises(ValueError, match="brings its own preconditioner"):
        ig.implicit_grad(w.f, w.g, w.theta, w.lam, "nystrom", options=options)


@pytest.mark.parametrize("seed", range(5))
def test_nystrom_refuses_a_saddle_that_the_right_hand_side_does_not_see(seed):
    """CG alone cannot know: ∇g has no part along the negative direction. The sketch has."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    H = (Q * np.r_[-2.0, np.linspace(0.5, 1.0, 29)]) @ Q.T
    f, g = quadratic((H + H.T) / 2, Q[:, 1:3]), linear(Q[:, 1] + Q[:, 2], 2)
    res = ig.implicit_grad(
        f, g, np.zeros(30), np.zeros(2), "nystrom", options={**QUIET, "rng": seed}
    )
    assert res.status == 2 and not res.success
    assert -2.0 - 1e-9 <= res.curvature[0] < 0


@pytest.mark.parametrize("columns", [1, 2, 3, 6])
def test_several_right_hand_sides_at_once(columns):
    """Dependent and zero ones among them; from three on in one Krylov space."""
    H = spd(50, 1e-3, 1.0, 3)
    rng = np.random.default_rng(columns)
    b = rng.standard_normal((50, columns))
    b[:, columns // 2 :] = b[:, :1] * [2.0, -1.0, 0.0][columns % 3]
    op = callback_operator(H, 50)
    for method in (solvers.CG, solvers.Nystrom):
        solver = method()
        solver.setup(op)
        found = solver.solve(op, b, [1e-10])
        assert found.status == "converged"
        assert_near(H @ found.x, b, 1e-9)
        apart = sum(solver.solve(op, b[:, j].copy(), [1e-10]).nhev for j in range(columns))
        assert found.nhev <= apart + columns
