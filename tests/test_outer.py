"""Training, the outer loop, SciPy's own minimisers, and check_hypergrad."""

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, minimize
from sklearn.datasets import load_diabetes

import implicitgrad as ig
import reference
from cases import BY_NAME, CASES, HYPER, Wrapped, quadratic, replaced, spd, well_posed
from reference import assert_near, relative_error


def inner(w, lam):
    return 0.5 * np.sum((w - lam) ** 2)


def outer(w, lam):
    return 0.5 * np.sum(w**2) + 0.5 * np.sum((lam - 3) ** 2)


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    X, y = X / X.std(0), (y - y.mean()) / y.std()
    f = ig.LeastSquares(X[::2], y[::2], penalty=ig.L2("feature"), fit_intercept=True)
    g = ig.LeastSquares(X[1::2], y[1::2], fit_intercept=True)
    return f, g


# Training


@pytest.mark.parametrize("case", CASES, ids=str)
def test_default_training_is_enough_for_a_default_hypergradient(case):
    pb = case.problem()
    trained = ig.train(pb.f, pb.lam)
    assert isinstance(trained, OptimizeResult) and trained.success
    best = pb.ref_f.train(pb.lam).astype(float)
    H = pb.ref_f.hess(best, pb.lam).astype(float)
    # ‖θ - θ⋆‖ ≤ ‖∇f‖/λmin to first order.
    slope = np.linalg.norm(pb.ref_f.jac(trained.x, pb.lam).astype(float))
    spectrum = np.linalg.eigvalsh(H)
    least = spectrum[spectrum > 1e-12 * spectrum[-1]][0]  # but for what does not change f
    allowed = 1.1 * slope / least + 1e-12 * np.linalg.norm(best)
    assert np.linalg.norm(trained.x - best) <= allowed
    if case.n_lam:
        options = {"polish": False}
        res = ig.implicit_grad(pb.f, pb.g, trained.x, pb.lam, options=options)
        assert res.success


@pytest.mark.parametrize("tol", [10.0**-k for k in range(1, 13)])
@pytest.mark.parametrize("name", ["logistic-597x43", "ridge-wide-f32-intercept"])
def test_training_tolerance(name, tol):
    case = BY_NAME[name]
    pb = case.problem()
    res = ig.train(pb.f, pb.lam, tol=tol)
    assert res.success
    # The library's own gradient meets tol; the oracle's differs by rounding.
    assert np.max(np.abs(pb.f.jac(res.x, pb.lam))) <= tol
    assert np.max(np.abs(pb.ref_f.jac(res.x, pb.lam))) <= tol + 1e-14
    assert_near(np.float64(res.fun), pb.ref_f.fun(res.x, pb.lam))


def test_training_starts_warm():
    case = BY_NAME["logistic-597x43"]
    pb = case.problem()
    cold = ig.train(pb.f, pb.lam)
    before = cold.x.copy()
    again = ig.train(pb.f, pb.lam, theta0=cold.x, tol=1e-8)
    near = ig.train(pb.f, pb.lam + 1e-3, theta0=cold.x)
    assert again.nit == 0 and np.array_equal(again.x, cold.x)
    assert 0 < near.nit < cold.nit
    assert np.array_equal(cold.x, before)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_training_from_far_away(scale):
    """Newton's bare step diverges on the logistic loss from here; a line search must hold it."""
    case = BY_NAME["logistic-wide-12x33"]
    pb = case.problem()
    res = ig.train(pb.f, pb.lam, theta0=scale * np.ones(case.n_theta))
    assert res.success
    assert relative_error(res.x, case.solution()[0]) <= 1e-6


def test_training_callables_and_foreign_objects():
    w = well_posed()
    assert relative_error(ig.train(w.f, w.lam).x, w.theta) <= 1e-8
    case = BY_NAME["logistic-feature-61x9"]
    pb = case.problem()
    x = ig.train(Wrapped(pb.f), pb.lam, theta0=np.zeros(9)).x
    assert relative_error(x, case.solution()[0]) <= 1e-6


