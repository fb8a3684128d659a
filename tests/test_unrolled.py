"""Unrolled differentiation: every objective, rule and mode against a plain sweep in extended precision,
against the theorem and its truncations, and within any budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

import implicitgrad as ig
import row_cases
import unroll_oracle
from cases import BY_NAME, HYPER, MLP_CASES, Wrapped, linear, replaced, well_posed
from reference import WIDE, assert_near
from unroll_oracle import MODES, OPTIMIZERS

QUIET = {"warn": False}
STEPS, LAST = 6, 4


def step_size(ref, theta, lam, optimizer):
    if optimizer == "adam":
        return 0.05
    return 0.5 / float(np.linalg.eigvalsh(np.asarray(ref.hess(theta, lam), dtype=float))[-1])


def compare(f, g, ref_f, ref_g, theta, lam, optimizer, rtol=1e-11):
    """Both modes, all steps and the last of them, against the oracle."""
    alpha = step_size(ref_f, theta, lam, optimizer)
    for truncate in (None, LAST):
        want = unroll_oracle.unrolled(ref_f, ref_g, theta, lam, STEPS, alpha, optimizer, truncate)
        for mode in MODES:
            got = ig.unrolled_grad(f, g, theta, lam, STEPS, alpha, optimizer, truncate, mode)
            assert (got.status, got.success) == ((0, True) if truncate is None else (1, False))
            assert_near(got.theta, want.theta, rtol, "theta")
            assert_near(np.float64(got.fun), want.fun, rtol, "fun")
            assert_near(got.grad, want.grad, rtol, "grad")
            assert_near(
                np.float64(got.grad_step_size), want.grad_step_size, 10 * rtol, "grad_step_size"
            )
            assert (got.grad_theta0 is None) == (mode == "forward" or truncate is not None)
            if got.grad_theta0 is not None:
                assert_near(got.grad_theta0, want.grad_theta0, rtol, "grad_theta0")


@pytest.mark.parametrize("i", range(len(HYPER)), ids=lambda i: str(HYPER[i]))
def test_linear_models_match_a_plain_sweep(i):
    case, problem = HYPER[i], HYPER[i].problem()
    start = 0.3 * problem.theta
    compare(
        *(problem.f, problem.g, problem.ref_f, problem.ref_g, start, problem.lam),
        OPTIMIZERS[i % 3],
        1e-10 if case.spread > 1 else 1e-11,
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "name", ["ridge-groups-33x8-intercept", "logistic-penalised-outer", "softmax-csr-80x12"]
)
def test_every_rule_matches_a_plain_sweep(name, optimizer):
    problem = BY_NAME[name].problem()
    start = 0.3 * problem.theta
    compare(problem.f, problem.g, problem.ref_f, problem.ref_g, start, problem.lam, optimizer)


@pytest.mark.parametrize("i", range(len(row_cases.CASES)), ids=lambda i: str(row_cases.CASES[i]))
def test_hyperparameters_in_the_rows_match_a_plain_sweep(i):
    case = row_cases.CASES[i]
    (f, g), (ref_f, ref_g) = case.objectives(), case.references()
    compare(f, g, ref_f, ref_g, 0.3 * case.theta(), case.lam(), OPTIMIZERS[i % 3])


NETWORKS = [c for c in MLP_CASES if c.penalty != "none"]


@pytest.mark.parametrize("i", range(len(NETWORKS)), ids=lambda i: str(NETWORKS[i]))
def test_networks_match_a_plain_sweep(i):
    case = NETWORKS[i]
    compare(
        *(case.objective("train"), case.objective("validation")),
        *(case.reference("train"), case.reference("validation")),
        *(0.5 * case.theta(), case.lam(), OPTIMIZERS[i % 3]),
        1e-11 if case.dtype == "float64" else 1e-3,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_users_objectives_give_what_the_library_s_do(optimizer, mode):
    problem = BY_NAME["logistic-penalised-outer"].problem()
    arguments = (0.3 * problem.theta, problem.lam, 9, 0.1, optimizer, None, mode)
    native = ig.unrolled_grad(problem.f, problem.g, *arguments)
    for wrap in (Wrapped, replaced):
        f, g = wrap(problem.f), wrap(problem.g)
        for pair in ((f, g), (f, problem.g), (problem.f, g)):
            own = ig.unrolled_grad(*pair, *arguments)
            assert own.success and own.nit == native.nit and own.nhev == native.nhev
            assert_near(own.grad, native.grad, 1e-13)
            assert_near(np.float64(own.grad_step_size), native.grad_step_size, 1e-13)


def test_forward_mode_asks_for_the_rows_of_C_once_a_step():
    problem, calls = well_posed(), []

    def vjp(theta, q, lam):
        calls.append(q)
        return -problem.B.T @ q

    f = replaced(problem.f, cross_vjp=vjp)
    arguments = (f, problem.g, np.zeros(12), problem.lam, 5, 0.1)
    forward = ig.unrolled_grad(*arguments, mode="forward")
    assert len(calls) == 1 + 5 * 12  # the first is a trial, before the steps
    back = ig.unrolled_grad(*arguments)
    assert len(calls) == 1 + 5 * 12 + 1 + 5
    assert_near(forward.grad, back.grad, 1e-13)


def test_the_oracle_matches_differences_of_itself():
    problem = BY_NAME["logistic-groups-weights-f"].problem()
    f, g, start, lam, h = problem.ref_f, problem.ref_g, problem.theta, problem.lam, WIDE(1e-4)

    def value(lam, alpha, start, optimizer):
        def at(h):
            moved = start(h), lam(h), 5, alpha(h), optimizer
            return unroll_oracle.unrolled(f, g, *moved).fun

        return (8 * (at(h / 2) - at(-h / 2)) - (at(h) - at(-h))) / (6 * h)

    for optimizer in OPTIMIZERS:
        want = unroll_oracle.unrolled(f, g, start, lam, 5, 0.1, optimizer)
        fixed = (
            lambda h: np.asarray(lam, WIDE),
            lambda h: WIDE(0.1),
            lambda h: np.asarray(start, WIDE),
        )
        for j in range(len(lam)):
            got = value(lambda h, j=j: lam + h * np.eye(len(lam))[j], *fixed[1:], optimizer)
            assert_near(np.float64(got), want.grad[j], 1e-9)
        for j in range(len(start)):
            got = value(*fixed[:2], lambda h, j=j: start + h * np.eye(len(start))[j], optimizer)
            assert_near(np.float64(got), want.grad_theta0[j], 1e-9)
        got = value(fixed[0], lambda h: WIDE(0.1) + h, fixed[2], optimizer)
        assert_near(np.float64(got), want.grad_step_size, 1e-9)


# The theorem.


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize(
    "name",
    ["ridge-feature-40x7", "logistic-all-intercept", "softmax-two-classes", "poisson-csr-80x12"],
)
def test_steps_from_the_minimum_are_neumann_terms(name, steps):
    case, problem = BY_NAME[name], BY_NAME[name].problem()
    f, g, lam = problem.f, problem.g, problem.lam
    theta = np.asarray(case.solution()[0], dtype=float)
    alpha = step_size(problem.ref_f, theta, lam, "gd")
    terms = {"terms": steps, "step_size": alpha, "polish": False, **QUIET}
    neumann = ig.implicit_grad(f, g, theta, lam, method="neumann", options=terms)
    assert_near(ig.unrolled_grad(f, g, theta, lam, steps, alpha).grad, neumann.grad, 1e-12)


HALF = ig.Objective(
    lambda w, lam: 0.5 * np.sum((w - lam) ** 2),
    jac=lambda w, lam: w - lam,
    hessp=lambda w, v, lam: v,
    cross_vjp=lambda w, q, lam: -q,
)
TUG = ig.Objective(
    lambda w, lam: 0.5 * np.sum(w**2) + 0.5 * np.sum((lam - 3) ** 2),
    jac=lambda w, lam: w,
    jac_lam=lambda w, lam: lam - 3,
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("truncate", "best"), [(1, 2.0), (2, 12 / 7), (5, 32 / 21), (None, 1.5)], ids=str
)
def test_truncation_moves_the_outer_minimum(truncate, best, mode):
    """Inner ½(w − λ)², outer ½w² + ½(λ − 3)², step ½: 3/(2 − 2⁻ᵀ), and 1.5 for all steps."""

    def slope(x):
        return ig.unrolled_grad(HALF, TUG, [0.0], [x], 60, 0.5, "gd", truncate, mode).grad[0]

    assert abs(brentq(slope, 1.0, 3.0, xtol=1e-14) - best) <= 1e-12


def test_the_error_falls_at_the_predicted_rate():
    """Where H and C are constant it is Cᵀ(I − αH)ᴷ q, which falls as (1 − αμ)ᴷ in the end."""
    problem, alpha = well_posed(), 0.3
    step = np.eye(12) - alpha * problem.H
    found = {}
    for steps in (1, 10, 100, 500, 530):
        res = ig.unrolled_grad(problem.f, problem.g, np.zeros(12), problem.lam, steps, alpha)
        left = problem.B.T @ np.linalg.matrix_power(step, steps) @ problem.q
        assert_near(problem.exact - res.grad, left, 1e-9 if steps <= 100 else 1e-6)
        found[steps] = np.linalg.norm(left)
    rate = 1 - alpha * np.linalg.eigvalsh(problem.H)[0]
    assert abs(found[530] / found[500] / rate**30 - 1) < 2e-3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_many_steps_reach_the_theorem(optimizer):
    case, problem = BY_NAME["logistic-feature-61x9"], BY_NAME["logistic-feature-61x9"].problem()
    alpha = step_size(problem.ref_f, problem.theta, problem.lam, "gd")
    if optimizer == "adam":
        alpha = 0.001
    res = ig.unrolled_grad(
        *(problem.f, problem.g, np.zeros(9), problem.lam, 8000, alpha, optimizer),
        options={"memory": 1e5, "certify": True},
    )
    distance = np.linalg.norm(res.grad - case.solution()[1].astype(float))
    size = np.linalg.norm(case.solution()[1].astype(float))
    assert res.success and distance <= 1e-6 * size
    assert res.error >= 0.5 * distance and res.error <= 1e-6 * size


def test_error_estimates_the_distance_when_asked():
    case, problem = BY_NAME["ridge-feature-40x7"], BY_NAME["ridge-feature-40x7"].problem()
    exact = case.solution()[1].astype(float)
    for steps, truncate in ((5, None), (50, None), (50, 3)):
        arguments = (problem.f, problem.g, np.zeros(7), problem.lam, steps, 0.1, "gd", truncate)
        res = ig.unrolled_grad(*arguments, options={"certify": True})
        distance = np.linalg.norm(res.grad - exact)
        assert abs(res.error / distance - 1) < 1e-3
        assert "estimated distance" in res.message
        plain = ig.unrolled_grad(*arguments)
        assert plain.error == np.inf and "certify" in plain.message
        assert (plain.grad == res.grad).all() and plain.success == res.success


def test_where_there_is_no_minimum_it_says_so():
    """f = θ³/3 − λθ: at λ < 0 it has none; the steps have a derivative all the same."""
    f = ig.Objective(
        lambda t, lam: float(t[0] ** 3 / 3 - lam[0] * t[0]),
        jac=lambda t, lam: t**2 - lam,
        hessp=lambda t, v, lam: 2 * t * v,
        cross_vjp=lambda t, q, lam: -q,
    )
    g = linear([1.0], 1)
    res = ig.unrolled_grad(f, g, [1.0], [-0.5], 5, 0.1, options={"certify": True, **QUIET})
    assert res.success and res.error == np.inf
    assert "was not found" in res.message and np.isfinite(res.grad).all()


# Memory.


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_budget_changes_no_bit(optimizer):
    problem = BY_NAME["logistic-597x43"].problem()
    arguments = (problem.f, problem.g, np.zeros(44), problem.lam, 37, 0.05, optimizer)
    full = ig.unrolled_grad(*arguments)
    assert (full.nfev, full.nhev) == (38, 37)
    seen = set()
    for memory in (1.0, 5e4, 1e5, 1.5e5, 2e5, 2.5e5):
        res = ig.unrolled_grad(*arguments, options={"memory": memory})
        seen.add(res.nfev)
        assert res.nfev < 2 * 38 and res.nhev == 37
        for name in ("grad", "grad_theta0", "grad_step_size", "theta", "fun"):
            assert np.array_equal(res[name], full[name]), name
    assert len(seen) > 2  # the budgets did make a difference


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, 25),
    memory=st.floats(1.0, 1e5),
    optimizer=st.sampled_from(OPTIMIZERS),
    data=st.data(),
)
def test_budget_and_truncation_properties(steps, memory, optimizer, data):
    problem = BY_NAME["softmax-two-classes"].problem()
    truncate = data.draw(st.integers(1, steps))
    arguments = (problem.f, problem.g, 0.1 * problem.theta, problem.lam, steps, 0.2, optimizer)
    # The derivative of Adam's first steps is what a small eps leaves of terms that cancel.
    options = {"eps": 1e-2} if optimizer == "adam" else {}
    part = ig.unrolled_grad(*arguments, truncate, options=options)
    small = ig.unrolled_grad(*arguments, truncate, options={**options, "memory": memory})
    forward = ig.unrolled_grad(*arguments, truncate, "forward", options)
    assert np.array_equal(part.grad, small.grad) and part.grad_step_size == small.grad_step_size
    scale = np.linalg.norm(part.grad)
    assert np.linalg.norm(forward.grad - part.grad) <= 1e-12 * scale
    whole = ig.unrolled_grad(*arguments, options=options)
    assert np.array_equal(whole.theta, part.theta)
    assert part.nhev == truncate and whole.nhev == steps
    # From the θ at which the truncated sweep begins (gradient descent remembers nothing else of the
    # steps before), all of the remaining steps are the truncated ones.
    if optimizer == "gd" and truncate < steps:
        before = ig.unrolled_grad(*arguments[:4], steps - truncate, 0.2).theta
        alone = ig.unrolled_grad(*arguments[:2], before, problem.lam, truncate, 0.2)
        assert np.array_equal(alone.grad, part.grad)


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_threads_gives_the_same_bits(mode):
    results = []
    for n_threads in (1, 2, 5):
        problem = BY_NAME["logistic-597x43"].problem(n_threads=n_threads)
        results.append(
            ig.unrolled_grad(problem.f, problem.g, np.zeros(44), problem.lam, 12, 0.1, mode=mode)
        )
    for other in results[1:]:
        assert np.array_equal(other.grad, results[0].grad)
        assert other.grad_step_size == results[0].grad_step_size


# Special cases.


def test_adam_where_a_gradient_is_zero():
    """A column of zeros: no step there, and a derivative of 1 − α H / ε a step, exactly."""
    X = np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
    f = ig.LeastSquares(X, [1.0, 1.0, 0.0], penalty=ig.L2("feature"))
    g = ig.LeastSquares(X + 1.0, [0.0, 1.0, 1.0])
    lam, options = np.zeros(2), {"eps": 0.5}
    res = ig.unrolled_grad(f, g, np.zeros(2), lam, 1, 0.1, "adam", options=options)
    assert res.theta[1] == 0 and res.grad[1] == 0 and np.isfinite(res.grad).all()
    slope = g.jac(res.theta)[1]
    assert abs(res.grad_theta0[1] - slope * (1 - 0.1 / 0.5)) <= 1e-15 * abs(slope)
    forward = ig.unrolled_grad(f, g, np.zeros(2), lam, 9, 0.1, "adam", None, "forward", options)
    back = ig.unrolled_grad(f, g, np.zeros(2), lam, 9, 0.1, "adam", options=options)
    assert_near(forward.grad, back.grad, 1e-13)


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_the_steps_are_those_of_training(method):
    problem = BY_NAME["logistic-feature-61x9"].problem()
    options = {"learning_rate": 0.05}
    trained = ig.train(
        problem.f, problem.lam, np.ones(9), maxiter=17, method=method, options=options
    )
    name = {"sgd": "momentum", "adam": "adam"}[method]
    res = ig.unrolled_grad(problem.f, problem.g, np.ones(9), problem.lam, 17, 0.05, name)
    assert np.array_equal(res.theta, trained.x)


def test_without_hyperparameters_the_rest_is_there():
    case = BY_NAME["ridge-none-fixed"]
    problem = case.problem()
    for mode in MODES:
        res = ig.unrolled_grad(problem.f, problem.g, np.zeros(5), [], 7, 0.1, mode=mode)
        want = unroll_oracle.unrolled(problem.ref_f, problem.ref_g, np.zeros(5), [], 7, 0.1)
        assert res.success and res.grad.shape == (0,)
        assert_near(np.float64(res.grad_step_size), want.grad_step_size, 1e-12)


def test_folds_are_an_objective_like_any_other():
    d = BY_NAME["ridge-feature-40x7"].data()
    f, g = ig.cross_validated(ig.LeastSquares, d.X, d.y, cv=4, penalty=ig.L2("feature"))
    lam = np.full(7, -1.0)
    res = ig.unrolled_grad(f, g, np.zeros(f.n_theta), lam, 3000, 0.5, options={"certify": True})
    exact = ig.implicit_grad(f, g, ig.train(f, lam).x, lam)
    assert_near(res.grad, exact.grad, 1e-6)
    f, g = ig.leave_one_out(ig.LeastSquares, d.X, d.y, penalty=ig.L2("feature"))
    res = ig.unrolled_grad(f, g, np.zeros(7), lam, 2000, 0.2)
    exact = ig.implicit_grad(f, g, ig.train(f, lam).x, lam)
    assert_near(res.grad, exact.grad, 1e-6)


def test_inputs_stay_as_they_are(sealed):
    problem = BY_NAME["logistic-feature-61x9"].problem()
    theta, lam = sealed(np.ones(9), problem.lam)
    for mode in MODES:
        ig.unrolled_grad(problem.f, problem.g, theta, lam, 3, 0.1, "adam", mode=mode)
