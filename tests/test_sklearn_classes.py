"""Classifiers with tuned penalties, of two classes and of more: scikit-learn's as oracles."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from estimator_data import classes, three_classes
from implicitgrad.sklearn import GroupLogisticRegressionCV

DATA = pytest.mark.parametrize("data", [classes, three_classes])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@DATA
def test_logistic_regression_with_the_penalties_found_has_the_coefficients(
    data, weighted, fit_intercept
):
    X, y = data()
    w = np.random.default_rng(1).uniform(0, 2, len(y)) if weighted else None
    model = GroupLogisticRegressionCV(fit_intercept=fit_intercept).fit(X, y, w)
    root = np.sqrt(model.alphas_)
    oracle = LogisticRegression(
        C=1.0, fit_intercept=fit_intercept, solver="newton-cholesky", tol=1e-12
    ).fit(X / root, y, w)
    assert_allclose(model.C_, 1 / model.alphas_)
    assert_allclose(model.coef_, oracle.coef_ / root, rtol=1e-7, atol=1e-9)
    assert_allclose(model.intercept_, oracle.intercept_, rtol=1e-7, atol=1e-9)
    assert_array_equal(model.classes_, oracle.classes_)
    assert_array_equal(model.predict(X), oracle.predict(X / root))
    assert_allclose(model.predict_proba(X), oracle.predict_proba(X / root), rtol=1e-6)
    assert_allclose(model.predict_log_proba(X), oracle.predict_log_proba(X / root), rtol=1e-6)
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-14)
    assert_allclose(
        model.decision_function(X), oracle.decision_function(X / root), rtol=1e-6, atol=1e-8
    )


def test_classes_share_penalties_and_constants_sum_to_zero():
    X, y = three_classes()
    model = GroupLogisticRegressionCV(groups=list("aabbc")).fit(X, y)
    assert model.classes_.tolist() == ["down", "nowhere", "up"]
    assert model.coef_.shape == (3, 5) and model.intercept_.shape == (3,)
    assert model.alphas_.shape == model.C_.shape == (3,)
    assert model.decision_function(X).shape == model.predict_proba(X).shape == (120, 3)
    assert_allclose(model.intercept_.sum(), 0, atol=1e-12)
    assert_allclose(model.coef_.sum(axis=0), 0, atol=1e-12)
    shuffled = np.random.default_rng(0).permutation(3)
    renamed = model.classes_[shuffled][np.searchsorted(model.classes_, y)]
    same = clone(model).fit(X, renamed)
    assert_allclose(same.coef_[shuffled], model.coef_, rtol=1e-7, atol=1e-9)


def test_flowers_and_digits():
    X, y = load_iris(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), GroupLogisticRegressionCV())
    assert cross_val_score(pipe, X, y, cv=3).mean() > 0.94
    X, y = load_digits(return_X_y=True)
    pipe.set_params(grouplogisticregressioncv__groups=np.arange(64) // 8).fit(X[:600], y[:600])
    assert pipe[-1].result_.success and pipe[-1].alphas_.shape == (8,)
    assert pipe.score(X[600:], y[600:]) > 0.9


@DATA
def test_the_loss_that_is_told_is_that_of_models_trained_in_the_folds(data):
    X, y = data()
    model = GroupLogisticRegressionCV().fit(X, y)
    root = np.sqrt(np.exp(model.lam_))
    folds = list(StratifiedKFold(5).split(X, y))
    for (train, test), loss in zip(folds, model.cv_loss_, strict=True):
        oracle = LogisticRegression(C=1 / len(train), solver="newton-cholesky", tol=1e-12)
        oracle.fit(X[train] / root, y[train])
        assert_allclose(loss, log_loss(y[test], oracle.predict_proba(X[test] / root)), rtol=1e-9)
    assert_allclose(model.best_loss_, model.cv_loss_.mean())
    assert_allclose(model.alphas_, len(y) * np.exp(model.lam_))


def test_one_penalty_is_as_good_as_the_best_of_logistic_regression_cvs_grid():
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)[:, :10]
    model = GroupLogisticRegressionCV("all").fit(X, y)
    losses = []
    for factor in np.logspace(-2, 2, 9):
        folds = []
        for train, test in StratifiedKFold(5).split(X, y):
            # The strength is that of a mean over rows, of which a fold has fewer.
            C = factor * model.C_[0] * len(y) / len(train)
            oracle = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)
            oracle.fit(X[train], y[train])
            folds.append(log_loss(y[test], oracle.predict_proba(X[test])))
        losses.append(np.mean(folds))
    assert_allclose(losses[4], model.best_loss_, rtol=1e-7)
    assert np.argmin(losses) == 4
    assert GroupLogisticRegressionCV().fit(X, y).best_loss_ < 0.98 * model.best_loss_
