"""Hyperparameters in the rows: every block and their combinations against the oracle, retrained models
and each other; what is remembered from one λ to the next; and what is refused."""

import copy
import pickle
import threading

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import implicitgrad as ig
import reference
from implicitgrad import _core
from reference import assert_near, relative_error
from row_cases import BLOCKS, CASES, SOME, N, P, warp, warp_vjp

BY_NAME = {case.name: case for case in CASES}
RTOL = 2e-11
every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
def test_value_and_derivatives(case, rng):
    f, _ = case.objectives()
    ref, _ = case.references()
    theta, lam, v = case.theta(), case.lam(), rng.standard_normal(case.n_theta)
    assert (f.n_theta, f.n_lam) == (case.n_theta, case.n_lam)
    at = f.linearize(theta, lam)
    assert_near(np.float64(at.fun), ref.fun(theta, lam), 1e-13, "fun")
    assert_near(at.jac, ref.jac(theta, lam), 1e-12, "jac")
    assert_near(at.hess @ v, ref.hess(theta, lam) @ v, 1e-12, "hess")
    assert_near(at.jac_lam, ref.jac_lam(theta, lam), RTOL, "jac_lam")
    C = ref.cross(theta, lam)
    assert_near(at.cross.T @ v, C.T @ v, RTOL, "cross.T")
    u = rng.standard_normal(case.n_lam)
    assert_near(at.cross @ u, C @ u, RTOL, "cross")


@every_case
def test_cross_products_are_adjoint_and_take_blocks(case, rng):
    f, _ = case.objectives()
    at = f.linearize(case.theta(), case.lam())
    U, Q = rng.standard_normal((case.n_lam, 3)), rng.standard_normal((case.n_theta, 3))
    CU, CQ = at.cross @ U, at.cross.T @ Q
    sizes = np.linalg.norm(CU, axis=0) * np.linalg.norm(Q, axis=0)
    assert (np.abs(np.sum(CU * Q, 0) - np.sum(U * CQ, 0)) <= 1e-12 * sizes).all()
    for k in range(3):
        assert_near(CU[:, k], at.cross @ U[:, k], 1e-14)
        assert_near(CQ[:, k], at.cross.T @ Q[:, k], 1e-14)


@every_case
@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_hypergradients_are_exact_and_say_so(case, method):
    f, g = case.objectives()
    best, exact = case.solution()
    offset = 1e-4 * np.cos(np.arange(case.n_theta))
    for theta in (best.astype(float), best.astype(float) + offset):
        res = ig.implicit_grad(f, g, theta, case.lam(), method)
        assert res.success, res.message
        error = relative_error(res.grad, exact)
        assert error <= 1e-6
        size = np.linalg.norm(exact.astype(float))
        # The oracle itself is good to 1e-14 or so.
        assert error * size <= 3 * res.error + 1e-13 * size
        assert error * size <= res.error_bound + 1e-13 * size
    known = not case.inputs
    assert np.isfinite(res.error_bound) == known


@every_case
def test_they_agree_with_retrained_models(case):
    f, g = case.objectives()
    check = ig.check_hypergrad(f, g, case.lam())
    assert check.success, check.message


@every_case
def test_forward_mode_is_the_same_jacobian(case, rng):
    f, g = case.objectives()
    lam, u = case.lam(), rng.standard_normal(case.n_lam)
    theta = ig.train(f, lam).x
    moved, back = ig.response(f, theta, lam, u), ig.implicit_grad(f, g, theta, lam)
    assert moved.success and back.success
    slope = g.jac(theta) @ moved.response
    assert slope == pytest.approx(back.grad @ u, rel=1e-7, abs=1e-9 * np.linalg.norm(back.grad))
    ref, _ = case.references()
    best, _ = case.solution()
    w = -np.linalg.solve(
        ref.hess(best, lam).astype(float), (ref.cross(best, lam) @ u).astype(float)
    )
    off = np.linalg.norm(moved.response - w)
    assert off <= moved.error_bound + 1e-11 * np.linalg.norm(w)


