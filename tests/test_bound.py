"""error_bound is a bound: never below the true error, whatever the problem, the θ and the method;
finite where a curvature can be proven, inf where it cannot; and of a size that is of use."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import implicitgrad as ig
from cases import BY_NAME, HYPER, Wrapped, linear, well_posed
from reference import WIDE, LinearModel, hypergradient

OFFSETS = [0.0, *(10.0**k for k in range(-12, 0))]
WAYS = {
    "cholesky": ("cholesky", {}),
    "cg": ("cg", {}),
    "cg-short": ("cg", {"maxiter": 2}),
    "cg-stop": ("cg", {"stop": 1e-2}),
    "cg-damped": ("cg", {"damping": 1e-3}),
    "cholesky-damped": ("cholesky", {"damping": 0.1}),
    "neumann": ("neumann", {"maxiter": 50}),
    "minres": ("minres", {}),
    "nystrom": ("nystrom", {}),
    "identity": ("identity", {}),
    "identity-certified": ("identity", {"certify": True}),
    "terms": ("neumann", {"terms": 8}),
    # Solvers that solve nothing must be found out by the residual.
    "zero": (lambda hess, b: 0.0 * b, {}),
    "ones": (lambda hess, b: np.ones_like(b), {}),
}


def distance(a, b):
    """‖a − b‖₂ in extended precision, scaled so that no square leaves the range."""
    off = np.abs(np.asarray(a, WIDE) - np.asarray(b, WIDE))
    top = np.max(off, initial=WIDE(0))
    return float(top * np.sqrt(np.sum((off / top) ** 2))) if top > 0 else 0.0


def solve(f, g, theta, lam, way="cholesky", **options):
    method, given = WAYS[way]
    given = {**given, **options, "warn": False}
    return ig.implicit_grad(f, g, theta, lam, method, options=given)


def violations(f, g, thetas, lam, exact, ways=tuple(WAYS)):
    """(how many bounds were finite, what broke them): for all thetas, ways, polished or not."""
    finite, broken = 0, []
    for k, theta in enumerate(thetas):
        for way in ways:
            for polish in (True, False):
                res = solve(f, g, theta, lam, way, polish=polish)
                error = distance(res.grad, exact)
                finite += np.isfinite(res.error_bound)
                # NaN compares false: a bound that is NaN counts as broken.
                if not error <= res.error_bound or np.isnan(res.error):
                    broken.append((k, way, polish, error, res.error_bound, res.error))
    return finite, broken


def around(best, offsets=OFFSETS, seed=0):
    rng = np.random.default_rng(seed)
    best = np.asarray(best, dtype=float)
    return [best + offset * rng.standard_normal(best.size) for offset in offsets]


def near_only(case):
    """Without an intercept the penalty proves a curvature; else a factor of H must, near θ⋆. And
    counts have a curvature that is bounded near a point only."""
    return case.fit_intercept or case.loss == "Poisson"


@pytest.mark.parametrize("case", HYPER, ids=str)
def test_never_below_the_true_error(case):
    pb, (best, exact) = case.problem(n_threads=1), case.solution()
    # The larger problems cost more: every third offset.
    thetas = around(best, OFFSETS if case.p < 40 else OFFSETS[::3], case.seed)
    finite, broken = violations(pb.f, pb.g, thetas, pb.lam, exact)
    assert broken == []
    share = 0.9 if not near_only(case) else 0.3 if case.loss == "Poisson" else 0.4
    assert finite > share * 2 * len(thetas) * len(WAYS)


@pytest.mark.parametrize("case", HYPER, ids=str)
def test_finite_where_curvature_can_be_proven(case):
    pb, (best, _) = case.problem(n_threads=1), case.solution()
    for theta in around(best, [0.0, 1e-9] if near_only(case) else [0.0, 1e-9, 1e-3, 1.0, 1e3]):
        for way in ("cholesky", "cg", "nystrom", "minres"):
            assert np.isfinite(solve(pb.f, pb.g, theta, pb.lam, way, polish=False).error_bound)


@pytest.mark.parametrize(
    "name", [c.name for c in HYPER if c.spread == 1 and c.fixed == 0 and c.dtype == "float64"]
)
def test_of_use_where_theta_is_trained(name):
    """Some digits are lost to worst cases, the rest is for the user: six digits guaranteed."""
    case = BY_NAME[name]
    pb = case.problem(n_threads=1)
    theta = ig.train(pb.f, pb.lam, tol=1e-12).x
    for way in ("cholesky", "cg"):
        method, _ = WAYS[way]
        res = ig.implicit_grad(
            pb.f, pb.g, theta, pb.lam, method, tol=1e-12, options={"warn": False}
        )
        assert res.error_bound <= 1e-6 * np.linalg.norm(res.grad)


def test_shrinks_with_the_distance_of_theta():
    """First order in ‖θ − θ⋆‖, down to rounding."""
    case = BY_NAME["logistic-feature-61x9"]
    pb, (best, _) = case.problem(), case.solution()
    direction = np.ones(9)
    bounds = [
        solve(pb.f, pb.g, best.astype(float) + t * direction, pb.lam, polish=False).error_bound
        for t in (1e-5, 1e-6, 1e-7, 1e-8)
    ]
    for near, far in zip(bounds[1:], bounds, strict=False):
        assert 9.9 <= far / near <= 10.1


def test_inf_for_callables_and_foreign_objects():
    w = well_posed()
    assert ig.implicit_grad(w.f, w.g, w.theta, w.lam).error_bound == np.inf
    pb = BY_NAME["ridge-feature-40x7"].problem()
    theta = ig.train(pb.f, pb.lam).x
    for f, g in ((Wrapped(pb.f), pb.g), (pb.f, Wrapped(pb.g)), (pb.f, linear(np.ones(7), 7))):
        res = ig.implicit_grad(f, g, theta, pb.lam)
        assert res.success and res.error_bound == np.inf


@pytest.mark.parametrize(
    "way", ["cholesky", "cg", "nystrom", "minres", "identity", "identity-certified"]
)
def test_inf_for_a_singular_hessian(way):
    """Two equal columns and a penalty that rounding swallows."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 3))[:, [0, 1, 1]]
    f = ig.LeastSquares(X, rng.standard_normal(20), penalty=ig.L2("feature"), fit_intercept=True)
    g = ig.LeastSquares(X[:7], rng.standard_normal(7), fit_intercept=True)
    lam = np.full(3, -80.0)
    theta = ig.train(f, np.zeros(3)).x
    assert solve(f, g, theta, lam, way).error_bound == np.inf


