"""What is easy to get wrong at the edges of the contract: objects that override, callbacks' scales,
strengths near overflow, memmaps, what is computed and what is not."""

import numpy as np
import pytest

import implicitgrad as ig

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 5))
Y = X @ np.ones(5) + RNG.standard_normal(60)
LAM = np.zeros(5)
G = ig.LeastSquares(X[40:], Y[40:])


def ridge(cls=ig.LeastSquares):
    return cls(X[:40], Y[:40], penalty=ig.L2("feature"))


class WithPrior(ig.LeastSquares):
    """½ · 5 ‖θ‖² more than least squares."""

    def linearize(self, theta, lam=None):
        at = super().linearize(theta, lam)
        hess = at.hess @ np.eye(self.n_theta) + 5 * np.eye(self.n_theta)
        fun, jac = at.fun + 2.5 * theta @ theta, at.jac + 5 * theta
        return ig.Linearization(fun, jac, at.jac_lam, hess, at.cross)


def test_a_subclass_is_what_it_overrides():
    f, same = ridge(WithPrior), ig.LeastSquares(X[:40], Y[:40], penalty=ig.L2("feature", fixed=5))
    theta = ig.train(f, LAM).x
    assert np.allclose(theta, ig.train(same, LAM).x, rtol=1e-10)
    got, want = (ig.implicit_grad(h, G, theta, LAM) for h in (f, same))
    assert got.success and np.allclose(got.grad, want.grad, rtol=1e-9)


def test_a_foreign_objective_may_have_any_private_names():
    class Foreign:
        n_theta, n_lam = 5, 5
        _core = _linearize = "mine"

        def linearize(self, theta, lam):
            return ridge().linearize(theta, lam)

    theta = ig.train(Foreign(), LAM).x
    assert np.array_equal(ig.implicit_grad(Foreign(), G, theta, LAM).theta, theta)


def test_training_on_never_changes_the_minimum_that_was_meant():
    """f has a minimum near every multiple of 2π; Newton's step from 1.44 leaves for another one."""
    res = ig.implicit_grad(
        lambda w, lam: float(-np.cos(w[0]) + 0.01 * (w[0] - lam[0]) ** 2),
        lambda w, lam: 0.5 * float((w[0] - 0.3) ** 2),
        [1.44],
        [0.5],
        options={"warn": False},
    )
    assert res.status == 4 and res.theta == [1.44] and res.error > abs(res.grad[0])


@pytest.mark.parametrize("mean", [0.1, 3.0, 1e9, 1e-7])
def test_training_ends_where_the_minimum_is_zero_but_for_rounding(mean):
    """An intercept explains a constant y: θ⋆ and f(θ⋆) are zero, and nothing is small beside them."""
    y, common = np.full(60, mean), {"penalty": ig.L2("feature"), "fit_intercept": True}
    made = [
        (ig.LeastSquares(X, y, **common), None),
        ig.leave_one_out(ig.LeastSquares, X, y, **common),
    ]
    for f, _ in made:
        for theta0 in (
            None,
            np.append(np.zeros(5), mean),
            np.append(np.zeros(5), mean * (1 + 1e-15)),
        ):
            res = ig.train(f, LAM - 6, theta0)
            assert res.success and res.nit <= 5
            assert np.abs(res.x - np.append(np.zeros(5), mean)).max() <= 1e-14 * mean
            res = ig.train(f, LAM - 6, theta0, tol=1e-300)  # out of reach, mostly
            assert res.status in (0, 4) and res.nit <= 20


@pytest.mark.parametrize("method", ["cg", "nystrom", "minres", "neumann", "cholesky"])
def test_the_callback_sees_the_adjoint_at_its_own_scale(method):
    f, seen = ridge(), []
    res = ig.implicit_grad(
        f,
        G,
        ig.train(f, LAM).x,
        LAM,
        method,
        callback=lambda intermediate_result: seen.append(intermediate_result.adjoint),
    )
    assert np.allclose(seen[-1], res.adjoint, rtol=1e-5)


@pytest.mark.parametrize("method", ["cg", "nystrom", "cholesky", "minres"])
@pytest.mark.parametrize("strength", [400.0, 700.0])
def test_strengths_near_overflow_are_no_singularity(method, strength):
    f, lam = ridge(), np.full(5, strength)
    theta = ig.train(f, lam).x
    res = ig.implicit_grad(f, G, theta, lam, method)
    at, outer = f.linearize(theta, lam), G.linearize(theta)
    exact = -np.exp(lam) * theta * np.linalg.solve(at.hess @ np.eye(5), outer.jac)
    assert res.success and np.allclose(res.grad, exact, rtol=1e-6, atol=0)


def test_damping_does_not_show_in_the_curvature():
    f = ridge()
    theta = ig.train(f, LAM).x
    eigenvalues = np.linalg.eigvalsh(f.linearize(theta, LAM).hess @ np.eye(5))
    res = ig.implicit_grad(f, G, theta, LAM, "cg", options={"damping": 10.0, "warn": False})
    low, high = res.curvature
    assert eigenvalues[0] - 1e-9 <= low <= high <= eigenvalues[-1] + 1e-9


