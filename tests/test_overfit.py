"""Overfitting of the outer set: the warning, the third set, early stopping; and the progress bar."""

import sys
import warnings

import numpy as np
import pytest

import implicitgrad as ig

METHODS = ["L-BFGS-B", "trust-constr", "inexact", "gd", "adam"]


def problem(n_outer=30, p=15, seed=0):
    """Many penalties, few outer rows: the third loss falls, then rises."""
    rng = np.random.default_rng(seed)
    w = np.where(np.arange(p) < 3, 1.0, 0.1)

    def draw(n):
        X = rng.standard_normal((n, p))
        return X, X @ w + 1.5 * rng.standard_normal(n)

    f = ig.LeastSquares(*draw(40), penalty=ig.L2("feature"))
    return f, ig.LeastSquares(*draw(n_outer)), ig.LeastSquares(*draw(200))


def run(method, patience, **kwargs):
    f, g, third = problem()
    options = {"maxiter": 60}
    if method in ("gd", "adam"):
        options["learning_rate"] = 2.0 if method == "gd" else 0.3
    res = ig.minimize(
        *(f, g, np.full(15, -3.0)),
        method=method,
        bounds=[(-8, 6)] * 15,
        options=options,
        watch=third,
        patience=patience,
        **kwargs,
    )
    return res, f, g, third


@pytest.mark.parametrize("method", METHODS)
def test_early_stopping_returns_the_best_watched(method):
    res, f, g, third = run(method, 3)
    assert res.stopped_early and res.success and res.status == 0
    assert "watched loss has not fallen for 3" in res.message
    values = res.watch_values
    best = int(np.argmin(values))
    assert len(values) == res.nit + 1 == best + 4  # the start's first, three without a gain last
    assert res.watch_fun == values[best] < values[0]
    # Everything belongs to the λ that is returned.
    theta = ig.train(f, res.x).x
    assert abs(third.fun(theta) - res.watch_fun) <= 1e-2 * res.watch_fun
    assert np.allclose(res.theta, theta, rtol=1e-4, atol=1e-6)
    assert abs(res.fun - g.fun(theta)) <= 1e-6 * res.fun
    assert np.array_equal(res.hypergradient.theta, res.theta)


def test_a_patient_watch_lets_the_loop_end():
    res, f, g, third = run("L-BFGS-B", 1000)
    alone = ig.minimize(f, g, np.full(15, -3.0), bounds=[(-8, 6)] * 15)
    assert not res.stopped_early and res.success == alone.success
    assert len(res.watch_values) == res.nit + 1
    assert third.fun(alone.theta) > res.watch_fun == res.watch_values.min()
    assert g.fun(alone.theta) < res.fun


def test_without_a_watch_no_such_fields():
    f, g, _ = problem()
    res = ig.minimize(f, g, np.full(15, -3.0), options={"maxiter": 2})
    assert not {"watch_fun", "watch_values", "stopped_early"} & set(res)


def test_the_callback_stops_a_watched_loop():
    def callback(intermediate_result):
        raise StopIteration

    res, *_ = run("inexact", 5, callback=callback)
    assert (res.status, res.success, res.stopped_early) == (99, False, False)


def test_watch_may_be_a_function_or_any_objective():
    f, g, third = problem()
    lam = np.full(15, -3.0)
    given = {"bounds": [(-8, 6)] * 15, "method": "inexact"}
    native = ig.minimize(f, g, lam, watch=third, **given)
    plain = ig.minimize(f, g, lam, watch=lambda theta, lam: third.fun(theta), **given)
    assert native.watch_fun == plain.watch_fun


@pytest.mark.parametrize("patience", [0, 1.5, "3", None])
def test_patience_is_refused_by_name(patience):
    with pytest.raises((ValueError, TypeError), match="patience"):
        run("L-BFGS-B", patience)


def test_a_watch_that_does_not_fit_is_refused_by_name():
    f, g, _ = problem()
    other = ig.LeastSquares(np.eye(4), np.ones(4))
    with pytest.raises(ValueError, match="watch has n_theta = 4, f has n_theta = 15"):
        ig.minimize(f, g, np.zeros(15), watch=other)
    with pytest.raises(TypeError, match="watch"):
        ig.minimize(f, g, np.zeros(15), watch=3.0)


# The warning


@pytest.mark.parametrize("method", METHODS)
def test_few_outer_rows_warn(method):
    f, g, _ = problem(n_outer=29)
    options = {"maxiter": 1}
    with pytest.warns(ig.OverfitWarning, match="15 hyperparameters .* 29 outer rows.* about 14"):
        ig.minimize(f, g, np.zeros(15), method=method, options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ig.minimize(f, g, np.zeros(15), method=method, options={**options, "warn": False})
        ig.minimize(*problem(n_outer=30)[:2], np.zeros(15), method=method, options=options)


def test_rows_of_no_weight_do_not_count():
    f, g, _ = problem(n_outer=60)
    half = ig.LeastSquares(g.X, g.y, sample_weight=np.arange(60) < 29)
    with pytest.warns(ig.OverfitWarning, match="29 outer rows"):
        ig.minimize(f, half, np.zeros(15), options={"maxiter": 1})
    ig.minimize(f, g, np.zeros(15), options={"maxiter": 1})


def test_one_hyperparameter_and_unknown_rows_do_not_warn():
    f = ig.LeastSquares(np.eye(2), [1.0, 2.0], penalty=ig.L2("all"))
    ig.minimize(f, ig.LeastSquares(np.ones((1, 2)), [1.0]), [0.0], options={"maxiter": 1})
    ig.minimize(
        lambda w, lam: 0.5 * float((w - lam) @ (w - lam)),
        lambda w, lam: 0.5 * float(w @ w),
        np.ones(2),
        theta0=np.ones(2),
        options={"maxiter": 1},
    )


# The progress bar


def test_progress(capsys):
    pytest.importorskip("tqdm")
    run("inexact", 3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "outer" in shown.err
    run("inexact", 3)
    assert capsys.readouterr().err == ""


def test_progress_without_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install \"implicitgrad\[progress\]\""):
        run("inexact", 3, progress=True)
