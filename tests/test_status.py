"""Every status of the contract, every option, and what the caller's own code may do."""

import warnings

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import OptimizeResult, OptimizeWarning
from scipy.sparse.linalg import LinearOperator, cg

import implicitgrad as ig
from cases import BY_NAME, HYPER, linear, quadratic, replaced, spd, well_posed
from reference import assert_near, relative_error

QUIET = {"warn": False}
B2 = np.array([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.0]])


def test_failure_warns_and_the_warning_can_be_turned_off():
    pb = BY_NAME["logistic-feature-61x9"].problem()
    with pytest.warns(ig.ImplicitGradWarning) as record:
        res = ig.implicit_grad(pb.f, pb.g, pb.theta, pb.lam, options={"polish": False})
    assert len(record) == 1
    assert res.status == 4 and not res.success
    quiet = ig.implicit_grad(pb.f, pb.g, pb.theta, pb.lam, options={"polish": False, "warn": False})
    assert quiet.status == 4 and np.array_equal(quiet.grad, res.grad)
    assert issubclass(ig.ImplicitGradWarning, Warning)


def test_status_1_cg_iteration_limit():
    w = well_posed()
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method="cg", options={"maxiter": 1, **QUIET})
    assert (res.status, res.success, res.nit) == (1, False, 1)
    assert res.error > 1e-6 * np.linalg.norm(res.grad)
    residual = np.linalg.norm(w.c - w.H @ res.adjoint) / np.linalg.norm(w.c)
    assert_near(np.float64(res.residual), residual)


@pytest.mark.parametrize("terms", [1, 5, 20])
def test_status_1_fixed_number_of_neumann_terms(terms):
    w = well_posed()
    options = {"terms": terms, "step_size": 0.3, **QUIET}
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method="neumann", options=options)
    assert (res.status, res.success, res.error) == (1, False, np.inf)


def test_status_1_identity():
    w = well_posed()
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method="identity", options=QUIET)
    assert (res.status, res.success, res.error) == (1, False, np.inf)
    assert np.array_equal(res.adjoint, w.c)


@pytest.mark.parametrize(
    ("method", "more"), [("identity", {}), ("neumann", {"terms": 3, "step_size": 0.3})]
)
def test_certify_pays_for_a_solve(method, more):
    w = well_posed()
    options = {"certify": True, **more, **QUIET}
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method=method, options=options)
    error = np.linalg.norm(res.grad - w.exact)
    # The problem is quadratic and θ exact: the estimate has nothing to be wrong about.
    assert error / 1.01 <= res.error <= 1.01 * error
    assert not res.success and res.status != 0
    options = {"certify": True, "terms": 800, "step_size": 0.3}
    enough = ig.implicit_grad(w.f, w.g, w.theta, w.lam, "neumann", 1e-6, options)
    assert enough.success and relative_error(enough.grad, w.exact) <= 1e-6


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
def test_status_2_negative_curvature(method):
    H = np.diag([3.0, 2.0, -1.0])
    lam = np.array([0.2, 0.1])
    theta = np.linalg.solve(H, B2 @ lam)
    res = ig.implicit_grad(
        quadratic(H, B2), linear(np.ones(3), 2), theta, lam, method, options=QUIET
    )
    assert res.status == 2 and not res.success
    assert np.isfinite(res.grad).all()
    assert "curvature" in res.message.lower()


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
def test_status_3_singular(method):
    # θ = 0 is stationary at λ = 0; both ∇g and the columns of B reach into the null space.
    H = np.diag([2.0, 1.0, 0.0])
    res = ig.implicit_grad(
        quadratic(H, B2), linear(np.ones(3), 2), np.zeros(3), np.zeros(2), method, options=QUIET
    )
    assert res.status == 3 and not res.success
    assert np.isfinite(res.grad).all()


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
def test_status_3_zero_hessian(method):
    f, g = quadratic(np.zeros((3, 3)), B2), linear(np.ones(3), 2)
    res = ig.implicit_grad(f, g, np.zeros(3), np.zeros(2), method, options=QUIET)
    assert res.status == 3 and not res.success
    assert np.isfinite(res.grad).all()


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
def test_status_3_too_ill_conditioned_for_the_tolerance(method):
    """Condition 1e13 leaves three digits; ten are asked for. Either an honest refusal, or right."""
    n = 20
    H, B, c = spd(n, 1e-13, 1.0), np.cos(np.arange(2.0 * n)).reshape(n, 2), np.ones(n)
    res = ig.implicit_grad(
        quadratic(H, B), linear(c, 2), np.zeros(n), np.zeros(2), method, 1e-10, QUIET
    )
    assert not res.success
    assert res.status in (1, 2, 3)  # rounding alone makes the least eigenvalue negative at times
    assert res.error > 1e-10 * np.linalg.norm(res.grad)


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "neumann"])
def test_status_4_theta_not_stationary(method):
    pb = BY_NAME["logistic-597x43"].problem()
    options = {"polish": False, **QUIET}
    res = ig.implicit_grad(pb.f, pb.g, 5 * pb.theta, pb.lam, method=method, options=options)
    assert res.status == 4 and not res.success
    assert "stationary" in res.message


