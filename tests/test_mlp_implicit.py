"""Networks as inner problems: training, hypergradients at true minima, and what happens elsewhere."""

import numpy as np
import pytest
from scipy.optimize import OptimizeWarning

import implicitgrad as ig
from cases import MLP_BY_NAME, MlpCase
from reference import cholesky_solve

QUIET = {"warn": False}
# Enough rows and little enough penalty that no unit dies, which would leave its bias undetermined.
ROOMY = {"n": 150, "p": 4, "hidden": (3,), "outputs": 3}
MINIMA = [
    MlpCase("tanh-softmax-roomy", "tanh", "softmax", **ROOMY, seed=901),
    MlpCase("tanh-squared-roomy", "tanh", "squared", **ROOMY, penalty="parameter", seed=902),
    MlpCase("softplus-squared-roomy", "softplus", "squared", **ROOMY, penalty="groups", seed=903),
    MlpCase("tanh-deep", "tanh", "softmax", (3, 3), n=200, penalty="all", weights=True, seed=904),
    MLP_BY_NAME["wide-rows-300"],
    MLP_BY_NAME["no-hidden-layer"],
]


def lam_of(case):
    return case.lam() - (3.0 if case.n < 300 and case.hidden else 0.0)


def exact(case, theta, lam):
    """The hypergradient at the minimum next to theta, from the oracle; None where H is not positive
    definite there."""
    f, g = case.reference("train"), case.reference("validation")
    try:
        theta = f.polished(theta, lam)
        q = cholesky_solve(f.system(theta, lam), g.jac(theta))
    except np.linalg.LinAlgError:
        return None
    return np.asarray(-f.cross(theta, lam).T @ q, dtype=np.float64)


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "minres", "nystrom"])
@pytest.mark.parametrize("case", MINIMA, ids=str)
def test_trained_networks_have_certified_hypergradients(case, method):
    f, g, lam = case.objective("train"), case.objective("validation"), lam_of(case)
    trained = ig.train(f, lam)
    assert trained.success, trained.message
    want = exact(case, trained.x, lam)
    assert want is not None
    res = ig.implicit_grad(f, g, trained.x, lam, method=method)
    assert res.success, res.message
    off = np.linalg.norm(res.grad - want)
    assert off <= max(3 * res.error, 1e-12 * np.linalg.norm(want))
    assert off <= 1e-6 * np.linalg.norm(want)
    assert res.error_bound == np.inf and res.curvature[0] > 0


@pytest.mark.parametrize("case", MINIMA, ids=str)
def test_the_estimate_covers_the_error_of_a_theta_that_is_off(case, rng):
    f, g, lam = case.objective("train"), case.objective("validation"), lam_of(case)
    theta = ig.train(f, lam).x
    for size in (1e-9, 1e-6, 1e-4):
        there = theta + size * rng.standard_normal(theta.size)
        want = exact(case, there, lam)
        for polish in (False, True):
            res = ig.implicit_grad(f, g, there, lam, options={"polish": polish, **QUIET})
            off = np.linalg.norm(res.grad - want)
            assert off <= 3 * res.error
            if res.success:
                assert off <= 2e-6 * np.linalg.norm(want)


def test_response_and_adjoint_agree(rng):
    case = MINIMA[0]
    f, g, lam = case.objective("train"), case.objective("validation"), lam_of(case)
    theta = ig.train(f, lam).x
    u = rng.standard_normal(f.n_lam)
    forward = ig.response(f, theta, lam, u)
    assert forward.success
    backward = ig.implicit_grad(f, g, theta, lam)
    assert g.jac(theta) @ forward.response == pytest.approx(backward.grad @ u, rel=1e-6)
    assert ig.check_hypergrad(f, g, lam, theta0=theta).success


