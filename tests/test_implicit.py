"""The hypergradient: is the number right, and does the certificate know when it is not?"""

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, brentq
from sklearn.datasets import load_breast_cancer

import implicitgrad as ig
import reference
from cases import BY_NAME, HYPER, Wrapped, linear, quadratic, spd
from reference import assert_near, relative_error

QUIET = {"warn": False}
METHODS = ["auto", "cholesky", "cg", "nystrom", "neumann"]


def true_error(res, exact):
    return float(np.linalg.norm(res.grad - np.asarray(exact, dtype=float)))


def breast_cancer_halves():
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    return X[::2], y[::2], X[1::2], y[1::2]


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
@pytest.mark.parametrize("start", ["exact", "trained"])
@pytest.mark.parametrize("shape", [(40, 7), (597, 43), (11, 29)], ids=str)
def test_ridge_equals_its_closed_form(shape, start, method, rng):
    n, p = shape
    X, X_val = rng.standard_normal((n, p)), rng.standard_normal((50, p))
    truth = rng.standard_normal(p) / np.sqrt(p)
    y, y_val = X @ truth + rng.standard_normal(n), X_val @ truth + rng.standard_normal(50)
    lam = rng.uniform(-4, 0, p)
    theta, expected = reference.ridge_closed_form(X, y, X_val, y_val, lam)
    f, g = ig.LeastSquares(X, y, penalty=ig.L2("feature")), ig.LeastSquares(X_val, y_val)
    theta = theta.astype(float) if start == "exact" else ig.train(f, lam).x
    res = ig.implicit_grad(f, g, theta, lam, method=method, tol=1e-10)
    assert res.success
    assert relative_error(res.grad, expected) <= 1e-10


def test_breast_cancer_equals_resolved_differences():
    X, y, X_val, y_val = breast_cancer_halves()
    f = ig.Logistic(X, y, penalty=ig.L2("feature"), fit_intercept=True)
    g = ig.Logistic(X_val, y_val, fit_intercept=True)
    lam = np.linspace(-5, -1, 30)
    res = ig.implicit_grad(f, g, ig.train(f, lam).x, lam)
    assert res.success
    ref_f = reference.LinearModel("Logistic", X, y, "feature", fit_intercept=True)
    ref_g = reference.LinearModel("Logistic", X_val, y_val, fit_intercept=True)
    expected = reference.resolved_differences(ref_f, ref_g, lam)
    assert relative_error(res.grad, expected) <= 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", HYPER, ids=str)