@every_case
def test_nothing_is_remembered_across_lam(case, rng):
    """Everything that is kept (the pass at θ, the factor, the preconditioner) belongs to one λ."""
    kept, _ = case.objectives()
    theta, v = case.theta(), rng.standard_normal(case.n_theta)
    here, there = case.lam(1), case.lam(5)
    there[: case.n_penalty] = here[: case.n_penalty]  # the rows alone change
    first = kept.linearize(theta, here)
    before = first.hess @ v
    factors = []
    for lam in (here, there, here):
        fresh, _ = case.objectives()
        got, want = kept.linearize(theta, lam), fresh.linearize(theta, lam)
        assert got.fun == want.fun
        for name in ("jac", "jac_lam"):
            assert np.array_equal(getattr(got, name), getattr(want, name))
        assert np.array_equal(got.hess @ v, want.hess @ v)
        assert np.array_equal(got.cross.T @ v, want.cross.T @ v)
        factors.append(_core.CholeskyFactor(got._core.hess).apply(v))
        assert np.array_equal(factors[-1], _core.CholeskyFactor(want._core.hess).apply(v))
    assert np.array_equal(factors[0], factors[2])
    if case.sample_weight or case.inputs:  # else curvatures may be the same
        assert not np.array_equal(factors[0], factors[1])
    assert np.array_equal(first.hess @ v, before)  # and a linearisation stays where it was


@pytest.mark.parametrize("name", ["ridge-sigmoid", "logistic-exp-f", "ridge-affine"])
@pytest.mark.parametrize("preconditioner", ["jacobi", "sketch", "gram"])
def test_a_kept_preconditioner_learns_of_new_rows(name, preconditioner):
    case = BY_NAME[name]
    f, g = case.objectives()
    options = {"preconditioner": preconditioner}
    h = ig.HyperObjective(f, g, method="cg", options=options)
    for seed in range(4):
        lam = case.lam(seed)
        _, grad = h(lam)
        fresh = ig.HyperObjective(*case.objectives())
        assert h.result.success
        assert relative_error(grad, fresh(lam)[1]) <= 1e-6


@every_case
def test_threads_do_not_change_bits(case, rng):
    q, u = rng.standard_normal(case.n_theta), rng.standard_normal(case.n_lam)
    found = []
    for n_threads in (1, 3):
        f, _ = case.objectives(n_threads=n_threads)
        at = f.linearize(case.theta(), case.lam())
        found.append([at.fun, at.jac, at.jac_lam, at.cross.T @ q, at.cross @ u])
    for a, b in zip(*found, strict=True):
        assert np.array_equal(a, b)


def test_threads_do_not_change_bits_of_many_rows(rng):
    X, lam = rng.standard_normal((20_000, 12)), rng.standard_normal(20_000)
    y, theta, q = X[:, 0] > 0.1, rng.standard_normal(13), rng.standard_normal(13)
    found = []
    for n_threads in (1, 3):
        f = ig.Logistic(
            X, y, fit_intercept=True, sample_weight=ig.SampleWeights(), n_threads=n_threads
        )
        at = f.linearize(theta, lam)
        found.append(
            [at.jac, at.cross.T @ q, at.cross @ lam, f._core.linearize(theta, lam).errors()]
        )
    for a, b in zip(*found, strict=True):
        assert np.array_equal(a, b)


def test_objectives_serve_several_threads_at_once():
    case = BY_NAME["logistic-all-blocks"]  # calls back into Python
    f, _ = case.objectives()
    want = {seed: case.objectives()[0].fun(case.theta(), case.lam(seed)) for seed in range(4)}
    got = {}

    def work(seed):
        got[seed] = [f.linearize(case.theta(), case.lam(seed)).fun for _ in range(20)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(set(got[seed]) == {want[seed]} for seed in want)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-10, -1), data=st.data())