NAN_CALLABLES = {
    "f.jac": {"jac": lambda t, x: np.full(12, np.nan)},
    "f.hessp": {"hessp": lambda t, v, x: np.full(12, np.nan)},
    "f.hessp-inf": {"hessp": lambda t, v, x: np.full(12, np.inf)},
    "f.cross_vjp": {"cross_vjp": lambda t, q, x: np.full(2, np.nan)},
    "g.fun": {"fun": lambda t, x: np.nan},
    "g.jac": {"jac": lambda t, x: np.full(12, np.nan)},
    "g.jac-inf": {"jac": lambda t, x: np.full(12, -np.inf)},
    "g.jac_lam": {"jac_lam": lambda t, x: np.full(2, np.nan)},
}


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "neumann", "identity"])
@pytest.mark.parametrize("where", NAN_CALLABLES)
def test_status_5_non_finite_values(where, method):
    w = well_posed()
    f, g = w.f, w.g
    if where.startswith("f"):
        f = replaced(f, **NAN_CALLABLES[where])
    else:
        g = replaced(g, **NAN_CALLABLES[where])
    res = ig.implicit_grad(f, g, w.theta, w.lam, method=method, options=QUIET)
    assert res.status == 5 and not res.success
    assert res.grad.shape == w.lam.shape and res.adjoint.shape == w.theta.shape


def test_status_5_in_the_middle_keeps_the_last_finite_iterate():
    w = well_posed()
    calls = []

    def hessp(t, v, x):
        calls.append(1)
        return w.H @ v if len(calls) <= 4 else np.full(12, np.nan)

    f = replaced(w.f, hessp=hessp)
    res = ig.implicit_grad(f, w.g, w.theta, w.lam, method="cg", options=QUIET)
    assert res.status == 5 and not res.success
    assert np.isfinite(res.grad).all() and res.grad.any()


def test_the_first_of_several_statuses_is_given():
    """5 before 2 before 3 before 4 before 1: θ is far away and H indefinite; then far and slow."""
    H = np.diag([3.0, 2.0, -1.0])
    options = {"polish": False, "maxiter": 3, **QUIET}
    f, g = quadratic(H, B2), linear(np.ones(3), 2)
    assert ig.implicit_grad(f, g, np.ones(3), np.ones(2), "cg", options=options).status == 2
    pb = BY_NAME["logistic-597x43"].problem()
    options = {"polish": False, "maxiter": 1, **QUIET}
    assert ig.implicit_grad(pb.f, pb.g, pb.theta, pb.lam, "cg", options=options).status == 4


def test_callback_sees_every_iteration():
    w = well_posed()
    seen = []

    def callback(intermediate_result):
        assert isinstance(intermediate_result, OptimizeResult)
        seen.append((intermediate_result.nit, intermediate_result.residual))

    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method="cg", tol=1e-10, callback=callback)
    assert res.success
    nits, residuals = zip(*seen, strict=True)
    # Iterations for the error estimate count in nit, but the callback is not called for them.
    assert nits == tuple(range(1, len(nits) + 1)) and len(nits) <= res.nit
    assert all(r >= 0 for r in residuals) and residuals[-1] < 1e-6 * residuals[0]


@pytest.mark.parametrize("stop_at", [1, 3])
def test_status_99_stopped_by_the_callback(stop_at):
    w = well_posed()
    calls = []

    def callback(intermediate_result):
        calls.append(1)
        if len(calls) == stop_at:
            raise StopIteration

    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, "cg", 1e-12, QUIET, callback)
    assert (res.status, res.success, res.nit, len(calls)) == (99, False, stop_at, stop_at)
    assert np.isfinite(res.grad).all()


class MineError(Exception):
    pass