def test_every_method_on_every_case(case, method):
    """From the default training, at the default tolerance: success, and truly so."""
    pb = case.problem()
    theta, exact = ig.train(pb.f, pb.lam).x, case.solution()[1]
    options = {"maxiter": 500_000} if method == "neumann" else None
    res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, method=method, options=options)
    assert res.success and res.status == 0
    assert relative_error(res.grad, exact) <= 1e-6
    assert true_error(res, exact) <= res.error_bound
    assert_near(np.float64(res.fun), pb.ref_g.fun(res.theta, pb.lam), 1e-12)
    if not case.penalised_outer:
        assert not res.direct.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "name",
    ["ridge-feature-40x7", "ridge-penalised-outer", "logistic-597x43", "logistic-wide-12x33"],
)
def test_every_field_of_the_result(name, method):
    case = BY_NAME[name]
    pb = case.problem()
    theta = case.solution()[0].astype(float)
    res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, method=method, options={"maxiter": 500_000})
    assert isinstance(res, OptimizeResult)
    for field, shape in (
        ("grad", pb.lam.shape),
        ("direct", pb.lam.shape),
        ("adjoint", theta.shape),
        ("theta", theta.shape),
    ):
        assert isinstance(res[field], np.ndarray) and res[field].dtype == np.float64
        assert res[field].shape == shape
    for field in ("fun", "error", "error_bound", "stationarity", "residual"):
        assert isinstance(res[field], float) and res[field] >= 0
    assert isinstance(res.success, bool) and isinstance(res.message, str) and res.message
    for field in ("status", "nit", "nhev"):
        assert isinstance(res[field], int)
    assert res.method == method or (method == "auto" and res.method in METHODS[1:])

    # The fields belong together, and to res.theta.
    H, C = pb.ref_f.hess(res.theta, pb.lam), pb.ref_f.cross(res.theta, pb.lam)
    b = pb.ref_g.jac(res.theta, pb.lam)
    assert_near(res.grad, res.direct - C.T @ res.adjoint, 1e-12)
    if case.penalised_outer:
        assert_near(res.direct, pb.ref_g.jac_lam(res.theta, pb.lam), 1e-12)
    residual = np.linalg.norm((b - H @ res.adjoint).astype(float)) / np.linalg.norm(b.astype(float))
    # Either side carries the rounding of Hq, ε‖H‖‖q‖, beside the residual itself.
    rounding = 1e-15 * np.linalg.norm(H.astype(float), 2) * np.linalg.norm(res.adjoint)
    assert abs(res.residual - residual) <= 1e-6 * residual + 10 * rounding / np.linalg.norm(
        b.astype(float)
    )
    assert res.stationarity <= 1e-12
    if res.curvature is not None:
        low, high = res.curvature
        eig = np.linalg.eigvalsh(H.astype(float))
        assert eig[0] / 2 <= low <= high <= eig[-1] * 2


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "neumann", "identity"])
def test_scaling_the_outer_loss_scales_the_gradient(method):
    case = BY_NAME["ridge-penalised-outer"]
    pb = case.problem()
    theta = ig.train(pb.f, pb.lam).x
    options = {"maxiter": 500_000, "warn": method != "identity"}

    def solve(scale):
        g = Wrapped(pb.g, scale)
        return ig.implicit_grad(pb.f, g, theta, pb.lam, method=method, options=options)

    base = solve(1.0)
    assert base.grad.all()
    for power in (-40, 40):
        res, scale = solve(2.0**power), 2.0**power
        assert np.array_equal(res.grad, base.grad * scale)
        assert np.array_equal(res.adjoint, base.adjoint * scale)
        assert (res.status, res.nit) == (base.status, base.nit)
    for power in (-13, 13):
        res, scale = solve(10.0**power), 10.0**power
        assert relative_error(res.grad, base.grad.astype(reference.WIDE) * scale) <= 1e-14
        assert res.status == base.status


