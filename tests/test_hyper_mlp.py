"""Weights, inputs and targets of networks as hyperparameters, and the influence of their rows, against
complex steps and retrained networks."""

import copy
import pickle

import numpy as np
import pytest
from scipy.stats import spearmanr

import implicitgrad as ig
import reference
from implicitgrad.linearization import EXACT
from reference import assert_near
from row_cases import BLOCKS, N, P
from row_oracle import OnRows

QUIET = {"warn": False}
RTOL = 1e-11
ROWS = np.arange(N)


class Net:
    """A network with blocks of λ in its rows, and what the oracle makes of it."""

    def __init__(self, loss, hidden, activation="tanh", *, outputs=3, dtype="float64", **blocks):
        rng = np.random.default_rng(7)
        self.X = rng.standard_normal((N, P)).astype(dtype)
        z = np.sin(self.X @ rng.standard_normal((P, outputs))) + 0.3 * rng.standard_normal(
            (N, outputs)
        )
        self.y = z.argmax(1) if loss == "softmax" else z[:, 0] if outputs == 1 else z
        self.shape = {"hidden": hidden, "activation": activation, "loss": loss}
        self.blocks = {name: BLOCKS[block] for name, block in blocks.items()}
        given = {name: block.given() for name, block in self.blocks.items()}
        self.f = self.make(self.X, self.y, penalty=ig.L2("layer", fixed=0.02), **given)

        def build(X, y, s):
            model = reference.MLP(X, y, hidden, activation, loss, "layer", 0.02, None, outputs)
            model.c = s / N
            return model

        self.ref = OnRows(build, self.X, self.y, list(self.blocks.values()))
        penalties = rng.uniform(-5, -3, self.ref.n_penalty)
        in_rows = 0.5 * rng.standard_normal(self.ref.n_lam - penalties.size)
        self.lam = np.r_[penalties, in_rows]
        self.theta = rng.standard_normal(self.f.n_theta) / 2

    def make(self, X, y, **given):
        classes = {"n_classes": 3} if self.shape["loss"] == "softmax" else {}
        return ig.MLP(X, y, **self.shape, **classes, **given)


NETS = {
    "softmax-weights": ("softmax", (4,), "tanh", {"sample_weight": "sigmoid"}),
    "softmax-all": ("softmax", (3, 4), "tanh", {"sample_weight": "exp", "inputs": "inputs-some"}),
    "softmax-groups": ("softmax", (3,), "softplus", {"sample_weight": "softmax-groups"}),
    "softmax-inputs": ("softmax", (3,), "softplus", {"inputs": "inputs"}),
    "softmax-relu": ("softmax", (5,), "relu", {"sample_weight": "softmax", "inputs": "affine"}),
    "squared-warp": ("squared", (4,), "tanh", {"sample_weight": "softplus", "inputs": "warp"}),
    "no-hidden-layer": ("softmax", (), "tanh", {"sample_weight": "exp", "inputs": "inputs-some"}),
    "softmax-targets": ("softmax", (4,), "tanh", {"targets": "shares"}),
    "softmax-everything": (
        *("softmax", (3, 4), "softplus"),
        {"sample_weight": "exp", "inputs": "inputs-some", "targets": "shares-some"},
    ),
    "softmax-targets-no-hidden-layer": ("softmax", (), "tanh", {"targets": "shares-some"}),
    "outputs": ("squared", (4,), "tanh", {"targets": "outputs"}),
    "outputs-everything": (
        *("squared", (2, 3), "softplus"),
        {"sample_weight": "sigmoid", "inputs": "noise", "targets": "outputs-some"},
    ),
}
ONE_OUTPUT = {
    "targets": ("squared", (4,), "tanh", {"targets": "targets"}),
    "targets-all": (
        *("squared", (2, 3), "softplus"),
        {"sample_weight": "exp", "inputs": "inputs-some", "targets": "targets-some"},
    ),
    "targets-no-hidden-layer": ("squared", (), "tanh", {"targets": "targets-some"}),
}