@pytest.mark.parametrize("verb", [ig.train, lambda f, lam: ig.minimize(f, G, lam)])
def test_nan_in_a_memmap_is_named_by_whatever_reads_it_first(verb, tmp_path):
    written = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", float, (40, 5))
    written[:] = X[:40]
    written[3, 2] = np.nan
    written.flush()
    f = ig.LeastSquares(np.load(tmp_path / "X.npy", mmap_mode="r"), Y[:40], penalty=ig.L2())
    with pytest.raises(ValueError, match="X contains nan"):
        verb(f, [0.0])


@pytest.mark.parametrize("make", [ig.LeastSquares, ig.MLP])
@pytest.mark.parametrize("stored", ["array", "memmap"])
def test_rows_that_lam_replaces_may_hold_anything(stored, make, tmp_path):
    given = X[:12].copy()
    given[3, 2], given[7, 0] = np.nan, np.inf
    np.save(tmp_path / "X.npy", given)
    if stored == "memmap":
        given = np.load(tmp_path / "X.npy", mmap_mode="r")
    shape = {"hidden": (), "loss": "squared"} if make is ig.MLP else {"fit_intercept": True}
    filled = np.nan_to_num(given, posinf=0.0)
    lam = np.r_[-1.0, np.linspace(-1, 1, 10)]
    f, twin = (
        make(A, Y[:12], penalty=ig.L2(), inputs=ig.Inputs([7, 3]), **shape) for A in (given, filled)
    )
    theta = ig.train(f, lam).x
    assert f.fun(theta, lam) == twin.fun(theta, lam)
    res = ig.implicit_grad(f, make(X, Y, **shape), theta, lam)
    assert res.success
    assert np.array_equal(res.grad, ig.implicit_grad(twin, make(X, Y, **shape), theta, lam).grad)

    def value(rows):
        f = make(given, Y[:12], penalty=ig.L2(), inputs=rows, **shape)
        return f.fun(theta, np.zeros(f.n_lam))

    for rows in (ig.Inputs([7]), ig.Affine()):
        with pytest.raises(ValueError, match=r"X contains nan at index \(3, 2\)"):
            value(rows)


def test_an_outer_function_is_not_asked_for_second_derivatives():
    calls = [0]

    def g(theta, lam):
        calls[0] += 1
        return 0.5 * float(theta @ theta)

    f = ig.Objective(lambda t, x: 0.5 * float((t - x) @ (t - x)), lambda t, x: t - x)
    ig.implicit_grad(f, g, np.ones(200), np.ones(200))
    assert calls[0] <= 3 * (4 * 400 + 1)


def test_a_failed_call_is_not_remembered_as_an_answer():
    h = ig.HyperObjective(
        lambda w, lam: 0.5 * float((w - lam) @ (w - lam)),
        lambda w, lam: float("nan") if lam[0] > 1 else float(w @ w),
        theta0=[0.0],
        options={"warn": False},
    )
    assert np.isfinite(h([0.5])[0])
    assert h([2.0])[0] == np.inf and h([2.0])[0] == np.inf


def test_a_callback_works_with_methods_that_pass_x():
    seen = []
    res = ig.minimize(
        ridge(),
        G,
        LAM,
        method="TNC",
        bounds=[(-8, 8)] * 5,
        callback=lambda intermediate_result: seen.append(intermediate_result.x),
    )
    assert res.success and len(seen) > 1 and seen[0].shape == (5,)


def test_results_do_not_alias_what_they_were_given():
    f = ridge()
    theta = ig.train(f, LAM).x
    res = ig.implicit_grad(f, G, theta, LAM)
    kept = res.theta.copy()
    theta[:] = 0
    assert np.array_equal(res.theta, kept)


def test_real_operators_refuse_complex_vectors():
    at = ridge().linearize(np.ones(5), LAM)
    assert isinstance(at, ig.Linearization)
    for operator in (at.hess, at.cross, at.cross.T):
        with pytest.raises(TypeError, match="complex"):
            operator @ (1j * np.ones(5))


@pytest.mark.parametrize("scale", [1e-7, 1e-9, 1e-12])
def test_training_from_afar_ends_at_the_minimum_whatever_the_scale_of_x(scale):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 4))
    y = X[:, 0] + 0.5 * rng.standard_normal(90) > 0
    f = ig.Logistic(X * scale, y, penalty=ig.L2("feature"), fit_intercept=True)
    lam = np.full(4, -6.0) + 2 * np.log(scale)
    warm, cold = ig.train(f, lam, theta0=ig.train(f, lam + 4).x), ig.train(f, lam)
    assert warm.success and cold.success
    np.testing.assert_allclose(warm.fun, cold.fun, rtol=1e-12)


def test_training_that_overflows_is_no_success():
    X = np.random.default_rng(0).standard_normal((90, 4)) * 1e160
    res = ig.train(ig.LeastSquares(X, X[:, 0] / 1e160, penalty=ig.L2()), [0.0])
    assert not res.success and res.status == 5


def test_training_that_stalls_at_a_kink_is_no_success():
    f = ig.Objective(lambda w, lam: abs(w[0] - 1) + np.exp(lam[0]) * w[0] ** 2, n_theta=1, n_lam=1)
    assert not ig.train(f, [-3.0]).success
