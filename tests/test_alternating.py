"""The alternating outer method: its steps by hand, where it ends, what its checks say, how it fails."""

import numpy as np
import pytest
from scipy.optimize import OptimizeWarning

import implicitgrad as ig
import reference
from cases import MLP_BY_NAME
from reference import assert_near
from test_outer import inner, outer

BOUNDS = [(-6.0, 3.0)]


def ridge(per="feature"):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((90, 4))
    y = X @ [1.0, 0.5, 0.0, 0.0] + 0.5 * rng.standard_normal(90)
    parts = [(X[a : a + 30], y[a : a + 30]) for a in (0, 30, 60)]
    f = ig.LeastSquares(*parts[0], penalty=ig.L2(per))
    return f, ig.LeastSquares(*parts[1]), ig.LeastSquares(*parts[2])


def logistic():
    rng = np.random.default_rng(6)
    X = rng.standard_normal((200, 5))
    y = X @ [2.0, -1.0, 0.5, 0.0, 0.0] + rng.standard_normal(200) > 0
    f = ig.Logistic(X[:80], y[:80], penalty=ig.L2(np.array([0, 0, 1, 1, 1])), fit_intercept=True)
    return f, ig.Logistic(X[80:], y[80:], fit_intercept=True)


def network(per="parameter"):
    case = MLP_BY_NAME["tanh-softmax"]
    (X, y, _), (X_val, y_val, _) = case.data(), case.data("validation")
    f = ig.MLP(X, y, hidden=(5,), penalty=ig.L2(per), n_classes=3)
    return f, ig.MLP(X_val, y_val, hidden=(5,), n_classes=3)


def alternate(f, g, lam0, *, theta0=None, bounds=BOUNDS, callback=None, watch=None, **options):
    return ig.minimize(
        *(f, g, lam0),
        theta0=theta0,
        method="alternating",
        bounds=bounds * np.size(lam0) if bounds else None,
        callback=callback,
        options={"warn": False, **options},
        watch=watch,
        patience=5,
    )


def steps_of(f, g, lam0, **options):
    """λ, θ and the gradient after each step of λ, and the result."""
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result)

    res = alternate(f, g, lam0, callback=callback, **options)
    return *(np.array([s[name] for s in seen]) for name in ("x", "theta", "jac")), res


# Algorithm 1 of Lorraine, Vicol and Duvenaud (2020), in the plainest NumPy.


def adam(rate):
    m = v = t = 0.0

    def step(g):
        nonlocal m, v, t
        m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, t + 1
        return rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)

    return step


def momentum(rate, mu):
    v = 0.0

    def step(g):
        nonlocal v
        v = mu * v + rate * g
        return v

    return step


def series(alpha, terms):
    def adjoint(H, b):
        return alpha * sum(np.linalg.matrix_power(np.eye(b.size) - alpha * H, j) @ b
                           for j in range(terms))  # fmt: skip

    return adjoint


def algorithm_1(f, g, theta, lam, inner, outer, k, warmup, count, adjoint, box):
    lams, thetas, grads = [], [], []
    for i in range(count + 1):
        for _ in range(k if i else warmup):
            theta = theta - inner(f.jac(theta, lam))
        grad = -f.cross(theta, lam).T @ adjoint(f.hess(theta, lam), g.jac(theta, lam))
        if i:
            lams, thetas, grads = [*lams, lam], [*thetas, theta], [*grads, grad]
        lam = np.clip(lam - outer(grad), *box)
    return lams, thetas, grads


