"""Where other libraries' users were told nothing: their problems, with what must be said here."""

import numpy as np
import pytest
from scipy.optimize import minimize

import implicitgrad as ig
from cases import BY_NAME, linear, quadratic, replaced, spd, well_posed
from implicitgrad import solvers
from reference import assert_near, relative_error

QUIET = {"warn": False}
METHODS = ["auto", "cholesky", "cg", "nystrom", "minres"]


# Case 14, minimum residual


def test_case_14_random_systems_by_minres():
    rng, tried = np.random.default_rng(14), 0
    while tried < 5:
        A = rng.standard_normal((3, 3))
        H = A @ A.T
        if np.linalg.cond(H) > 1000:
            continue
        tried += 1
        b = rng.standard_normal(3)
        f, g = quadratic(H, np.eye(3)), linear(b, 3)
        res = ig.implicit_grad(f, g, np.zeros(3), np.zeros(3), "minres", 1e-11)
        assert res.success
        assert relative_error(res.adjoint, np.linalg.solve(H, b)) <= 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_case_14_a_system_of_100_that_is_not_symmetric_fails_safely(method):
    A = np.random.default_rng(0).standard_normal((100, 100)) + 0.1 * np.eye(100)
    f = replaced(quadratic(np.eye(100), np.eye(100)), hessp=lambda t, v, x: A @ v)
    g = linear(np.ones(100), 100)
    res = ig.implicit_grad(f, g, np.zeros(100), np.zeros(100), method, options=QUIET)
    assert not res.success and res.status != 0
    assert np.isfinite(res.grad).all()


# Case 15: derivatives of argmin (f(θ) - λᵀθ)


def sum_of_squares(residuals):
    """(f, ∇f, ∇²f) of Σ r² from r, its Jacobian and its second derivatives."""

    def at(theta):
        r, J, second = (np.array(part, dtype=float) for part in residuals(*theta))
        return r @ r, 2 * J.T @ r, 2 * J.T @ J + 2 * np.tensordot(r, second, 1)

    return at


def rosenbrock(x, y):
    zero = [[0, 0], [0, 0]]
    return [1 - x, 10 * (y - x * x)], [[-1, 0], [-20 * x, 10]], [zero, [[-20, 0], [0, 0]]]


def beale(x, y):
    powers = (1, 2, 3)
    r = [c - x + x * y**k for c, k in zip((1.5, 2.25, 2.625), powers, strict=True)]
    J = [[-1 + y**k, k * x * y ** (k - 1)] for k in powers]
    mixed = [k * y ** (k - 1) for k in powers]
    last = [0, 2 * x, 6 * x * y]
    return r, J, [[[0, m], [m, s]] for m, s in zip(mixed, last, strict=True)]


def quadratic_at(H, minimum):
    H, minimum = np.array(H, dtype=float), np.array(minimum, dtype=float)
    return lambda t: (0.5 * (t - minimum) @ H @ (t - minimum), H @ (t - minimum), H)