# Scales: what multiplies X, y or g multiplies the bound as it does the gradient.


def bound_at_scale(loss, a, b, c):
    """X times a, with λ and θ to match; y times b; g times c² (by X and y of g, least squares)."""
    case = replace(BY_NAME["ridge-feature-40x7"], loss=loss)
    d = case.data()
    f = getattr(ig, loss)(a * d.X, b * d.y, penalty=ig.L2("feature"))
    g = ig.LeastSquares(c * a * d.X_val, c * b * np.sign(d.y_val))
    lam, lam1 = case.lam() + 2 * np.log(a), case.lam()
    best = case.reference("train").train(lam1).astype(float)
    theta = (best + 1e-3) * b / a
    res = solve(f, g, theta, lam, polish=False)
    return np.array([res.error_bound, np.linalg.norm(res.grad)])


@pytest.mark.parametrize("c", [2.0**-40, 1.0, 2.0**60])
@pytest.mark.parametrize("a", [2.0**-60, 2.0**-3, 2.0**50])
@pytest.mark.parametrize("loss", ["LeastSquares", "Logistic"])
def test_scales_as_the_gradient_does(loss, a, c):
    # y of the logistic loss has no scale.
    for b in (2.0**-50, 2.0**70) if loss == "LeastSquares" else (1.0,):
        ratio = bound_at_scale(loss, a, b, c) / bound_at_scale(loss, 1.0, 1.0, 1.0)
        # Within the accuracy of exp(λ + 2 log a) and what rounding adds to the bound.
        assert np.allclose(ratio, (b * c) ** 2, rtol=1e-8, atol=0)


