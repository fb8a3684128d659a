"""The estimators: scikit-learn's own checks, its estimators as oracles, what equivalent data give."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import OptimizeResult

pytest.importorskip("sklearn", minversion="1.6")

from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from estimator_data import KINDS, output, regression
from implicitgrad.sklearn import GroupLogisticRegressionCV, GroupRidgeCV

CHECKED = [
    GroupRidgeCV(),
    GroupRidgeCV(alpha_per_target=True),
    GroupRidgeCV(groups="all"),
    GroupRidgeCV(fit_intercept=False),
    GroupLogisticRegressionCV(),
    GroupLogisticRegressionCV(groups="all"),
    GroupLogisticRegressionCV(fit_intercept=False),
]


@pytest.mark.filterwarnings("ignore::implicitgrad.OverfitWarning")  # 30 features, 27 rows
@parametrize_with_checks(CHECKED)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# Against scikit-learn's estimators.


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("groups", ["feature", "all", list("aabbcc")])
def test_ridge_with_the_penalties_found_has_the_coefficients(groups, weighted, fit_intercept):
    X, y = regression()
    w = np.random.default_rng(1).uniform(0, 2, len(y)) if weighted else None
    model = GroupRidgeCV(groups, fit_intercept=fit_intercept).fit(X, y, w)
    root = np.sqrt(model.alphas_[model.feature_groups_])
    oracle = Ridge(alpha=1.0, fit_intercept=fit_intercept, solver="cholesky").fit(X / root, y, w)
    assert_allclose(model.coef_, oracle.coef_ / root, rtol=1e-9, atol=1e-11)
    assert_allclose(model.intercept_, oracle.intercept_, rtol=1e-9, atol=1e-11)
    assert_allclose(model.predict(X), oracle.predict(X / root), rtol=1e-9)


def test_one_penalty_is_as_good_as_the_best_of_ridge_cvs_grid():
    X, y = load_diabetes(return_X_y=True)
    cv, alphas = KFold(5), np.logspace(-4, 3, 60)
    grid = RidgeCV(alphas, cv=cv, scoring="neg_mean_squared_error").fit(X, y)
    model = GroupRidgeCV("all", cv=cv).fit(X, y)
    assert 2 * model.best_loss_ <= -grid.best_score_ * (1 + 1e-5)
    own = GroupRidgeCV(cv=cv).fit(X, y)
    assert own.best_loss_ < 0.99 * model.best_loss_ and own.result_.success


def test_the_loss_that_is_told_is_that_of_models_trained_in_the_folds():
    X, y = regression()
    model = GroupRidgeCV().fit(X, y)
    root = np.sqrt(np.exp(model.lam_))
    for (train, test), loss in zip(KFold(5).split(X), model.cv_loss_, strict=True):
        oracle = Ridge(alpha=len(train)).fit(X[train] / root, y[train])
        assert_allclose(loss, 0.5 * np.mean((oracle.predict(X[test] / root) - y[test]) ** 2))
    assert_allclose(model.best_loss_, model.cv_loss_.mean())
    assert_allclose(model.alphas_, len(y) * np.exp(model.lam_))


# What must not matter.


@KINDS
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_weight_of_k_is_k_copies(kind, data, fit_intercept, seed):
    X, y = data(30, 4, seed)
    w = np.random.default_rng(seed).integers(0, 4, 30)
    fold = np.arange(30) % 3
    rows = np.repeat(np.arange(30), w)

    def splits(fold):
        return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]

    weighted = kind(cv=splits(fold), fit_intercept=fit_intercept).fit(X, y, w)
    repeated = kind(cv=splits(fold[rows]), fit_intercept=fit_intercept).fit(X[rows], y[rows])
    used = np.flatnonzero(w)
    dropped = kind(cv=splits(fold[used]), fit_intercept=fit_intercept).fit(
        X[used], y[used], w[used]
    )
    for other in (repeated, dropped):
        assert_allclose(output(other, X), output(weighted, X), rtol=1e-8, atol=1e-9)
        assert_allclose(other.lam_, weighted.lam_, atol=1e-4)
    assert_allclose(repeated.alphas_, weighted.alphas_, rtol=1e-4)


@KINDS
def test_units_do_not_matter(kind, data):
    X, y = data()
    unit = np.logspace(-4, 4, X.shape[1])
    a, b = kind().fit(X, y), kind().fit(X * unit, y)
    assert_allclose(b.coef_ * unit, a.coef_, rtol=1e-5, atol=1e-8)
    assert_allclose(b.best_loss_, a.best_loss_, rtol=1e-8)
    if kind is GroupRidgeCV:
        c = kind().fit(X, 1e6 * y)
        assert_allclose(c.coef_, 1e6 * a.coef_, rtol=1e-6, atol=1e-3)


@KINDS
@pytest.mark.parametrize("form", ["csr_array", "csc_array", "coo_array", "csr_matrix"])
def test_sparse_is_dense(kind, data, form):
    X, y = data()
    X = np.where(np.abs(X) > 0.7, X, 0)
    dense, sparse = kind().fit(X, y), kind().fit(getattr(scipy.sparse, form)(X), y)
    assert_allclose(sparse.lam_, dense.lam_, atol=1e-5)
    assert_allclose(
        output(sparse, getattr(scipy.sparse, form)(X)), output(dense, X), rtol=1e-7, atol=1e-9
    )


@KINDS
def test_threads_and_repetition_give_the_same_bits(kind, data):
    X, y = data(400, 8)
    models = [kind(n_threads=n).fit(X, y) for n in (1, 1, 2, 3)]
    for other in models[1:]:
        assert_array_equal(other.lam_, models[0].lam_)
        assert_array_equal(other.coef_, models[0].coef_)


@KINDS
def test_single_precision_stays_so(kind, data):
    X, y = data()
    single, double = kind().fit(X.astype(np.float32), y), kind().fit(X, y)
    assert single.coef_.dtype == np.float32 and output(single, X.astype(np.float32)).dtype == (
        np.float32
    )
    assert_allclose(output(single, X), output(double, X), rtol=1e-3, atol=1e-3)


# Groups, targets, shapes at the edge.


def test_groups_by_label():
    X, y = regression()
    names = GroupRidgeCV(["b", "a", "b", "a", "a", "c"]).fit(X, y)
    numbers = GroupRidgeCV(np.array([7, 3, 7, 3, 3, 9])).fit(X, y)
    assert names.groups_.tolist() == ["a", "b", "c"] and numbers.groups_.tolist() == [3, 7, 9]
    assert names.feature_groups_.tolist() == [1, 0, 1, 0, 0, 2]
    assert_array_equal(names.coef_, numbers.coef_)
    own = GroupRidgeCV(np.arange(6)).fit(X, y)
    assert_array_equal(own.coef_, GroupRidgeCV().fit(X, y).coef_)
    assert GroupRidgeCV("all").fit(X, y).alphas_.shape == (1,)


@pytest.mark.parametrize("per_target", [True, False])
def test_several_targets(per_target):
    X, y = regression()
    Y = np.column_stack([y, regression(seed=3)[1], y[::-1]])
    model = GroupRidgeCV(alpha_per_target=per_target).fit(X, Y)
    assert model.coef_.shape == (3, 6) and model.intercept_.shape == (3,)
    assert model.predict(X).shape == Y.shape and model.cv_loss_.shape == (5, 3)
    assert model.alphas_.shape == ((3, 6) if per_target else (6,))
    for t in range(3):
        root = np.sqrt(model.alphas_[t] if per_target else model.alphas_)
        oracle = Ridge(alpha=1.0, solver="cholesky").fit(X / root, Y[:, t])
        assert_allclose(model.coef_[t], oracle.coef_ / root, rtol=1e-8, atol=1e-10)
        if per_target:
            alone = GroupRidgeCV().fit(X, Y[:, t])
            assert_allclose(model.coef_[t], alone.coef_, rtol=1e-6, atol=1e-9)
            assert model.n_iter_[t] >= 1 and model.result_[t].success
            assert_allclose(model.best_loss_[t], alone.best_loss_)
    if not per_target:
        assert_allclose(model.best_loss_, model.cv_loss_.mean(axis=0).sum())
    column = GroupRidgeCV(alpha_per_target=per_target).fit(X, y[:, None])
    assert column.coef_.shape == (1, 6) and column.predict(X).shape == (80, 1)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_constant_columns_and_targets(fit_intercept):
    X, y = regression()
    X[:, 1], X[:, 4] = 5.0, 0.0
    model = GroupRidgeCV(fit_intercept=fit_intercept).fit(X, y)
    assert model.result_.success and np.isfinite(model.coef_).all() and model.coef_[4] == 0
    if fit_intercept:
        assert abs(model.coef_[1]) < 1e-10
        rest = GroupRidgeCV().fit(X[:, [0, 2, 3, 5]], y)
        assert_allclose(model.best_loss_, rest.best_loss_, rtol=1e-4)
        assert_allclose(model.predict(X), rest.predict(X[:, [0, 2, 3, 5]]), atol=1e-2)
        for value in (0.0, 0.1, 1e5 / 3):
            flat = GroupRidgeCV().fit(X, np.full(80, value))
            assert_allclose(flat.predict(X), value, rtol=1e-12)
            assert flat.result_.success
    assert_array_equal(GroupRidgeCV(fit_intercept=fit_intercept).fit(X, 0 * y).coef_, 0)


@KINDS
@pytest.mark.parametrize(("n", "p"), [(20, 60), (12, 1), (10, 2)])
def test_wide_narrow_and_short(kind, data, n, p):
    X, y = data(n, p)
    model = kind(groups=np.arange(p) % 4, cv=2).fit(X, y)
    assert np.isfinite(model.coef_).all() and model.score(X, y) > 0.5


def test_few_rows():
    X, y = regression(4, 3)
    assert np.isfinite(GroupRidgeCV(cv=2).fit(X, y).predict(X)).all()
    with pytest.raises(ValueError, match="1 sample"):
        GroupRidgeCV(cv=2).fit(X[:1], y[:1])
    with pytest.raises(ValueError, match="n_splits=5"):
        GroupRidgeCV().fit(X, y)


# scikit-learn's tools.


@KINDS
def test_pipelines_grids_and_scores(kind, data):
    X, y = data()
    pipe = make_pipeline(StandardScaler(), kind())
    assert cross_val_score(pipe, X, y, cv=3).shape == (3,)
    name = kind.__name__.lower()
    search = GridSearchCV(pipe, {f"{name}__groups": ["feature", "all"]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.5
    again = clone(search.best_estimator_).fit(X, y)
    assert_array_equal(again[-1].coef_, search.best_estimator_[-1].coef_)


@KINDS
def test_pickles_after_fit(kind, data):
    X, y = data()
    model = kind().fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(output(copy, X), output(model, X))
    assert_array_equal(copy.result_.jac, model.result_.jac)


@KINDS
def test_data_frames(kind, data):
    pandas = pytest.importorskip("pandas")
    X, y = data()
    frame = pandas.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), kind())
    pipe.fit(
        frame, pandas.Series(y), **{f"{kind.__name__.lower()}__sample_weight": frame["x0"] ** 2}
    )
    assert pipe[-1].feature_names_in_.tolist() == list(frame.columns)
    assert pipe[-1].groups_.tolist() == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        pipe[-1].predict(frame[frame.columns[::-1]])


@KINDS
def test_metadata_reach_the_splitter(kind, data):
    X, y = data()
    people = np.arange(len(y)) // 4
    with config_context(enable_metadata_routing=True):
        cv = GroupKFold(4).set_split_request(groups=True)
        routed = kind(cv=cv).fit(X, y, groups=people)
        by_hand = kind(cv=list(GroupKFold(4).split(X, y, people))).fit(X, y)
        assert_array_equal(routed.coef_, by_hand.coef_)
        inner = kind(cv=cv).set_fit_request(sample_weight=True)
        inner.set_score_request(sample_weight=True)
        outer = GridSearchCV(inner, {"groups": ["all"]}, cv=cv)
        outer.fit(X, y, groups=people, sample_weight=np.ones(len(y)))
        with pytest.raises(TypeError, match="nonsense"):
            kind(cv=cv).fit(X, y, groups=people, nonsense=people)
    with pytest.raises(ValueError, match=r"'groups'.*metadata routing"):
        kind(cv=GroupKFold(4)).fit(X, y, groups=people)


@KINDS
def test_iterables_of_splits_serve_once(kind, data):
    X, y = data()
    splits = list(KFold(3).split(X))
    model = kind(cv=(pair for pair in splits)).fit(X, y)
    assert_array_equal(model.coef_, kind(cv=splits).fit(X, y).coef_)


# Watching.


@KINDS
def test_the_callback_sees_each_iteration(kind, data):
    X, y = data()
    seen = []

    def callback(intermediate_result):
        assert isinstance(intermediate_result, OptimizeResult)
        seen.append(intermediate_result)

    model = kind(callback=callback).fit(X, y)
    assert [s.nit for s in seen] == list(range(2, len(seen) + 2)) and len(seen) == model.n_iter_ - 1
    assert seen[-1].fun == pytest.approx(model.best_loss_, rel=1e-3)
    assert all(s.x.shape == model.lam_.shape for s in seen)
    plain = []
    kind(callback=lambda x: plain.append(x)).fit(X, y)
    assert_array_equal(plain, [s.x for s in seen])


@KINDS
def test_the_callback_stops_the_search(kind, data):
    X, y = data()
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result)
        if len(seen) == 2:
            raise StopIteration

    model = kind(callback=callback).fit(X, y)
    assert len(seen) == 2 and model.result_.status == 99 and not model.result_.success
    assert_array_equal(model.lam_, seen[-1].x)
    assert model.predict(X).shape == y.shape


def test_the_callback_is_told_the_target():
    X, y = regression()
    seen = set()
    model = GroupRidgeCV(
        alpha_per_target=True,
        callback=lambda intermediate_result: seen.add(intermediate_result.target),
    )
    model.fit(X, np.column_stack([y, y[::-1]]))
    assert seen == {0, 1}


@pytest.mark.skipif(importlib.util.find_spec("tqdm") is None, reason="needs tqdm")
def test_progress_is_shown_only_when_asked_for(capsys):
    X, y = regression()
    GroupRidgeCV().fit(X, y)
    assert capsys.readouterr() == ("", "")
    GroupRidgeCV(progress=True).fit(X, y)
    shown = capsys.readouterr()
    assert "loss=" in shown.err and shown.out == ""


def test_progress_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress"):
        GroupRidgeCV(progress=True).fit(*regression())


def test_input_is_left_alone():
    X, y = regression()
    w = np.ones(80)
    copies = X.copy(), y.copy(), w.copy()
    GroupRidgeCV().fit(X, y, w)
    for now, before in zip((X, y, w), copies, strict=True):
        assert_array_equal(now, before)
