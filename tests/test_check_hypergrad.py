"""check_hypergrad: a constant number of trainings, and a verdict that is right and in words."""

import numpy as np
import pytest

import implicitgrad as ig
from cases import BY_NAME, linear, quadratic, replaced, spd
from implicitgrad import _train

TRAININGS = 9  # one for the gradient, four for each of two directions: what the docstring promises
SIZES = [1, 30, 1000]


@pytest.fixture
def trainings(monkeypatch):
    """Counts calls of the trainer, whoever makes them."""
    calls, train = [], _train.solve

    def counted(*args, **kwargs):
        calls.append(args[1].copy())
        return train(*args, **kwargs)

    monkeypatch.setattr(_train, "solve", counted)
    return calls


def many_hyperparameters(n_lam, n=12):
    """f = ½ θᵀHθ − θᵀ B sin λ, with any number of λ; g quadratic in θ and in λ. Exact derivatives."""
    rng = np.random.default_rng(n_lam)
    H, B = spd(n, 0.2, 2.0), rng.standard_normal((n, n_lam)) / np.sqrt(n_lam)
    c = rng.standard_normal(n)
    f = ig.Objective(
        fun=lambda t, x: 0.5 * t @ H @ t - t @ (B @ np.sin(x)),
        jac=lambda t, x: H @ t - B @ np.sin(x),
        hessp=lambda t, v, x: H @ v,
        cross_vjp=lambda t, q, x: -np.cos(x) * (B.T @ q),
        jac_lam=lambda t, x: -np.cos(x) * (B.T @ t),
        n_theta=n,
        n_lam=n_lam,
    )
    g = ig.Objective(
        fun=lambda t, x: c @ t + 0.5 * t @ t + 0.5 * x @ x,
        jac=lambda t, x: c + t,
        hessp=lambda t, v, x: v,
        cross_vjp=lambda t, q, x: np.zeros(n_lam),
        jac_lam=lambda t, x: x.copy(),
        n_theta=n,
        n_lam=n_lam,
    )
    return f, g, rng.uniform(-1, 1, n_lam), H


@pytest.mark.parametrize("n_lam", SIZES)
def test_right_derivatives_pass_at_any_size(n_lam, trainings):
    f, g, lam, _ = many_hyperparameters(n_lam)
    res = ig.check_hypergrad(f, g, lam)
    assert res.success is True and res.error <= 1e-6 <= res.tolerance
    assert len(trainings) == TRAININGS
    # λ moves to both sides along two directions, and is looked at itself once.
    assert sum(np.array_equal(at, lam) for at in trainings) == 1
    moves = np.array([at - lam for at in trainings])
    assert np.linalg.matrix_rank(moves, tol=1e-8) == min(n_lam, 2)
    assert np.linalg.norm(moves.sum(0)) <= 1e-12


@pytest.mark.parametrize("n_lam", [1, 30, 200])
def test_the_librarys_own_objectives_pass_at_any_size(n_lam, trainings):
    rng = np.random.default_rng(n_lam)
    X, X_val = rng.standard_normal((2, 50, n_lam))
    y, y_val = (np.where(rng.standard_normal(50) > 0, 1.0, -1.0) for _ in range(2))
    f = ig.Logistic(X, y, penalty=ig.L2("feature"), n_threads=1)
    g = ig.LeastSquares(X_val, y_val, n_threads=1)
    res = ig.check_hypergrad(f, g, rng.uniform(-3, 0, n_lam))
    assert res.success is True and res.error <= 1e-6
    assert len(trainings) == TRAININGS


MISTAKES = {
    "cross_vjp doubled": lambda f, g, H: (
        replaced(f, cross_vjp=lambda t, q, x: 2 * (f.linearize(t, x).cross.T @ q)),
        g,
    ),
    "cross_vjp of the wrong sign": lambda f, g, H: (
        replaced(f, cross_vjp=lambda t, q, x: -(f.linearize(t, x).cross.T @ q)),
        g,
    ),
    "cross_vjp 0.1 % off": lambda f, g, H: (
        replaced(f, cross_vjp=lambda t, q, x: 1.001 * (f.linearize(t, x).cross.T @ q)),
        g,
    ),
    "one entry of cross_vjp": lambda f, g, H: (replaced(f, cross_vjp=last_entry_lost(f)), g),
    "hessp doubled": lambda f, g, H: (replaced(f, hessp=lambda t, v, x: 2 * (H @ v)), g),
    "hessp without its off-diagonal": lambda f, g, H: (
        replaced(f, hessp=lambda t, v, x: np.diag(H) * v),
        g,
    ),
    "jac_lam of g missing": lambda f, g, H: (
        f,
        replaced(g, jac_lam=lambda t, x: np.zeros(len(x))),
    ),
    "jac_lam of g doubled": lambda f, g, H: (f, replaced(g, jac_lam=lambda t, x: 2 * x)),
    "jac of g": lambda f, g, H: (f, replaced(g, jac=lambda t, x: g.jac(t, x) - t)),
}


def last_entry_lost(f):
    def vjp(t, q, x):
        right = f.linearize(t, x).cross.T @ q
        right[-1] = 0.0
        return right

    return vjp


@pytest.mark.parametrize("n_lam", SIZES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake, n_lam, trainings):
    f, g, lam, H = many_hyperparameters(n_lam)
    res = ig.check_hypergrad(*MISTAKES[mistake](f, g, H), lam)
    assert res.success is False
    assert res.error > res.tolerance
    # Where the wrong Hessian keeps Newton's step from contracting, polishing trains once more.
    assert TRAININGS <= len(trainings) <= TRAININGS + 1


def test_verdict_in_words():
    f, g, lam, H = many_hyperparameters(3)
    right = ig.check_hypergrad(f, g, lam)
    assert "agrees" in right.message and "disagrees" not in right.message
    assert f"{right.error:.1e}" in right.message
    wrong = ig.check_hypergrad(*MISTAKES["cross_vjp doubled"](f, g, H), lam)
    assert "disagrees" in wrong.message and "cross_vjp" in wrong.message
    # The numbers that disagree are in the message, so that the factor between them can be seen.
    for value in (*wrong.got, *wrong.expected):
        assert str(float(value))[:6] in wrong.message


def test_the_slopes_are_those_of_the_result():
    case = BY_NAME["logistic-groups-weights-f"]
    pb = case.problem()
    res = ig.check_hypergrad(pb.f, pb.g, pb.lam)
    size = np.linalg.norm(case.solution()[1].astype(float))
    # The first direction is the hypergradient's own: the slope along it is its length.
    assert abs(res.got[0] - size) <= 1e-6 * size
    assert abs(res.expected[0] - size) <= 1e-6 * size
    assert res.hypergradient.success


def test_directions_follow_the_seed():
    f, g, lam, _ = many_hyperparameters(30)
    slopes = [ig.check_hypergrad(f, g, lam, rng=seed).expected[1] for seed in (0, 0, 1)]
    assert slopes[0] == slopes[1] != slopes[2]


def test_training_that_fails_is_no_verdict():
    f, g = quadratic(np.diag([1.0, -1.0]), np.eye(2)), linear(np.ones(2), 2)
    with pytest.raises(ValueError, match="training f failed"):
        ig.check_hypergrad(f, g, np.ones(2))
