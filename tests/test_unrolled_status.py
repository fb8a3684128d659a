"""What `unrolled_grad` says where the steps diverge or numbers go bad, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import OptimizeWarning

import implicitgrad as ig
from cases import BY_NAME, linear, quadratic, replaced, well_posed
from reference import assert_near
from unroll_oracle import MODES, OPTIMIZERS

QUIET = {"warn": False}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("optimizer", "limit"), [("gd", 2.0), ("momentum", 3.8)])
def test_a_step_size_beyond_the_limit_is_told(optimizer, limit, mode):
    problem = well_posed()
    largest = np.linalg.eigvalsh(problem.H)[-1]
    for start in (np.zeros(12), problem.theta):
        arguments = (problem.f, problem.g, start, problem.lam)
        good = ig.unrolled_grad(*arguments, 60, 0.98 * limit / largest, optimizer, None, mode)
        assert good.success and good.status == 0
        with pytest.warns(ig.ImplicitGradWarning, match="step_size"):
            bad = ig.unrolled_grad(*arguments, 60, 1.05 * limit / largest, optimizer, None, mode)
        assert bad.status == 1 and not bad.success and np.isfinite(bad.grad).all()
        assert abs(bad.curvature[1] / largest - 1) < 0.1
    with pytest.warns(ig.ImplicitGradWarning, match="step_size is too large"):
        lost = ig.unrolled_grad(
            *(problem.f, problem.g, np.ones(12), problem.lam, 3000),
            *(10 / largest, optimizer, None, mode),
        )
    assert lost.status == 5 and not lost.success
    assert 0 < lost.nit < 3000 and np.isfinite(lost.theta).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_minimum_at_zero_is_no_divergence(start, optimizer, mode):
    """y ⟂ X: all steps near θ⋆ = 0 are rounding, however small θ is."""
    X = np.array([[1.0, 3.0], [-1.0, 0.7], [2.0, -0.3], [-2.0, -3.4]])
    f = ig.LeastSquares(X, np.ones(4), penalty=ig.L2("all"))
    g = ig.LeastSquares(X, [1.0, 0.0, 0.0, 1.0])
    alpha = 1 / (np.linalg.eigvalsh(X.T @ X / 4)[-1] + np.exp(-3))
    arguments = (f, g, np.full(2, start), [-3.0], 200, alpha, optimizer, None, mode)
    res = ig.unrolled_grad(*arguments)
    assert (res.status, res.success) == (0, True)


def test_a_minimum_at_zero_whose_value_is_zero_is_no_divergence():
    f = ig.Objective(lambda w, lam: float(np.sum(np.exp(lam[0]) * w**2 / 2 + np.cosh(w) - 1)))
    g = ig.Objective(lambda w, lam: float(np.sum((w - 1) ** 2)))
    for steps in (20, 60, 200):  # what is left of ∇f is the error of its differences
        assert ig.unrolled_grad(f, g, np.ones(2), [0.0], steps, 0.4).success


def test_both_modes_say_the_same():
    """Logistic loss from 0, where it is steeper than at θ⋆: below 2/λmax there it converges."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((60, 5)) * np.geomspace(1, 0.2, 5)
        y = np.where(X[:, 0] + rng.standard_normal(60) > 0, 1, -1)
        f = ig.Logistic(X, y, penalty=ig.L2("feature"))
        g = ig.Logistic(rng.standard_normal((20, 5)), np.where(rng.random(20) > 0.5, 1, -1))
        lam = np.full(5, -3.0)
        theta = ig.train(f, lam).x
        largest = np.linalg.eigvalsh(f.linearize(theta, lam).hess @ np.eye(5))[-1]
        exact = ig.implicit_grad(f, g, theta, lam).grad
        for share in (0.5, 0.9, 0.97, 1.1, 1.3, 1.6):
            for steps in (20, 100, 1000):
                back, along = (
                    ig.unrolled_grad(
                        *(f, g, np.zeros(5), lam, steps, share * 2 / largest),
                        mode=mode,
                        options=QUIET,
                    )
                    for mode in MODES
                )
                assert_near(along.grad, back.grad, 1e-6)
                assert back.status == along.status, (seed, share, steps)
                if steps == 1000:
                    near = np.linalg.norm(back.grad - exact) <= 1e-3 * np.linalg.norm(exact)
                    assert back.success == near == (share < 1), (seed, share)


def test_divergence_of_the_last_steps_says_that_they_are_the_last():
    problem = well_posed()
    alpha = 2.2 / np.linalg.eigvalsh(problem.H)[-1]
    arguments = (problem.f, problem.g, np.zeros(12), problem.lam, 60, alpha, "gd")
    res = ig.unrolled_grad(*arguments, 10, options=QUIET)
    assert res.status == 1
    assert "diverge" in res.message and "last 10 of 60 steps" in res.message
    assert "steps, as asked" not in ig.unrolled_grad(*arguments, options=QUIET).message


