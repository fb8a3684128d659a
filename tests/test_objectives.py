"""Values, gradients, Hessians and cross matrices against the oracle, and every layout of X."""

import gc

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

import implicitgrad as ig
from cases import BY_NAME, CASES, HYPER
from reference import LinearModel, assert_near

# Sums of at most a thousand well-scaled products: √n·ε ≈ 1e-14 expected, n·ε ≈ 2e-13 at worst.
RTOL = 1e-12


def outer_lam(case, lam):
    """What the outer objective takes as λ on its own: nothing, unless it has the penalty too."""
    return lam if case.penalised_outer else np.zeros(0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradients(case):
    pb = case.problem()
    assert (pb.f.n_theta, pb.f.n_lam) == (case.n_theta, case.n_lam)
    assert (pb.g.n_theta, pb.g.n_lam) == (case.n_theta, pb.ref_g.n_lam)
    for obj, ref, lam in (
        (pb.f, pb.ref_f, pb.lam),
        (pb.g, pb.ref_g, outer_lam(case, pb.lam)),
    ):
        L = obj.linearize(pb.theta, lam)
        value = obj.fun(pb.theta, lam)
        assert isinstance(value, float)
        assert_near(np.float64(value), ref.fun(pb.theta, lam), RTOL, "fun")
        assert_near(np.float64(L.fun), ref.fun(pb.theta, lam), RTOL, "L.fun")
        assert_near(obj.jac(pb.theta, lam), ref.jac(pb.theta, lam), RTOL, "jac")
        assert_near(L.jac, ref.jac(pb.theta, lam), RTOL, "L.jac")
        assert_near(L.jac_lam, ref.jac_lam(pb.theta, lam), RTOL, "L.jac_lam")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hessian(case, rng):
    pb = case.problem()
    H = pb.ref_f.hess(pb.theta, pb.lam)
    hess = pb.f.linearize(pb.theta, pb.lam).hess
    assert isinstance(hess, LinearOperator)
    assert hess.shape == H.shape and hess.dtype == np.float64
    v = rng.standard_normal(case.n_theta)
    assert_near(hess @ v, H @ v, RTOL, "hess @ v")
    assert_near(hess.T @ v, H @ v, RTOL, "hess.T @ v")
    assert_near(pb.f.hessp(pb.theta, v, pb.lam), H @ v, RTOL, "hessp")
    assert_near(hess @ np.eye(case.n_theta), H, RTOL, "hess @ I")
    for k in (1, 2, 3, 5, 8):
        for V in (
            rng.standard_normal((case.n_theta, k)),
            np.asfortranarray(rng.standard_normal((case.n_theta, k))),
            rng.standard_normal((case.n_theta, 2 * k))[:, ::2],
        ):
            assert_near(hess @ V, H @ V, RTOL, f"hess @ V, k = {k}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cross(case, rng):
    pb = case.problem()
    C = pb.ref_f.cross(pb.theta, pb.lam)
    cross = pb.f.linearize(pb.theta, pb.lam).cross
    assert isinstance(cross, LinearOperator)
    assert cross.shape == (case.n_theta, case.n_lam)
    u, q = rng.standard_normal(case.n_lam), rng.standard_normal(case.n_theta)
    assert_near(cross @ u, C @ u, RTOL, "cross @ u")
    assert_near(cross.T @ q, C.T @ q, RTOL, "cross.T @ q")
    if case.n_lam:
        assert_near(cross @ np.eye(case.n_lam), C, RTOL, "cross @ I")
        Q = rng.standard_normal((case.n_theta, 3))
        assert_near(cross.T @ Q, C.T @ Q, RTOL, "cross.T @ Q")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_split_gives_the_blocks_of_lam_in_order(case):
    pb = case.problem()
    blocks = pb.f.split(pb.lam)
    assert np.array_equal(blocks.get("penalty", np.zeros(0)), pb.lam)
    assert np.array_equal(np.concatenate([*blocks.values(), np.zeros(0)]), pb.lam)


def test_group_labels_generalise_all_and_feature():
    d, case = BY_NAME["ridge-feature-40x7"].data(), BY_NAME["ridge-feature-40x7"]
    theta, lam = case.theta(), case.lam()
    by_label = ig.LeastSquares(d.X, d.y, penalty=ig.L2(np.arange(7)))
    by_feature = ig.LeastSquares(d.X, d.y, penalty=ig.L2("feature"))
    assert np.array_equal(by_label.jac(theta, lam), by_feature.jac(theta, lam))
    one_label = ig.LeastSquares(d.X, d.y, penalty=ig.L2(np.zeros(7, dtype=int)))
    alone = ig.LeastSquares(d.X, d.y, penalty=ig.L2())
    assert one_label.n_lam == alone.n_lam == 1
    assert np.array_equal(one_label.jac(theta, lam[:1]), alone.jac(theta, lam[:1]))


@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
def test_weight_k_equals_k_copies_and_only_ratios_count(loss, rng):
    X, k = rng.standard_normal((30, 4)), rng.integers(0, 4, 30)
    y = np.where(rng.standard_normal(30) > 0, 1.0, -1.0)
    theta, lam, pen = rng.standard_normal(4), np.array([-1.0]), ig.L2()
    make = getattr(ig, loss)
    weighted = make(X, y, penalty=pen, sample_weight=k).linearize(theta, lam)
    scaled = make(X, y, penalty=pen, sample_weight=1e-3 * k).linearize(theta, lam)
    copied = make(np.repeat(X, k, 0), np.repeat(y, k), penalty=pen).linearize(theta, lam)
    v = rng.standard_normal(4)
    for other in (scaled, copied):
        assert_near(np.float64(other.fun), weighted.fun, RTOL)
        assert_near(other.jac, weighted.jac, RTOL)
        assert_near(other.hess @ v, weighted.hess @ v, RTOL)


def test_label_conventions_are_the_same_problem(rng):
    X, hit = rng.standard_normal((25, 3)), rng.standard_normal(25) > 0
    theta = rng.standard_normal(3)
    jacs = [
        ig.Logistic(X, y).jac(theta, np.zeros(0))
        for y in (
            hit,
            hit.astype(int),
            hit.astype(np.uint8),
            hit.astype(float),
            2 * hit.astype(int) - 1,
            2.0 * hit - 1,
            (2 * hit.astype(np.int8) - 1).tolist(),
        )
    ]
    assert all(np.array_equal(j, jacs[0]) for j in jacs)


@pytest.mark.parametrize(
    "z", [0.0, 1e-9, -0.3, 2.0, 17.0, -36.0, 37.5, 100.0, -300.0, 700.0, -700.0]
)
def test_logistic_is_exact_far_into_both_tails(z):
    """Exact curvature: nothing floored, nothing overflowing, small values relatively accurate."""
    X, theta = np.ones((1, 1)), np.array([z])
    ref = LinearModel("Logistic", X, [1.0])
    L = ig.Logistic(X, [1.0]).linearize(theta, np.zeros(0))
    # A handful of roundings in exp and log1p; the condition of exp at z is |z|, met exactly here
    # since z itself is exact.
    assert_near(np.float64(L.fun), ref.fun(theta), 2e-15, "fun")
    assert_near(L.jac, ref.jac(theta), 2e-15, "jac")
    assert_near(L.hess @ np.ones(1), ref.hess(theta)[0], 2e-15, "hess")


@pytest.mark.parametrize("z", [1e4, -1e4, 1e300, -1e300])
def test_logistic_beyond_the_range_of_exp(z):
    L = ig.Logistic(np.ones((1, 1)), [1.0]).linearize(np.array([z]), np.zeros(0))
    assert L.fun == max(0.0, -z)
    assert L.jac[0] == (-1.0 if z < 0 else 0.0)
    assert (L.hess @ np.ones(1))[0] == 0.0


def integer_matrix():
    # Small integers are exact in every type below, float16 and int8 included.
    return np.random.default_rng(5).integers(-4, 5, (24, 10)).astype(float)


def strided(X, rows, cols):
    """A view equal to X whose parent is larger, or runs the other way."""
    parent = np.full((X.shape[0] * abs(rows) + 3, X.shape[1] * abs(cols) + 3), np.nan)
    r = slice(1, 1 + X.shape[0] * abs(rows), abs(rows))
    c = slice(2, 2 + X.shape[1] * abs(cols), abs(cols))
    view = parent[r, c][:: np.sign(rows), :: np.sign(cols)]
    view[...] = X
    return view


LAYOUTS = {
    "c": lambda X: X.copy(),
    "f": np.asfortranarray,
    "rows": lambda X: strided(X, 2, 1),
    "columns": lambda X: strided(X, 1, 2),
    "window": lambda X: strided(X, 1, 1),
    "window-f": lambda X: strided(X.T.copy(), 1, 1).T,
    "both": lambda X: strided(X, 3, 2),
    "negative-rows": lambda X: strided(X, -1, 1),
    "negative-columns": lambda X: strided(X, 1, -1),
    "negative-both": lambda X: strided(X, -2, -3),
    "transposed-slice": lambda X: strided(X.T.copy(), 2, -1).T,
    "big-endian": lambda X: X.astype(">f8"),
    "big-endian-f32": lambda X: X.astype(">f4"),
    "float32": lambda X: X.astype(np.float32),
    "float32-f": lambda X: np.asfortranarray(X.astype(np.float32)),
    "float32-rows": lambda X: X.astype(np.float32).repeat(2, 0)[::2],
    "float16": lambda X: X.astype(np.float16),
    "longdouble": lambda X: X.astype(np.longdouble),
    "int64": lambda X: X.astype(np.int64),
    "int8-f": lambda X: np.asfortranarray(X.astype(np.int8)),
    "list": lambda X: X.tolist(),
    "misaligned": lambda X: misaligned(X),
}


def misaligned(X):
    raw = np.empty(X.nbytes + 1, dtype=np.uint8)
    out = raw[1:].view(np.float64).reshape(X.shape)
    assert not out.flags.aligned
    out[...] = X
    return out


@pytest.mark.parametrize("read_only", [False, True], ids=["writeable", "read-only"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
def test_every_layout_is_the_same_problem(loss, layout, read_only, rng, sealed):
    base = integer_matrix()
    X = LAYOUTS[layout](base)
    y = np.where(rng.standard_normal(24) > 0, 1.0, -1.0)
    w, theta = rng.random(24), rng.standard_normal(11)
    lam, v = rng.uniform(-2, 0, 10), rng.standard_normal(11)
    if read_only and isinstance(X, np.ndarray):
        sealed(X)
    sealed(y, w, theta, lam, v)
    f = getattr(ig, loss)(X, y, penalty=ig.L2("feature"), fit_intercept=True, sample_weight=w)
    ref = LinearModel(loss, base, y, "feature", fit_intercept=True, sample_weight=w)
    L = f.linearize(theta, lam)
    assert_near(np.float64(f.fun(theta, lam)), ref.fun(theta, lam), RTOL)
    assert_near(f.jac(theta, lam), ref.jac(theta, lam), RTOL)
    assert_near(L.hess @ v, ref.hess(theta, lam) @ v, RTOL)
    assert_near(L.cross.T @ v, ref.cross(theta, lam).T @ v, RTOL)
    assert np.array_equal(np.asarray(X, dtype=float), base)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memmap(tmp_path, order, dtype, mode, rng):
    base = integer_matrix()
    path = tmp_path / "X.bin"
    np.memmap(path, dtype, "w+", shape=base.shape, order=order)[...] = base
    before = path.read_bytes()
    X = np.memmap(path, dtype, mode, shape=base.shape, order=order)
    y, theta, lam = rng.standard_normal(24), rng.standard_normal(10), np.array([-1.0])
    L = ig.LeastSquares(X, y, penalty=ig.L2()).linearize(theta, lam)
    ref = LinearModel("LeastSquares", base, y, "all")
    assert_near(L.jac, ref.jac(theta, lam), RTOL)
    assert_near(L.hess @ theta, ref.hess(theta, lam) @ theta, RTOL)
    assert path.read_bytes() == before


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_contiguous_floats_are_borrowed(order, dtype):
    """Writing to X while the objective lives is forbidden to users; here it shows that no copy
    of the data was made."""
    X = np.asarray(integer_matrix(), dtype=dtype, order=order)
    f = ig.LeastSquares(X, np.ones(24))
    X[...] = 0
    assert f.fun(np.ones(10), np.zeros(0)) == pytest.approx(0.5, rel=1e-14)


def test_converted_arrays_and_labels_are_not_shared(rng):
    X, y = rng.standard_normal((20, 4)), rng.standard_normal(20)
    theta, lam = rng.standard_normal(4), np.array([0.0])
    f = ig.LeastSquares(X[::-1], y, penalty=ig.L2())
    ref = LinearModel("LeastSquares", X[::-1].copy(), y.copy(), "all")
    X[...] = 7
    assert_near(f.jac(theta, lam), ref.jac(theta, lam), RTOL)


def test_objective_keeps_its_data_alive(rng):
    data = rng.standard_normal((200, 5))
    y = rng.standard_normal(200)
    theta, ref = rng.standard_normal(5), LinearModel("LeastSquares", data, y)
    f = ig.LeastSquares(data.copy(), y.copy())
    L = ig.LeastSquares(data.copy(), y.copy()).linearize(theta, np.zeros(0))
    H = ig.LeastSquares(data.copy(), y.copy()).linearize(theta, np.zeros(0)).hess
    gc.collect()
    junk = [np.full((200, 5), np.nan) for _ in range(8)]  # reuse the freed memory, if any was
    assert_near(f.jac(theta, np.zeros(0)), ref.jac(theta), RTOL)
    assert_near(L.hess @ theta, ref.hess(theta) @ theta, RTOL)
    assert_near(H @ theta, ref.hess(theta) @ theta, RTOL)
    del junk


@pytest.mark.parametrize("case", HYPER[::5], ids=str)
def test_linearization_stays_at_its_point(case, rng):
    pb = case.problem()
    theta, lam = pb.theta.copy(), pb.lam.copy()
    first = pb.f.linearize(theta, lam)
    v = rng.standard_normal(case.n_theta)
    theta[:] = 100.0
    lam[:] = 3.0
    pb.f.linearize(2 * pb.theta, pb.lam / 2)
    pb.f.jac(-pb.theta, pb.lam)
    assert_near(first.jac, pb.ref_f.jac(pb.theta, pb.lam), RTOL)
    assert_near(first.hess @ v, pb.ref_f.hess(pb.theta, pb.lam) @ v, RTOL)
    assert_near(first.cross.T @ v, pb.ref_f.cross(pb.theta, pb.lam).T @ v, RTOL)


def test_results_are_the_callers_to_change(rng):
    pb = BY_NAME["logistic-feature-61x9"].problem()
    before = pb.f.jac(pb.theta, pb.lam)
    kept = before.copy()
    before[:] = 0
    L = pb.f.linearize(pb.theta, pb.lam)
    product = L.hess @ kept
    again = product.copy()
    product[:] = 0
    assert np.array_equal(pb.f.jac(pb.theta, pb.lam), kept)
    assert np.array_equal(L.hess @ kept, again)


@pytest.mark.parametrize(
    "convert",
    [
        list,
        lambda a: np.repeat(a, 2)[::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(">f8"),
    ],
    ids=["list", "strided", "reversed", "big-endian"],
)
def test_vectors_of_any_layout(convert):
    pb = BY_NAME["logistic-feature-61x9"].problem()
    v = np.arange(1.0, 10.0)
    theta, lam = convert(pb.theta), convert(pb.lam)
    assert pb.f.fun(theta, lam) == pb.f.fun(pb.theta, pb.lam)
    assert np.array_equal(pb.f.jac(theta, lam), pb.f.jac(pb.theta, pb.lam))
    want = pb.f.hessp(pb.theta, v, pb.lam)
    assert np.array_equal(pb.f.hessp(theta, convert(v), lam), want)
    L = pb.f.linearize(pb.theta, pb.lam)
    assert np.array_equal(L.hess @ np.asarray(convert(v)), want)
    C = L.cross.T @ v
    assert np.array_equal(L.cross.T @ np.asarray(convert(v)), C)