@pytest.mark.parametrize("tol", [10.0**-k for k in range(1, 13)] + [0.9, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_no_tolerance_gives_a_zero_gradient(method, tol):
    case = BY_NAME["logistic-feature-61x9"]
    pb = case.problem()
    exact = case.solution()[1].astype(float)
    for scale in (1.0, 1e-13, 1e13):
        res = ig.implicit_grad(
            pb.f, Wrapped(pb.g, scale), case.theta() / 10, pb.lam, method, tol, QUIET
        )
        assert res.grad.all() and np.isfinite(res.grad).all()
        if res.success:
            # A tolerance is a promise about the estimate; the estimate may be off by a little.
            assert true_error(res, scale * exact) <= 3 * tol * scale * np.linalg.norm(exact)


@pytest.mark.parametrize("method", METHODS)
def test_outer_loss_without_theta_has_no_response(method):
    pb = BY_NAME["logistic-feature-61x9"].problem()
    g = ig.Objective(
        fun=lambda theta, lam: 0.5 * lam @ lam,
        jac=lambda theta, lam: np.zeros(9),
        jac_lam=lambda theta, lam: lam.copy(),
    )
    theta = ig.train(pb.f, pb.lam).x
    res = ig.implicit_grad(pb.f, g, theta, pb.lam, method=method)
    assert res.success and res.status == 0
    assert np.array_equal(res.grad, pb.lam)
    assert not res.adjoint.any()


@pytest.mark.parametrize("start", ["exact", "trained"])
@pytest.mark.parametrize("method", METHODS)
def test_success_at_the_optimum_where_the_gradient_vanishes(method, start, rng):
    X, X_val = rng.standard_normal((60, 20)), rng.standard_normal((60, 20))
    truth = rng.standard_normal(20) / 4
    y, y_val = X @ truth + rng.standard_normal(60), X_val @ truth + rng.standard_normal(60)
    ref_f = reference.LinearModel("LeastSquares", X, y, "all")
    ref_g = reference.LinearModel("LeastSquares", X_val, y_val)

    def slope(x):
        return float(reference.exact_hypergradient(ref_f, ref_g, [x])[0])

    best = brentq(slope, -6, 4, xtol=1e-15, rtol=4 * np.finfo(float).eps)
    lam = np.array([best])
    f, g = ig.LeastSquares(X, y, penalty=ig.L2()), ig.LeastSquares(X_val, y_val)
    theta = ref_f.train(lam).astype(float) if start == "exact" else ig.train(f, lam).x
    res = ig.implicit_grad(f, g, theta, lam, method=method, options={"maxiter": 500_000})
    assert res.success and res.status == 0
    # The size of the terms that cancel, times some ε: nothing but rounding is left.
    q = res.adjoint
    assert abs(res.grad[0]) <= 100 * np.finfo(float).eps * np.exp(best) * np.abs(theta) @ np.abs(q)


def gradient_steps(ref, lam, steps):
    """θ after a few steps of gradient descent from zero: what a stopped training leaves."""
    theta = np.zeros(ref.n_theta)
    step = 1 / np.linalg.eigvalsh(ref.hess(theta, lam).astype(float))[-1]
    for _ in range(steps):
        slope = ref.jac(theta, lam).astype(float)
        with np.errstate(over="ignore"):  # the curvature of counts grows along the way
            while not ref.fun(theta - step * slope, lam) <= ref.fun(theta, lam):
                step /= 2
        theta = theta - step * slope
    return theta


# One column without an intercept is solved by one step; the rest are far from trained.
STOPPED = [c for c in HYPER if c.n_theta > 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", STOPPED, ids=str)
def test_stopped_training_is_flagged(case, method):
    pb = case.problem()
    exact = case.solution()[1]
    theta = gradient_steps(pb.ref_f, pb.lam, 4)
    options = {"polish": False, "maxiter": 500_000}
    with pytest.warns(ig.ImplicitGradWarning):
        res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, method=method, options=options)
    assert not res.success and res.status == 4
    assert np.array_equal(res.theta, theta)
    assert true_error(res, exact) > 1e-6 * np.linalg.norm(res.grad)
    slope = pb.ref_f.jac(theta, pb.lam).astype(float)
    assert_near(np.float64(res.stationarity), np.linalg.norm(slope))


@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-11])
@pytest.mark.parametrize("case", HYPER[::2], ids=str)
def test_success_is_never_claimed_for_a_wrong_number(case, size, rng):
    pb = case.problem()
    best, exact = case.solution()
    theta = best.astype(float) + size * rng.standard_normal(case.n_theta)
    for tol in (1e-3, 1e-6, 1e-9):
        options = {"polish": False, "warn": False}
        res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, tol=tol, options=options)
        error, allowed = true_error(res, exact), tol * np.linalg.norm(res.grad)
        if res.success:
            assert res.error <= allowed * (1 + 1e-12)
            assert error <= 3 * res.error and error <= 3 * allowed
        else:
            # And no crying wolf: a number that is right a thousand times over is not refused.
            assert res.status == 4 and error > 1e-3 * allowed
        if size <= 1e-2:
            assert error <= 3 * res.error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-2, 1e-5])
@pytest.mark.parametrize("case", HYPER[::2], ids=str)
def test_polish_repairs_theta(case, size, method, rng):
    pb = case.problem()
    best, exact = case.solution()
    # As far off, in the margins, whatever the scale of the columns.
    theta = best.astype(float) + size / case.spread * rng.standard_normal(case.n_theta)
    before = theta.copy()
    options = {"maxiter": 500_000}
    res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, method=method, options=options)
    assert res.success
    assert relative_error(res.grad, exact) <= 1e-6
    assert np.array_equal(theta, before)
    as_given = reference.hypergradient(pb.ref_f, pb.ref_g, theta, pb.lam)[0]
    if relative_error(as_given, exact) > 1e-6:
        best = case.nearest(best, theta)
        assert relative_error(res.theta, best) < relative_error(theta, best) / 10


@pytest.mark.parametrize("method", METHODS)
def test_a_distant_theta_is_not_blamed_on_the_hessian(method, rng):
    """Condition 4e3 is harmless: where polishing gives up, it is θ that is too far away."""
    case = BY_NAME["logistic-badly-scaled"]
    pb = case.problem()
    best, exact = case.solution()
    theta = best.astype(float) + 0.01 * rng.standard_normal(case.n_theta)
    options = {"maxiter": 500_000, **QUIET}
    res = ig.implicit_grad(pb.f, pb.g, theta, pb.lam, method=method, options=options)
    assert res.status in (0, 4)
    assert not res.success or relative_error(res.grad, exact) <= 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["ridge-597x43-f32-f", "logistic-groups-weights-f"])