# Attempts to break it


def adversary(kind):
    """(loss, X, y, keywords, λ, offsets of θ) of a problem in which something is extreme."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((30, 6))
    y = X @ rng.standard_normal(6) + rng.standard_normal(30)
    signs, per, lam = np.where(y > 0, 1.0, -1.0), "feature", rng.uniform(-6, 1, 6)
    kw = {"penalty": ig.L2(per)}
    weights = rng.random(30) * (rng.random(30) < 0.5) + 1e-3 * (np.arange(30) < 2)
    twins = X[:, [0, 1, 1, 1, 4, 4]]
    return {
        "huge theta": ("LeastSquares", X, y, kw, lam, [1e8, 1e16, 1e30]),
        "huge theta logistic": ("Logistic", X, signs, kw, lam, [1e3, 1e8, 1e16]),
        "saturated": ("Logistic", 1e3 * X, signs, kw, lam, [0.0, 1e-6, 1.0]),
        "separated": ("Logistic", X, np.sign(X[:, 0]), kw, np.full(6, -20.0), [0.0, 1e-3]),
        "penalties 1e-12 to 1e6": ("LeastSquares", X, y, kw, np.linspace(-27.6, 13.8, 6), OFFSETS),
        "penalties, logistic": ("Logistic", X, signs, kw, np.linspace(-27.6, 13.8, 6), OFFSETS),
        "duplicated columns": ("LeastSquares", twins, y, kw, np.full(6, -18.0), [0.0, 1e-6, 1.0]),
        "duplicated, logistic": ("Logistic", twins, signs, kw, np.full(6, -18.0), [0.0, 1e-6]),
        "zero column": ("LeastSquares", X * (np.arange(6) > 0), y, kw, lam, [0.0, 1e-6, 1.0]),
        "zero weights": ("Logistic", X, signs, {**kw, "sample_weight": weights}, lam, [0.0, 1e-3]),
        "float32": ("LeastSquares", X.astype(np.float32), y, kw, lam, OFFSETS),
        "float32 intercept": (
            *("Logistic", X.astype(np.float32), signs, {**kw, "fit_intercept": True}),
            *(lam, OFFSETS),
        ),
        "one row": ("LeastSquares", X[:1], y[:1], kw, lam, OFFSETS),
        "n < p": ("LeastSquares", X[:3], y[:3], kw, np.full(6, -15.0), OFFSETS),
        "columns 1e-6 to 1e6": (
            "LeastSquares",
            X * np.geomspace(1e-6, 1e6, 6),
            y,
            kw,
            lam,
            OFFSETS,
        ),
        "residual zero": ("LeastSquares", X, 0.0 * y, kw, lam, OFFSETS),
        # Below 1e-154 squares underflow, above they overflow.
        "tiny y": ("LeastSquares", X, 1e-170 * y, kw, lam, [0.0, 1e-180]),
        "huge y": ("LeastSquares", X, 1e120 * y, kw, lam, [0.0, 1e110]),
    }[kind]


ADVERSARIES = [
    *("huge theta", "huge theta logistic", "saturated", "separated", "penalties 1e-12 to 1e6"),
    *("penalties, logistic", "duplicated columns", "duplicated, logistic", "zero column"),
    *("zero weights", "float32", "float32 intercept", "one row", "n < p", "columns 1e-6 to 1e6"),
    *("residual zero", "tiny y", "huge y"),
]


@pytest.mark.parametrize("kind", ADVERSARIES)
def test_adversaries(kind):
    loss, X, y, kw, lam, offsets = adversary(kind)
    X_val, icpt = np.random.default_rng(8).standard_normal((11, 6)), "fit_intercept" in kw
    f = getattr(ig, loss)(X, y, **kw)
    g = ig.LeastSquares(X_val, np.max(np.abs(y)) * np.ones(11), fit_intercept=icpt)
    ref_f = LinearModel(loss, X, y, "feature", 0.0, icpt, kw.get("sample_weight"))
    ref_g = LinearModel("LeastSquares", X_val, np.max(np.abs(y)) * np.ones(11), None, 0.0, icpt)
    best = ref_f.train(lam)
    exact = hypergradient(ref_f, ref_g, best, lam)[0]
    finite, broken = violations(f, g, around(best, offsets), lam, exact)
    assert broken == []
    assert finite > 0


def test_overflow_is_inf_and_not_nan():
    """At this θ the products that make up the bound overflow while a factor of them is zero."""
    rng = np.random.default_rng(1)
    X, signs = rng.standard_normal((8, 2)), np.resize([1.0, -1.0], 8)
    f, lam = ig.Logistic(X, signs, penalty=ig.L2("feature")), np.zeros(2)
    for g in (ig.LeastSquares(X, signs), ig.Logistic(X, signs)):
        for size in (1e120, 1e153, 1e160, 1e200):
            for way in WAYS:
                for polish in (True, False):
                    res = solve(f, g, np.array([size, -size]), lam, way, polish=polish)
                    assert not np.isnan(res.error_bound)
                    assert not np.isnan(res.error)


@st.composite
def problems(draw):
    loss, loss_g = draw(st.tuples(*[st.sampled_from(["LeastSquares", "Logistic"])] * 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(2 if loss == "Logistic" else 1, 40))
    p, m = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    dtype, order = draw(st.sampled_from([np.float64, np.float32])), draw(st.sampled_from("CF"))
    spread, scale = draw(st.floats(0, 6)), draw(st.integers(-12, 9))
    X = rng.standard_normal((n, p)) * np.logspace(-spread, 0, p) * 10.0**scale
    if draw(st.booleans()):
        X[:, p // 2] = X[:, 0]
    X = np.asarray(X, dtype=dtype, order=order)
    w = None
    if draw(st.booleans()):
        w = rng.random(n) * (rng.random(n) < 0.7)
        w[:2] = 1.0  # both classes, where there are two
    kind = draw(st.sampled_from(["all", "feature", "groups"]))
    per = rng.permutation(np.arange(p) % min(p, 3)) if kind == "groups" else kind
    fixed, icpt = draw(st.sampled_from([0.0, 1e-3])), draw(st.booleans())
    X_val = rng.standard_normal((m, p)) * 10.0 ** draw(st.integers(-6, 6))
    y, y_val = rng.standard_normal(n) * 10.0 ** draw(st.integers(-9, 9)), rng.standard_normal(m)
    if loss == "Logistic":
        y = np.where(np.arange(n) == 0, -1.0, np.where((y > 0) | (np.arange(n) == 1), 1.0, -1.0))
    if loss_g == "Logistic":
        y_val = np.sign(y_val)
    kw = {"fit_intercept": icpt, "n_threads": 1}
    f = getattr(ig, loss)(X, y, penalty=ig.L2(per, fixed=fixed), sample_weight=w, **kw)
    g = getattr(ig, loss_g)(X_val, y_val, **kw)
    low = draw(st.floats(-27, 10))
    lam = rng.uniform(low, 13.8, f.n_lam)
    ref_f = LinearModel(loss, X, y, per, fixed, icpt, w)
    ref_g = LinearModel(loss_g, X_val, y_val, None, 0.0, icpt)
    return f, g, ref_f, ref_g, lam, rng, draw(st.floats(-15, 4)), draw(st.sampled_from(list(WAYS)))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(problems())
def test_search_finds_no_violation(problem):
    f, g, ref_f, ref_g, lam, rng, offset, way = problem
    try:
        best = ref_f.train(lam)
    except (AssertionError, np.linalg.LinAlgError):
        reject()  # beyond the oracle: at some scales its own stopping rule never holds
    exact = hypergradient(ref_f, ref_g, best, lam)[0]
    step = 10.0**offset * rng.standard_normal(best.size) * max(float(np.max(np.abs(best))), 1e-30)
    _, broken = violations(f, g, [best.astype(float) + step], lam, exact, (way,))
    assert broken == []
