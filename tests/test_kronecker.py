"""The Kronecker preconditioner of networks against its definition in NumPy, and what it is good for."""

import numpy as np
import pytest

import implicitgrad as ig
from implicitgrad import _core

WIDTHS = (4, 5, 3, 3)
SHIFT = 0.01


def network(loss="softmax", per="parameter", dtype=np.float64, activation="tanh", weighted=False):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((60, WIDTHS[0])).astype(dtype)
    y = rng.integers(0, 3, 60) if loss == "softmax" else rng.standard_normal((60, 3))
    net = ig.MLP(
        *(X, y),
        hidden=WIDTHS[1:-1],
        activation=activation,
        loss=loss,
        penalty=ig.L2(per, fixed=0.02),
        sample_weight=rng.random(60) + 0.1 if weighted else None,
        n_threads=1,
    )
    lam = rng.uniform(-4, -1, net.n_lam)
    return net, net.initial_theta(1) + 0.1 * rng.standard_normal(net.n_theta), lam


def inverse(net, theta, lam, shift=SHIFT):
    return _core.KroneckerPreconditioner.of(net.linearize(theta, lam)._core, shift)


def constructed(net, theta, lam, shift):
    """M by its definition: a matrix."""
    weights = net._weights / net._weights.sum()
    layers, a, inputs, slopes = net.unravel(theta), net.X.astype(float), [], []
    for k, (W, b) in enumerate(layers):
        inputs.append(np.column_stack([a, np.ones(len(a))]))
        z = a @ W + b
        if k + 1 < len(layers):
            a = np.tanh(z) if net.activation == "tanh" else np.logaddexp(0, z)
            slopes.append(1 - a**2 if net.activation == "tanh" else 1 / (1 + np.exp(-z)))
    K = z.shape[1]
    curvature = np.broadcast_to(np.eye(K), (len(z), K, K))
    if net.loss == "softmax":
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        curvature = np.einsum("ia,ab->iab", p, np.eye(K)) - np.einsum("ia,ib->iab", p, p)
    J = np.broadcast_to(np.eye(K), (len(z), K, K))  # outputs by pre-activations
    factors = []
    for k in range(len(layers) - 1, -1, -1):
        each = np.einsum("iak,iab,ibl->ikl", J, curvature, J) * weights[:, None, None]
        A = np.einsum("i,ia,ib->ab", weights, inputs[k], inputs[k])
        factors.insert(0, (A, each.sum(axis=0)))
        if k:  # J[i, a, k] is the derivative of output a by pre-activation k
            J = (J @ layers[k][0].T) * slopes[k - 1][:, None, :]
    strength = np.zeros(net.n_theta)
    rates = np.exp(lam) if net.penalty.per == "parameter" else None
    begin = at = 0
    blocks = []
    for k, ((A, G), (W, b)) in enumerate(zip(factors, layers, strict=True)):
        of = rates[at : at + W.size] if rates is not None else np.full(W.size, np.exp(lam[k]))
        strength[begin : begin + W.size] = 0.02 + of
        (alpha, U), (gamma, V) = np.linalg.eigh(A), np.linalg.eigh(G)
        basis = np.kron(U, V)
        block = strength[begin : begin + W.size + b.size]
        sigma = np.kron(alpha, gamma) + (basis**2).T @ block + shift
        if k + 1 == len(layers) and net.loss == "softmax":  # along the common shift of the biases
            gauge = np.trace(np.einsum("i,iab->ab", weights, curvature)) / (K - 1)
            common = np.zeros(W.size + b.size)
            common[W.size :] = 1 / np.sqrt(K)
            sigma += gauge * (basis.T @ common) ** 2
        blocks.append((basis * sigma) @ basis.T)
        begin += W.size + b.size
        at += W.size
    M = np.zeros((net.n_theta, net.n_theta))
    begin = 0
    for block in blocks:
        end = begin + len(block)
        M[begin:end, begin:end] = block
        begin = end
    return M


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("per", ["layer", "parameter"])
@pytest.mark.parametrize(("loss", "activation"), [("softmax", "tanh"), ("squared", "softplus")])
def test_it_is_the_inverse_of_its_definition(loss, activation, per, weighted, dtype):
    net, theta, lam = network(loss, per, dtype, activation, weighted)
    M = constructed(net, theta, lam, SHIFT)
    product = inverse(net, theta, lam).apply(M)
    # The factors are sums in single precision, and eigenvectors feel that more than eigenvalues do.
    single = np.finfo(np.float32).eps
    assert np.linalg.norm(product - np.eye(len(M)), 2) < 20 * single * np.linalg.cond(M)


def test_for_one_linear_layer_it_is_exact():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    net = ig.MLP(X, y, hidden=(), loss="squared")
    at = net.linearize(np.zeros(net.n_theta))
    H = at.hess @ np.eye(net.n_theta) + 0.1 * np.eye(net.n_theta)
    product = _core.KroneckerPreconditioner.of(at._core, 0.1).apply(H)
    np.testing.assert_allclose(product, np.eye(net.n_theta), atol=1e-6)