@pytest.mark.parametrize("where", ["hessp", "jac", "fun", "cross_vjp", "callback", "method"])
def test_exceptions_of_the_callers_code_come_through(where):
    w = well_posed()

    def boom(*args, **kwargs):
        raise MineError("boom")

    f, g, call = w.f, w.g, {"method": "cg"}
    if where in ("callback", "method"):
        call[where] = boom
    elif where == "fun":
        g = replaced(g, fun=boom)
    else:
        f = replaced(f, **{where: boom})
    with pytest.raises(MineError, match="boom"):
        ig.implicit_grad(f, g, w.theta, w.lam, **call)


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
@pytest.mark.parametrize("damping", [1e-3, 0.5])
def test_damping_solves_the_damped_system_and_counts_its_bias(damping, method):
    w = well_posed()
    options = {"damping": damping, **QUIET}
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method, tol=1e-9, options=options)
    damped = np.linalg.solve(w.H + damping * np.eye(12), w.c)
    assert relative_error(res.adjoint, damped) <= 1e-8
    # The residual is that of the true system, and so is the error.
    residual = np.linalg.norm(w.c - w.H @ damped) / np.linalg.norm(w.c)
    assert_near(np.float64(res.residual), residual, 1e-6)
    assert not res.success
    assert np.linalg.norm(res.grad - w.exact) <= 3 * res.error
    assert "damping" in res.message or res.get("damping") == damping


def test_small_damping_within_tol_succeeds():
    w = well_posed()
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, "cg", 1e-3, {"damping": 1e-7})
    assert res.success and relative_error(res.grad, w.exact) <= 1e-3


def test_stop_as_an_absolute_residual():
    w = well_posed(60)
    counts = []
    for stop in (1e-1, 1e-4, 1e-8):
        options, seen = {"stop": stop, **QUIET}, []
        callback = lambda intermediate_result, seen=seen: seen.append(1)  # noqa: E731
        res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, "cg", 1e-12, options, callback)
        assert np.linalg.norm(w.c - w.H @ res.adjoint) <= stop
        assert not res.success  # stopped long before 1e-12
        counts.append(len(seen))
    assert counts[0] < counts[1] < counts[2]


def test_stop_as_a_callable():
    w = well_posed()
    calls = []

    def stop(*args, **kwargs):
        calls.append(1)
        return len(calls) == 2

    options = {"stop": stop, **QUIET}
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, "cg", 1e-12, options)
    assert len(calls) == 2
    assert not res.success


def test_rng_has_a_fixed_default():
    w = well_posed(40)
    runs = [
        ig.implicit_grad(w.f, w.g, w.theta, w.lam, "neumann", options=options).adjoint
        for options in (None, {"rng": 0}, {"rng": np.random.default_rng(0)})
    ]
    assert np.array_equal(runs[0], runs[1]) and np.array_equal(runs[0], runs[2])


def test_unknown_options_warn_and_change_nothing():
    w = well_posed()
    plain = ig.implicit_grad(w.f, w.g, w.theta, w.lam)
    with pytest.warns(OptimizeWarning, match="maxitre"):
        res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, options={"maxitre": 3})
    assert np.array_equal(res.grad, plain.grad)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("cg", "rank", 5),
        ("cg", "terms", 5),
        ("cg", "step_size", 0.1),
        ("auto", "rank", 5),
        ("cholesky", "preconditioner", "jacobi"),
        ("minres", "preconditioner", np.eye(12)),
        ("neumann", "preconditioner", "none"),
        ("identity", "terms", 5),
        ("callable", "rank", 5),
    ],
)
def test_options_that_the_method_does_not_use_warn_and_change_nothing(method, name, value):
    w = well_posed()
    way = (lambda hess, b: np.linalg.solve(w.H, b)) if method == "callable" else method
    named = f"callable does not use '{name}'" if method == "callable" else f"'{method}'.*'{name}'"
    plain = ig.implicit_grad(w.f, w.g, w.theta, w.lam, way, options=QUIET)
    with pytest.warns(OptimizeWarning, match=named) as record:
        res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, way, options={name: value, **QUIET})
    assert len(record) == 1 and record[0].filename == __file__
    assert np.array_equal(res.grad, plain.grad)
    with pytest.warns(OptimizeWarning, match=named):
        ig.response(w.f, w.theta, w.lam, np.ones(w.lam.size), way, None, {name: value, **QUIET})


def test_options_that_the_method_uses_or_that_say_nothing_do_not_warn():
    w = well_posed()
    with warnings.catch_warnings():
        warnings.simplefilter("error", OptimizeWarning)
        for method, options in (
            ("auto", {"preconditioner": "none"}),
            ("cg", {"preconditioner": np.eye(12)}),
            ("nystrom", {"rank": 3, "preconditioner": "auto"}),
            ("neumann", {"terms": 3, "step_size": 0.1, "rank": None}),
            ("cholesky", {"preconditioner": "auto", "terms": None}),
        ):
            ig.implicit_grad(w.f, w.g, w.theta, w.lam, method, options={**options, **QUIET})


def test_a_bad_seed_is_named():
    w = well_posed()
    for bad, kind in ((-1, ValueError), ("zero", TypeError)):
        with pytest.raises(kind, match="rng must be a seed"):
            ig.implicit_grad(w.f, w.g, w.theta, w.lam, options={"rng": bad})


