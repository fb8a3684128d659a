"""On real data: how the error falls with θ's distance from θ⋆, and what a user of SciPy's optimisers
gets. The exact answers come from the oracle in oracle.py."""

import gzip
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
from sklearn import datasets

import implicitgrad as ig
import oracle as exactly
from implicitgrad import solvers
from oracle import Data

MPG = os.environ.get("IMPLICITGRAD_MPG") or (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "mpg" / "mpg_scale.gz"
)


def read_libsvm(path, n_features):
    """Rows of "target index:value …", indices from 1."""
    X, y = [], []
    with gzip.open(path, "rt") as file:
        for line in file:
            target, *entries = line.split()
            row = np.zeros(n_features)
            for entry in entries:
                index, value = entry.split(":")
                row[int(index) - 1] = float(value)
            X.append(row)
            y.append(float(target))
    return np.array(X), np.array(y)


def mpg():
    if not Path(MPG).is_file():
        pytest.skip("mpg_scale.gz is not here: set IMPLICITGRAD_MPG to its path")
    return read_libsvm(MPG, 7)


def halves(loss, X, y, penalty):
    """Inner objective on one half of the rows, outer one on the other."""
    rows = np.random.default_rng(0).permutation(len(y))
    train, rest = rows[: len(y) // 2], rows[len(y) // 2 :]
    make = lambda part, penalty: Data(  # noqa: E731
        loss, np.ascontiguousarray(X[part]), y[part], None, penalty, 0.0, True
    )
    return make(train, penalty), make(rest, None)


def standardised(X):
    scale = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def exact(inner, outer, lam):
    # Extended precision is plenty here: no fifty digits, which take long for data of this size.
    problem = SimpleNamespace(inner=inner, outer=outer, lam=lam, resolution=np.inf)
    return exactly.Oracle(problem)


# --- Slopes ------------------------------------------------------------------------------------


@cache
def slope_problem(name):
    if name == "breast_cancer":
        X, y = datasets.load_breast_cancer(return_X_y=True)
        X, loss = standardised(X), "Logistic"
    else:
        X, y = mpg()
        loss = "LeastSquares" if name == "mpg" else "Logistic"
    if loss == "Logistic":
        y = np.where(y > np.median(y) if name.startswith("mpg") else y > 0, 1.0, -1.0)
    inner, outer = halves(loss, X, y, "feature")
    lam = np.linspace(-5.0, -2.0, X.shape[1])
    return inner.native(), outer.native(), lam, exact(inner, outer, lam)


def directions(n, count=3):
    raw = np.random.default_rng(1).standard_normal((count, n))
    return raw / np.linalg.norm(raw, axis=1)[:, None]


def ask(f, g, theta, lam, **preconditioner):
    options = {"polish": False, "warn": False} | preconditioner
    method = "cg" if preconditioner else "auto"
    return ig.implicit_grad(f, g, theta, lam, method, tol=1e-10, options=options)


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", ["breast_cancer", "mpg", "mpg above its median"])
def test_error_falls_with_the_first_power_of_the_distance(name):
    f, g, lam, oracle = slope_problem(name)
    star = exactly.double(oracle.theta)
    sizes = 10.0 ** -np.arange(2, 7.5, 0.5)
    for direction in directions(f.n_theta):
        results = [ask(f, g, star + size * direction, lam) for size in sizes]
        errors = [oracle.distance(res.grad) for res in results]
        assert slope(sizes, errors) == pytest.approx(1.0, abs=0.05)
        for size, res, error in zip(sizes, results, errors, strict=True):
            assert res.error == pytest.approx(error, rel=0.05), size


@pytest.mark.parametrize("kind", ["jacobi", "sketch", "gram"])
@pytest.mark.parametrize("name", ["breast_cancer", "mpg", "mpg above its median"])
def test_error_falls_so_with_every_preconditioner(name, kind, monkeypatch):
    """With CG as its own checker, as in larger problems."""
    monkeypatch.setattr(solvers, "make_checker", lambda solver, *rest: solver)
    f, g, lam, oracle = slope_problem(name)
    star = exactly.double(oracle.theta)
    sizes = 10.0 ** -np.arange(2, 7.5, 0.5)
    direction = directions(f.n_theta)[0]
    results = [ask(f, g, star + size * direction, lam, preconditioner=kind) for size in sizes]
    errors = [oracle.distance(res.grad) for res in results]
    assert slope(sizes, errors) == pytest.approx(1.0, abs=0.05)
    for size, res, error in zip(sizes, results, errors, strict=True):
        assert res.error == pytest.approx(error, rel=0.05), size
        res = ig.implicit_grad(
            f, g, star + size * direction, lam, "cg", options={"preconditioner": kind}
        )
        assert res.success
        assert oracle.distance(res.grad) <= 1e-6 * exactly.norm(oracle.grad)


@pytest.mark.parametrize("name", ["breast_cancer", "mpg above its median"])
def test_one_newton_step_squares_the_error(name):
    f, g, lam, oracle = slope_problem(name)
    star = exactly.double(oracle.theta)
    sizes = 10.0 ** -np.arange(1, 4.1, 0.25)
    for direction in directions(f.n_theta):
        errors = []
        for size in sizes:
            theta = star + size * direction
            at = f.linearize(theta, lam)
            step = np.linalg.solve(at.hess @ np.eye(f.n_theta), at.jac)
            errors.append(oracle.distance(ask(f, g, theta - step, lam).grad))
        assert slope(sizes, errors) == pytest.approx(2.0, abs=0.1)


def test_one_newton_step_is_exact_for_least_squares():
    f, g, lam, oracle = slope_problem("mpg")
    star = exactly.double(oracle.theta)
    size = float(np.linalg.norm(exactly.double(oracle.grad)))
    for direction in directions(f.n_theta):
        theta = star + 0.1 * direction
        at = f.linearize(theta, lam)
        step = np.linalg.solve(at.hess @ np.eye(f.n_theta), at.jac)
        assert oracle.distance(ask(f, g, theta - step, lam).grad) <= 1e-10 * size


@pytest.mark.parametrize("name", ["breast_cancer", "mpg", "mpg above its median"])
def test_polish_says_where_it_went(name):
    """The default settings from a θ that is off: one or more Newton steps, and the answer is good."""
    f, g, lam, oracle = slope_problem(name)
    star = exactly.double(oracle.theta)
    size = float(np.linalg.norm(exactly.double(oracle.grad)))
    for direction in directions(f.n_theta):
        theta = star + 1e-2 * direction
        res = ig.implicit_grad(f, g, theta, lam)
        assert res.success
        assert oracle.distance(res.grad) <= 1e-6 * size
        assert np.linalg.norm(res.theta - star) < 1e-2 * np.linalg.norm(theta - star)


# --- A user of scipy.optimize.minimize ---------------------------------------------------------


def one_against_rest(load, label):
    def data():
        X, y = load(return_X_y=True)
        return X, np.where(y == label, 1.0, -1.0)

    return data


def pair(load, a, b):
    def data():
        X, y = load(return_X_y=True)
        keep = (y == a) | (y == b)
        return X[keep], np.where(y[keep] == a, 1.0, -1.0)

    return data


def linnerud(target):
    def data():
        found = datasets.load_linnerud()
        return found.data, found.target[:, target]

    return data


BUNDLED = {
    "diabetes": ("LeastSquares", lambda: datasets.load_diabetes(return_X_y=True)),
    "diabetes raw": ("LeastSquares", lambda: datasets.load_diabetes(return_X_y=True, scaled=False)),
    **{f"linnerud {k}": ("LeastSquares", linnerud(k)) for k in range(3)},
    "breast_cancer": ("Logistic", one_against_rest(datasets.load_breast_cancer, 1)),
    "digits 0 and 1": ("Logistic", pair(datasets.load_digits, 0, 1)),
    "digits 3 and 8": ("Logistic", pair(datasets.load_digits, 3, 8)),
    "digits 4 and 9": ("Logistic", pair(datasets.load_digits, 4, 9)),
    "digits 5 and rest": ("Logistic", one_against_rest(datasets.load_digits, 5)),
    **{f"wine {k}": ("Logistic", one_against_rest(datasets.load_wine, k)) for k in range(3)},
    **{f"iris {k}": ("Logistic", one_against_rest(datasets.load_iris, k)) for k in range(3)},
}
LAMBDAS = {
    "all -8": ("all", -8.0),
    "all -4": ("all", -4.0),
    "all 0": ("all", 0.0),
    "feature": ("feature", (-6.0, 0.0)),
}


@pytest.mark.parametrize("which", LAMBDAS)
@pytest.mark.parametrize("scaling", ["raw", "standardised"])
@pytest.mark.parametrize("name", BUNDLED)
def test_after_lbfgs_with_its_default_tolerances(name, scaling, which):
    loss, load = BUNDLED[name]
    X, y = load()
    X = standardised(X) if scaling == "standardised" else np.array(X, dtype=float)
    per, level = LAMBDAS[which]
    lam = np.array([level]) if per == "all" else np.linspace(*level, X.shape[1])
    inner, outer = halves(loss, X, y, per)
    f, g = inner.native(), outer.native()
    trained = scipy.optimize.minimize(
        f.fun, np.zeros(f.n_theta), args=(lam,), jac=f.jac, method="L-BFGS-B"
    )
    res = ig.implicit_grad(f, g, trained.x, lam, options={"warn": False})
    oracle = exact(inner, outer, lam)
    size = exactly.norm(oracle.grad)
    assert oracle.error <= 1e-9 * size
    found = oracle.distance(res.grad) / size
    say = f"{trained.nit} steps ({trained.message}): error {found:.1e}, {res.message}"
    assert res.success and found <= 1e-6, say