def test_training_that_cannot_succeed_says_so():
    f = quadratic(np.diag([1.0, -1.0]), np.eye(2))  # unbounded below
    res = ig.train(f, np.array([1.0, 1.0]))
    assert not res.success and res.message


# The field's textbook problem: λ⋆ = 1.5


@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "CG", "TNC", "SLSQP", "trust-constr"])
def test_textbook_problem_on_plain_functions(method):
    res = ig.minimize(inner, outer, np.zeros(1), theta0=np.zeros(1), method=method)
    assert res.success
    assert abs(res.x[0] - 1.5) <= 1e-6
    assert abs(res.theta[0] - 1.5) <= 1e-6
    assert abs(res.fun - 2.25) <= 1e-6


def test_textbook_problem_by_gradient_descent():
    options = {"learning_rate": 0.3, "maxiter": 200}
    res = ig.minimize(
        inner, outer, np.zeros(1), np.zeros(1), method="gd", tol=1e-8, options=options
    )
    assert abs(res.x[0] - 1.5) <= 1e-6
    # x ← x - 0.3 (2x - 3), by hand: two steps from zero.
    options = {"learning_rate": 0.3, "maxiter": 2}
    res = ig.minimize(inner, outer, np.zeros(1), np.zeros(1), method="gd", options=options)
    assert res.nit == 2 and abs(res.x[0] - 1.26) <= 1e-6


@pytest.mark.parametrize(("bounds", "best"), [([(None, 1.0)], 1.0), ([(2.0, 9.0)], 2.0)])
def test_bounds(bounds, best):
    start = np.clip(np.zeros(1), *[x if x is not None else -np.inf for x in bounds[0]])
    for method in ("L-BFGS-B", "SLSQP"):
        res = ig.minimize(inner, outer, start, np.zeros(1), method=method, bounds=bounds)
        assert abs(res.x[0] - best) <= 1e-9
    f, g = diabetes()
    res = ig.minimize(f, g, np.full(10, -2.0), bounds=[(-4.0, -1.0)] * 10)
    assert res.success
    assert np.all(res.x >= -4) and np.all(res.x <= -1) and np.any(res.x == -1.0)


# SciPy, unchanged (any warning fails these)


@pytest.mark.parametrize("method", ["trust-ncg", "trust-krylov", "Newton-CG", "L-BFGS-B"])
@pytest.mark.parametrize("name", ["logistic-feature-61x9", "ridge-groups-33x8-intercept"])
def test_scipy_trains_our_objectives(name, method):
    case = BY_NAME[name]
    f, theta0, lam = case.objective("train"), np.zeros(case.n_theta), case.lam()
    if method == "L-BFGS-B":
        res = minimize(f.fun, theta0, args=(lam,), jac=f.jac, method=method)
    else:
        res = minimize(f.fun, theta0, args=(lam,), jac=f.jac, hessp=f.hessp, method=method)
    assert res.success
    # SciPy's default tolerances are 1e-5 on the gradient; λmin is above 0.05 in both problems.
    assert relative_error(res.x, case.solution()[0]) <= 1e-3


@pytest.mark.parametrize("name", ["ridge-badly-scaled", "logistic-badly-scaled"])
def test_scipy_trains_badly_scaled_objectives(name):
    case = BY_NAME[name]
    f, theta0, lam = case.objective("train"), np.zeros(case.n_theta), case.lam()
    res = minimize(f.fun, theta0, args=(lam,), jac=f.jac, hessp=f.hessp, method="trust-ncg")
    assert res.success
    assert np.linalg.norm(case.reference("train").jac(res.x, lam).astype(float)) <= 1.1e-4


def test_scipy_minimises_our_hyperobjective():
    f, g = diabetes()
    lam0 = np.full(10, -2.0)
    res = minimize(ig.HyperObjective(f, g), lam0, jac=True, method="L-BFGS-B")
    assert res.success
    ours = ig.minimize(f, g, lam0)
    assert ours.success
    assert abs(res.fun - ours.fun) <= 1e-6
    assert res.fun < ig.HyperObjective(f, g)(lam0)[0]