PLANE = {
    "quadratic": (quadratic_at([[2, -1], [-1, 3]], [29.5, 9]), [29.5, 9.0]),
    "matyas": (quadratic_at([[0.52, -0.48], [-0.48, 0.52]], [0, 0]), [0.0, 0.0]),
    "rosenbrock": (sum_of_squares(rosenbrock), [1.0, 1.0]),
    "beale": (sum_of_squares(beale), [3.0, 0.5]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PLANE)
def test_case_15_argmin_in_the_plane(name, method):
    """Theirs: rtol 1e-3 against differences."""
    at, minimum = PLANE[name]
    assert np.linalg.norm(at(np.array(minimum))[1]) == 0
    f = ig.Objective(
        fun=lambda t, x: at(t)[0] - x @ t,
        jac=lambda t, x: at(t)[1] - x,
        hessp=lambda t, v, x: at(t)[2] @ v,
        cross_vjp=lambda t, q, x: -q,
        n_theta=2,
        n_lam=2,
    )
    g = ig.Objective(
        fun=lambda t, x: np.sin(t[0] / 10) + t[0] * t[1] / 10 + x @ x,
        jac=lambda t, x: np.array([np.cos(t[0] / 10) / 10 + t[1] / 10, t[0] / 10]),
        jac_lam=lambda t, x: 2 * x,
    )
    lam = np.array([0.02, -0.01])

    def argmin(x):
        theta = np.array(minimum)
        for _ in range(20):
            theta = theta - np.linalg.solve(at(theta)[2], at(theta)[1] - x)
        return theta

    def slope(u, h=1e-3):
        value = lambda t: g.fun(argmin(lam + t * u), lam + t * u)  # noqa: E731
        near, far = (value(h) - value(-h)) / (2 * h), (value(2 * h) - value(-2 * h)) / (4 * h)
        return (4 * near - far) / 3

    theta = ig.train(f, lam, theta0=minimum).x
    assert relative_error(theta, argmin(lam)) <= 1e-6
    res = ig.implicit_grad(f, g, theta, lam, method)
    assert res.success
    assert_near(res.grad, [slope(u) for u in np.eye(2)], 1e-6)


# Case 19: a right-hand side of any size


@pytest.mark.parametrize("method", [*METHODS, "neumann"])
@pytest.mark.parametrize("scale", [1e-13, 1e-100, 1e-300, 1e250])
def test_case_19_linear_in_the_right_hand_side(scale, method):
    w = well_posed()
    plain = ig.implicit_grad(w.f, w.g, w.theta, w.lam, method)
    res = ig.implicit_grad(w.f, linear(scale * w.c, 2), w.theta, w.lam, method)
    assert plain.success and res.success
    assert_near(res.grad / scale, w.exact, 1e-6)
    assert_near(res.grad / scale, plain.grad, 1e-9)
    assert res.error / scale <= 1e-6 * np.linalg.norm(w.exact)


@pytest.mark.parametrize("scale", [1e-13, 1e-150, 1e150])
def test_case_19_preconditioned_and_in_single_precision(scale):
    """Least squares, θ exact: ∇g and the hypergradient shrink with X and y of the outer loss."""
    case = BY_NAME["ridge-597x43-f32-f"]
    d, (best, exact) = case.data(), case.solution()
    f, root = case.objective("train"), np.sqrt(scale)
    g = ig.LeastSquares(root * d.X_val.astype(float), root * d.y_val)
    theta = best.astype(float)
    res = ig.implicit_grad(f, g, theta, case.lam(), "cg", options={"preconditioner": "jacobi"})
    assert res.success and relative_error(res.grad / scale, exact) <= 1e-6


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e250])
def test_case_19_a_wrong_answer_is_wrong_at_any_scale(scale):
    """Squares of such numbers under- or overflow; neither inf ≤ inf nor 0 ≤ 0 is a success."""
    w = well_posed()
    g = linear(scale * w.c, 2)
    for method, more in (("cg", {"maxiter": 3}), ("identity", {"certify": True}), (mostly, {})):
        for polish in (True, False):
            options = {"polish": polish, **more, **QUIET}
            res = ig.implicit_grad(w.f, g, w.theta, w.lam, method, 1e-3, options)
            error = np.max(np.abs(res.grad / scale - w.exact))
            assert not res.success or error <= 1e-3 * np.linalg.norm(w.exact)


def mostly(hess, b):
    """A solver that loses the last entry."""
    x = np.linalg.solve(hess @ np.eye(len(b)), b)
    x[-1] = 0.0
    return x


# Case 20: four steps of training


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["logistic-feature-61x9", "ridge-groups-33x8-intercept"])
def test_case_20_training_stopped_after_four_steps(name, method):
    """Theirs was off by 16 to 157 %, with wrong signs, and said nothing."""
    case = BY_NAME[name]
    pb, exact = case.problem(), case.solution()[1]
    start, options = np.zeros(case.n_theta), {"maxiter": 4}
    stopped = minimize(pb.f.fun, start, args=(pb.lam,), jac=pb.f.jac, method="CG", options=options)
    assert stopped.nit == 4 and not stopped.success
    flagged = ig.implicit_grad(
        pb.f, pb.g, stopped.x, pb.lam, method, options={"polish": False, **QUIET}
    )
    assert (flagged.status, flagged.success) == (4, False)
    error = np.linalg.norm(flagged.grad - exact.astype(float))
    assert error > 1e-3 * np.linalg.norm(flagged.grad)  # there was something to flag
    assert error / 3 <= flagged.error <= 3 * error
    repaired = ig.implicit_grad(pb.f, pb.g, stopped.x, pb.lam, method)
    assert repaired.success and relative_error(repaired.grad, exact) <= 1e-6


# Case 21: the Hessian of a network