@pytest.mark.parametrize("returns", ["x", "(x, info)"])
def test_method_may_be_a_callable(returns):
    case = BY_NAME["logistic-groups-weights-f"]
    pb = case.problem()
    shapes = []

    def mine(hess, b):
        assert isinstance(hess, LinearOperator)
        shapes.append((hess.shape, b.shape))
        x, info = cg(hess, b, rtol=1e-12, atol=0)
        return x if returns == "x" else (x, info)

    res = ig.implicit_grad(pb.f, pb.g, ig.train(pb.f, pb.lam).x, pb.lam, method=mine)
    assert res.success and set(shapes) == {((7, 7), (7,))}
    assert relative_error(res.grad, case.solution()[1]) <= 1e-6


@pytest.mark.parametrize(
    "wrong",
    [lambda x: 2 * x, lambda x: 0 * x, lambda x: x + 1e-4, lambda x: (x / 2, 7)],
    ids=["double", "zero", "near", "info"],
)
@pytest.mark.parametrize("polish", [True, False])
def test_a_callable_method_is_not_taken_at_its_word(wrong, polish):
    """Its answer may be corrected, or refused; it is never passed on as a success."""
    w = well_posed()

    def mine(hess, b):
        return wrong(np.linalg.solve(hess @ np.eye(12), b))

    options = {"polish": polish, **QUIET}
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method=mine, options=options)
    error = np.linalg.norm(res.grad - w.exact)
    assert error <= 3 * res.error + 1e-14 * np.linalg.norm(w.exact)
    assert not res.success or error <= 1e-6 * np.linalg.norm(w.exact)
    residual = np.linalg.norm(w.c - w.H @ res.adjoint) / np.linalg.norm(w.c)
    assert abs(res.residual - residual) <= 1e-6 * residual + 1e-13


def test_a_callable_method_that_returns_nan():
    w = well_posed()
    method = lambda hess, b: b * np.nan  # noqa: E731
    res = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method=method, options=QUIET)
    assert res.status == 5 and not res.success


@pytest.mark.parametrize("method", ["auto", "cg", "minres", "neumann", "identity"])
@pytest.mark.parametrize("case", HYPER[::5], ids=str)
def test_uncertified_solves_and_does_no_more(case, method):
    pb = case.problem()
    theta = ig.train(pb.f, pb.lam).x * (1 + 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was asked for is no surprise
        options = {"certify": False, "maxiter": 500_000}
        res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, method, options=options)
    assert (res.success, res.status, res.error, res.error_bound) == (False, 1, np.inf, np.inf)
    assert res.message.startswith("Not certified, as asked")
    assert np.array_equal(res.theta, theta)
    b, hess = pb.g.linearize(theta, pb.lam).jac, pb.f.linearize(theta, pb.lam).hess
    rest = np.linalg.norm(b - hess @ res.adjoint) / np.linalg.norm(b)
    assert abs(res.residual - rest) <= 1e-6 * rest + 1e-13
    full = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, options={"polish": False, "warn": False})
    if method != "identity":
        assert res.residual < 1e-6
        assert np.linalg.norm(res.grad - full.grad) <= 1e-4 * np.linalg.norm(full.grad) + full.error
    assert res.nhev <= full.nhev + res.nit + 25


def test_uncertified_says_what_went_wrong_with_the_solve():
    H, B = np.diag([1.0, -2.0]), np.eye(2)
    f, g = quadratic(H, B), linear([1.0, 1.0], 2)
    for method in ("cholesky", "cg"):
        with pytest.warns(ig.ImplicitGradWarning, match="negative curvature"):
            res = ig.implicit_grad(f, g, [0, 0], [0, 0], method, options={"certify": False})
        assert res.status == 2
    pb = HYPER[0].problem()
    options = {"certify": False, "maxiter": 1, "preconditioner": "none"}
    with pytest.warns(ig.ImplicitGradWarning, match="stopped at relative residual"):
        res = ig.implicit_grad(pb.f, pb.g, pb.theta, pb.lam, "cg", options=options)
    assert res.status == 1 and res.error == np.inf
    options = {"certify": False, "step_size": 1e3}
    with pytest.warns(ig.ImplicitGradWarning, match="diverged"):
        ig.implicit_grad(pb.f, pb.g, pb.theta, pb.lam, "neumann", options=options)


def test_an_outer_loop_without_certificates():
    pb = HYPER[0].problem()
    kwargs = dict(jac=True, method="L-BFGS-B", bounds=[(-8.0, 8.0)] * pb.lam.size)
    bare = ig.HyperObjective(pb.f, pb.g, options={"certify": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        res = scipy.optimize.minimize(bare, pb.lam, **kwargs)
    full = scipy.optimize.minimize(ig.HyperObjective(pb.f, pb.g), pb.lam, **kwargs)
    assert res.success and abs(res.fun - full.fun) <= 1e-8 * abs(full.fun)
