"""Bad input is refused before any work, by a ValueError or TypeError that names the argument."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import OptimizeWarning

import implicitgrad as ig
from cases import linear, well_posed

RNG = np.random.default_rng(7)
X = RNG.standard_normal((12, 4))
Y = RNG.standard_normal(12)
LABELS = np.where(np.arange(12) % 2, 1.0, -1.0)
THETA, LAM, W = RNG.standard_normal(4), np.full(4, -1.0), np.full(12, 0.5)


def put(a, value, at=-1):
    out = np.array(a)
    out.reshape(-1)[at] = value
    return out


def data():
    f = ig.LeastSquares(X, Y, penalty=ig.L2("feature"))
    return f, ig.LeastSquares(X[::-1], Y)


def ridge(X=X, y=Y, **kwargs):
    return ig.LeastSquares(X, y, **kwargs)


def logistic(X=X, y=LABELS, **kwargs):
    return ig.Logistic(X, y, **kwargs)


def solve(theta=THETA, lam=LAM, f=None, g=None, **kwargs):
    ours = data()
    return ig.implicit_grad(f or ours[0], g or ours[1], theta, lam, **kwargs)


def option(**options):
    method = "neumann" if {"terms", "step_size"} & set(options) else "cg"
    method = "nystrom" if "rank" in options else method
    return lambda: solve(method=method, options=options)


NAN, INF = np.nan, np.inf
TEXT = np.array([["1", "2"], ["3", "4"], ["5", "6"]])

# What is wrong with a matrix, whatever the loss.
BAD_X = {
    "1-D": X[0],
    "3-D": X[None],
    "0-D": np.float64(3.0),
    "no rows": X[:0],
    "no columns": X[:, :0],
    "nan": put(X, NAN),
    "inf": put(X, INF, 0),
    "-inf": put(X, -INF, 17),
    "nan in F order": np.asfortranarray(put(X, NAN)),
    "nan in float32": put(X.astype(np.float32), NAN),
    "inf in float16": put(X.astype(np.float16), INF),
    "nan in a strided view": put(X.repeat(2, 0), NAN, 0)[::2],
    "complex": X + 0j,
    "strings": TEXT,
    "bytes": TEXT.astype("S"),
    "objects": TEXT.astype(object),
    "dates": np.zeros((3, 2), dtype="datetime64[s]"),
    "ragged": [[1.0, 2.0], [3.0]],
    "none": None,
    "masked nan": [[1.0, NAN], [2.0, 3.0]],
}
BAD_Y = {
    "short": LABELS[:-1],
    "long": np.append(LABELS, 1.0),
    "3-D": np.zeros((12, 2, 2)),
    "2-D of other rows": np.column_stack([LABELS, LABELS])[1:],
    "2-D of no columns": np.zeros((12, 0)),
    "0-D": np.float64(1.0),
    "empty": LABELS[:0],
    "nan": put(LABELS, NAN),
    "inf": put(LABELS, INF),
    "-inf": put(LABELS, -INF, 0),
    "strings": np.where(LABELS > 0, "1", "0"),
    "complex": LABELS + 0j,
    "none": None,
}
BAD_LABELS = {
    "three": np.arange(12) % 3,
    "two and three": 2 + np.arange(12) % 2,
    "minus one and zero": -(np.arange(12) % 2),
    "halves": np.where(LABELS > 0, 0.5, -0.5),
    "real": Y,
}
BAD_WEIGHT = {
    "short": W[:-1],
    "2-D": W[:, None] * np.ones(2),
    "scalar": 1.0,
    "nan": put(W, NAN),
    "inf": put(W, INF),
    "negative": put(W, -1e-3),
    "all zero": 0 * W,
    "strings": W.astype(str),
    "complex": W + 0j,
}
BAD_VECTOR = {  # for θ, λ, v and the starting points
    "short": THETA[:-1],
    "long": np.append(THETA, 0.0),
    "2-D": THETA[:, None],
    "row": THETA[None, :],
    "empty": THETA[:0],
    "nan": put(THETA, NAN),
    "inf": put(THETA, INF, 0),
    "-inf": put(THETA, -INF),
    "strings": THETA.astype(str),
    "complex": THETA + 0j,
    "dict": {"a": 1},
}
BAD_LAM = {
    **BAD_VECTOR,
    "overflow": put(LAM, 800.0),
    "underflow": put(LAM, -800.0, 0),
}
BAD_TOL = {"zero": 0.0, "negative": -1e-6, "nan": NAN, "string": "1e-6", "array": np.ones(2)}

TABLE = []


def add(name, what, call):
    TABLE.append(pytest.param(call, name, id=f"{name}-{what}"))


for what, bad in BAD_X.items():
    add("X", f"{what}-ridge", lambda bad=bad: ridge(X=bad, y=LABELS))
    add("X", f"{what}-logistic", lambda bad=bad: logistic(X=bad))
for what, bad in BAD_Y.items():
    add("y", f"{what}-ridge", lambda bad=bad: ridge(y=bad))
    add("y", f"{what}-logistic", lambda bad=bad: logistic(y=bad))
for what, bad in BAD_LABELS.items():
    add("y", f"labels-{what}", lambda bad=bad: logistic(y=bad))
for what, bad in {"ones": np.ones(12), "false": np.zeros(12, bool), "minus": -np.ones(12)}.items():
    add("y", f"one-class-{what}", lambda bad=bad: logistic(y=bad, penalty=ig.L2()))
for what, bad in BAD_WEIGHT.items():
    add("sample_weight", f"{what}-ridge", lambda bad=bad: ridge(sample_weight=bad))
    add("sample_weight", f"{what}-logistic", lambda bad=bad: logistic(sample_weight=bad))
for what, bad in {"string": "feature", "number": 0.1, "class": ig.L2, "list": [1, 2]}.items():
    add("penalty", what, lambda bad=bad: ridge(penalty=bad))
for what, bad in {"string": "yes", "two": 2, "none": None}.items():
    add("fit_intercept", what, lambda bad=bad: ridge(fit_intercept=bad))
for what, bad in {"zero": 0, "negative": -1, "half": 1.5, "string": "2"}.items():
    add("n_threads", what, lambda bad=bad: ridge(n_threads=bad))
add("n_jobs", "unknown keyword", lambda: ridge(n_jobs=2))

for what, bad in {
    "unknown": "columns",
    "float labels": np.array([0.0, 1.0, 0.0, 1.0]),
    "halves": [0.5, 1.5, 0.5, 1.5],
    "nan": np.array([0.0, NAN, 1.0, 0.0]),
    "strings": np.array(["0", "1", "0", "1"]),
    "negative label": np.array([0, 1, -1, 0]),
    "2-D": np.zeros((2, 2), dtype=int),
    "empty": np.zeros(0, dtype=int),
    "none": None,
}.items():
    add("per", what, lambda bad=bad: ig.L2(bad))
for what, bad in {"short": np.zeros(3, int), "long": np.zeros(5, int)}.items():
    add("per|penalty", what, lambda bad=bad: ridge(penalty=ig.L2(bad)))
for what, bad in {"nan": NAN, "inf": INF, "negative": -0.1, "string": "1"}.items():
    add("fixed", what, lambda bad=bad: ig.L2(fixed=bad))

for verb in ("fun", "jac", "linearize"):
    for what, bad in BAD_VECTOR.items():
        add("theta", f"{verb}-{what}", lambda v=verb, bad=bad: getattr(data()[0], v)(bad, LAM))
    for what, bad in BAD_LAM.items():
        add("lam", f"{verb}-{what}", lambda v=verb, bad=bad: getattr(data()[0], v)(THETA, bad))
for what, bad in BAD_VECTOR.items():
    add("theta", f"hessp-{what}", lambda bad=bad: data()[0].hessp(bad, THETA, LAM))
    add("v", f"hessp-{what}", lambda bad=bad: data()[0].hessp(THETA, bad, LAM))
    add("theta", f"implicit_grad-{what}", lambda bad=bad: solve(theta=bad))
    add("theta0", f"train-{what}", lambda bad=bad: ig.train(data()[0], LAM, theta0=bad))
    add("theta0", f"minimize-{what}", lambda bad=bad: ig.minimize(*data(), LAM, theta0=bad))
    add("theta0", f"check-{what}", lambda bad=bad: ig.check_hypergrad(*data(), LAM, theta0=bad))
for what, bad in BAD_LAM.items():
    add("lam", f"hessp-{what}", lambda bad=bad: data()[0].hessp(THETA, THETA, bad))
    add("lam", f"split-{what}", lambda bad=bad: data()[0].split(bad))
    add("lam", f"implicit_grad-{what}", lambda bad=bad: solve(lam=bad))
    add("lam", f"train-{what}", lambda bad=bad: ig.train(data()[0], bad))
    add("lam0", f"minimize-{what}", lambda bad=bad: ig.minimize(*data(), bad))
    add("lam", f"check-{what}", lambda bad=bad: ig.check_hypergrad(*data(), bad))
    add("lam", f"HyperObjective-{what}", lambda bad=bad: ig.HyperObjective(*data())(bad))
for what, bad in BAD_TOL.items():
    add("tol", f"implicit_grad-{what}", lambda bad=bad: solve(tol=bad))
    add("tol", f"train-{what}", lambda bad=bad: ig.train(data()[0], LAM, tol=bad))
    add("tol", f"minimize-{what}", lambda bad=bad: ig.minimize(*data(), LAM, tol=bad))
add("method", "implicit_grad-none", lambda: solve(method=None))
for what, bad in {"unknown": "gauss", "number": 3}.items():
    add("method", f"implicit_grad-{what}", lambda bad=bad: solve(method=bad))
    add("method", f"minimize-{what}", lambda bad=bad: ig.minimize(*data(), LAM, method=bad))
for what, bad in {"list": [("maxiter", 3)], "string": "maxiter", "number": 5}.items():
    add("options", f"implicit_grad-{what}", lambda bad=bad: solve(options=bad))
    add("options", f"minimize-{what}", lambda bad=bad: ig.minimize(*data(), LAM, options=bad))
for what, bad in {"number": 3, "string": "print", "list": []}.items():
    add("callback", f"implicit_grad-{what}", lambda bad=bad: solve(method="cg", callback=bad))
    add("callback", f"minimize-{what}", lambda bad=bad: ig.minimize(*data(), LAM, callback=bad))

COUNT = {"zero": 0, "negative": -5, "half": 1.5, "nan": NAN, "string": "10"}
SIZE = {"zero": 0.0, "negative": -1.0, "nan": NAN, "inf": INF, "string": "1"}
NON_NEGATIVE = {"negative": -1.0, "nan": NAN, "string": "1"}
for name, table in {
    "maxiter": COUNT,
    "terms": COUNT,
    "rank": COUNT,
    "step_size": SIZE,
    "damping": {**NON_NEGATIVE, "inf": INF},
    "atol": NON_NEGATIVE,
    "stop": NON_NEGATIVE,
    "preconditioner": {"unknown": "ilu", "number": 3},
    "rng": {"string": "zero", "negative": -1, "float": 0.5},
}.items():
    for what, bad in table.items():
        add(name, what, option(**{name: bad}))
for name, table in {"learning_rate": SIZE, "maxiter": COUNT}.items():
    for what, bad in table.items():
        add(
            name,
            f"gd-{what}",
            lambda name=name, bad=bad: ig.minimize(
                *data(), LAM, method="gd", options={"learning_rate": 0.1, name: bad}
            ),
        )
for what, bad in {
    "count": [(0, 1)] * 3,
    "crossed": [(1, 0)] * 4,
    "nan": [(NAN, 1)] * 4,
    "string": "positive",
}.items():
    add("bounds", what, lambda bad=bad: ig.minimize(*data(), LAM, bounds=bad))

# Objectives that do not fit each other, or are none at all.
OTHER = ig.LeastSquares(X[:, :3], Y)
for what, bad in {"number": 3.0, "string": "f", "array": X, "dict": {}}.items():
    add("f", f"implicit_grad-{what}", lambda bad=bad: ig.implicit_grad(bad, data()[1], THETA, LAM))
    add("g", f"implicit_grad-{what}", lambda bad=bad: ig.implicit_grad(data()[0], bad, THETA, LAM))
    add("f", f"train-{what}", lambda bad=bad: ig.train(bad, LAM, theta0=THETA))
    add("f", f"HyperObjective-{what}", lambda bad=bad: ig.HyperObjective(bad, data()[1]))
    add("g", f"HyperObjective-{what}", lambda bad=bad: ig.HyperObjective(data()[0], bad))
    add("f", f"minimize-{what}", lambda bad=bad: ig.minimize(bad, data()[1], LAM))
    add("g", f"minimize-{what}", lambda bad=bad: ig.minimize(data()[0], bad, LAM))
    add("g", f"check-{what}", lambda bad=bad: ig.check_hypergrad(data()[0], bad, LAM))
for what, call in {
    "implicit_grad": lambda g: ig.implicit_grad(data()[0], g, THETA, LAM),
    "HyperObjective": lambda g: ig.HyperObjective(data()[0], g),
    "minimize": lambda g: ig.minimize(data()[0], g, LAM),
    "check": lambda g: ig.check_hypergrad(data()[0], g, LAM),
}.items():
    add("g", f"{what}-other n_theta", lambda call=call: call(OTHER))
    add("g", f"{what}-other n_lam", lambda call=call: call(ridge(penalty=ig.L2("all"))))

FUN = {"fun": lambda t, x: 0.0, "jac": lambda t, x: np.zeros(4), "n_theta": 4, "n_lam": 4}
for name in ("fun", "jac", "hessp", "cross_vjp", "jac_lam"):
    add(name, "not callable", lambda name=name: ig.Objective(**{**FUN, name: 3}))
for name in ("n_theta", "n_lam"):
    for what, bad in {"negative": -1, "half": 1.5, "string": "4"}.items():
        add(name, what, lambda name=name, bad=bad: ig.Objective(**{**FUN, name: bad}))
add("n_theta", "zero", lambda: ig.Objective(**{**FUN, "n_theta": 0}))
BAD_CALLABLE = {
    "fun": {"array": lambda t, x: np.zeros(4), "none": lambda t, x: None, "text": lambda t, x: "1"},
    "jac": {"long": lambda t, x: np.zeros(5), "short": lambda t, x: np.zeros(3)},
    "hessp": {"short": lambda t, v, x: np.zeros(3), "none": lambda t, v, x: None},
    "cross_vjp": {"long": lambda t, q, x: np.zeros(5), "scalar": lambda t, q, x: 0.0},
    "jac_lam": {"short": lambda t, x: np.zeros(3), "text": lambda t, x: "zero"},
}
GOOD_CALLABLES = {
    "fun": lambda t, x: 0.5 * t @ t,
    "jac": lambda t, x: t,
    "hessp": lambda t, v, x: v,
    "cross_vjp": lambda t, q, x: np.zeros(4),
    "jac_lam": lambda t, x: np.zeros(4),
}


def solve_with(side, name, bad):
    broken = ig.Objective(**{**GOOD_CALLABLES, name: bad})
    other = linear(np.ones(4), 4)
    f, g = (broken, other) if side == "f" else (other, broken)
    return ig.implicit_grad(f, g, np.zeros(4), LAM, options={"warn": False})


for name, table in BAD_CALLABLE.items():
    side = "g" if name in ("fun", "jac_lam") else "f"
    for what, bad in table.items():
        add(
            name,
            f"returns {what}",
            lambda side=side, name=name, bad=bad: solve_with(side, name, bad),
        )
for what, bad in {"short": lambda H, b: b[:-1], "none": lambda H, b: None}.items():
    add("method", f"callable returns {what}", lambda bad=bad: solve(method=bad))


@pytest.mark.parametrize(("call", "name"), TABLE)
def test_refused_by_name(call, name, capfd):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert re.search(rf"\b({name})\b", str(error.value)), str(error.value)
    assert capfd.readouterr() == ("", "")


def test_nothing_in_the_table_changed_its_inputs():
    """Runs after the table, on the arrays it shares."""
    fresh = np.random.default_rng(7)
    assert np.array_equal(X, fresh.standard_normal((12, 4)))
    assert np.array_equal(Y, fresh.standard_normal(12))
    assert np.array_equal(THETA, fresh.standard_normal(4))
    assert np.all(LAM == -1) and np.all(W == 0.5)


def test_messages_say_what_was_found_and_what_is_wanted():
    with pytest.raises(ValueError, match=r"y has 11 entries.*X has 12 rows"):
        ridge(y=Y[:-1])
    with pytest.raises(ValueError, match=r"theta.*\b3\b.*\b4\b"):
        data()[0].fun(THETA[:-1], LAM)
    with pytest.raises(ValueError, match=r"method.*gauss.*cholesky.*cg"):
        solve(method="gauss")
    with pytest.raises(TypeError, match=r"y\b.*sparse"):
        ridge(y=scipy.sparse.csr_array(Y[None]))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nan_in_a_memmap_is_found_by_the_first_pass(tmp_path, order, dtype):
    base = put(X, NAN, 5)
    np.memmap(tmp_path / "X", dtype, "w+", shape=X.shape, order=order)[...] = base
    mapped = np.memmap(tmp_path / "X", dtype, "r", shape=X.shape, order=order)
    with pytest.raises(ValueError, match=r"\bX\b"):
        ridge(X=mapped).fun(THETA, np.zeros(0))


def test_refused_before_any_work():
    calls = []

    def watched(value):
        def function(*args):
            calls.append(args)
            return value(*args)

        return function

    w = well_posed()
    f = ig.Objective(
        fun=watched(w.f.fun), jac=watched(w.f.jac), hessp=watched(w.f.hessp), n_theta=12, n_lam=2
    )
    for bad in (
        SimpleNamespace(tol=-1.0),
        SimpleNamespace(method="gauss"),
        SimpleNamespace(options={"maxiter": 0}),
        SimpleNamespace(callback=3),
    ):
        with pytest.raises((ValueError, TypeError)):
            ig.implicit_grad(f, w.g, w.theta, w.lam, **vars(bad))
    with pytest.raises(ValueError, match="lam"):
        ig.implicit_grad(f, w.g, w.theta, w.lam[:1])
    with pytest.raises(ValueError, match="tol"):
        ig.train(f, w.lam, tol=0.0)
    with pytest.raises(ValueError, match="bounds"):
        ig.minimize(f, w.g, w.lam, bounds=[(0, 1)] * 3)
    assert not calls


def test_a_plain_loss_may_hold_one_class():
    g = ig.Logistic(X, np.ones(12))
    assert g.fun(np.zeros(4), np.zeros(0)) == pytest.approx(np.log(2), rel=1e-15)


def test_bad_numbers_met_later_are_a_status_not_an_exception():
    w = well_posed()
    g = ig.Objective(fun=lambda t, x: NAN, jac=lambda t, x: np.full(12, INF), n_lam=2)
    res = ig.implicit_grad(w.f, g, w.theta, w.lam, options={"warn": False})
    assert res.status == 5 and not res.success


def test_unknown_option_of_the_outer_loop_warns():
    with pytest.warns(OptimizeWarning, match="learning_rat"):
        ig.minimize(
            *data(),
            LAM,
            method="gd",
            options={"learning_rate": 0.1, "maxiter": 1, "learning_rat": 1},
        )