def test_error_estimates_and_bounds_with_sample_weights(seed, exponent, data):
    """Random problems, columns of different scale, weights over orders of magnitude, θ off."""
    rng = np.random.default_rng(seed)
    loss = data.draw(st.sampled_from(["LeastSquares", "Logistic"]))
    transform = data.draw(st.sampled_from(["sigmoid", "softplus", "exp", "softmax"]))
    way = data.draw(st.sampled_from(["auto", "cholesky", "cg", "nystrom"]))
    X = rng.standard_normal((N, P)) * np.geomspace(1, 10 ** rng.uniform(0, 3), P)
    y = X @ rng.standard_normal(P) + rng.standard_normal(N)
    if loss == "Logistic":
        y = np.where(y > np.median(y), 1.0, -1.0)
    weight = ig.SampleWeights(transform)
    f = getattr(ig, loss)(X, y, penalty=ig.L2("feature"), sample_weight=weight)
    g = getattr(ig, loss)(rng.standard_normal((20, P)), np.resize([1.0, -1.0], 20))
    lam = np.r_[rng.uniform(-8, 1, P), 3 * rng.standard_normal(N)]
    theta, exact = solved(loss, X, y, transform, lam, g)
    off = theta + 10.0**exponent * rng.standard_normal(P)
    for polish in (True, False):
        res = ig.implicit_grad(f, g, off, lam, way, options={"polish": polish, "warn": False})
        error = np.linalg.norm(res.grad - exact)
        size = np.linalg.norm(exact)
        rounding = 1e-13 * size
        assert error <= res.error_bound + rounding
        # Never success for a wrong number: a rounding level is all that tol does not cover.
        at = f.linearize(res.theta, lam)
        level = 64 * np.finfo(float).eps * at._core.cross_transpose_and_scale(res.adjoint)[1]
        if res.success:
            assert error <= 1.1 * max(1e-6 * size, level) + rounding
        if polish:
            assert res.success or res.status in (3, 4), res.message


def solved(loss, X, y, transform, lam, g):
    """θ⋆ and the hypergradient there, from a model of the oracle's."""
    t = BLOCKS[transform].rows
    ref = reference.HyperModel(loss, X, y, t, "feature", False, None, False)
    ref_g = reference.LinearModel(loss, g.X, g.y)
    theta = ref.train(lam)
    return theta.astype(float), reference.hypergradient(ref, ref_g, theta, lam)[0].astype(float)


def test_split_names_the_blocks_in_order():
    case = BY_NAME["logistic-all-blocks"]
    f, _ = case.objectives()
    lam = case.lam()
    parts = f.split(lam)
    assert list(parts) == ["penalty", "sample_weight", "inputs", "targets"]
    assert [part.size for part in parts.values()] == [P, 7, 2, N]
    assert np.array_equal(np.concatenate(list(parts.values())), lam)
    assert all(np.shares_memory(part, lam) for part in parts.values())
    f, _ = BY_NAME["ridge-groups"].objectives()
    assert list(f.split(np.zeros(7))) == ["sample_weight"]


def test_weights_that_are_ones_and_inputs_as_given_change_nothing(rng):
    X, y, theta = rng.standard_normal((N, P)), rng.standard_normal(N), rng.standard_normal(P)
    plain = ig.LeastSquares(X, y, penalty=ig.L2("feature"))
    pen = np.full(P, -1.0)
    for blocks, lam in (
        ({"sample_weight": ig.SampleWeights("exp")}, np.zeros(N)),
        ({"sample_weight": ig.SampleWeights("softmax")}, np.full(N, 0.3)),
        ({"inputs": ig.Inputs()}, X.ravel()),
        ({"inputs": ig.Inputs(SOME)}, X[SOME].ravel()),
        ({"inputs": ig.Affine()}, np.zeros(2 * P)),
        ({"targets": ig.Targets(SOME)}, y[SOME]),
    ):
        f = ig.LeastSquares(X, y, penalty=ig.L2("feature"), **blocks)
        lam = np.r_[pen, lam]
        assert f.fun(theta, lam) == pytest.approx(plain.fun(theta, pen), rel=1e-14)
        assert_near(f.jac(theta, lam), plain.jac(theta, pen), 1e-14)


@every_case
def test_pickles_and_copies_give_the_same_bits(case, rng):
    f, _ = case.objectives()
    lam, q = case.lam(), rng.standard_normal(case.n_theta)
    want = f.linearize(case.theta(), lam)
    for twin in (pickle.loads(pickle.dumps(f)), copy.copy(f), copy.deepcopy(f)):
        got = twin.linearize(case.theta(), lam)
        assert got.fun == want.fun and np.array_equal(got.jac_lam, want.jac_lam)
        assert np.array_equal(got.cross.T @ q, want.cross.T @ q)
        assert repr(twin) == repr(f) and list(twin.split(lam)) == list(f.split(lam))