@pytest.mark.parametrize(
    ("inner", "outer", "solver", "rtol"),
    [
        ("adam", "adam", "neumann", 1e-12),
        ("sgd", "gd", "neumann", 1e-12),
        ("adam", "gd", "identity", 1e-12),
        ("sgd", "adam", "cg", 1e-6),  # CG stops at a residual of its own
    ],
)
def test_the_steps_of_algorithm_1(inner, outer, solver, rtol):
    f, g, _ = ridge()
    options = {"inner_method": inner, "inner_learning_rate": 0.02, "inner_steps": 3, "warmup": 7}
    options |= {"optimizer": outer, "learning_rate": 0.04, "solver": solver, "maxiter": 6}
    by_rule = {"adam": adam(0.02), "sgd": momentum(0.02, 0.8)}[inner]
    options |= {"inner_momentum": 0.8} if inner == "sgd" else {}
    by_outer = {"adam": adam(0.04), "gd": momentum(0.04, 0.0)}[outer]
    adjoint = {"neumann": series(0.3, 5), "identity": lambda H, b: b}.get(solver)
    options |= {"neumann": {"terms": 5, "step_size": 0.3}, "cg": {"terms": 50}}.get(solver, {})
    lam0, theta0 = np.array([-2.0, -1.0, 0.0, -5.99]), np.arange(4.0)
    *got, res = steps_of(f, g, lam0, theta0=theta0, check_every=2, **options)
    ref_f, ref_g = (
        reference.LinearModel("LeastSquares", h.X, h.y, per)
        for h, per in ((f, "feature"), (g, None))
    )
    want = algorithm_1(
        *(ref_f, ref_g, theta0, lam0, by_rule, by_outer, 3, 7, 6),
        adjoint or reference.cholesky_solve,
        (-6.0, 3.0),
    )
    for ours, theirs, name in zip(got, want, ("lam", "theta", "grad"), strict=True):
        assert_near(ours, np.array(theirs), rtol, name)
    assert np.array_equal(res.loop_theta, got[1][-1]) and np.array_equal(res.x, got[0][-1])
    assert [c.nit for c in res.checks] == [2, 4, 6]


def test_checks_do_not_touch_the_loop():
    f, g, _ = ridge()
    often = steps_of(f, g, np.zeros(4), maxiter=12, check_every=1)
    never = steps_of(f, g, np.zeros(4), maxiter=12, check_every=1000)
    for ours, theirs in zip(often[:3], never[:3], strict=True):
        assert np.array_equal(ours, theirs)
    assert (len(often[3].checks), len(never[3].checks)) == (12, 1)


# Where it ends


@pytest.mark.parametrize("problem", [lambda: ridge("all")[:2], logistic])
@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_run_long_enough_it_ends_where_lbfgs_does(problem, solver):
    f, g = problem()
    lam0 = np.full(f.n_lam, -2.0)
    best = ig.minimize(f, g, lam0, bounds=BOUNDS * f.n_lam, tol=1e-9)
    res = alternate(
        *(f, g, lam0),
        inner_method="sgd",
        inner_learning_rate=0.2,
        inner_steps=10,
        solver=solver,
        terms=200,
        maxiter=2000,
        check_every=50,
        gtol=1e-6,
    )
    assert res.success and res.status == 0 and "within gtol" in res.message
    assert np.max(np.abs(res.x - best.x)) <= 1e-3
    assert abs(res.fun - best.fun) <= 1e-8 * best.fun
    last = res.checks[-1]
    assert last.success and last.size + last.error <= 1e-6
    assert np.array_equal(last.grad, res.jac) and np.array_equal(last.x, res.x)
    assert np.array_equal(res.hypergradient.grad, res.jac) and res.fun == res.hypergradient.fun
    assert np.array_equal(res.theta, res.hypergradient.theta)


@pytest.mark.parametrize("outer", ["gd", "adam"])
def test_with_training_to_the_end_it_is_the_other_method(outer):
    f, g = logistic()
    lam0, seen = np.full(2, -2.0), []
    options = {"learning_rate": 0.3, "maxiter": 8}
    ig.minimize(
        *(f, g, lam0, None, outer, BOUNDS * 2),
        callback=lambda intermediate_result: seen.append(intermediate_result.x),
        options=options,
    )
    lams, _, _, res = steps_of(
        *(f, g, lam0),
        optimizer=outer,
        inner_method="sgd",
        inner_learning_rate=0.3,
        **{"inner_steps": 500, "solver": "cg", "terms": 100, **options},
    )
    assert_near(lams, np.array(seen), 1e-6)
    assert res.checks[-1].cosine >= 1 - 1e-9 and res.checks[-1].difference <= 1e-4


