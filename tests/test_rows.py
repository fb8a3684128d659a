"""Some rows of an objective, for minibatches: all blocks of λ, and means that are those of all rows."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse

import implicitgrad as ig
from cases import BY_NAME
from reference import assert_near
from row_cases import CASES, SOME, K, N

PLAIN = [
    *("ridge-feature-40x7", "ridge-groups-33x8-intercept", "ridge-597x43-f32-f"),
    *("logistic-597x43", "logistic-csr-597x43", "poisson-groups-weights-intercept"),
    *("softmax-all-weights-f", "softmax-csr-80x12"),
]


def problems():
    for case in CASES:
        yield pytest.param(lambda case=case: case.objectives()[0], case.lam(), id=case.name)
    for name in PLAIN:
        case = BY_NAME[name]
        yield pytest.param(lambda case=case: case.objective("train"), case.lam(), id=name)


@pytest.mark.parametrize(("make", "lam"), list(problems()))
def test_parts_make_the_whole(make, lam, rng):
    f = make()
    n = f.X.shape[0]
    theta, q = rng.standard_normal((2, f.n_theta))
    u = rng.standard_normal(f.n_lam)
    given = rng.permutation(n)
    parts = [f.rows(given[a::4]) for a in range(4)]
    parts[0] = f.rows(given).rows(np.arange(0, n, 4))  # rows of rows
    assert all(type(part) is type(f) and part.n_lam == f.n_lam for part in parts)
    whole, found = f.linearize(theta, lam), [part.linearize(theta, lam) for part in parts]
    share = np.array([part.X.shape[0] for part in parts]) / n
    for of in (
        *(lambda at: at.fun, lambda at: at.jac, lambda at: at.jac_lam),
        *(lambda at: at.hess @ q, lambda at: at.cross.T @ q, lambda at: at.cross @ u),
    ):
        assert_near(sum(s * of(at) for s, at in zip(share, found, strict=True)), of(whole), 1e-11)
    for twin in (pickle.loads(pickle.dumps(parts[1])), copy.deepcopy(parts[1])):
        assert twin.fun(theta, lam) == found[1].fun and repr(twin) == repr(parts[1])


def test_the_theorem_holds_on_a_part():
    case = next(case for case in CASES if case.name == "logistic-all-blocks")
    f, g = case.objectives()
    part = f.rows(np.r_[np.arange(0, N, 2), 4, 4])
    assert ig.check_hypergrad(part, g, case.lam()).success
    theta = ig.train(part, case.lam()).x
    assert ig.influence(part, g, theta, case.lam()).influence.shape == (17,)


def test_a_part_without_rows_of_lam_has_no_derivative_in_them(rng):
    X, y, S = rng.standard_normal((N, 3)), np.arange(N) % K, ig.Targets(SOME)
    for make in (ig.Softmax, ig.MLP):
        f = make(X, y, inputs=ig.Inputs(SOME), targets=S, sample_weight=ig.SampleWeights())
        theta, lam = rng.standard_normal(f.n_theta), rng.standard_normal(f.n_lam)
        at = f.rows([0, 1, 2]).linearize(theta, lam)
        for found in (at.jac_lam, at.cross.T @ theta):
            parts = f.split(found)
            assert not parts["inputs"].any() and not parts["targets"].any()
            assert np.array_equal(np.flatnonzero(parts["sample_weight"]), [0, 1, 2])


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_linear_models_train_on_minibatches(method, rng):
    X = rng.standard_normal((200, 4))
    y = (X @ rng.standard_normal((4, K))).argmax(axis=1)
    for given in (X, scipy.sparse.csr_array(X * (X > 0))):
        f = ig.Softmax(given, y, penalty=ig.L2(), targets=ig.Targets(np.arange(50)))
        lam = np.r_[-2.0, rng.standard_normal(150)]
        best = ig.train(f, lam)
        options = {"batch_size": 20, "learning_rate": 0.01}
        near = ig.train(f, lam, method=method, maxiter=1500, options=options)
        assert near.fun - best.fun <= 0.05 * (f.fun(np.zeros(f.n_theta), lam) - best.fun)


def test_a_memmap_is_read_where_it_is_asked_for(tmp_path, rng):
    written = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", float, (40, 5))
    written[:] = rng.standard_normal((40, 5))
    written[3, 2] = np.nan
    written.flush()
    f = ig.LeastSquares(np.load(tmp_path / "X.npy", mmap_mode="r"), np.ones(40), penalty=ig.L2())
    assert np.isfinite(f.rows([0, 1, 2]).fun(np.ones(5), [0.0]))
    with pytest.raises(ValueError, match=r"X contains nan at index \(1, 2\)"):
        f.rows([2, 3]).fun(np.ones(5), [0.0])


BAD = {
    "[40]": ValueError,
    "[-41]": ValueError,
    "[]": TypeError,
    "[0.5]": TypeError,
    "[[0]]": TypeError,
}


@pytest.mark.parametrize("idx", BAD)
def test_bad_row_numbers_are_refused(idx):
    f = ig.LeastSquares(np.ones((40, 2)), np.ones(40), penalty=ig.L2())
    with pytest.raises(BAD[idx], match="idx"):
        f.rows(eval(idx))


def test_what_has_no_rows_says_so(rng):
    X, y = rng.standard_normal((40, 2)), rng.standard_normal((40, 2))
    several = ig.LeastSquares(X, y, penalty=ig.L2())
    with pytest.raises(ValueError, match=r"rows\(idx\) needs one target a row"):
        several.rows([0])
    folds, _ = ig.cross_validated(ig.LeastSquares, X, y[:, 0], penalty=ig.L2())
    with pytest.raises(TypeError, match=r"rows\(idx\) is not for folds"):
        folds.rows([0])
