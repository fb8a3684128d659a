"""The Hessian of the outer problem, against central differences of certified hypergradients."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicitgrad as ig
from implicitgrad._search import RelativeLoss
from implicitgrad._second_order import SecondOrder


def problem(kind, targets, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((90, 6))
    z = X @ rng.standard_normal((6, targets or 1)) + rng.standard_normal((90, targets or 1))
    y = z if targets else z[:, 0]
    if kind is ig.Logistic:
        y = np.where(y > 0, 1.0, -1.0)
    if kind is ig.Softmax:
        y = np.searchsorted([-1.0, 1.0], y)
    penalty = ig.L2([0, 1, 2, 0, 1, 3])
    f, g = ig.cross_validated(
        kind, X, y, [(np.arange(60), np.arange(60, 90)), (np.arange(30, 90), np.arange(30))],
        penalty=penalty, fit_intercept=True,
    )  # fmt: skip
    return f, RelativeLoss(g, 0.01, np.full(4, -1.0)), rng.uniform(-4, 0, 4)


@pytest.mark.parametrize("method", ["auto", "cg"])
@pytest.mark.parametrize(
    ("kind", "targets"),
    [(ig.LeastSquares, None), (ig.LeastSquares, 3), (ig.Logistic, None), (ig.Softmax, None)],
)
def test_gradient_and_hessian_are_the_derivatives(kind, targets, method):
    f, outer, lam = problem(kind, targets)
    h = ig.HyperObjective(f, outer, tol=1e-10, options={"atol": 1e-14})
    here = SecondOrder(ig.HyperObjective(f, outer, method=method), lam)
    fun, jac = h(lam)
    assert_allclose(here.fun, fun, rtol=1e-12)
    assert_allclose(here.jac, jac, rtol=1e-9, atol=1e-13)
    step = 1e-4
    differences = np.stack(
        [(h(lam + step * e)[1] - h(lam - step * e)[1]) / (2 * step) for e in np.eye(4)]
    )
    hess = here.hess(np.arange(4))
    assert_allclose(hess, differences, atol=2e-6 * np.abs(differences).max())
    assert_array_equal(hess, hess.T)


def test_of_some_of_the_hyperparameters():
    f, outer, lam = problem(ig.LeastSquares, None)
    h = ig.HyperObjective(f, outer)
    whole, part = SecondOrder(h, lam).hess(np.arange(4)), SecondOrder(h, lam).hess(np.array([1, 3]))
    assert_allclose(part, whole[np.ix_([1, 3], [1, 3])], rtol=1e-9)


def test_where_training_fails_the_value_is_infinite():
    f, outer, lam = problem(ig.LeastSquares, None)
    h = ig.HyperObjective(f, outer)
    h._train = lambda lam: False
    here = SecondOrder(h, lam)
    assert here.fun == np.inf and not here.jac.any()