class Tanh:
    """½ mean (Σ_k v_k tanh(u_k·x) - y)² + ½ e^λ ‖θ‖², θ = (v, u), its derivatives by hand."""

    def __init__(self, hidden=4, inputs=3, n=25):
        rng = np.random.default_rng(21)
        self.X = rng.standard_normal((n, inputs))
        self.y = np.sin(2 * self.X[:, 0]) + 0.5
        self.hidden, self.n, self.size = hidden, n, hidden * (1 + inputs)

    def split(self, theta):
        v, u = theta[: self.hidden], theta[self.hidden :].reshape(self.hidden, -1)
        t = np.tanh(self.X @ u.T)
        return v, t, t @ v - self.y

    def jacobian(self, v, t):
        slopes = (v * (1 - t**2))[:, :, None] * self.X[:, None, :]
        return np.hstack([t, slopes.reshape(self.n, -1)])

    def fun(self, theta, lam):
        return 0.5 * np.mean(self.split(theta)[2] ** 2) + 0.5 * np.exp(lam[0]) * theta @ theta

    def jac(self, theta, lam):
        v, t, r = self.split(theta)
        return self.jacobian(v, t).T @ r / self.n + np.exp(lam[0]) * theta

    def hess(self, theta, lam):
        v, t, r = self.split(theta)
        J, K = self.jacobian(v, t), self.hidden
        H, d = J.T @ J, self.X.shape[1]
        for k in range(K):
            own = slice(K + k * d, K + (k + 1) * d)
            mixed = self.X.T @ (r * (1 - t[:, k] ** 2))
            H[k, own] += mixed
            H[own, k] += mixed
            bend = -2 * v[k] * t[:, k] * (1 - t[:, k] ** 2)
            H[own, own] += self.X.T @ ((r * bend)[:, None] * self.X)
        return H / self.n + np.exp(lam[0]) * np.eye(self.size)

    def objective(self):
        return ig.Objective(
            fun=self.fun,
            jac=self.jac,
            hessp=lambda t, v, x: self.hess(t, x) @ v,
            cross_vjp=lambda t, q, x: np.exp(x) * (t @ q),
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_case_21_indefinite_hessian_of_a_network(scale, method):
    net, lam = Tanh(), np.array([-4.0])
    theta = scale * np.random.default_rng(3).standard_normal(net.size)
    H, step = net.hess(theta, lam), 1e-5
    differences = [
        (net.jac(theta + step * e, lam) - net.jac(theta - step * e, lam)) / (2 * step)
        for e in np.eye(net.size)
    ]
    assert_near(H, np.array(differences), 1e-8)
    least = np.linalg.eigvalsh(H)[0]
    assert least < -0.01
    g = linear(np.cos(np.arange(net.size)), 1)
    res = ig.implicit_grad(net.objective(), g, theta, lam, method, options=QUIET)
    assert (res.status, res.success) == (2, False)
    assert least * (1 + 1e-9) <= res.curvature[0] < 0
    assert "negative curvature" in res.message and f"{res.curvature[0]:.1e}" in res.message


def test_case_21_the_same_network_trained():
    net, lam = Tanh(), np.array([-4.0])
    start = 0.3 * np.random.default_rng(3).standard_normal(net.size)
    theta = minimize(net.fun, start, args=(lam,), jac=net.jac, method="BFGS", tol=1e-6).x
    H = net.hess(theta, lam)
    assert np.linalg.eigvalsh(H)[0] > 1e-3
    c = np.cos(np.arange(net.size))
    res = ig.implicit_grad(net.objective(), linear(c, 1), theta, lam)
    H = net.hess(res.theta, lam)
    assert res.success
    assert_near(res.grad, -np.exp(lam) * (res.theta @ np.linalg.solve(H, c)), 1e-6)


# Case 22: a warm start at the solution


@pytest.mark.parametrize("cond", [1.0, 1e2, 1e4])
def test_case_22_cg_from_the_solution(cond):
    H = spd(80, 1 / cond, 1.0)
    b = np.cos(np.arange(80.0))
    at = quadratic(H, np.eye(80)).linearize(np.zeros(80), np.zeros(80))
    cg, hess = solvers.CG(), solvers.core_operator(at)
    cg.setup(hess)
    x = np.linalg.solve(H, b)
    warm = cg.solve(hess, b, [1e-8], x0=x)
    assert warm.status == "converged" and warm.nit == 0
    assert_near(warm.x, x, 1e-15)  # but for the scaling to and from unit norm
    # The tolerance is relative to b, not to the residual it starts from.
    near = cg.solve(hess, b, [1e-8], x0=x + 1e-9 * b)
    cold = cg.solve(hess, b, [1e-8])
    assert near.nit <= 1 and cold.nit > near.nit


@pytest.mark.parametrize("step", [1e-13, 1e-6])
def test_case_22_hyperobjective_at_nearly_the_same_lam(step):
    n = 100
    H, B = spd(n, 1e-2, 1.0), np.cos(np.arange(2.0 * n)).reshape(n, 2)
    h = ig.HyperObjective(quadratic(H, B), linear(np.sin(1.0 + np.arange(n)), 2), method="cg")
    lam = np.array([0.4, -0.7])
    h(lam)
    cold, spent = h.result.nit, h.nhev
    h(lam)
    assert h.nhev == spent  # nothing is done twice
    h(lam + step)
    assert h.result.success and cold > 20
    # The last adjoint solves the system as it stands. What is left is the certificate's: the residual
    # falls by another factor of 20, so that there is something to compare that adjoint with.
    assert h.result.nit < cold / 3