def saddle(case, lam):
    """A stationary point at which two hidden units are the same: a minimum among such points."""
    from scipy.optimize import minimize

    f = case.objective("train")
    p, (h,), k = case.p, case.hidden, case.outputs

    def tied(t):
        out = t.copy()
        W, b, V = out[: p * h].reshape(p, h), out[p * h : p * h + h], out[p * h + h :]
        V = V[: h * k].reshape(h, k)
        W[:, 1], b[1], V[1] = W[:, 0], b[0], V[0]
        return out

    def folded(t):  # the gradient in the tied parameters
        g = f.jac(tied(t), lam)
        W, b, V = g[: p * h].reshape(p, h), g[p * h : p * h + h], g[p * h + h :]
        V = V[: h * k].reshape(h, k)
        for a in (W.T, b, V):
            a[0] += a[1]
            a[1] = 0
        return g

    start = f.initial_theta(3)
    found = minimize(
        lambda t: f.fun(tied(t), lam),
        start,
        jac=folded,
        method="L-BFGS-B",
        options={"gtol": 1e-12, "ftol": 0, "maxiter": 20_000, "maxfun": 40_000},
    )
    return f, tied(found.x)


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "minres", "neumann", "nystrom"])
@pytest.mark.parametrize("case", MINIMA[:2], ids=str)
def test_a_saddle_is_never_a_success(case, method):
    lam = lam_of(case)
    f, theta = saddle(case, lam)
    eigenvalues = np.linalg.eigvalsh(f.linearize(theta, lam).hess @ np.eye(f.n_theta))
    assert eigenvalues[0] < -1e-8 * eigenvalues[-1]  # else it is a minimum
    res = ig.implicit_grad(f, case.objective("validation"), theta, lam, method, options=QUIET)
    assert not res.success and res.status in (2, 4)
    if res.status == 2:
        assert eigenvalues[0] * (1 + 1e-6) <= res.curvature[0] < 0


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "nystrom", "minres"])
def test_a_unit_without_weights_is_no_success(method):
    """Its bias is flat, so that H is singular; Krylov methods, started in the range, do not see it."""
    refused = 0
    for seed, stronger in [
        (4, 0.0),
        (14, 0.0),
        (14, 1.0),
        (18, 0.0),
        (24, 1.0),
        (32, 0.0),
        (6, 2.0),
    ]:
        case = MlpCase("dying", "tanh", "softmax", hidden=(3,), outputs=2, n=40, p=3, seed=seed)
        f, g, lam = case.objective("train"), case.objective("validation"), case.lam() + stronger
        theta = ig.train(f, lam).x
        H = f.linearize(theta, lam).hess @ np.eye(theta.size)
        spectrum = np.linalg.eigvalsh((H + H.T) / 2)
        if spectrum[0] <= 1e-14 * spectrum[-1]:
            res = ig.implicit_grad(f, g, theta, lam, method, options=QUIET)
            assert not res.success and res.status in (2, 3), (seed, res.message)
            refused += 1
    assert refused > 4


def test_the_most_negative_curvature_is_reported():
    case = MINIMA[0]
    f, g, lam = case.objective("train"), case.objective("validation"), lam_of(case)
    theta = f.initial_theta()
    least = np.linalg.eigvalsh(f.linearize(theta, lam).hess @ np.eye(f.n_theta))[0]
    assert least < 0
    for method in ("cholesky", "cg", "minres"):
        res = ig.implicit_grad(f, g, theta, lam, method=method, options=QUIET)
        assert res.status == 2 and not res.success
        assert res.curvature[0] == pytest.approx(least, rel=1e-3)
        assert f"{res.curvature[0]:.1e}" in res.message


def test_gauss_newton_and_damping_count_their_bias():
    case = MLP_BY_NAME["wide-rows-300"]
    f, g, lam = case.objective("train"), case.objective("validation"), case.lam()
    theta = ig.train(f, lam).x
    want = exact(case, theta, lam)
    G = f.linearize(theta, lam).gauss_newton @ np.eye(f.n_theta)
    q = np.linalg.solve(G + 1e-3 * np.eye(len(G)), g.jac(theta))
    biased = -(f.linearize(theta, lam).cross.T @ q)
    options = {"curvature": "gauss_newton", "damping": 1e-3, **QUIET}
    for method in ("cholesky", "cg"):
        res = ig.implicit_grad(f, g, theta, lam, method=method, options=options)
        assert not res.success
        np.testing.assert_allclose(res.grad, biased, rtol=1e-5)
        off = np.linalg.norm(res.grad - want)
        assert off / 1.1 <= res.error <= 1.5 * off
        assert "Gauss-Newton" in res.message and "damping = 0.001" in res.message
        # An H that is not seen may be indefinite: then there is no estimate, and no success.
        there = ig.implicit_grad(f, g, f.initial_theta(), lam, method=method, options=options)
        assert there.status == 2 and there.error == np.inf