@pytest.mark.parametrize("mode", MODES)
def test_a_cycle_is_told(mode):
    """Beyond 2/λmax the logistic loss has cycles: θ stays finite, and its derivatives explode."""
    problem = BY_NAME["logistic-feature-61x9"].problem()
    arguments = (problem.f, problem.g, np.zeros(9), problem.lam, 3000)
    assert ig.unrolled_grad(*arguments, 1.6, mode=mode).success
    res = ig.unrolled_grad(*arguments, 2.0, mode=mode, options=QUIET)
    assert res.status == 1 and not res.success and np.isfinite(res.theta).all()
    assert "diverge" in res.message and res.curvature[1] > 2 / 2.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["fun", "jac", "hessp", "cross_vjp", "jac_lam"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_give_a_status(name, bad, mode):
    problem, calls = well_posed(), []
    own = {"fun": problem.f.fun, "jac": problem.f.jac, "hessp": problem.f.hessp}

    def breaks(*args):
        calls.append(args)
        if name in own:
            value = own[name](*args)
        else:
            value = -problem.B.T @ args[1] if name == "cross_vjp" else np.zeros(2)
        return value * bad if len(calls) > 3 or name == "jac_lam" else value

    f, g = problem.f, problem.g
    if name == "jac_lam":
        g = replaced(g, jac_lam=lambda t, x: np.full(2, bad))
    else:
        f = replaced(f, **{name: breaks})
    res = ig.unrolled_grad(f, g, np.zeros(12), problem.lam, 8, 0.1, mode=mode, options=QUIET)
    assert res.status == 5 and not res.success and "NaN or infinite" in res.message
    assert np.isfinite(res.theta).all()


def test_a_start_that_has_no_derivative_is_told():
    """dg/dθ_0 alone meets the H of the first step."""
    problem, calls = well_posed(), []

    def breaks(theta, v, lam):
        calls.append(v)
        first = (theta == 0).all()
        return problem.H @ v * (np.nan if first else 1.0)

    f = replaced(problem.f, hessp=breaks)
    res = ig.unrolled_grad(f, problem.g, np.zeros(12), problem.lam, 4, 0.1, options=QUIET)
    assert calls and np.isfinite(res.grad).all() and np.isnan(res.grad_theta0).all()
    assert res.status == 5 and not res.success
    f = quadratic(np.array([[1e200]]), np.zeros((1, 1)))
    res = ig.unrolled_grad(f, linear([1.0], 1), [0.0], [0.0], 2, 1.0, options=QUIET)
    assert not np.isfinite(res.grad_theta0).all()
    assert res.status == 5 and not res.success


@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_whose_square_overflows_is_told(mode):
    """Adam's mean square is then infinite, and its step zero for ever."""
    f = ig.LeastSquares([[1e100], [1e100]], [1.0, 2.0], penalty=ig.L2("all"))
    g = ig.LeastSquares([[1.0]], [0.0])
    arguments = (f, g, [1.0], [0.0], 3, 0.1, "adam", None, mode, QUIET)
    res = ig.unrolled_grad(*arguments)
    assert res.status == 5 and not res.success and res.nit == 0
    trained = ig.train(f, [0.0], [1.0], method="adam", maxiter=3)
    assert trained.status == 5 and not trained.success


def test_errors_of_users_functions_come_through():
    problem = well_posed()
    for name in ("jac", "hessp", "cross_vjp"):
        f = replaced(problem.f, **{name: lambda *args: 1 / 0})
        with pytest.raises(ZeroDivisionError):
            ig.unrolled_grad(f, problem.g, np.zeros(12), problem.lam, 3, 0.1)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": 2**70}, ValueError, "steps must be at most 2\\*\\*63 - 1"),
        ({"steps": 2.5}, TypeError, "steps must be an integer"),
        ({"steps": True}, TypeError, "steps"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive"),
        ({"step_size": np.nan}, ValueError, "step_size must be finite"),
        ({"step_size": "1"}, TypeError, "step_size"),
        ({"optimizer": "sgd"}, ValueError, "optimizer = 'sgd' is unknown; choose from gd"),
        ({"optimizer": None}, TypeError, "optimizer"),
        ({"truncate": 0}, ValueError, "truncate must be at least 1"),
        ({"truncate": 6}, ValueError, "truncate = 6 is more than steps = 5"),
        ({"mode": "both"}, ValueError, "mode = 'both'"),
        ({"theta0": np.zeros(8)}, ValueError, "theta0 has 8 entries, f expects 9"),
        ({"theta0": np.full(9, np.inf)}, ValueError, "theta0 contains inf"),
        ({"lam": np.zeros(3)}, ValueError, "lam has 3 entries"),
        ({"lam": np.full(9, 800.0)}, ValueError, r"lam\[0\] = 800.0 is out of range"),
        ({"f": 3}, TypeError, "f must be an objective"),
        ({"g": None}, TypeError, "g must be an objective"),
        ({"options": 3}, TypeError, "options must be a dict"),
        ({"options": {"memory": 0}}, ValueError, "memory must be positive"),
        ({"options": {"certify": 1}}, TypeError, "certify must be True or False"),
        ({"options": {"warn": None}}, TypeError, "warn"),
        ({"optimizer": "momentum", "options": {"momentum": 1.0}}, ValueError, "momentum must be"),
        ({"optimizer": "adam", "options": {"beta1": -0.1}}, ValueError, "beta1"),
        ({"optimizer": "adam", "options": {"beta2": 1.0}}, ValueError, "beta2 must be below 1"),
        ({"optimizer": "adam", "options": {"eps": 0.0}}, ValueError, "eps must be positive"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, match):
    problem = BY_NAME["logistic-feature-61x9"].problem()
    arguments = {
        "f": problem.f,
        "g": problem.g,
        "theta0": np.zeros(9),
        "lam": problem.lam,
        "steps": 5,
        "step_size": 0.1,
    }
    with pytest.raises(error, match=match):
        ig.unrolled_grad(**{**arguments, **change})


@pytest.mark.parametrize("name", ["momentum", "beta1", "step_size", "learning_rate", "memroy"])
def test_unknown_and_unused_options_warn(name):
    problem = well_posed()
    with pytest.warns(OptimizeWarning, match=f"Unknown options: '{name}'"):
        ig.unrolled_grad(
            *(problem.f, problem.g, problem.theta, problem.lam, 2, 0.1), options={name: 0.5}
        )


def test_shapes_that_do_not_fit_are_refused():
    f = quadratic(np.eye(3), np.ones((3, 2)))
    with pytest.raises(ValueError, match="g has n_theta = 4, f has n_theta = 3"):
        ig.unrolled_grad(f, linear(np.ones(4), 2), np.zeros(3), np.zeros(2), 3, 0.1)
    with pytest.raises(ValueError, match="jac"):
        ig.unrolled_grad(
            ig.Objective(lambda t, x: 0.0, jac=lambda t, x: np.zeros(2)),
            *(linear(np.ones(3), 2), np.zeros(3), np.zeros(2), 3, 0.1),
        )


def test_what_does_not_fit_is_refused_before_the_steps():
    calls = []

    def counted(theta, lam):
        calls.append(theta)
        return 0.5 * float(np.sum((theta - lam) ** 2))

    g = linear(np.ones(120), 1)
    with pytest.raises(ValueError, match="second derivatives in theta with 14400 entries"):
        ig.unrolled_grad(counted, g, np.zeros(120), [1.0], 300, 0.1)
    assert len(calls) <= 1000  # one gradient by differences
    calls.clear()
    f = ig.Objective(counted, jac=lambda t, x: t - x, cross_vjp=lambda t, q, x: np.ones(5))
    with pytest.raises(ValueError, match=r"cross_vjp returned shape \(5,\), expected \(2,\)"):
        ig.unrolled_grad(f, linear(np.ones(2), 2), np.zeros(2), np.ones(2), 2000, 0.1)
    assert len(calls) == 1


class Raw:
    """An objective that is no `Objective`: ½‖θ − λ‖², with parts that do not fit."""

    def __init__(self, **parts):
        self.parts = parts

    def linearize(self, theta, lam):
        eye = np.eye(theta.size)
        parts = {"fun": 0.5 * float((theta - lam) @ (theta - lam)), "jac": theta - lam}
        parts |= {"jac_lam": lam - theta, "hess": eye, "cross": -eye}
        return SimpleNamespace(**parts | self.parts)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("of_f", "of_g", "match"),
    [
        ({"jac": np.ones(3)}, {}, r"f\.linearize\(\.\.\.\)\.jac has shape \(3,\), expected \(2,\)"),
        ({}, {"jac": np.ones(3)}, r"g\.linearize\(\.\.\.\)\.jac has shape \(3,\), expected \(2,\)"),
        ({}, {"jac_lam": np.ones(3)}, r"jac_lam of g has shape \(3,\), expected \(2,\)"),
        ({"hess": np.eye(3)}, {}, r"operator has shape \(3, 3\), expected \(2, 2\)"),
        ({"cross": np.ones((2, 3))}, {}, r"f\..*\.cross\.T @ q has shape \(3,\), expected \(2,\)"),
    ],
)
def test_parts_that_do_not_fit_are_named(of_f, of_g, match, mode):
    with pytest.raises(ValueError, match=match):
        ig.unrolled_grad(Raw(**of_f), Raw(**of_g), np.ones(2), np.ones(2), 3, 0.5, mode=mode)


def test_parts_that_fit_no_more_later_are_named():
    def jac(theta, lam):
        return theta - lam if (theta == 0).all() else np.ones(3)

    class Changing(Raw):
        def linearize(self, theta, lam):
            self.parts = {"jac": jac(theta, lam)}
            return super().linearize(theta, lam)

    with pytest.raises(ValueError, match=r"f\.linearize.*jac has shape \(3,\), expected \(2,\)"):
        ig.unrolled_grad(Changing(), Raw(), np.zeros(2), np.ones(2), 3, 0.5)
