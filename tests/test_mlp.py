"""Networks: values, gradients, Hessian, Gauss-Newton and cross products against complex steps."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array

import implicitgrad as ig
from cases import MLP_BY_NAME, MLP_CASES
from reference import assert_near

# A few thousand terms at most, through up to three layers.
RTOL = 1e-11


@pytest.mark.parametrize("case", MLP_CASES, ids=str)
def test_value_and_gradients(case):
    f, ref, theta, lam = case.objective("train"), case.reference("train"), case.theta(), case.lam()
    L = f.linearize(theta, lam)
    assert (f.n_theta, f.n_lam) == (ref.n_theta, ref.n_lam)
    assert_near(np.float64(f.fun(theta, lam)), ref.fun(theta, lam), case.rtol(RTOL), "fun")
    assert_near(L.jac, ref.jac(theta, lam), case.rtol(RTOL), "jac")
    assert_near(L.jac_lam, ref.jac_lam(theta, lam), RTOL, "jac_lam")


@pytest.mark.parametrize("case", MLP_CASES, ids=str)
def test_hessian_and_gauss_newton(case, rng):
    f, ref, theta, lam = case.objective("train"), case.reference("train"), case.theta(), case.lam()
    L, rtol = f.linearize(theta, lam), case.rtol(RTOL)
    H = ref.hess(theta, lam)
    assert_near(L.hess @ np.eye(f.n_theta), H, rtol, "hess @ I")
    v = rng.standard_normal(f.n_theta)
    assert_near(L.hess @ v, H @ v, rtol, "hess @ v")
    assert_near(f.hessp(theta, v, lam), H @ v, rtol, "hessp")
    # The common shift of the outputs of a softmax is left out.
    u = np.zeros(f.n_theta)
    u[-f.widths[-1] :] = case.loss == "softmax"
    v -= u * (u @ v) / max(u @ u, 1)
    assert_near(L.gauss_newton @ v, ref.gauss_newton(theta, lam) @ v, rtol, "gauss_newton @ v")


@pytest.mark.parametrize("case", MLP_CASES, ids=str)
def test_cross(case, rng):
    f, ref, theta, lam = case.objective("train"), case.reference("train"), case.theta(), case.lam()
    C, cross = ref.cross(theta, lam), f.linearize(theta, lam).cross
    assert cross.shape == C.shape
    u, q = rng.standard_normal(f.n_lam), rng.standard_normal(f.n_theta)
    assert_near(cross @ u, C @ u, 1e-14, "cross @ u")
    assert_near(cross.T @ q, C.T @ q, 1e-13, "cross.T @ q")


@pytest.mark.parametrize("case", MLP_CASES, ids=str)
def test_products_are_symmetric_and_repeat(case, rng):
    f, theta, lam = case.objective("train"), case.theta(), case.lam()
    L = f.linearize(theta, lam)
    u, v = rng.standard_normal((2, f.n_theta))
    for A in (L.hess, L.gauss_newton):
        Au, Av = A @ u, A @ v
        scale = np.linalg.norm(u) * np.linalg.norm(Av)
        assert abs(u @ Av - v @ Au) <= case.rtol(1e-12) * scale
        assert np.array_equal(A @ u, Au)
        assert np.array_equal(A @ np.stack([u, v], 1), np.stack([Au, Av], 1))
    if f.n_lam:
        w = rng.standard_normal(f.n_lam)
        there, back = u @ (L.cross @ w), w @ (L.cross.T @ u)
        assert abs(there - back) <= 1e-12 * max(abs(there), np.linalg.norm(L.cross @ w))
    again = case.objective("train").linearize(theta, lam)
    assert again.fun == L.fun and np.array_equal(again.jac, L.jac)


def test_many_rows_go_in_blocks(rng):
    # More rows than a block has, and not a multiple of it.
    X, y = rng.standard_normal((5000, 3)), rng.integers(0, 3, 5000)
    f = ig.MLP(X, y, hidden=(4,), penalty=ig.L2("layer"))
    parts = [f.rows(np.arange(a, 5000, 7)) for a in range(7)]
    theta, lam = rng.standard_normal(f.n_theta), np.array([-1.0, 0.5])
    v = rng.standard_normal(f.n_theta)
    sizes = np.array([p.X.shape[0] for p in parts]) / 5000
    whole = f.linearize(theta, lam)
    each = [p.linearize(theta, lam) for p in parts]
    assert_near(
        np.float64(sum(s * L.fun for s, L in zip(sizes, each, strict=True))), whole.fun, 1e-13
    )
    assert_near(sum(s * L.jac for s, L in zip(sizes, each, strict=True)), whole.jac, 1e-12)
    assert_near(
        sum(s * (L.hess @ v) for s, L in zip(sizes, each, strict=True)), whole.hess @ v, 1e-12
    )


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_rows_keep_the_weights_of_all_rows(n_threads, rng):
    X, y, w = rng.standard_normal((30, 4)), rng.standard_normal((30, 2)), rng.random(30)
    f = ig.MLP(
        X, y, hidden=(3,), loss="squared", penalty=ig.L2(), sample_weight=w, n_threads=n_threads
    )
    theta, lam = rng.standard_normal(f.n_theta), np.array([-1.0])
    some = np.array([3, 5, 5, -1])
    want = np.mean([f.rows([i]).jac(theta, lam) for i in some], axis=0)
    assert_near(f.rows(some).jac(theta, lam), want, 1e-13)
    mean = np.mean([f.rows([i]).fun(theta, lam) for i in range(30)])
    assert_near(np.float64(f.fun(theta, lam)), mean, 1e-13)


def test_layouts_of_X_are_the_same_problem(rng):
    X, y = rng.standard_normal((40, 5)), rng.integers(0, 3, 40)
    theta = None
    found = []
    for given in (X, np.asfortranarray(X), np.repeat(X, 2, 1)[:, ::2], np.hstack([X, X])[:, :5]):
        f = ig.MLP(given, y, hidden=(4,))
        theta = f.initial_theta() if theta is None else theta
        found.append(f.jac(theta))
    for jac in found[1:]:
        assert_near(jac, found[0], 1e-14)


def test_extreme_outputs_stay_finite():
    f = ig.MLP(np.array([[1.0], [-1.0]]), [0, 1], hidden=())
    theta = np.array([2000.0, -2000.0, 0.0, 0.0])
    assert f.fun(theta) == 0.0 and not f.jac(theta).any()
    assert f.fun(-theta) == 4000.0
    assert_near(f.jac(-theta), np.array([-1.0, 1.0, 0.0, 0.0]), 1e-15)


def test_unravel_gives_views_in_order():
    f = MLP_BY_NAME["tanh-two-layers"].objective("train")
    theta = np.arange(float(f.n_theta))
    layers = f.unravel(theta)
    assert [W.shape for W, _ in layers] == list(pairwise(f.widths))
    assert np.array_equal(np.concatenate([np.r_[W.ravel(), b] for W, b in layers]), theta)
    layers[0][0][0, 0] = -5.0
    assert theta[0] == -5.0


def test_no_hidden_layer_is_a_linear_model(rng):
    X, y = rng.standard_normal((50, 6)), rng.standard_normal(50)
    net = ig.MLP(X, y, hidden=(), loss="squared", penalty=ig.L2("parameter", fixed=0.1))
    line = ig.LeastSquares(X, y, penalty=ig.L2("feature", fixed=0.1), fit_intercept=True)
    theta, lam = rng.standard_normal(7), rng.standard_normal(6)
    a, b = net.linearize(theta, lam), line.linearize(theta, lam)
    assert_near(np.float64(a.fun), b.fun, 1e-13)
    assert_near(a.jac, b.jac, 1e-13)
    assert_near(a.jac_lam, b.jac_lam, 1e-14)
    assert_near(a.hess @ np.eye(7), b.hess @ np.eye(7), 1e-13)
    assert_near(a.gauss_newton @ np.eye(7), b.hess @ np.eye(7), 1e-13)


def test_jax_agrees(rng):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    X, y = rng.standard_normal((200, 7)), rng.integers(0, 4, 200)
    net = ig.MLP(X, y, hidden=(6, 5), penalty=ig.L2("parameter"))
    lam = rng.standard_normal(net.n_lam) - 2
    theta, v = net.initial_theta(1) + 0.1, rng.standard_normal(net.n_theta)

    def f(theta, lam):
        a, at, penalty, seen = X, 0, 0.0, 0
        for i, (m, k) in enumerate(pairwise(net.widths)):
            W, b = theta[at : at + m * k].reshape(m, k), theta[at + m * k : at + (m + 1) * k]
            a = a @ W + b
            a = a if i == 2 else jnp.tanh(a)
            strength = jnp.exp(lam[seen : seen + m * k]).reshape(m, k)
            penalty += jnp.sum(strength * W**2) / 2
            at, seen = at + (m + 1) * k, seen + m * k
        return jnp.mean(jax.nn.logsumexp(a, axis=1) - a[jnp.arange(200), y]) + penalty

    L = net.linearize(theta, lam)
    _, hvp = jax.linearize(lambda t: jax.grad(f)(t, lam), theta)
    _, vjp = jax.vjp(lambda x: jax.grad(f)(theta, x), lam)
    assert_near(L.hess @ v, np.array(hvp(v)), 1e-10)
    assert_near(L.cross.T @ v, np.array(vjp(v)[0]), 1e-10)
    assert_near(L.jac_lam, np.array(jax.grad(f, 1)(theta, lam)), 1e-10)


X, Y = np.ones((4, 2)), np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("error", "match", "kwargs"),
    [
        (TypeError, "X is sparse", {"X": csr_array(X)}),
        (ValueError, "y has 3 entries, X has 4 rows", {"y": Y[:3]}),
        (ValueError, "y must hold integer labels", {"y": [0.5, 1, 0, 0]}),
        (ValueError, "y must hold integer labels", {"y": [-1, 1, 1, -1]}),
        (
            ValueError,
            "y holds the label 2, n_classes is 2",
            {"y": [0, 2, 1, 0], "n_classes": 2},
        ),
        (ValueError, "n_classes must be at least 2", {"n_classes": 1}),
        (ValueError, "n_classes is for loss", {"loss": "squared", "n_classes": 2}),
        (TypeError, "hidden must be a tuple", {"hidden": 3}),
        (TypeError, "hidden must be an integer", {"hidden": (2.5,)}),
        (ValueError, "hidden must be at least 1", {"hidden": (0,)}),
        (ValueError, "activation = 'sigmoid' is unknown", {"activation": "sigmoid"}),
        (ValueError, "loss = 'hinge' is unknown", {"loss": "hinge"}),
        (TypeError, "penalty must be", {"penalty": "layer"}),
        (ValueError, r"L2\('feature'\) is for linear models", {"penalty": ig.L2("feature")}),
        (ValueError, "3 group labels, the network has 8 weights", {"penalty": ig.L2([0, 0, 1])}),
        (ValueError, "X contains nan", {"X": np.where(np.eye(4)[:, :2] > 0, np.nan, 1.0)}),
        (
            ValueError,
            "X contains inf",
            {"X": np.where(np.eye(4)[:, :2] > 0, np.inf, 1.0).astype(np.float32)},
        ),
        (ValueError, "sample_weight is zero", {"sample_weight": np.zeros(4)}),
    ],
)
def test_bad_input_is_refused_by_name(error, match, kwargs):
    given = {"X": X, "y": Y, "hidden": (2,), "penalty": ig.L2(), **kwargs}
    with pytest.raises(error, match=match):
        ig.MLP(given.pop("X"), given.pop("y"), **given)


def test_bad_rows_and_points_are_refused_by_name():
    f = ig.MLP(X, Y, hidden=(2,), penalty=ig.L2())
    with pytest.raises(ValueError, match="idx names row 4, X has 4 rows"):
        f.rows([4])
    with pytest.raises(TypeError, match="idx must be a non-empty vector"):
        f.rows([0.5])
    with pytest.raises(TypeError, match="idx must be a non-empty vector"):
        f.rows([])
    with pytest.raises(ValueError, match="theta has 3 entries, MLP expects 12"):
        f.fun(np.zeros(3), [0.0])
    with pytest.raises(ValueError, match="theta has 3 entries, MLP expects 12"):
        f.unravel(np.zeros(3))
    with pytest.raises(ValueError, match="lam is missing"):
        f.fun(np.zeros(12))
    with pytest.raises(ValueError, match=r"'layer'.*is for networks"):
        ig.LeastSquares(X, Y, penalty=ig.L2("layer"))


def test_a_subset_and_a_copy_leave_the_objective_alone(rng):
    X = rng.standard_normal((20, 2))
    f = ig.MLP(X, X[:, 0], hidden=(3,), loss="squared", penalty=ig.L2())
    theta, lam, before = f.initial_theta(), np.array([-2.0]), X.copy()
    value = f.fun(theta, lam)
    f.rows([0, 1]).fun(theta, lam)
    assert f.fun(theta, lam) == value and np.array_equal(X, before)


def test_copies_and_pickles_are_the_same_problem(rng):
    import copy
    import pickle

    f = MLP_BY_NAME["tanh-two-layers"].objective("train")
    theta, lam = f.initial_theta(), MLP_BY_NAME["tanh-two-layers"].lam()
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f)), f.rows(np.arange(40))):
        assert other.fun(theta, lam) == pytest.approx(f.fun(theta, lam), rel=1e-14)
        assert np.array_equal(
            other.linearize(theta, lam).cross.T @ theta, f.linearize(theta, lam).cross.T @ theta
        )
