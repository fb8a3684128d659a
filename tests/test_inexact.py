"""The inexact outer method: where it ends, what it claims, and what it costs."""

import warnings

import numpy as np
import pytest
from scipy.optimize import OptimizeWarning
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

import implicitgrad as ig
from cases import Wrapped, quadratic, replaced, spd, well_posed
from test_outer import half_forbidden, inner, outer

GTOL = 1e-5


def split(kind, X, y, n):
    X = (X - X.mean(0)) / X.std(0)
    f = kind(X[:n], y[:n], penalty=ig.L2("feature"), fit_intercept=True)
    return f, kind(X[n:], y[n:], fit_intercept=True)


def ridge():
    X, y = load_diabetes(return_X_y=True)
    return *split(ig.LeastSquares, X, (y - y.mean()) / y.std(), 221), np.full(10, -2.0)


def logistic():
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return *split(ig.Logistic, X[order], y[order], 380), np.full(30, -5.0)


def iterative(groups=20):
    """Large enough for CG, small enough for a test."""
    rng = np.random.default_rng(1)
    scales = np.geomspace(1, 0.1, 300)
    X, X_val = (rng.standard_normal((n, 300)) * scales for n in (2500, 1500))
    w = rng.standard_normal(300) / 2

    def labels(X):
        return rng.random(len(X)) < 1 / (1 + np.exp(-X @ w))

    f = ig.Logistic(X, labels(X), penalty=ig.L2(np.arange(300) % groups))
    return f, ig.Logistic(X_val, labels(X_val)), np.full(f.n_lam, -5.0)


def callables():
    """Known by their operators only: CG without a preconditioner."""
    f, g, lam = iterative(groups=5)
    f, g = Wrapped(f), Wrapped(g)
    f.n_theta, f.n_lam, g.n_lam = 300, 5, 0
    return f, g, lam


CASES = {"ridge": ridge, "logistic": logistic, "iterative": iterative, "callables": callables}


def box(lam, grad, low, high):
    return np.max(np.abs(lam - np.clip(lam - grad, low, high)))