def test_what_the_rules_remember_lives_on():
    f, g, _ = ridge()
    given = {"inner_steps": 2, "check_every": 100}
    whole = alternate(f, g, np.zeros(4), maxiter=20, **given)
    half = alternate(f, g, np.zeros(4), maxiter=10, **given)
    again = alternate(f, g, half.x, theta0=half.loop_theta, maxiter=10, warmup=0, **given)
    assert np.max(np.abs(again.x - whole.x)) > 1e-3
    lams, *_ = steps_of(f, g, np.zeros(4), maxiter=20, **given)
    assert np.array_equal(lams[9], half.x) and np.array_equal(lams[19], whole.x)


# Minibatches and networks


def test_minibatches_repeat_by_their_seed():
    f, g = network()
    runs = [
        alternate(f, g, np.full(f.n_lam, -3.0), maxiter=5, batch_size=7, check_maxiter=5, rng=seed)
        for seed in (0, 0, 1, np.random.default_rng(1))
    ]
    assert np.array_equal(runs[0].x, runs[1].x) and np.array_equal(runs[2].x, runs[3].x)
    assert not np.array_equal(runs[0].x, runs[2].x)
    assert np.array_equal(runs[0].jac, runs[1].jac)


def test_a_decay_for_each_weight_of_a_network():
    f, g = network()
    lam0 = np.full(f.n_lam, -5.0)
    before = g.fun(ig.train(f, lam0).x)
    # θ keeps up with λ: fewer steps leave it on the way to one of many minima.
    given = {"inner_learning_rate": 0.02, "inner_steps": 50, "warmup": 500, "terms": 100}
    res = alternate(f, g, lam0, maxiter=60, check_every=20, **given)
    assert res.status == 1 and not res.success
    assert res.fun < 0.6 * before and g.fun(res.loop_theta) < 0.6 * before
    assert all(c.success and c.cosine > 0 for c in res.checks)
    assert all(np.isfinite([c.cosine, c.ratio, c.difference]).all() for c in res.checks)


def test_checks_agree_with_retrained_differences():
    f, g = logistic()
    res = alternate(f, g, np.full(2, -2.0), inner_learning_rate=0.05, maxiter=20, check_every=10)
    for check in res.checks:
        assert check.success and check.error <= 1e-5
        refits = ig.check_hypergrad(f, g, check.x)
        assert refits.success
        assert_near(check.grad, refits.hypergradient.grad, 1e-5)
    # What the shortcut cost, put together again from the loop's own gradients.
    jacs = steps_of(f, g, np.full(2, -2.0), inner_learning_rate=0.05, maxiter=20)[2]
    for check, jac in zip(res.checks, jacs[[9, 19]], strict=True):
        size = np.linalg.norm(check.grad)
        assert abs(check.difference - np.linalg.norm(jac - check.grad) / size) <= 1e-12
        assert abs(check.ratio - np.linalg.norm(jac) / size) <= 1e-12
        assert abs(check.cosine - jac @ check.grad / size / np.linalg.norm(jac)) <= 1e-12


# How it stops


def test_the_callback_sees_checks_and_stops():
    f, g, _ = ridge()
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result)
        intermediate_result.theta[:] = np.nan  # the callback's own
        intermediate_result.jac[:] = np.nan
        if len(seen) == 5:
            raise StopIteration

    res = alternate(f, g, np.zeros(4), callback=callback, check_every=2)
    assert (res.status, res.success, res.nit) == (99, False, 5)
    assert [s.nit for s in seen if "check" in s] == [2, 4]
    assert [c.nit for c in res.checks] == [2, 4, 5] and np.array_equal(res.x, seen[-1].x)


def test_a_third_set_stops_it_and_has_its_lam_returned():
    f, g, third = ridge()
    seen = []
    res = alternate(
        *(f, g, np.full(4, -4.0)),
        callback=lambda intermediate_result: seen.append(intermediate_result),
        watch=third,
        inner_learning_rate=0.05,
        learning_rate=0.2,
        inner_steps=5,
    )
    assert res.stopped_early and res.status == 0
    best = int(np.argmin(res.watch_values))
    assert len(res.watch_values) == res.nit + 1 == best + 6 and best > 0
    assert np.array_equal(res.x, seen[best - 1].x)
    assert np.array_equal(res.loop_theta, seen[best - 1].theta)
    assert res.watch_fun == res.watch_values[best] == third.fun(res.loop_theta)
    assert res.checks[-1].nit == best and np.array_equal(res.checks[-1].x, res.x)
    assert np.array_equal(res.hypergradient.grad, res.checks[-1].grad)


