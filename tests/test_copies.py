"""Copies and pickles: the same numbers from data of their own, in other processes too."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import scipy.sparse

import implicitgrad as ig
from row_cases import warp, warp_vjp

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((40, 5)), RNG.random(40)
Y = X @ np.ones(5) + RNG.standard_normal(40)
THETA, LAM = RNG.standard_normal(6), np.linspace(-2, 0, 5)
COMMON = {"penalty": ig.L2("feature", fixed=0.1), "fit_intercept": True, "sample_weight": W}
WAYS = {
    "pickle": lambda given: pickle.loads(pickle.dumps(given)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


CLASSES, SHARES = np.arange(40) % 3, RNG.dirichlet(np.ones(3), 40)
IN_ROWS = {
    "weights": {"sample_weight": ig.SampleWeights("softmax")},
    "groups": {"sample_weight": ig.SampleWeights(groups=np.arange(40) % 7)},
    "targets": {"targets": ig.Targets([3, 1])},
    "inputs": {"inputs": ig.Inputs([3, 1])},
    "affine": {"inputs": ig.Affine()},
    "noise": {"inputs": ig.Noise("feature", rng=2)},
    "transform": {"inputs": ig.Transform(warp, warp_vjp, 2)},
    "all": {
        "sample_weight": ig.SampleWeights(),
        "inputs": ig.Inputs([2]),
        "targets": ig.Targets(),
    },
}


class Named(ig.Logistic):
    """A subclass with an argument and an attribute of its own."""

    def __init__(self, name, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.name = name


def made():
    yield "least squares", ig.LeastSquares(X, Y, **COMMON)
    yield "several targets", ig.LeastSquares(X, np.column_stack([Y, Y**2]), **COMMON)
    yield "logistic", ig.Logistic(X, Y > 0, n_threads=1, **COMMON)
    yield "F", ig.LeastSquares(np.asfortranarray(X), Y, **COMMON)
    yield "float32", ig.LeastSquares(X.astype(np.float32), Y, **COMMON)
    yield "csr", ig.LeastSquares(scipy.sparse.csr_array(X * (X > 0)), Y, **COMMON)
    yield "plain loss", ig.Logistic(X, np.ones(40))
    yield "poisson", ig.Poisson(X, np.abs(Y), **COMMON)
    yield "softmax", ig.Softmax(X, CLASSES, **COMMON)
    yield "soft labels", ig.Softmax(X, SHARES, n_threads=1, **COMMON)
    for loss, y in (("softmax", CLASSES), ("softmax", SHARES), ("squared", np.c_[Y, Y**2])):
        yield f"network, {loss}", ig.MLP(X, y, hidden=(3, 2), loss=loss, penalty=ig.L2("layer"))
    yield "single network", ig.MLP(X.astype(np.float32), CLASSES, hidden=(3,), sample_weight=W)
    for name, blocks in IN_ROWS.items():
        for make, y in ((ig.LeastSquares, Y), (ig.Softmax, CLASSES), (ig.MLP, CLASSES)):
            f = make(X, y, penalty=ig.L2(), **blocks)
            yield f"{make.__name__}, {name}", f
            yield f"{make.__name__}, {name}, some rows", f.rows([3, 1, 3])
    yield "subclass", Named("mine", X, Y > 0, **COMMON)
    for loss, y in ((ig.LeastSquares, Y), (ig.Logistic, Y > 0)):
        yield from zip(("fold f", "fold g"), ig.cross_validated(loss, X, y, **COMMON), strict=True)
        yield "leave one out", ig.leave_one_out(loss, X, y, **COMMON)[1]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_gives_the_same_bits(way):
    for name, f in made():
        theta, lam = np.resize(THETA, f.n_theta), np.resize(LAM, f.n_lam)
        want = f.linearize(theta, lam)
        twin = way(f)
        got = twin.linearize(theta, lam)
        assert got is not want and got.fun == want.fun, name
        assert np.array_equal(got.jac, want.jac) and np.array_equal(got.jac_lam, want.jac_lam)
        if name != "leave one out":  # which has no second derivatives
            assert np.array_equal(got.hess @ theta, want.hess @ theta), name
            assert np.array_equal(got.cross.T @ theta, want.cross.T @ theta), name
        assert type(twin) is type(f) and repr(twin) == repr(f)
        assert vars(twin).keys() == vars(f).keys()
        if name == "subclass":
            assert twin.name == "mine"


def test_only_a_shallow_copy_shares_x():
    f = ig.LeastSquares(X, Y, **COMMON)
    shared = {how: np.shares_memory(way(f).X, X) for how, way in WAYS.items()}
    assert shared == {"pickle": False, "deepcopy": False, "copy": True}


def test_a_view_or_a_memmap_becomes_an_array_of_its_own(tmp_path):
    stored = np.memmap(tmp_path / "X", np.float64, "w+", shape=X.shape)
    stored[:] = X
    want = ig.LeastSquares(X[::2, :4], Y[::2]).fun(THETA[:4])
    for view in (X[::2, :4], stored[::2, :4]):
        twin = WAYS["pickle"](ig.LeastSquares(view, Y[::2]))
        assert twin.fun(THETA[:4]) == pytest.approx(want, rel=1e-14)
        assert twin.X.nbytes == 20 * 4 * 8
    stored[3, 3] = np.nan
    unread = WAYS["pickle"](ig.LeastSquares(stored, Y))
    with pytest.raises(ValueError, match="X contains nan"):
        unread.fun(THETA[:5])


def test_a_pickle_is_hardly_larger_than_the_data():
    large = np.zeros((4000, 50))
    f = ig.LeastSquares(large, large[:, 0] + 1, penalty=ig.L2())
    f.linearize(np.ones(50), [0.0])
    assert len(pickle.dumps(f)) <= 1.1 * large.nbytes


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_pairs_train_and_differentiate_alike(way):
    for pair in (ig.cross_validated, ig.leave_one_out):
        f, g = pair(ig.LeastSquares, X, Y, **COMMON)
        again, outer = way((f, g)) if way is not copy.copy else map(way, (f, g))
        theta = ig.train(f, LAM).x
        assert np.array_equal(ig.train(again, LAM).x, theta)
        res, same = ig.implicit_grad(f, g, theta, LAM), ig.implicit_grad(again, outer, theta, LAM)
        assert res.success and same.success
        assert np.array_equal(WAYS["pickle"](res).grad, res.grad)
        assert np.linalg.norm(res.grad - same.grad) <= res.error + same.error


def test_a_hyper_objective_goes_on_where_it_was():
    h = ig.HyperObjective(
        ig.LeastSquares(X, Y, **COMMON), ig.LeastSquares(X, -Y, fit_intercept=True)
    )
    value, grad = h(LAM)
    twin = WAYS["pickle"](h)
    assert np.array_equal(twin.theta, h.theta) and twin.nfev == 1
    assert twin(LAM)[0] == value and np.array_equal(twin(LAM)[1], grad) and twin.nfev == 1
    assert twin(LAM + 0.1)[0] == pytest.approx(h(LAM + 0.1)[0], rel=1e-12)


def test_other_processes_are_given_objectives():
    f = ig.LeastSquares(X, Y, n_threads=1, **COMMON)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        res = pool.apply(ig.train, (f, LAM))
    assert np.array_equal(res.x, ig.train(f, LAM).x)
