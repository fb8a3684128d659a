"""The search for the penalties of the estimators: where it may go, and where it ends."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.exceptions import ConvergenceWarning

import implicitgrad as ig
from estimator_data import KINDS, regression
from implicitgrad._search import null_model
from implicitgrad.sklearn import GroupRidgeCV


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(
    ("kind", "bend", "loss"),
    [(ig.LeastSquares, 1, 2.5), (ig.Logistic, 1 / 4, np.log(2)), (ig.Softmax, 3 / 16, np.log(4))],
)
def test_of_the_null_model_loss_and_curvature_are_known(kind, bend, loss, fit_intercept):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 3)) + 1, np.repeat(np.arange(4.0), 10)
    X[:, 2] = 2.0
    if kind is ig.LeastSquares:
        y = np.sqrt(5.0) * np.sign(y - 1.5)
    if kind is ig.Logistic:
        y = y > 1
    model = kind(X, y, penalty=ig.L2("feature"), fit_intercept=fit_intercept)
    fun, curvature = null_model(model, 3)
    assert fun == pytest.approx(loss)
    spread = X.var(axis=0) if fit_intercept else (X**2).mean(axis=0)
    assert_allclose(curvature, bend * np.where(np.arange(3) == 2, 4.0, spread))


def test_the_hypergradient_vanishes_where_the_search_ends():
    X, y = regression()
    model = GroupRidgeCV().fit(X, y)
    f, g = ig.cross_validated(
        ig.LeastSquares, X, y - y.mean(), 5, penalty=ig.L2("feature"), fit_intercept=True
    )
    slope = ig.HyperObjective(f, g)(model.lam_)[1] / model.best_loss_
    reach = np.log(model.alphas_ / len(y) / X.var(axis=0))
    inside = np.abs(reach) < 9.99
    assert inside.any()
    # What is left is the weak pull, 1e-5 / p for each unit.
    assert (np.abs(slope[inside]) < 20e-5 / X.shape[1]).all()


@KINDS
def test_too_few_iterations_warn(kind, data):
    X, y = data()
    with pytest.warns(ConvergenceWarning, match="not converged"):
        model = kind(max_iter=2).fit(X, y)
    assert model.result_.status == 1 and model.n_iter_ >= 1


@pytest.mark.parametrize("method", ["TNC", "trust-constr"])
def test_other_methods_end_at_the_same_penalties(method):
    X, y = regression(60, 3, seed=2)
    expected, model = GroupRidgeCV().fit(X, y), GroupRidgeCV(method=method).fit(X, y)
    assert model.result_.success
    assert_allclose(model.predict(X), expected.predict(X), rtol=1e-7)


def test_features_that_do_not_matter_are_switched_off_whatever_the_noise():
    X, _ = regression(100, 10)
    y = 100 * X[:, 0] + np.random.default_rng(5).standard_normal(100)
    model = GroupRidgeCV().fit(X, y)
    shared = GroupRidgeCV("all").fit(X, y)
    assert model.best_loss_ < 0.96 * shared.best_loss_
    assert np.median(np.abs(model.coef_[1:])) < 0.2 * np.median(np.abs(shared.coef_[1:]))


def reach(model, X):
    """Log strengths above the scale of each feature."""
    bend = 1.0
    if not isinstance(model, GroupRidgeCV):
        n_classes = model.classes_.size
        bend = (n_classes - 1) / n_classes**2
    return model.lam_ - np.log(bend * X.var(axis=0))


@pytest.mark.parametrize("below", [0.0, 1.0])
@KINDS
def test_no_strength_goes_far_below_the_best_that_all_share(kind, data, below):
    X, y = data(100, 8)
    X /= X.std(axis=0)
    shared = reach(kind("all").fit(X, y), X[:, :1])[0]
    free = reach(kind(below_shared=None).fit(X, y), X)
    assert free.min() < shared - 1.6  # where there is no bound
    kept = reach(kind(below_shared=below).fit(X, y), X)
    # The best shared strength is that of a cubic between points 2 apart.
    assert shared - below - 0.6 < kept.min() < shared - below + 0.6


def test_a_single_penalty_is_free():
    X, y = regression()
    assert_allclose(
        GroupRidgeCV("all", below_shared=0.0).fit(X, y).lam_, GroupRidgeCV("all").fit(X, y).lam_
    )


def test_one_feature_among_many_is_found():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 30))
    y = X[:, 3] + rng.standard_normal(100)
    model = GroupRidgeCV().fit(X, y)
    assert model.coef_[3] > 3 * np.abs(np.delete(model.coef_, 3)).max()
    assert np.median(np.abs(model.coef_)) < 1e-3


@KINDS
def test_many_penalties_end_where_few_do(kind, data):
    """60 strengths are for the inexact method; in groups of equal features, for Newton's."""
    X, y = data(400, 60)
    model = kind(tol=1e-5).fit(X, y)
    assert model.result_.success
    by_newton = kind(np.arange(60) // 2).fit(X, y)
    assert by_newton.result_.message.startswith("Newton")
    # More strengths can only fit better.
    assert model.best_loss_ < by_newton.best_loss_ * (1 + 1e-4)


@KINDS
def test_other_methods_find_no_better_loss(kind, data):
    X, y = data(150, 6)
    found = kind().fit(X, y).best_loss_
    for method in ("L-BFGS-B", "inexact"):
        assert_allclose(kind(method=method).fit(X, y).best_loss_, found, rtol=1e-8)


@KINDS
@pytest.mark.parametrize("bounds", [(-1, 5), (0, 10), (-10, -3), (5, 5.5)])
def test_bounds_may_leave_out_the_middle(kind, data, bounds):
    X, y = data(60, 3)
    model = kind(log_alpha_bounds=bounds).fit(X, y)
    scale = X.var(axis=0) * {"GroupRidgeCV": 1.0}.get(kind.__name__, 0.25)
    u = model.lam_ - np.log(scale)
    if np.unique(y).size != 3:  # the scale of several classes is another
        assert (u > bounds[0] - 1e-6).all() and (u < bounds[1] + 1e-6).all()


@KINDS
def test_units_far_from_one_do_not_matter(kind, data):
    X, y = data()
    plain = kind().fit(X, y)
    for unit in (1e-12, 1e-7, 1e12, np.geomspace(1e-9, 1e9, X.shape[1])):
        scaled = kind().fit(X * unit, y)
        assert_allclose(scaled.coef_ * unit, plain.coef_, rtol=1e-5, atol=1e-8)


def test_more_penalties_than_rows_warn_and_end_where_the_loss_is_flat():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((40, 300))
    y = X[:, 0] + rng.standard_normal(40)
    with pytest.warns(ig.OverfitWarning, match="300 penalties are tuned on 40 rows"):
        model = GroupRidgeCV().fit(X, y)
    assert model.result_.success
    assert "lowered the loss" in model.result_.message
    assert model.n_iter_ < 200
    with pytest.warns(ig.OverfitWarning):
        further = GroupRidgeCV(tol=1e-8).fit(X, y)
    assert further.n_iter_ > model.n_iter_
    assert 0.5 * model.best_loss_ < further.best_loss_ < model.best_loss_
