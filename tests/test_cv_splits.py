"""The folds of cross_validated: how cv may be given, and what is refused."""

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold

import implicitgrad as ig
from cv_oracle import N, Oracle, P, problem
from reference import assert_near


@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
def test_kinds_of_cv(loss):
    X, y = problem(loss)
    objective, labels = getattr(ig, loss), np.arange(N) % 7
    makers = {
        "int": (4, list((StratifiedKFold if loss == "Logistic" else KFold)(4).split(X, y))),
        "splitter": (KFold(3, shuffle=True, random_state=0),) * 2,
        "no partition": (ShuffleSplit(3, random_state=0),) * 2,
        "groups": (GroupKFold(3),) * 2,
    }
    for name, (cv, splits) in makers.items():
        groups = labels if name == "groups" else None
        splits = splits if isinstance(splits, list) else list(splits.split(X, y, groups))
        want = Oracle(loss, X, y, splits, "feature", False)
        masks = [(np.isin(np.arange(N), a), np.isin(np.arange(N), b)) for a, b in splits]
        for given_cv in (cv, splits, iter(splits), masks):
            f, g = ig.cross_validated(
                objective, X, y, cv=given_cv, penalty=ig.L2("feature"), groups=groups
            )
            theta = np.linspace(-1, 1, f.n_theta)
            lam = np.full(P, -1.0)
            assert_near(f.jac(theta, lam), want.jac(theta, lam), what=name)
            assert_near(g.fun(theta), want.outer_fun(theta), what=name)


def test_a_row_named_twice_counts_twice():
    X, y = problem()
    rng = np.random.default_rng(1)
    splits = [(rng.integers(0, N, N), rng.integers(0, N, 20)) for _ in range(3)]
    f, g = ig.cross_validated(ig.LeastSquares, X, y, cv=splits, penalty=ig.L2())
    want = Oracle("LeastSquares", X, y, splits, "all", False)
    theta = np.linspace(-1, 1, f.n_theta)
    assert_near(f.fun(theta, [-1.0]), want.fun(theta, [-1.0]))
    assert_near(f.jac(theta, [-1.0]), want.jac(theta, [-1.0]))
    assert_near(g.fun(theta), want.outer_fun(theta))


def bad(**change):
    X, y = problem("Logistic")
    given = {"objective": ig.Logistic, "X": X, "y": y, "cv": 3, "penalty": ig.L2()} | change
    return lambda: ig.cross_validated(
        given.pop("objective"), given.pop("X"), given.pop("y"), **given
    )


ROWS = np.arange(N)
BAD = {
    "objective": (TypeError, bad(objective=ig.L2)),
    "objective is an instance": (TypeError, bad(objective=ig.L2())),
    "X has": (ValueError, bad(y=np.ones(3))),
    "penalty": (TypeError, bad(penalty=1.0)),
    "cv = 1": (ValueError, bad(cv=1)),
    "cv must be at least 2, found 0": (ValueError, bad(cv=0)),
    "cv must be an int": (TypeError, bad(cv="5")),
    "cv must be an integer": (TypeError, bad(cv=2.5)),
    "more folds than X has rows": (
        ValueError,
        bad(objective=ig.LeastSquares, y=np.arange(N) * 1.0, cv=N + 1),
    ),
    "smaller class": (ValueError, bad(cv=50)),
    "pairs": (TypeError, bad(cv=[ROWS])),
    "cv gives no folds": (ValueError, bad(cv=[])),
    "validation rows of fold 0 of cv are none": (ValueError, bad(cv=[(ROWS, [])])),
    "row 61": (ValueError, bad(cv=[(ROWS, [61])])),
    "array of row numbers": (TypeError, bad(cv=[(ROWS, [0.5])])),
    "fit_intercept": (TypeError, bad(fit_intercept=1)),
    "sample_weight is zero on all validation rows of fold 1": (
        ValueError,
        bad(cv=[(ROWS[2:], ROWS[:2]), (ROWS[:-2], ROWS[-2:])], sample_weight=ROWS < N - 2),
    ),
    "n_threads": (ValueError, bad(n_threads=0)),
    "one class only in the training rows of fold 0": (
        ValueError,
        bad(y=np.where(ROWS < 5, 1.0, -1.0), cv=[(ROWS[5:], ROWS[:5])]),
    ),
    "y must be one-dimensional": (ValueError, bad(y=np.ones((N, 2)))),
    "X contains nan": (ValueError, bad(X=np.where(np.eye(N, P) > 0, np.nan, 1.0))),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_by_name(message):
    error, call = BAD[message]
    words = {"objective is an instance": "objective", "cv = 1": "cv must be at least 2, found 1"}
    with pytest.raises(error, match=words.get(message, message)):
        call()


def test_row_numbers_of_a_small_type():
    X, y = np.ones((300, 1)), np.arange(300.0)
    rows = np.arange(50, dtype=np.uint8)
    f, _ = ig.cross_validated(ig.LeastSquares, X, y, cv=[(rows, rows + 50)])
    assert f.n_theta == 1
    with pytest.raises(ValueError, match="name row -400"):
        ig.cross_validated(ig.LeastSquares, X, y, cv=[([-400, 0], [1, 2])])