def exact(f, g, res):
    theta = ig.train(f, res.x, res.theta).x
    return ig.implicit_grad(f, g, theta, res.x, tol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_success_means_a_small_gradient(name):
    f, g, lam = CASES[name]()
    res = ig.minimize(f, g, lam, method="inexact", bounds=[(-9, 5)] * lam.size)
    assert res.success and res.status == 0
    there = exact(f, g, res)
    assert box(res.x, there.grad, -9, 5) <= GTOL
    assert abs(there.fun - res.fun) <= 1e-7 * abs(there.fun)
    assert np.linalg.norm(res.jac - there.grad) <= max(3 * res.hypergradient.error, 1e-12)
    assert res.hypergradient.success and res.hypergradient.error <= 0.1 * GTOL
    assert np.array_equal(res.theta, res.hypergradient.theta)


@pytest.mark.parametrize(
    ("name", "share"), [("ridge", 0.1), ("logistic", 0.1), ("iterative", 0.5), ("callables", 0.6)]
)
def test_fewer_products_than_with_fixed_tolerances(name, share):
    f, g, lam = CASES[name]()
    bounds = [(-9, 5)] * lam.size
    loose = ig.minimize(f, g, lam, method="inexact", bounds=bounds)
    tight = ig.minimize(*CASES[name](), bounds=bounds)
    assert loose.success and tight.success
    assert loose.nhev <= share * tight.nhev
    # Flat tails and more than one minimum: the values need not be equal, but neither far worse.
    assert loose.fun <= tight.fun * 1.02


def test_a_unique_minimum_is_found_to_what_gtol_implies():
    rng = np.random.default_rng(20240229)
    X, X_val = rng.standard_normal((60, 20)), rng.standard_normal((60, 20))
    truth = rng.standard_normal(20) / 4
    y, y_val = X @ truth + rng.standard_normal(60), X_val @ truth + rng.standard_normal(60)
    f, g = ig.LeastSquares(X, y, penalty=ig.L2()), ig.LeastSquares(X_val, y_val)
    tight = ig.minimize(f, g, np.zeros(1), tol=1e-10)
    slope = [ig.HyperObjective(f, g)(tight.x + d)[1][0] for d in (1e-3, -1e-3)]
    second = (slope[0] - slope[1]) / 2e-3
    assert second > 0
    for gtol in (1e-3, 1e-5, 1e-7):
        res = ig.minimize(f, g, np.zeros(1), method="inexact", tol=gtol)
        assert res.success
        assert abs(res.x[0] - tight.x[0]) <= 1.1 * gtol / second + 1e-6


@pytest.mark.parametrize("bounds", [None, [(None, 1.0)], [(2.0, 9.0)]])
def test_textbook_problem_on_plain_functions(bounds):
    start = np.zeros(1) if bounds is None or bounds[0][0] is None else np.full(1, 2.0)
    res = ig.minimize(inner, outer, start, np.zeros(1), method="inexact", bounds=bounds)
    best = 1.5 if bounds is None else min(max(1.5, bounds[0][0] or -9), bounds[0][1])
    assert res.success and abs(res.x[0] - best) <= 1e-5
    assert abs(res.theta[0] - best) <= 1e-5


def test_bounds_that_hold_at_the_solution():
    f, g, lam = ridge()
    res = ig.minimize(f, g, lam, method="inexact", bounds=[(-4.0, -1.0)] * 10)
    tight = ig.minimize(f, g, lam, bounds=[(-4.0, -1.0)] * 10, tol=1e-9)
    assert res.success
    assert np.all(res.x >= -4) and np.all(res.x <= -1) and np.any(res.x == -1.0)
    assert np.array_equal(res.x == -1.0, tight.x == -1.0)
    assert abs(res.fun - tight.fun) <= 1e-6 * tight.fun


@pytest.mark.filterwarnings("ignore::implicitgrad.ImplicitGradWarning")
def test_gets_past_failed_training():
    visited = []
    f, g, start, best = half_forbidden(visited)
    res = ig.minimize(f, g, start, method="inexact")
    assert visited and res.success and np.allclose(res.x, best, atol=1e-5)


def test_training_that_fails_at_the_start_is_said():
    f = quadratic(np.diag([1.0, -1.0]), np.eye(2))  # unbounded below
    res = ig.minimize(f, quadratic(np.eye(2), np.zeros((2, 2))), np.ones(2), method="inexact")
    assert not res.success and res.status == 4
    assert res.message.startswith("Training failed at lam0. ") and np.array_equal(res.x, np.ones(2))


def test_a_gradient_that_cannot_be_certified_is_no_success():
    """∇θg is wrong by noise that no tolerance removes: the outer gradient contradicts the values."""
    w = well_posed()
    wrong = replaced(w.g, jac=lambda t, x: -w.g.jac(t, x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ig.ImplicitGradWarning)
        res = ig.minimize(w.f, wrong, w.lam, method="inexact", options={"maxiter": 50})
    assert not res.success
    assert res.status in (1, 4) and res.message


def test_iteration_limit():
    f, g, lam = ridge()
    res = ig.minimize(f, g, lam, method="inexact", options={"maxiter": 3})
    assert (res.nit, res.status, res.success) == (3, 1, False)
    assert np.array_equal(res.hypergradient.theta, res.theta)
    assert np.array_equal(res.jac, res.hypergradient.grad) and res.fun == res.hypergradient.fun


def test_the_callback_sees_estimates_and_stops():
    f, g, lam = logistic()
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result)
        if len(seen) == 4:
            raise StopIteration

    res = ig.minimize(f, g, lam, method="inexact", callback=callback)
    assert (res.status, res.success, res.nit, len(seen)) == (99, False, 4, 4)
    assert [s.nit for s in seen] == [1, 2, 3, 4]
    assert all(s.hypergradient is None and s.theta.shape == (31,) for s in seen)
    values = [s.fun for s in seen]
    assert values[-1] < values[0]
    # What is estimated of a loose gradient is of the order of its true error.
    for s in seen:
        theta = ig.train(f, s.x).x
        there = ig.implicit_grad(f, g, theta, s.x)
        true = np.linalg.norm(s.jac - there.grad)
        assert true <= 10 * s.error
        assert s.error <= 0.5 * np.linalg.norm(there.grad)


def test_deterministic():
    first, again = (ig.minimize(*iterative(5), method="inexact") for _ in range(2))
    assert np.array_equal(first.x, again.x) and first.nhev == again.nhev


def test_log_strengths_do_not_run_out_of_range():
    """Without bounds, a useless feature's strength goes to infinity and its gradient to zero."""
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((80, 3)), rng.standard_normal(80)
    y += X[:, 0]
    f = ig.LeastSquares(X[:40], y[:40], penalty=ig.L2("feature"))
    res = ig.minimize(f, ig.LeastSquares(X[40:], y[40:]), np.zeros(3), method="inexact")
    assert res.success and np.isfinite(res.x).all()


def test_unknown_options_warn():
    H = spd(4, 0.5, 2.0)
    f, g = quadratic(H, np.eye(4)), quadratic(np.eye(4), np.zeros((4, 4)))
    with pytest.warns(OptimizeWarning, match="ftol"):
        ig.minimize(f, g, np.ones(4), method="inexact", options={"ftol": 1e-3})


def images_to_learn(rows=3):
    """Three images that a softmax regression on them is to know the digits by: λ are their pixels."""
    X, y = load_digits(return_X_y=True)
    keep = y < rows
    f = ig.Softmax(
        np.zeros((rows, 64)),
        np.arange(rows),
        penalty=ig.L2("none", fixed=0.01),
        inputs=ig.Inputs(),
    )
    lam = 0.01 * np.random.default_rng(0).standard_normal(f.n_lam)
    return f, ig.Softmax(X[keep] / 16, y[keep]), lam


def test_entries_in_units_of_the_data_are_not_taken_for_logarithms():
    f, g, lam = images_to_learn()
    steps = []

    def callback(intermediate_result):
        steps.append(intermediate_result.x - lam)

    options = {"maxiter": 8, "warn": False}
    res = ig.minimize(f, g, lam, method="inexact", callback=callback, options=options)
    # A step of 1 in each pixel would leave the images far from where their gradient was computed.
    assert np.linalg.norm(steps[0]) <= 1
    by_scipy = ig.minimize(f, g, lam, options=options, method="L-BFGS-B")
    assert res.fun <= 1.1 * by_scipy.fun


@pytest.mark.parametrize(
    ("rows", "raw"),
    [
        ({"inputs": ig.Affine()}, [0] * 4 + [1] * 2),
        ({"inputs": ig.Noise()}, [0] * 2 + [0]),
        ({"inputs": ig.Inputs([1])}, [0] * 2 + [1] * 2),
        ({"targets": ig.Targets([0, 2])}, [0] * 2 + [1] * 2),
        ({"sample_weight": ig.SampleWeights("softplus")}, [0] * 2 + [0] * 3),
    ],
)
def test_which_entries_are_in_units_of_the_data(rows, raw):
    f = ig.LeastSquares(np.ones((3, 2)), np.ones(3), penalty=ig.L2("feature"), **rows)
    assert f._raw().tolist() == [bool(r) for r in raw]