def net(name, **given):
    *shape, blocks = (NETS | ONE_OUTPUT)[name]
    return Net(*shape, outputs=1 if name in ONE_OUTPUT else 3, **blocks, **given)


every_net = pytest.mark.parametrize("name", [*NETS, *ONE_OUTPUT])


@every_net
def test_against_the_definition(name, rng):
    case = net(name)
    f, ref, theta, lam = case.f, case.ref, case.theta, case.lam
    assert (f.n_theta, f.n_lam) == (ref.n_theta, ref.n_lam)
    assert list(f.split(lam)) == ["penalty", *case.blocks]
    q, u = rng.standard_normal(f.n_theta), rng.standard_normal(f.n_lam)
    at = f.linearize(theta, lam)
    assert_near(np.float64(at.fun), ref.fun(theta, lam), 1e-13, "fun")
    assert_near(at.jac, ref.jac(theta, lam), RTOL, "jac")
    assert_near(at.hess @ q, ref.hess(theta, lam) @ q, RTOL, "hess")
    assert_near(at.jac_lam, ref.jac_lam(theta, lam), 2e-11, "jac_lam")
    C = ref.cross(theta, lam)
    assert_near(at.cross.T @ q, C.T @ q, 2e-11, "cross.T")
    assert_near(at.cross @ u, C @ u, 2e-11, "cross")
    there, back = q @ (at.cross @ u), u @ (at.cross.T @ q)
    assert abs(there - back) <= 1e-12 * np.linalg.norm(q) * np.linalg.norm(at.cross @ u)
    Q = np.stack([q, theta], 1)
    assert np.array_equal(at.cross.T @ Q, np.stack([at.cross.T @ q, at.cross.T @ theta], 1))


@every_net
def test_the_size_of_terms_is_not_from_below(name, rng):
    case = net(name)
    at = case.f.linearize(case.theta, case.lam)
    q = rng.standard_normal(case.f.n_theta)
    product, scale = at._core.cross_transpose_and_scale(q)
    assert np.linalg.norm(product) <= scale * (1 + 1e-12)
    if list(case.blocks) == ["sample_weight"]:
        C = np.asarray(case.ref.cross(case.theta, case.lam), dtype=float)
        assert np.linalg.norm(np.abs(C).T @ np.abs(q)) <= scale * (1 + 1e-9)


def validation(case):
    rng = np.random.default_rng(8)
    X = rng.standard_normal((40, P))
    y = case.make(X, np.zeros(40)).y if case.y.ndim == 1 else np.zeros((40, case.y.shape[1]))
    y = rng.integers(0, 3, 40) if case.shape["loss"] == "softmax" else y + np.sin(X[:, :1].T).T[0]
    return case.make(X, y), X, y


# With enough penalty to be at a minimum, and so little that no unit dies.
TRAINED = [
    *("softmax-weights", "softmax-all", "no-hidden-layer"),
    *("targets", "targets-no-hidden-layer"),
    *("softmax-targets", "softmax-targets-no-hidden-layer", "outputs"),
]


@pytest.mark.parametrize("name", TRAINED)
def test_hypergradients_of_trained_networks(name, rng):
    case = net(name)
    f, ref, lam = case.f, case.ref, case.lam.copy()
    lam[: ref.n_penalty] += 1.0
    g, X, y = validation(case)
    trained = ig.train(f, lam)
    assert trained.success, trained.message
    ref_g = reference.MLP(X, y, *case.shape.values(), n_outputs=f.widths[-1])
    best = ref.polished(trained.x, lam)
    q = reference.cholesky_solve(ref.system(best, lam), ref_g.jac(best))
    want = np.asarray(-ref.cross(best, lam).T @ q, dtype=float)
    for off in (0.0, 1e-6):
        res = ig.implicit_grad(f, g, trained.x + off * rng.standard_normal(f.n_theta), lam)
        error = np.linalg.norm(res.grad - want)
        assert res.success and error <= 1e-6 * np.linalg.norm(want)
        assert error <= max(3 * res.error, 1e-12 * np.linalg.norm(want))
        assert res.error_bound == np.inf
    assert ig.check_hypergrad(f, g, lam, theta0=trained.x).success