def test_same_bits_twice_and_inputs_untouched(name, method, sealed):
    case = BY_NAME[name]
    theta, lam = sealed(case.theta(), case.lam())
    d = case.data()
    sealed(d.X, d.y, d.X_val, d.y_val)
    runs = []
    for _ in range(2):
        pb = case.problem()
        runs.append(ig.implicit_grad(pb.f, pb.g, theta, lam, method=method, options=QUIET))
    for field in ("grad", "adjoint", "theta", "error", "residual", "nit"):
        assert np.array_equal(runs[0][field], runs[1][field]), field


@pytest.mark.parametrize("method", ["auto", "cg"])
def test_objects_with_linearize(method):
    case = BY_NAME["logistic-groups-weights-f"]
    pb = case.problem()
    theta = ig.train(pb.f, pb.lam).x
    res = ig.implicit_grad(Wrapped(pb.f), Wrapped(pb.g), theta, pb.lam, method=method)
    assert res.success
    assert relative_error(res.grad, case.solution()[1]) <= 1e-6


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
def test_linearizations_may_hold_plain_arrays(method):
    H, B, c = spd(6, 0.1, 2.0), np.arange(12.0).reshape(6, 2) / 7, np.linspace(-1, 1, 6)

    class Dense:
        def linearize(self, theta, lam):
            return OptimizeResult(
                fun=0.5 * theta @ H @ theta - theta @ B @ lam,
                jac=H @ theta - B @ lam,
                jac_lam=-B.T @ theta,
                hess=H,
                cross=-B,
            )

    lam = np.array([0.3, -0.8])
    theta = np.linalg.solve(H, B @ lam)
    res = ig.implicit_grad(Dense(), linear(c, 2), theta, lam, method=method)
    assert res.success
    assert_near(res.grad, B.T @ np.linalg.solve(H, c), 1e-6)


def test_missing_derivatives_are_differenced_and_counted():
    """Never silently zero: leaving out hessp, cross_vjp and jac_lam costs accuracy, which the
    error estimate must cover, and nothing else."""
    H, B, c = spd(5, 0.5, 2.0), np.linspace(-1, 1, 15).reshape(5, 3), np.ones(5)
    full, g, lam = quadratic(H, B), linear(c, 3), np.array([0.1, -0.2, 0.3])
    theta = np.linalg.solve(H, B @ lam)
    exact = B.T @ np.linalg.solve(H, c)
    bare = ig.Objective(fun=full.fun, jac=full.jac)
    bare_g = ig.Objective(fun=lambda t, x: c @ t + x @ x, jac=lambda t, x: c)
    res = ig.implicit_grad(full, g, theta, lam)
    loose = ig.implicit_grad(bare, bare_g, theta, lam, tol=1e-4)
    assert res.success and relative_error(res.grad, exact) <= 1e-6
    assert loose.success and relative_error(loose.grad, exact + 2 * lam) <= 1e-4
    assert np.linalg.norm(loose.grad - exact - 2 * lam) <= 3 * loose.error
    assert loose.error > res.error


def test_plain_functions():
    X, y, X_val, y_val = (a[:40] for a in breast_cancer_halves())
    X, X_val = X[:, :4], X_val[:, :4]

    def f(theta, lam):
        z = (2.0 * y - 1) * (X @ theta)
        return np.mean(np.logaddexp(0, -z)) + 0.5 * np.sum(np.exp(lam) * theta**2)

    def g(theta, lam):
        return np.mean(np.logaddexp(0, -(2.0 * y_val - 1) * (X_val @ theta)))

    lam = np.array([-2.0, -1.0, -3.0, 0.0])
    theta = ig.train(f, lam, theta0=np.zeros(4)).x
    res = ig.implicit_grad(f, g, theta, lam)
    assert res.success
    ref_f = reference.LinearModel("Logistic", X, y, "feature")
    ref_g = reference.LinearModel("Logistic", X_val, y_val)
    exact = reference.exact_hypergradient(ref_f, ref_g, lam)
    # tol defaults to 1e-3 for plain functions.
    assert relative_error(res.grad, exact) <= 1e-3
    assert res.error <= 1e-3 * np.linalg.norm(res.grad)
    assert true_error(res, exact) <= 3 * res.error
