"""What the estimators refuse, by name."""

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from estimator_data import KINDS, regression, three_classes
from implicitgrad.sklearn import GroupLogisticRegressionCV, GroupRidgeCV


@KINDS
@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"groups": "each"}, ValueError, "groups"),
        ({"groups": [0, 1]}, ValueError, r"groups .* 5 labels"),
        ({"groups": [0, 1, 2, 3, np.nan]}, ValueError, "groups"),
        ({"groups": [0, "a", 1, None, 2]}, TypeError, "groups"),
        ({"cv": 1}, ValueError, "n_splits|folds"),
        ({"cv": [(np.arange(3), np.arange(0))]}, ValueError, "fold 0 of cv"),
        ({"fit_intercept": 1}, TypeError, "fit_intercept"),
        ({"log_alpha_bounds": (3, 1)}, ValueError, "log_alpha_bounds"),
        ({"log_alpha_bounds": 3}, ValueError, "log_alpha_bounds"),
        ({"log_alpha_bounds": (-np.inf, 1)}, ValueError, "log_alpha_bounds"),
        ({"below_shared": -1}, ValueError, "below_shared"),
        ({"below_shared": "a"}, TypeError, "below_shared"),
        ({"method": "newton"}, ValueError, "method"),
        ({"tol": 0}, ValueError, "tol"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"progress": "yes"}, TypeError, "progress"),
        ({"callback": 3}, TypeError, "callback"),
    ],
)
def test_bad_parameters_are_named(kind, data, params, error, match):
    X, y = data(40, 5)
    with pytest.raises(error, match=match):
        kind(**params).fit(X, y)


@KINDS
@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (np.zeros(40), "sample_weight is zero"),
        (-np.ones(40), "sample_weight.*negative"),
        (np.ones(39), "sample_weight has 39"),
        (np.full(40, np.nan), "sample_weight"),
    ],
)
def test_bad_weights_are_named(kind, data, weights, match):
    X, y = data(40, 5)
    with pytest.raises(ValueError, match=match):
        kind().fit(X, y, weights)


def test_targets_that_are_no_classes_are_refused():
    X, y = regression()
    with pytest.raises(ValueError, match="one class"):
        GroupLogisticRegressionCV().fit(X, np.ones(80))
    with pytest.raises(ValueError, match="continuous"):
        GroupLogisticRegressionCV().fit(X, y)
    with pytest.raises(TypeError, match="alpha_per_target"):
        GroupRidgeCV(alpha_per_target=2).fit(X, X)


def test_classes_that_nothing_trains_are_named():
    X, y = three_classes()
    with pytest.raises(ValueError, match="sample_weight is zero on all rows of class nowhere"):
        GroupLogisticRegressionCV().fit(X, y, y != "nowhere")
    splits = [(y != "up", y == "up")]
    with pytest.raises(ValueError, match=r"y has no label up,.* training rows of fold 0 of cv"):
        GroupLogisticRegressionCV(cv=splits).fit(X, y)
    with pytest.raises(ValueError, match="n_splits=5 cannot be greater"):
        GroupLogisticRegressionCV().fit(X[:6], ["a", "a", "b", "b", "c", "c"])