def test_many_rows_go_in_blocks(rng):
    """More rows than a block has: the same as of each row by itself."""
    n, some = 5000, np.array([4999, 3, 4500])
    X, y = rng.standard_normal((n, 3)), rng.integers(0, 3, n)
    f = ig.MLP(
        *(X, y),
        hidden=(4,),
        sample_weight=ig.SampleWeights(groups=np.arange(n) % 10),
        inputs=ig.Inputs(some),
    )
    theta, q = rng.standard_normal((2, f.n_theta))
    s, rows = rng.standard_normal(10), rng.standard_normal((3, 3))
    at = f.linearize(theta, np.r_[s, rows.ravel()])
    X[some] = rows
    alone = ig.MLP(X[some], y[some], hidden=(4,), inputs=ig.Inputs(), n_classes=3)
    part = alone.linearize(theta, rows.ravel())
    c = 3 / n / (1 + np.exp(-s[some % 10]))
    for whole, piece in ((at.jac_lam, part.jac_lam), (at.cross.T @ q, part.cross.T @ q)):
        assert_near(whole[10:].reshape(3, 3), c[:, None] * piece.reshape(3, 3), 1e-12)
    # Of a group: the plain network on its rows, times the slope of its weight.
    for k in (0, 9):
        group = ig.MLP(X[k::10], y[k::10], hidden=(4,), n_classes=3).linearize(theta)
        slope = 0.1 / (2 + 2 * np.cosh(s[k]))
        assert at.jac_lam[k] == pytest.approx(slope * group.fun, rel=1e-12)
        assert (at.cross.T @ q)[k] == pytest.approx(slope * (group.jac @ q), rel=1e-10)
        u = np.zeros(f.n_lam)
        u[k] = 1.0
        assert_near(at.cross @ u, slope * group.jac, 1e-11)


@every_net
def test_rows_keep_the_blocks_of_lam(name, rng):
    case = net(name)
    f, theta, lam, q = case.f, case.theta, case.lam, rng.standard_normal(case.f.n_theta)
    u = rng.standard_normal(f.n_lam)
    parts = [f.rows(np.arange(a, N, 4)) for a in range(4)]
    parts.append(parts[2].rows([0, 2]))  # rows of rows: 2 and 10
    assert all(part.n_lam == f.n_lam for part in parts)
    assert all(list(part.split(lam)) == list(f.split(lam)) for part in parts)
    whole, found = f.linearize(theta, lam), [p.linearize(theta, lam) for p in parts]
    share = np.array([p.X.shape[0] for p in parts[:4]]) / N
    for of in (
        *(lambda at: at.fun, lambda at: at.jac, lambda at: at.jac_lam),
        *(lambda at: at.hess @ q, lambda at: at.cross.T @ q, lambda at: at.cross @ u),
    ):
        assert_near(sum(s * of(at) for s, at in zip(share, found, strict=False)), of(whole), 1e-12)
    twice = f.rows([2, 10]).linearize(theta, lam)
    assert found[4].fun == twice.fun and np.array_equal(found[4].jac_lam, twice.jac_lam)
    once, three = f.rows([-25]).linearize(theta, lam), f.rows([5, 5, 5]).linearize(theta, lam)
    assert three.fun == pytest.approx(once.fun, rel=1e-13)
    assert_near(three.jac_lam, once.jac_lam, 1e-13)
    assert_near(three.cross.T @ q, once.cross.T @ q, 1e-12)


@pytest.mark.parametrize("name", ["softmax-everything", "outputs", "targets-all"])
def test_what_is_not_in_a_minibatch_has_no_gradient(name, rng):
    case = net(name)
    batch = np.array([8, 4, 21, 4])  # of the rows 8, 3 and 21 the first and the last
    at = case.f.rows(batch).linearize(case.theta, case.lam)
    for found in (at.jac_lam, at.cross.T @ rng.standard_normal(case.f.n_theta)):
        for block, part in case.f.split(found).items():
            if block == "penalty":
                continue
            by_row = part.reshape(3 if part.size < N else N, -1)
            inside = np.array([True, False, True]) if len(by_row) == 3 else np.isin(ROWS, batch)
            assert (by_row[~inside] == 0).all() and (by_row[inside] != 0).any(axis=1).all()