def test_wide_sparse_rows(rng):
    """X whose transposed products go by tiles of columns, where no partial sums are kept."""
    X = scipy.sparse.random_array((300, 40_000), density=0.002, rng=rng, format="csr")
    y, lam = rng.standard_normal(300), 0.5 * rng.standard_normal(320)
    blocks = {"sample_weight": ig.SampleWeights(), "targets": ig.Targets(np.arange(20))}
    theta, q = rng.standard_normal(40_001), rng.standard_normal(40_001)
    found = [
        ig.LeastSquares(given, y, fit_intercept=True, **blocks).linearize(theta, lam)
        for given in (X, X.toarray())
    ]
    for name in ("fun", "jac", "jac_lam"):
        a, b = (np.float64(getattr(at, name)) for at in found)
        assert np.allclose(a, b, rtol=1e-12, atol=1e-13 * np.max(np.abs(b)))
    assert_near(found[0].cross.T @ q, found[1].cross.T @ q, 1e-12)
    assert_near(found[0].cross @ lam, found[1].cross @ lam, 1e-12)


def test_labels_that_are_all_hyperparameters_may_be_of_one_class():
    ones = np.ones(12)
    f = ig.Logistic(X, ones, penalty=ig.L2(), targets=ig.Targets())
    assert f.n_lam == 13
    with pytest.raises(ValueError, match="one class"):
        ig.Logistic(X, ones, penalty=ig.L2(), targets=ig.Targets([0]))


def test_blocks_are_shown():
    f, _ = BY_NAME["ridge-all-blocks"].objectives()
    assert "sample_weight=SampleWeights('exp'), inputs=Inputs([8, 3, 21]), targets=T" in repr(f)


def test_inputs_of_a_float32_matrix_are_not_rounded(rng):
    X, y = rng.standard_normal((N, P)).astype(np.float32), rng.standard_normal(N)
    f = ig.LeastSquares(X, y, inputs=ig.Inputs([0]))
    lam = np.array([1 + 1e-12, 0, 0, 0])
    wide = np.array(X, dtype=float)
    wide[0] = lam
    theta = np.array([1e6, 0, 0, 0])
    assert f.fun(theta, lam) == pytest.approx(ig.LeastSquares(wide, y).fun(theta), rel=1e-15)
    assert np.array_equal(f.X, X)  # and the given array stays as it is


def test_minimize_cleans_noisy_labels(rng):
    """The weights of rows with flipped labels fall, those of the others do not."""
    X, X_val = rng.standard_normal((80, 3)), rng.standard_normal((400, 3))
    y, y_val = X @ [2.0, -1.0, 1.0] > 0, X_val @ [2.0, -1.0, 1.0] > 0
    flipped = np.arange(80) % 5 == 0
    f = ig.Logistic(
        X, y ^ flipped, penalty=ig.L2("none", fixed=0.01), sample_weight=ig.SampleWeights()
    )
    g = ig.Logistic(X_val, y_val)
    best = ig.minimize(f, g, np.zeros(80), bounds=[(-6, 6)] * 80, options={"warn": False})
    weights = 1 / (1 + np.exp(-best.x))
    assert weights[flipped].mean() < 0.3 * weights[~flipped].mean()


def test_a_lam_out_of_range_lets_a_line_search_back_off():
    case = BY_NAME["logistic-sigmoid"]
    h = ig.HyperObjective(*case.objectives())
    far = case.lam()
    far[-1] = 800.0
    with pytest.raises(ValueError, match="sigmoid"):
        h(far)
    h(case.lam())
    assert h(far)[0] == np.inf


def test_numbers_that_go_bad_in_a_transform_give_a_status():
    def value(X, lam):
        return np.full(X.shape, np.nan) if lam[0] > 1 else X

    spoilt = ig.Transform(value, lambda X, lam, M: np.zeros(1), 1)
    f, g = ig.LeastSquares(X, Y, penalty=ig.L2(), inputs=spoilt), ig.LeastSquares(X, Y)
    lam = np.array([0.0, 2.0])
    res = ig.implicit_grad(f, g, np.ones(3), lam, options={"warn": False})
    assert not res.success and res.status == 5
    trained = ig.train(f, lam)
    assert not trained.success and trained.status == 5


RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 3)), RNG.standard_normal(12)
LABELS = np.resize([1.0, -1.0], 12)


def ridge(**given):
    return ig.LeastSquares(X, Y, penalty=ig.L2(), **given)


def at(f, lam):
    return lambda: f.fun(np.zeros(f.n_theta), lam)


def wrong(**functions):
    parts = {"value": warp, "vjp": warp_vjp, "n_lam": 2, **functions}
    return ridge(inputs=ig.Transform(**parts))


weighted = ridge(sample_weight=ig.SampleWeights("softmax"))
far = np.zeros(13)
far[3] = -800.0
BAD = {
    "transform": lambda: ig.SampleWeights("relu"),
    "transform-type": lambda: ig.SampleWeights(3),
    "sample_weight-short": lambda: ridge(sample_weight=ig.SampleWeights(groups=[0, 1])),
    "groups-float": lambda: ig.SampleWeights(groups=[0.0, 1.0]),
    "groups-skip": lambda: ig.SampleWeights(groups=[0, 2]),
    "rows-float": lambda: ig.Targets([0.5]),
    "rows-mask": lambda: ig.Inputs(np.ones(12, dtype=bool)),
    "rows-twice": lambda: ig.Inputs([3, 3]),
    "rows-negative": lambda: ig.Targets([-1]),
    "rows-none": lambda: ig.Targets([]),
    "rows-2-D": lambda: ig.Targets([[1]]),
    "inputs-row": lambda: ridge(inputs=ig.Inputs([12])),
    "targets-row": lambda: ridge(targets=ig.Targets([12])),
    "inputs-array": lambda: ridge(inputs=X),
    "targets-array": lambda: ridge(targets=Y),
    "X-sparse": lambda: ig.LeastSquares(scipy.sparse.csr_array(X), Y, inputs=ig.Inputs()),
    "y-columns": lambda: ig.LeastSquares(X, X, sample_weight=ig.SampleWeights()),
    "value": lambda: ig.Transform(3, warp_vjp, 2),
    "vjp": lambda: ig.Transform(warp, None, 2),
    "jvp": lambda: ig.Transform(warp, warp_vjp, 2, jvp="no"),
    "n_lam": lambda: ig.Transform(warp, warp_vjp, 0),
    "rng": lambda: ig.Noise(rng="seed"),
    "per": lambda: ig.Noise("row"),
    "value-shape": at(wrong(value=lambda X, lam: X[0]), np.zeros(3)),
    "value-type": at(wrong(value=lambda X, lam: X + 1j), np.zeros(3)),
    "vjp-shape": lambda: wrong(vjp=lambda X, lam, M: M).linearize(np.zeros(3), np.zeros(3)),
    "jvp-missing": lambda: wrong().linearize(np.zeros(3), np.zeros(3)).cross @ np.zeros(3),
    "lam-long": at(weighted, np.zeros(14)),
    "lam[3]": at(weighted, far),
    "lam[1]": at(ridge(sample_weight=ig.SampleWeights()), np.r_[0, 800.0, np.zeros(11)]),
    "lam[2]": at(ridge(sample_weight=ig.SampleWeights("softplus")), np.roll(far, -1)),
    "lam[0]": at(ridge(inputs=ig.Affine()), np.r_[-800.0, np.zeros(6)]),
    "lam[4]": at(ig.Logistic(X, LABELS, targets=ig.Targets()), np.r_[0, 0, 0, 0, 999, np.zeros(7)]),
    "sample_weight-folds": lambda: ig.cross_validated(
        ig.LeastSquares, X, Y, sample_weight=ig.SampleWeights()
    ),
    "sample_weight-loo": lambda: ig.leave_one_out(
        ig.LeastSquares, X, Y, sample_weight=ig.SampleWeights()
    ),
    "y-one class": lambda: ig.Logistic(X, np.ones(12), sample_weight=ig.SampleWeights()),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    with pytest.raises((ValueError, TypeError)) as caught:
        BAD[name]()
    assert name.split("-")[0] in str(caught.value)
