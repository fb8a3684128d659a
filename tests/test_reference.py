"""The oracle against finite differences and closed forms: an unchecked oracle proves nothing."""

import numpy as np
import pytest

import reference
from cases import CASES, HYPER
from reference import WIDE, relative_error


def central(fun, x, h=1e-4):
    """Central differences, extrapolated once: O(h⁴)."""
    x = np.asarray(x, dtype=WIDE)

    def difference(e):
        return (fun(x + e) - fun(x - e)) / 2

    unit = h * np.eye(len(x), dtype=WIDE)
    return np.array([(8 * difference(e / 2) - difference(e)) / (3 * h) for e in unit])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_match_differences(case):
    ref, lam = case.reference("train"), case.lam()
    theta = case.theta()
    assert relative_error(ref.jac(theta, lam), central(lambda t: ref.fun(t, lam), theta)) < 1e-9
    assert relative_error(ref.hess(theta, lam), central(lambda t: ref.jac(t, lam), theta)) < 1e-9
    if case.n_lam:
        by_lam = central(lambda x: ref.fun(theta, x), lam)
        assert relative_error(ref.jac_lam(theta, lam), by_lam) < 1e-9
        by_lam = central(lambda x: ref.jac(theta, x), lam)
        assert relative_error(ref.cross(theta, lam), by_lam.T) < 1e-9


@pytest.mark.parametrize("case", HYPER, ids=str)
def test_training_and_theorem_match_retraining(case):
    f, g, lam = case.reference("train"), case.reference("validation"), case.lam()
    theta = f.train(lam)
    assert np.max(np.abs(f.jac(theta, lam))) < 1e-15
    rng = np.random.default_rng(case.seed)
    u = rng.standard_normal((2, case.n_lam))
    expected = reference.resolved_differences(f, g, lam, u)
    assert relative_error(u @ reference.exact_hypergradient(f, g, lam), expected) < 1e-9


def test_closed_form_of_ridge():
    case = next(c for c in HYPER if c.name == "ridge-feature-40x7")
    d, lam = case.data(), case.lam()
    theta, grad = reference.ridge_closed_form(d.X, d.y, d.X_val, d.y_val, lam)
    f, g = case.reference("train"), case.reference("validation")
    assert relative_error(f.train(lam), theta) < 1e-15
    assert relative_error(reference.exact_hypergradient(f, g, lam), grad) < 1e-14