@pytest.mark.parametrize("name", ["softmax-weights", "softmax-everything", "outputs-everything"])
def test_minibatches_train(name):
    case = net(name)
    options = {"batch_size": 10, "learning_rate": 0.01}
    res = ig.train(case.f, case.lam, method="adam", maxiter=400, tol=1e-2, options=options)
    start = case.f.fun(case.f.initial_theta(), case.lam)
    assert case.f.fun(res.x, case.lam) < start


def test_the_alternating_loop_takes_minibatches_of_targets_and_inputs():
    case = net("softmax-everything")
    g, *_ = validation(case)
    options = {"batch_size": 10, "inner_learning_rate": 0.02, "maxiter": 60, "check_every": 60}
    quiet = {"warmup": 200, "learning_rate": 0.05, "warn": False}
    loop = ig.minimize(
        case.f,
        g,
        case.lam,
        method="alternating",
        bounds=[(-8, 8)] * case.f.n_lam,
        options=options | quiet,
    )
    start = g.fun(ig.train(case.f, case.lam).x)
    moved = case.f.split(loop.x - case.lam)
    assert loop.fun < start
    assert all(np.abs(block).max() > 0.1 for block in moved.values())


def test_float32_says_what_it_leaves(rng):
    case = net("softmax-weights")
    single = net("softmax-weights", dtype="float32")
    double = single.make(
        *(single.X.astype(float), single.y),
        penalty=ig.L2("layer", fixed=0.02),
        sample_weight=ig.SampleWeights(),
    )
    theta, lam, q = case.theta, case.lam, rng.standard_normal(case.f.n_theta)
    a, b = single.f.linearize(theta, lam), double.linearize(theta, lam)
    off = np.linalg.norm(a.cross.T @ q - b.cross.T @ q)
    assert 0 < off <= 10 * a.noise.cross * np.linalg.norm(q)
    assert np.linalg.norm(a.jac_lam - b.jac_lam) <= 10 * a.noise.jac_lam
    assert a.noise.cross <= 1e-5 and b.noise.cross == 0


def test_inputs_of_float32_rows_are_not_rounded(rng):
    single, double = (net("softmax-all", dtype=d) for d in ("float32", "float64"))
    lam = single.lam
    exact = single.make(
        *(single.X.astype(float), single.y),
        penalty=ig.L2("layer", fixed=0.02),
        **{name: block.given() for name, block in single.blocks.items()},
    )
    assert single.f.fun(single.theta, lam) == exact.fun(single.theta, lam)
    for case in (single, double):
        assert case.f.linearize(case.theta, lam).noise == EXACT


def trained_pair(n=60, weights=None, **given):
    rng = np.random.default_rng(11)
    X, X_val = rng.standard_normal((n, 2)), rng.standard_normal((200, 2))
    y, y_val = (np.sin(2 * x[:, 0]) + 0.3 * rng.standard_normal(len(x)) for x in (X, X_val))
    shape = {"hidden": (3,), "loss": "squared"}
    lam = np.array([-5.0, -5.0])
    f = ig.MLP(X, y, penalty=ig.L2("layer"), sample_weight=weights, **shape)
    g = ig.MLP(X_val, y_val, **shape)
    return f, g, lam, ig.train(f, lam).x


