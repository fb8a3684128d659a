"""Unrolled differentiation: every objective, rule and mode against a plain sweep in extended precision,
within any budget."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

import implicitgrad as ig
import row_cases
import unroll_oracle
from cases import BY_NAME, HYPER, MLP_CASES, Wrapped, linear, replaced, well_posed
from reference import WIDE, assert_near
from unroll_oracle import MODES, OPTIMIZERS, step_size

STEPS, LAST = 6, 4


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


def test_a_users_objective_counts_for_what_it_holds():
    """Derivatives that are computed when asked for take no memory before; arrays take theirs."""
    n, steps, calls = 1000, 200, []

    def jac(theta, lam):
        calls.append(theta)
        return theta - lam

    eye = scipy.sparse.eye_array(n, format="csr")
    f = ig.Objective(
        lambda t, x: 0.5 * float(np.sum((t - x) ** 2)),
        *(jac, lambda t, v, x: v, lambda t, q, x: np.array([-q.sum()])),
    )
    res = ig.unrolled_grad(f, linear(np.ones(n), 1), np.zeros(n), [1.0], steps, 0.5)
    assert res.nfev == steps + 1 and len(calls) == steps + 2

    class Held:
        def __init__(self, hess):
            self.hess = hess

        def linearize(self, theta, lam):
            held = f.linearize(theta, lam)
            parts = {"fun": held.fun, "jac": held.jac, "cross": -np.ones((n, 1)), "hess": self.hess}
            return ig.Linearization(jac_lam=None, **parts)

    for hess, fits in ((eye, True), (eye.toarray(), False), (aslinearoperator(eye), True)):
        own = ig.unrolled_grad(Held(hess), linear(np.ones(n), 1), np.zeros(n), [1.0], steps, 0.5)
        assert (own.nfev == steps + 1) == fits
        assert np.array_equal(own.grad, res.grad)


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