@pytest.mark.parametrize(
    "options",
    [
        {"inner_method": "sgd", "inner_learning_rate": 1e3},
        {"inner_method": "sgd", "inner_learning_rate": 1e300},
        {"optimizer": "gd", "learning_rate": 1e9},
    ],
)
def test_steps_too_long_are_said(options):
    f, g, _ = ridge()
    res = alternate(f, g, np.zeros(4), bounds=None, warmup=0, maxiter=500, **options)
    assert (res.status, res.success) == (4, False) and "learning_rate" in res.message
    assert np.isfinite(res.x).all() and np.isfinite(res.fun) and np.isfinite(res.jac).all()


def test_a_warm_up_that_diverges_is_said():
    f, g, _ = ridge()
    given = {"inner_method": "sgd", "inner_learning_rate": 1e3, "warmup": 500}
    res = alternate(f, g, np.zeros(4), **given)
    assert (res.status, res.success, res.nit) == (4, False, 0)
    assert "lam0" in res.message and "inner_learning_rate" in res.message and res.checks == []


def test_a_series_that_diverges_is_no_success():
    f, g, _ = ridge()
    res = alternate(f, g, np.zeros(4), step_size=1e3, terms=200, maxiter=30)
    assert not res.success and res.status in (1, 4)
    assert np.isfinite(res.x).all()


# What is refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, 0)
            for name in ("inner_steps", "maxiter", "check_every", "check_maxiter", "terms")
        ),
        *((name, 1.5) for name in ("inner_steps", "warmup", "maxiter", "batch_size")),
        *((name, -1.0) for name in ("learning_rate", "inner_learning_rate", "step_size", "gtol")),
        *((name, "newton") for name in ("inner_method", "optimizer", "solver", "rng")),
        *(("beta1", 1.0), ("inner_beta2", -0.1), ("warmup", -1), ("batch_size", 0)),
        *(("learning_rate", float("nan")), ("inner_learning_rate", None), ("rng", -1)),
    ],
)
def test_bad_options_are_named(name, value):
    f, g = network()
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        alternate(f, g, np.zeros(f.n_lam), **{name: value})


def test_minibatches_need_rows():
    f, g, _ = ridge()
    own = ig.Objective(f.fun, f.jac, n_theta=f.n_theta, n_lam=4)
    with pytest.raises(TypeError, match="batch_size needs an objective with rows"):
        alternate(own, g, np.zeros(4), batch_size=5)


@pytest.mark.parametrize(
    "options", [{"inner_step": 3}, {"solver": "identity", "terms": 3}, {"inner_momentum": 0.5}]
)
def test_unknown_options_warn(options):
    f, g, _ = ridge()
    with pytest.warns(OptimizeWarning, match=list(options)[-1]):
        alternate(f, g, np.zeros(4), maxiter=1, **options)


def test_a_watched_loop_that_converges_says_so():
    f, g = logistic()
    given = {"inner_method": "sgd", "inner_learning_rate": 0.2, "inner_steps": 10, "solver": "cg"}
    third = ig.Logistic(g.X[:40], g.y[:40], fit_intercept=True)
    seen = []
    res = ig.minimize(
        *(f, g, np.full(2, -2.0)),
        method="alternating",
        bounds=BOUNDS * 2,
        options={"warn": False, "maxiter": 2000, "check_every": 50, **given},
        callback=lambda intermediate_result: seen.append(intermediate_result),
        watch=third,
        patience=10_000,
    )
    assert (
        res.success and res.status == 0 and not res.stopped_early and "within gtol" in res.message
    )
    assert res.watch_fun == res.watch_values.min() and len(seen) == res.nit


def test_plain_functions_alternate_too():
    res = ig.minimize(
        *(inner, outer, np.zeros(1), np.zeros(1)),
        method="alternating",
        options={"inner_method": "sgd", "inner_learning_rate": 0.3, "check_every": 50},
    )
    assert res.success and abs(res.x[0] - 1.5) <= 1e-5 and abs(res.loop_theta[0] - 1.5) <= 1e-4