@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "TNC", "SLSQP", "CG"])
def test_minimize_one_penalty_to_the_oracles_optimum(method):
    rng = np.random.default_rng(20240229)
    X, X_val = rng.standard_normal((60, 20)), rng.standard_normal((60, 20))
    truth = rng.standard_normal(20) / 4
    y, y_val = X @ truth + rng.standard_normal(60), X_val @ truth + rng.standard_normal(60)
    f, g = ig.LeastSquares(X, y, penalty=ig.L2()), ig.LeastSquares(X_val, y_val)
    res = ig.minimize(f, g, np.zeros(1), method=method, tol=1e-9)
    ref_f = reference.LinearModel("LeastSquares", X, y, "all")
    ref_g = reference.LinearModel("LeastSquares", X_val, y_val)
    assert res.success
    assert abs(float(reference.exact_hypergradient(ref_f, ref_g, res.x)[0])) <= 1e-5
    assert_near(np.float64(res.fun), ref_g.fun(ref_f.train(res.x)), 1e-9)
    assert relative_error(res.theta, ref_f.train(res.x)) <= 1e-6


@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "trust-constr", "gd"])
def test_callback_stops_the_outer_loop(method):
    f, g = diabetes()
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result.x.copy())
        if len(seen) == 2:
            raise StopIteration

    options = {"learning_rate": 0.5} if method == "gd" else None
    res = ig.minimize(f, g, np.full(10, -2.0), method=method, callback=callback, options=options)
    assert (res.status, res.success, len(seen)) == (99, False, 2)
    assert not np.array_equal(seen[0], seen[1])


# HyperObjective


def test_hyperobjective_remembers():
    case = BY_NAME["logistic-597x43"]
    pb = case.problem()
    h = ig.HyperObjective(pb.f, pb.g)
    value, grad = h(pb.lam)
    assert isinstance(value, float)
    assert relative_error(grad, case.solution()[1]) <= 1e-5
    assert np.array_equal(h.result.grad, grad) and h.result.fun == value
    assert np.array_equal(h.theta, h.result.theta)
    assert relative_error(h.theta, case.solution()[0]) <= 1e-5
    h(pb.lam + 0.5)
    assert relative_error(h.theta, case.solution()[0]) > 1e-3


def test_reset_forgets_the_warm_start():
    case = BY_NAME["logistic-597x43"]
    pb = case.problem()
    h, fresh = ig.HyperObjective(pb.f, pb.g), ig.HyperObjective(pb.f, pb.g)
    first = fresh(pb.lam)
    h(pb.lam - 1.0)
    warm = h(pb.lam)
    h.reset()
    cold = h(pb.lam)
    assert cold[0] == first[0] and np.array_equal(cold[1], first[1])
    assert relative_error(warm[1], first[1]) <= 1e-5


def test_arrays_given_out_are_not_changed_later():
    pb = BY_NAME["logistic-feature-61x9"].problem()
    h = ig.HyperObjective(pb.f, pb.g)
    _, grad = h(pb.lam)
    theta = h.theta
    kept = grad.copy(), theta.copy()
    h(pb.lam + 1.0)
    assert np.array_equal(grad, kept[0]) and np.array_equal(theta, kept[1])


def half_forbidden(visited):
    """Beyond λ = 1 the inner problem yields NaN; the optimum is at (0.9, 0.5), this side of it.
    From (0.2, 0.4) a first step of unit length lands beyond."""
    w, best = well_posed(), np.array([0.9, 0.5])

    def guard(value, x):
        if max(x) <= 1:
            return value
        visited.append(x.copy())
        return np.nan * value

    f = replaced(
        w.f,
        fun=lambda t, x: guard(w.f.fun(t, x), x),
        jac=lambda t, x: guard(w.f.jac(t, x), x),
    )
    g = ig.Objective(
        fun=lambda t, x: 5 * np.sum((x - best) ** 2),
        jac=lambda t, x: np.zeros(12),
        jac_lam=lambda t, x: 10 * (x - best),
    )
    return f, g, np.array([0.2, 0.4]), best


