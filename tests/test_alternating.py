"""The alternating outer method: its steps by hand, where it ends, what its checks say, how it fails."""

import itertools

import numpy as np
import pytest
from scipy.optimize import OptimizeWarning

import implicitgrad as ig
import reference
from cases import MLP_BY_NAME, quadratic, replaced, spd, well_posed
from reference import relative_error

BOUNDS = [(-6.0, 3.0)] * 4


def ridge(seed=5):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((90, 4))
    y = X @ [1.0, 0.5, 0.0, 0.0] + 0.5 * rng.standard_normal(90)
    parts = [(X[a : a + 30], y[a : a + 30]) for a in (0, 30, 60)]
    f = ig.LeastSquares(*parts[0], penalty=ig.L2("feature"))
    return f, ig.LeastSquares(*parts[1]), ig.LeastSquares(*parts[2])


def logistic():
    rng = np.random.default_rng(6)
    X = rng.standard_normal((200, 5))
    y = X @ [2.0, -1.0, 0.5, 0.0, 0.0] + rng.standard_normal(200) > 0
    f = ig.Logistic(X[:80], y[:80], penalty=ig.L2(np.array([0, 0, 1, 1, 2])), fit_intercept=True)
    return f, ig.Logistic(X[80:], y[80:], fit_intercept=True)


def network(per="parameter"):
    case = MLP_BY_NAME["tanh-softmax"]
    X, y, _ = case.data()
    f = ig.MLP(X, y, hidden=(5,), penalty=ig.L2(per), n_classes=3)
    X, y, _ = case.data("validation")
    return f, ig.MLP(X, y, hidden=(5,), n_classes=3)


def alternate(f, g, lam0, callback=None, theta0=None, bounds=None, watch=None, patience=10, **options):
    options = {"warn": False, **options}
    return ig.minimize(
        *(f, g, lam0, theta0, "alternating", bounds, None, callback, options),
        watch=watch,
        patience=patience,
    )


def path(run):
    """λ and θ after each step of λ, in a run that is given the callback."""
    seen = []
    run(lambda intermediate_result: seen.append(intermediate_result))
    return np.array([s.x for s in seen]), np.array([s.theta for s in seen])


# Steps by hand: Lorraine, Vicol and Duvenaud (2020), algorithm 1, in the plainest NumPy.


def adam(rate):
    state = {"m": 0.0, "v": 0.0, "t": 0}

    def step(g):
        state["t"] += 1
        state["m"] = 0.9 * state["m"] + 0.1 * g
        state["v"] = 0.999 * state["v"] + 0.001 * g * g
        m, v = state["m"] / (1 - 0.9 ** state["t"]), state["v"] / (1 - 0.999 ** state["t"])
        return rate * m / (v**0.5 + 1e-8)

    return step


def momentum(rate, mu):
    state = {"v": 0.0}

    def step(g):
        state["v"] = mu * state["v"] + rate * g
        return state["v"]

    return step


def algorithm_1(f, g, theta, lam, inner, outer, k, warmup, count, adjoint, box):
    """The λ and θ after each of `count` steps."""
    seen = []
    for i in range(count + 1):
        for _ in range(warmup if i == 0 else k):
            theta = theta - inner(f.jac(theta, lam))
        if i:
            seen.append((lam, theta))
        q = adjoint(f.hess(theta, lam), g.jac(theta, lam))
        lam = np.clip(lam + outer(-f.cross(theta, lam).T @ q) * -1.0, *box)
    return np.array([s[0] for s in seen]), np.array([s[1] for s in seen])


def series(alpha, terms):
    def adjoint(H, b):
        return alpha * sum(np.linalg.matrix_power(np.eye(b.size) - alpha * H, j) @ b for j in range(terms))

    return adjoint


@pytest.mark.parametrize(
    ("inner", "outer", "adjoint"),
    [
        ("adam", "adam", "neumann"),
        ("sgd", "gd", "neumann"),
        ("adam", "gd", "identity"),
        ("sgd", "adam", "cg"),
    ],
)
def test_the_steps_of_algorithm_1(inner, outer, adjoint):
    f, g, _ = ridge()
    rules = {"adam": lambda: adam(0.03), "gd": lambda: momentum(0.03, 0.0)}
    inners = {"adam": lambda: adam(0.02), "sgd": lambda: momentum(0.02, 0.8)}
    options = {"optimizer": outer, "learning_rate": 0.03, "inner_method": inner}
    options |= {"inner_learning_rate": 0.02, "inner_steps": 3, "warmup": 7, "solver": adjoint}
    by_hand = {"neumann": series(0.3, 5), "identity": lambda H, b: b, "cg": np.linalg.solve}
    options |= {"neumann": {"terms": 5, "step_size": 0.3}, "cg": {"terms": 50}}.get(adjoint, {})
    options |= {"inner_momentum": 0.8} if inner == "sgd" else {}
    lam, theta0 = np.array([-2.0, -1.0, 0.0, -5.99]), np.arange(4.0)
    run = lambda callback: alternate(
        f, g, lam, callback, theta0=theta0, bounds=BOUNDS, maxiter=6, check_every=2, **options
    )
    lams, thetas = path(run)
    ref = [reference.LinearModel("squared", h.X, h.y, penalty) for h, penalty in ((f, "feature"), (g, None))]
    want = algorithm_1(
        *(*ref, theta0, lam, inners[inner](), rules[outer](), 3, 7, 6, by_hand[adjoint]),
        box=(-6.0, 3.0),
    )
    rtol = 1e-12 if adjoint != "cg" else 1e-6  # CG's own tolerance
    assert relative_error(lams, want[0]) <= rtol and relative_error(thetas, want[1]) <= rtol