def test_it_is_linear_symmetric_and_positive_definite():
    net, theta, lam = network()
    m, again = inverse(net, theta, lam), inverse(net, theta, lam)
    dense = m.apply(np.eye(net.n_theta))
    np.testing.assert_allclose(dense, dense.T, rtol=0, atol=1e-13 * np.abs(dense).max())
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    np.testing.assert_allclose([1 / values[-1], 1 / values[0]], [m.smallest, m.largest], rtol=1e-10)
    assert m.smallest > 0
    v, w = np.random.default_rng(0).standard_normal((2, net.n_theta))
    assert np.array_equal(m.apply(v), again.apply(v))
    np.testing.assert_allclose(m.apply(v + w), m.apply(v) + m.apply(w), rtol=0, atol=1e-12)
    assert np.array_equal(m.apply(np.stack([v, w], axis=1))[:, 1], m.apply(w))


def test_without_a_penalty_it_is_still_positive_definite():
    rng = np.random.default_rng(0)
    net = ig.MLP(rng.standard_normal((3, 6)), [0, 1, 1], hidden=(4,))
    theta = net.initial_theta()
    m = _core.KroneckerPreconditioner.of(net.linearize(theta)._core, 0.0)
    assert 0 < m.smallest < m.largest
    assert np.isfinite(m.apply(np.ones(net.n_theta))).all()


@pytest.fixture(scope="module")
def trained():
    """A network at a minimum, with inputs of very different size."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((400, 12)) * np.geomspace(1, 1e-2, 12)
    y = (X[:, 0] + np.sin(3 * X[:, 1]) + 0.3 * rng.standard_normal(400) > 0).astype(int)
    f = ig.MLP(X[:300], y[:300], hidden=(6,), penalty=ig.L2("layer"))
    g = ig.MLP(X[300:], y[300:], hidden=(6,))
    lam = np.array([-6.0, -5.0])
    return f, g, ig.train(f, lam).x, lam


def test_it_does_not_change_the_answer(trained):
    f, g, theta, lam = trained
    exact = ig.implicit_grad(f, g, theta, lam, method="cholesky", tol=1e-10)
    for method in ("cg", "auto"):
        found = ig.implicit_grad(
            f, g, theta, lam, method=method, tol=1e-6, options={"preconditioner": "kronecker"}
        )
        assert found.success and found.method == "cg"
        assert np.linalg.norm(found.grad - exact.grad) <= 1e-6 * np.linalg.norm(exact.grad)


def iterations(f, g, theta, lam, preconditioner):
    options = {
        "preconditioner": preconditioner,
        "curvature": "gauss_newton",
        "damping": 1e-5,
        "certify": False,
        "stop": 1e-6,
    }
    return ig.implicit_grad(f, g, theta, lam, method="cg", options=options).nit


def test_it_saves_iterations(trained):
    """Where samples differ little in how much they say about the outputs, as in the beginning."""
    f, g, _, _ = trained
    theta, lam = f.initial_theta(), np.full(2, -10.0)
    assert iterations(f, g, theta, lam, "kronecker") < 0.9 * iterations(f, g, theta, lam, "none")


def test_where_it_is_exact_so_is_the_first_iteration():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 20)) * np.geomspace(1, 1e-2, 20), rng.standard_normal((60, 2))
    f = ig.MLP(X, y, hidden=(), loss="squared", penalty=ig.L2())
    given = f, ig.MLP(X, y[::-1], hidden=(), loss="squared"), f.initial_theta(), [-12.0]
    assert iterations(*given, "kronecker") <= 4 < 20 < iterations(*given, "none")


def test_at_a_saddle_it_says_so():
    X = np.random.default_rng(0).standard_normal((40, 3))
    y = (X[:, 0] > 0).astype(int)
    f = ig.MLP(X, y, hidden=(4,), penalty=ig.L2(fixed=1e-4))
    res = ig.implicit_grad(
        *(f, f, np.zeros(f.n_theta), [-9.0], "cg"),
        options={"preconditioner": "kronecker", "warn": False},
    )
    assert not res.success and res.status == 2


def test_it_is_for_networks_only():
    rng = np.random.default_rng(0)
    f = ig.LeastSquares(rng.standard_normal((9, 2)), np.arange(9.0), penalty=ig.L2())
    theta = np.zeros(2)
    with pytest.raises(ValueError, match="'kronecker' is for networks"):
        ig.implicit_grad(f, f, theta, [0.0], "cg", options={"preconditioner": "kronecker"})
    net, theta, lam = network()
    with pytest.raises(ValueError, match="'nystrom' brings its own"):
        ig.implicit_grad(net, net, theta, lam, "nystrom", options={"preconditioner": "kronecker"})


def test_what_is_not_finite_in_a_factor_leaves_the_answer_to_cg():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), np.arange(30) % 2
    quiet = {"preconditioner": "kronecker", "warn": False}
    wide = X * [1.0, 1e20, 1.0, 1.0]  # its squares are beyond float32
    for data, network in ((wide, {}), (X, {"scale": 1e50})):
        net = ig.MLP(data, y, hidden=(3,), activation="relu", penalty=ig.L2("all"))
        theta = network.get("scale", 1.0) * rng.standard_normal(net.n_theta)
        res = ig.implicit_grad(net, net, theta, [0.0], "cg", options=quiet)
        assert res.status != 0 or np.isfinite(res.grad).all()
    weights = np.repeat([1.0, 0.0], 15)
    net = ig.MLP(X, y, hidden=(3,), penalty=ig.L2("all"), sample_weight=weights)
    part = net.rows(range(15, 30))  # of no weight
    theta = ig.train(net, [0.0]).x
    res = ig.implicit_grad(part, net, theta, [0.0], "cg", options={**quiet, "polish": False})
    assert res.status == 3  # biases have no penalty