@pytest.mark.filterwarnings("ignore::implicitgrad.ImplicitGradWarning")
def test_failed_training_is_infinitely_bad_and_line_searches_back_off():
    visited = []
    f, g, start, best = half_forbidden(visited)
    h = ig.HyperObjective(f, g)
    value, grad = h(np.array([2.0, 0.0]))
    assert value == np.inf and grad.shape == (2,)
    value, grad = h(np.zeros(2))  # and it recovers
    assert value == pytest.approx(5.3) and np.allclose(grad, [-9, -5])
    for method in ("BFGS", "SLSQP"):
        visited.clear()
        res = minimize(h, start, jac=True, method=method)
        assert visited and np.allclose(res.x, best, atol=1e-5)


@pytest.mark.filterwarnings("ignore::implicitgrad.ImplicitGradWarning")
@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "TNC", "SLSQP"])
def test_minimize_gets_past_failed_training_or_says_so(method):
    """SciPy's L-BFGS-B turns an infinite trial value into a step of zero and calls it converged."""
    visited = []
    f, g, start, best = half_forbidden(visited)
    res = ig.minimize(f, g, start, method=method)
    assert visited or method == "TNC"
    assert np.allclose(res.x, best, atol=1e-5) or not res.success
    assert np.isfinite(res.fun)


# check_hypergrad


@pytest.mark.parametrize("case", HYPER, ids=str)
def test_check_hypergrad_agrees(case):
    pb = case.problem()
    res = ig.check_hypergrad(pb.f, pb.g, pb.lam)
    assert isinstance(res, OptimizeResult) and res.success is True
    expected, got = np.asarray(res.expected), np.asarray(res.got)
    assert expected.shape == got.shape and np.any(expected != 0)
    assert res.error >= 0
    assert np.max(np.abs(got - expected)) <= 1e-5 * np.max(np.abs(expected))
    again = ig.check_hypergrad(pb.f, pb.g, pb.lam, rng=0)
    assert np.array_equal(np.asarray(again.expected), expected)


WRONG = {
    "cross off by 2": lambda f, H: {
        "cross_vjp": lambda t, q, x: 2 * (f.linearize(t, x).cross.T @ q)
    },
    "cross zero": lambda f, H: {"cross_vjp": lambda t, q, x: np.zeros(2)},
    "cross sign": lambda f, H: {"cross_vjp": lambda t, q, x: -(f.linearize(t, x).cross.T @ q)},
    "hessian 1 % off": lambda f, H: {"hessp": lambda t, v, x: 1.01 * (H @ v)},
    "hessian half": lambda f, H: {"hessp": lambda t, v, x: 0.5 * (H @ v)},
}


@pytest.mark.parametrize("mistake", WRONG)
def test_check_hypergrad_finds_mistakes(mistake):
    w = well_posed()
    assert ig.check_hypergrad(w.f, w.g, w.lam).success
    wrong = replaced(w.f, **WRONG[mistake](w.f, w.H))
    res = ig.check_hypergrad(wrong, w.g, w.lam)
    assert res.success is False
    assert res.error > 1e-3


def test_check_hypergrad_finds_a_wrong_direct_part():
    w = well_posed()
    g = replaced(w.g, fun=lambda t, x: w.c @ t + x @ x)  # ∂g/∂λ stays zero
    assert ig.check_hypergrad(w.f, g, w.lam).success is False


def test_check_hypergrad_on_plain_functions():
    assert ig.check_hypergrad(inner, outer, np.array([0.3]), theta0=np.zeros(1)).success


def test_outer_loop_costs_few_products_when_warm():
    """The second call at a nearby λ needs no more Newton steps than the first needed."""
    H, counts = spd(30, 1e-3, 1.0), []
    base = quadratic(H, np.eye(30))

    def hessp(t, v, x):
        counts.append(1)
        return H @ v

    f, g = replaced(base, hessp=hessp), quadratic(np.eye(30), np.zeros((30, 30)))
    h, lam = ig.HyperObjective(f, g), np.cos(np.arange(30.0))
    h(lam)
    cold = len(counts)
    h(lam)
    assert len(counts) - cold < cold


