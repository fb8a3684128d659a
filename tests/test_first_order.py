"""Gradient descent and Adam on the outer problem."""

import numpy as np
import pytest
from scipy.optimize import OptimizeWarning

import implicitgrad as ig
from test_outer import diabetes, inner, outer


def test_adam_by_hand():
    """h = x²/2 + (x − 3)²/2, h' = 2x − 3, with the moments kept by hand."""
    options = {"learning_rate": 0.2, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "maxiter": 5}
    res = ig.minimize(inner, outer, np.zeros(1), np.zeros(1), method="adam", options=options)
    x = m = v = 0.0
    for t in range(1, 6):
        slope = 2 * x - 3
        m, v = 0.8 * m + 0.2 * slope, 0.9 * v + 0.1 * slope**2
        x -= 0.2 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
    assert res.nit == 5 and res.status == 1 and not res.success
    assert abs(res.x[0] - x) <= 1e-6


@pytest.mark.parametrize("method", ["gd", "adam"])
@pytest.mark.parametrize(("low", "high", "best"), [(None, 1.0, 1.0), (2.0, 9.0, 2.0), (-9, 9, 1.5)])
def test_bounds_and_gtol(method, low, high, best):
    options = {"learning_rate": 0.3 if method == "gd" else 0.1, "maxiter": 2000, "gtol": 1e-4}
    start = np.full(1, 9.0 if low == 2.0 else 0.5)
    res = ig.minimize(
        inner, outer, start, np.zeros(1), method=method, bounds=[(low, high)], options=options
    )
    assert res.success and res.status == 0
    assert abs(res.x[0] - best) <= 1e-4
    step = np.clip(res.x - res.jac, -np.inf if low is None else low, high) - res.x
    assert np.max(np.abs(step)) <= 1e-4


def test_adam_tunes_real_data():
    f, g = diabetes()
    bounds = [(-6.0, 3.0)] * 10
    res = ig.minimize(
        f, g, np.full(10, -2.0), method="adam", bounds=bounds, tol=1e-4, options={"maxiter": 3000}
    )
    tight = ig.minimize(f, g, np.full(10, -2.0), bounds=bounds)
    assert res.success and abs(res.fun - tight.fun) <= 1e-3 * tight.fun


@pytest.mark.parametrize("name", ["learning_rate", "beta1", "beta2", "eps", "maxiter", "gtol"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), "1"])
def test_adam_refuses_by_name(name, value):
    with pytest.raises((ValueError, TypeError), match=name):
        ig.minimize(inner, outer, np.zeros(1), np.zeros(1), method="adam", options={name: value})


@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_a_mean_needs_some_of_the_new(name):
    with pytest.raises(ValueError, match=name):
        ig.minimize(inner, outer, np.zeros(1), np.zeros(1), method="adam", options={name: 1.0})


def test_adam_unknown_option_warns():
    with pytest.warns(OptimizeWarning, match="beta3"):
        ig.minimize(
            inner,
            outer,
            np.zeros(1),
            np.zeros(1),
            method="adam",
            options={"beta3": 1, "maxiter": 1},
        )


@pytest.mark.parametrize("method", ["gd", "adam"])
def test_a_step_too_long_for_training_is_said(method):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    f = ig.LeastSquares(X[:20], y[:20], penalty=ig.L2("feature"))
    res = ig.minimize(
        *(f, ig.LeastSquares(X[20:], y[20:]), np.zeros(3)),
        method=method,
        options={"learning_rate": 1e6, "warn": False},
    )
    assert not res.success and res.status == 4 and "learning_rate" in res.message