def test_influence_orders_rows_as_leaving_them_out_does():
    f, g, lam, theta = trained_pair()
    res = ig.influence(f, g, theta, lam)
    assert res.success and res.influence.shape == (60,)
    changes = []
    for i in range(60):
        # (1/n) Σ ℓ + penalty is (n−1)/n times (1/(n−1)) Σ ℓ + n/(n−1) penalty.
        rest = f.rows(np.delete(np.arange(60), i))
        without = ig.train(rest, lam + np.log(60 / 59), theta0=theta)
        assert without.success
        changes.append(g.fun(without.x) - g.fun(theta))
    assert spearmanr(-res.influence, changes).statistic >= 0.95
    # Sign and scale: right to first order, but rows of high leverage change several times as much.
    assert np.median(changes / -res.influence) == pytest.approx(1.0, abs=0.25)


def test_influence_is_the_derivative_in_each_weight():
    w = np.arange(60) % 3  # rows of weight 0 among them
    f, g, lam, theta = trained_pair(weights=w)
    res = ig.influence(f, g, theta, lam)
    assert res.success and (res.influence[w == 0] == 0).all()
    h = 1e-3
    for i in (1, 5, 32):
        values = []
        for step in (h, -h):
            c = w / w.sum()
            c[i] *= 1 + step
            # Weights are scaled to sum to one: the penalty pays for it.
            moved = ig.MLP(
                *(f.X, f.y),
                penalty=ig.L2("layer"),
                sample_weight=c,
                hidden=(3,),
                loss="squared",
            )
            values.append(g.fun(ig.train(moved, lam - np.log(c.sum()), theta0=theta).x))
        slope = (values[0] - values[1]) / (2 * h)
        assert res.influence[i] == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_influence_holds_what_is_in_the_rows():
    case = net("softmax-weights")
    g, *_ = validation(case)
    theta = ig.train(case.f, case.lam).x
    res = ig.influence(case.f, g, theta, case.lam)
    # dg/dλ_i = dg/dlog s_i · (1 − s_i) for s = sigmoid(λ).
    by_lam = case.f.split(ig.implicit_grad(case.f, g, theta, case.lam).grad)["sample_weight"]
    s = 1 / (1 + np.exp(-case.lam[2:]))
    assert res.success and np.allclose(res.influence * (1 - s), by_lam, rtol=1e-7, atol=1e-12)


@every_net
def test_pickles_and_copies_give_the_same_bits(name, rng):
    case = net(name)
    f, lam, q = case.f, case.lam, rng.standard_normal(case.f.n_theta)
    want = f.linearize(case.theta, lam)
    for twin in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        got = twin.linearize(case.theta, lam)
        assert got.fun == want.fun and np.array_equal(got.jac_lam, want.jac_lam)
        assert np.array_equal(got.cross.T @ q, want.cross.T @ q)
        assert repr(twin) == repr(f) and list(twin.split(lam)) == list(f.split(lam))


RNG = np.random.default_rng(0)
X, CLASSES = RNG.standard_normal((6, 2)), np.array([0, 1, 2, 0, 1, 2])
BAD = {
    "sample_weight-short": {"sample_weight": ig.SampleWeights(groups=[0, 1])},
    "inputs-array": {"inputs": X},
    "inputs-row": {"inputs": ig.Inputs([6])},
    "targets-array": {"targets": CLASSES},
    "targets-row": {"targets": ig.Targets([6])},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    given = {"y": CLASSES, "hidden": (2,), "penalty": ig.L2(), **BAD[name]}
    with pytest.raises((ValueError, TypeError), match=name.split("-")[0]):
        ig.MLP(X, given.pop("y"), **given)


def test_bad_lam_is_refused():
    f = ig.MLP(X, CLASSES, hidden=(2,), sample_weight=ig.SampleWeights())
    with pytest.raises(ValueError, match=r"lam\[2\].*sigmoid"):
        f.fun(np.zeros(f.n_theta), [0, 0, 800, 0, 0, 0])
    with pytest.raises(ValueError, match="lam"):
        f.fun(np.zeros(f.n_theta), np.zeros(5))
    f = ig.MLP(X, CLASSES, hidden=(2,), targets=ig.Targets([4, 1]))
    with pytest.raises(ValueError, match=r"lam\[3\].*softmax"):
        f.fun(np.zeros(f.n_theta), [0, 0, 0, -800, 0, 0])