def test_gauss_newton_is_for_networks(rng):
    f = ig.LeastSquares(rng.standard_normal((9, 2)), np.ones(9), penalty=ig.L2())
    with pytest.raises(ValueError, match="curvature = 'gauss_newton' is for networks"):
        ig.implicit_grad(f, f, np.zeros(2), [0.0], options={"curvature": "gauss_newton"})
    with pytest.raises(ValueError, match="curvature = 'fisher' is unknown"):
        ig.implicit_grad(f, f, np.zeros(2), [0.0], options={"curvature": "fisher"})


def test_single_precision_is_certified_to_what_it_can():
    case = MlpCase(**{**MINIMA[0].__dict__, "dtype": "float32"})
    f, g, lam = case.objective("train"), case.objective("validation"), lam_of(case)
    trained = ig.train(f, lam)
    res = ig.implicit_grad(f, g, trained.x, lam, options=QUIET)
    want = exact(case, trained.x, lam)
    off = np.linalg.norm(res.grad - want)
    assert off <= 3 * res.error
    loose = ig.implicit_grad(f, g, trained.x, lam, tol=1e-2)
    assert loose.success, loose.message
    assert off <= 1e-2 * np.linalg.norm(want)


def test_a_tuning_of_a_network_goes_down():
    case = MINIMA[1]
    f, g = case.objective("train"), case.objective("validation")
    lam0 = np.full(f.n_lam, -7.0)
    h = ig.HyperObjective(f, g)
    before, slope = h(lam0)
    after, _ = h(lam0 - 0.5 * slope / np.abs(slope).max())
    assert after < before


@pytest.mark.parametrize("method", ["lbfgs", "adam", "sgd", "newton"])
def test_trainers_reach_the_same_basin_and_newton_ends_it(method):
    case = MINIMA[0]
    f, lam = case.objective("train"), lam_of(case)
    start = ig.train(f, lam).x
    start = start + 1e-2 * np.cos(np.arange(start.size))
    options = {"adam": {"learning_rate": 1e-2}, "sgd": {"learning_rate": 0.5}}.get(method)
    found = ig.train(f, lam, start, tol=1e-4, maxiter=4000, method=method, options=options)
    assert found.fun < f.fun(start, lam)
    assert found.success == (found.stationarity <= 1e-4)
    assert found.stationarity == np.abs(f.jac(found.x, lam)).max()
    ended = ig.train(f, lam, found.x, method="newton")
    assert ended.success and ended.stationarity < 1e-10


def test_minibatches_train_and_repeat():
    case = MINIMA[0]
    f, lam = case.objective("train"), lam_of(case)
    start = f.initial_theta()
    for method in ("adam", "sgd"):
        options = {"batch_size": 32, "learning_rate": 0.02, "rng": 5}
        one, two = (ig.train(f, lam, method=method, maxiter=300, options=options) for _ in range(2))
        assert np.array_equal(one.x, two.x)
        assert one.status == 1 and not one.success
        assert one.fun < 0.9 * f.fun(start, lam)
        other = ig.train(f, lam, method=method, maxiter=300, options={**options, "rng": 6})
        assert not np.array_equal(one.x, other.x)


def test_bad_training_arguments_are_refused_by_name(rng):
    f = ig.LeastSquares(rng.standard_normal((9, 2)), np.ones(9), penalty=ig.L2())
    with pytest.raises(ValueError, match="method = 'rmsprop' is unknown"):
        ig.train(f, [0.0], method="rmsprop")
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        ig.train(f, [0.0], method="adam", options={"learning_rate": -1.0})
    with pytest.raises(ValueError, match="momentum must be below 1"):
        ig.train(f, [0.0], method="sgd", options={"momentum": 1.0})
    own = ig.Objective(f.fun, f.jac, n_theta=2, n_lam=1)
    with pytest.raises(TypeError, match="batch_size needs an objective with rows"):
        ig.train(own, [0.0], np.zeros(2), method="sgd", options={"batch_size": 3})
    with pytest.warns(OptimizeWarning, match="momentum"):
        ig.train(f, [0.0], method="adam", maxiter=2, options={"momentum": 0.5})
    linear = ig.train(f, [0.0], method="lbfgs")
    np.testing.assert_allclose(linear.x, ig.train(f, [0.0]).x, rtol=1e-6)


def test_a_diverging_trainer_has_a_status():
    case = MINIMA[1]
    f, lam = case.objective("train"), lam_of(case)
    found = ig.train(f, lam, method="sgd", options={"learning_rate": 1e200})
    assert found.status == 5 and not found.success