def small_problem():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((90, 4))
    y = X @ [1.0, 0.5, 0.0, 0.0] + 0.5 * rng.standard_normal(90)
    parts = [(X[a : a + 30], y[a : a + 30]) for a in (0, 30, 60)]
    f = ig.LeastSquares(*parts[0], penalty=ig.L2("feature"))
    return f, ig.LeastSquares(*parts[1]), ig.LeastSquares(*parts[2])


@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "SLSQP", "inexact", "gd"])
def test_a_start_outside_the_bounds_is_moved_inside(method):
    f, g, third = small_problem()
    options = {"maxiter": 5, "warn": False} if method != "TNC" else {"maxfun": 20, "warn": False}
    res = ig.minimize(
        f, g, np.full(4, -4.0), method=method, bounds=[(3, 10)] * 4, watch=third, options=options
    )
    assert (res.x >= 3).all()


@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "SLSQP", "trust-constr", "inexact", "gd"])
def test_every_method_gives_a_gradient_and_stops_when_told_to(method):
    f, g, _ = small_problem()
    seen, spent = [], []

    def callback(intermediate_result):
        seen.append((intermediate_result.fun, intermediate_result.jac.copy()))
        spent.append((intermediate_result.nfev, intermediate_result.nhev))
        intermediate_result.jac[:] = 0.0  # the callback's own
        intermediate_result.theta[:] = 0.0
        if len(seen) == 3:
            raise StopIteration

    res = ig.minimize(f, g, np.zeros(4), method=method, bounds=[(-6, 6)] * 4, callback=callback)
    assert len(seen) <= 3 and res.jac.shape == (4,) and res.x.shape == (4,)
    spent.append((res.nfev, res.nhev))
    assert spent[0][0] >= 1 and spent == sorted(spent)
    if len(seen) == 3:
        assert res.status == 99 and not res.success


def test_nothing_free_to_move():
    f, g, _ = small_problem()
    res = ig.minimize(f, g, np.zeros(4), bounds=[(1, 1)] * 4)
    assert res.success and res.nit == 0 and (res.x == 1).all() and res.jac.shape == (4,)


def test_a_gradient_whose_square_overflows_ends_it():
    """Adam's mean square is then infinite: it has no step."""
    f = ig.Objective(lambda w, lam: 0.5 * float(np.sum((w - lam) ** 2)), lambda w, lam: w - lam)
    g = ig.Objective(
        lambda w, lam: 1e200 * float(np.sum(w)), lambda w, lam: np.full(1, 1e200), n_lam=0
    )
    res = ig.minimize(f, g, [1.0], method="adam", theta0=[0.0], options={"warn": False})
    assert res.status == 4 and not res.success and res.nit == 0 and res.x == 1.0


def test_a_step_too_far_ends_at_the_last_model_that_could_be_trained():
    f, g, _ = small_problem()
    res = ig.minimize(f, g, np.zeros(4), method="gd", options={"learning_rate": 1e7})
    assert res.status == 4 and not res.success
    assert np.isfinite(res.fun) and res.fun == res.hypergradient.fun


@pytest.mark.parametrize(
    "method", ["L-BFGS-B", "Newton-CG", "SLSQP", "trust-constr", "inexact", "gd"]
)
def test_the_gradient_is_that_of_the_point_that_is_returned(method):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 4))
    y = X[:, 0] + 0.5 * rng.standard_normal(90) > 0
    f, g = ig.Logistic(X, y, penalty=ig.L2("feature")), ig.Logistic(X[:40], y[:40])
    res = ig.minimize(f, g, np.full(4, -2.0), method=method, options={"maxiter": 2, "warn": False})
    np.testing.assert_array_equal(res.jac, res.hypergradient.grad)
