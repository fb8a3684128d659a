"""Unrolled differentiation against the theorem: Neumann terms, truncations, rates, and how far from
`implicit_grad` it says it is."""

import numpy as np
import pytest
from scipy.optimize import brentq

import implicitgrad as ig
from cases import BY_NAME, linear, well_posed
from implicitgrad.linearization import Noise
from reference import assert_near
from unroll_oracle import MODES, OPTIMIZERS, step_size

QUIET = {"warn": False}


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize(
    "name",
    ["ridge-feature-40x7", "logistic-all-intercept", "softmax-two-classes", "poisson-csr-80x12"],
)
def test_steps_from_the_minimum_are_neumann_terms(name, steps):
    case, problem = BY_NAME[name], BY_NAME[name].problem()
    f, g, lam = problem.f, problem.g, problem.lam
    theta = np.asarray(case.solution()[0], dtype=float)
    alpha = step_size(problem.ref_f, theta, lam, "gd")
    terms = {"terms": steps, "step_size": alpha, "polish": False, **QUIET}
    neumann = ig.implicit_grad(f, g, theta, lam, method="neumann", options=terms)
    assert_near(ig.unrolled_grad(f, g, theta, lam, steps, alpha).grad, neumann.grad, 1e-12)


HALF = ig.Objective(
    lambda w, lam: 0.5 * np.sum((w - lam) ** 2),
    jac=lambda w, lam: w - lam,
    hessp=lambda w, v, lam: v,
    cross_vjp=lambda w, q, lam: -q,
)
TUG = ig.Objective(
    lambda w, lam: 0.5 * np.sum(w**2) + 0.5 * np.sum((lam - 3) ** 2),
    jac=lambda w, lam: w,
    jac_lam=lambda w, lam: lam - 3,
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("truncate", "best"), [(1, 2.0), (2, 12 / 7), (5, 32 / 21), (None, 1.5)], ids=str
)
def test_truncation_moves_the_outer_minimum(truncate, best, mode):
    """Inner ½(w − λ)², outer ½w² + ½(λ − 3)², step ½: 3/(2 − 2⁻ᵀ), and 1.5 for all steps."""

    def slope(x):
        return ig.unrolled_grad(HALF, TUG, [0.0], [x], 60, 0.5, "gd", truncate, mode).grad[0]

    assert abs(brentq(slope, 1.0, 3.0, xtol=1e-14) - best) <= 1e-12


def test_the_error_falls_at_the_predicted_rate():
    """Where H and C are constant it is Cᵀ(I − αH)ᴷ q, which falls as (1 − αμ)ᴷ in the end."""
    problem, alpha = well_posed(), 0.3
    step = np.eye(12) - alpha * problem.H
    found = {}
    for steps in (1, 10, 100, 500, 530):
        res = ig.unrolled_grad(problem.f, problem.g, np.zeros(12), problem.lam, steps, alpha)
        left = problem.B.T @ np.linalg.matrix_power(step, steps) @ problem.q
        assert_near(problem.exact - res.grad, left, 1e-9 if steps <= 100 else 1e-6)
        found[steps] = np.linalg.norm(left)
    rate = 1 - alpha * np.linalg.eigvalsh(problem.H)[0]
    assert abs(found[530] / found[500] / rate**30 - 1) < 2e-3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_many_steps_reach_the_theorem(optimizer):
    case, problem = BY_NAME["logistic-feature-61x9"], BY_NAME["logistic-feature-61x9"].problem()
    alpha = step_size(problem.ref_f, problem.theta, problem.lam, "gd")
    if optimizer == "adam":
        alpha = 0.001
    res = ig.unrolled_grad(
        *(problem.f, problem.g, np.zeros(9), problem.lam, 8000, alpha, optimizer),
        options={"memory": 1e5, "certify": True},
    )
    distance = np.linalg.norm(res.grad - case.solution()[1].astype(float))
    size = np.linalg.norm(case.solution()[1].astype(float))
    assert res.success and distance <= 1e-6 * size
    assert res.error >= 0.5 * distance and res.error <= 1e-6 * size


def test_error_estimates_the_distance_when_asked():
    case, problem = BY_NAME["ridge-feature-40x7"], BY_NAME["ridge-feature-40x7"].problem()
    exact = case.solution()[1].astype(float)
    for steps, truncate in ((5, None), (50, None), (50, 3)):
        arguments = (problem.f, problem.g, np.zeros(7), problem.lam, steps, 0.1, "gd", truncate)
        res = ig.unrolled_grad(*arguments, options={"certify": True})
        distance = np.linalg.norm(res.grad - exact)
        assert abs(res.error / distance - 1) < 1e-3
        assert "estimated distance" in res.message
        plain = ig.unrolled_grad(*arguments)
        assert plain.error == np.inf and "certify" in plain.message
        assert (plain.grad == res.grad).all() and plain.success == res.success


def test_a_solve_that_did_not_succeed_gives_no_plain_estimate():
    """C is known to 0.1 only: the solve to compare with cannot reach its tolerance."""
    problem = well_posed()

    class Noisy:
        def linearize(self, theta, lam):
            at = problem.f.linearize(theta, lam)
            return ig.Linearization(
                *(at.fun, at.jac, at.jac_lam, at.hess, at.cross), noise=Noise(cross=0.1)
            )

    res = ig.unrolled_grad(
        *(Noisy(), problem.g, np.zeros(12), problem.lam, 5, 0.1), options={"certify": True}
    )
    assert res.success and np.isfinite(res.error)
    assert "estimated distance" not in res.message and "did not succeed" in res.message
    assert res.error >= np.linalg.norm(res.grad - problem.exact)


def test_where_there_is_no_minimum_it_says_so():
    """f = θ³/3 − λθ: at λ < 0 it has none; the steps have a derivative all the same."""
    f = ig.Objective(
        lambda t, lam: float(t[0] ** 3 / 3 - lam[0] * t[0]),
        jac=lambda t, lam: t**2 - lam,
        hessp=lambda t, v, lam: 2 * t * v,
        cross_vjp=lambda t, q, lam: -q,
    )
    g = linear([1.0], 1)
    res = ig.unrolled_grad(f, g, [1.0], [-0.5], 5, 0.1, options={"certify": True, **QUIET})
    assert res.success and res.error == np.inf
    assert "was not found" in res.message and np.isfinite(res.grad).all()
