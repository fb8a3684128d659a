"""Leave-one-out: what is refused, by which words."""

import numpy as np
import pytest

import implicitgrad as ig

X, Y = np.random.default_rng(0).standard_normal((12, 3)), np.arange(12.0)


@pytest.mark.parametrize("objective", ["LeastSquares", None, ig.Objective, ig.L2, int, 3.0])
def test_only_linear_models_can_leave_one_out(objective):
    with pytest.raises(TypeError, match="objective must be the class LeastSquares or Logistic"):
        ig.leave_one_out(objective, X, Y)


def test_a_subclass_that_overrides_is_refused():
    class Other(ig.LeastSquares):
        def linearize(self, theta, lam=None):
            return super().linearize(theta, lam)

    with pytest.raises(TypeError, match="objective must be"):
        ig.leave_one_out(Other, X, Y)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("X contains nan", lambda: ig.leave_one_out(ig.LeastSquares, X * np.nan, Y)),
        ("y must be one-dimensional", lambda: ig.leave_one_out(ig.LeastSquares, X, X)),
        ("y has 11 entries", lambda: ig.leave_one_out(ig.LeastSquares, X, Y[1:])),
        ("y must hold labels", lambda: ig.leave_one_out(ig.Logistic, X, Y)),
        ("one class only", lambda: ig.leave_one_out(ig.Logistic, X, Y > -1, penalty=ig.L2())),
        ("penalty must be", lambda: ig.leave_one_out(ig.LeastSquares, X, Y, penalty=1.0)),
        ("sample_weight", lambda: ig.leave_one_out(ig.LeastSquares, X, Y, sample_weight=-Y)),
        ("n_threads", lambda: ig.leave_one_out(ig.LeastSquares, X, Y, n_threads=0)),
        ("fit_intercept", lambda: ig.leave_one_out(ig.LeastSquares, X, Y, fit_intercept=1)),
    ],
)
def test_bad_arguments_are_named(name, call):
    with pytest.raises((ValueError, TypeError), match=name):
        call()


def test_bad_points_are_named():
    _, g = ig.leave_one_out(ig.LeastSquares, X, Y, penalty=ig.L2())
    for theta, lam, name in (
        (np.zeros(2), [0.0], "theta has 2 entries"),
        (np.zeros(3), [0.0, 0.0], "lam has 2 entries"),
        (np.zeros(3), None, "lam is missing"),
        (np.zeros(3), [800.0], "out of range"),
        (np.full(3, np.nan), [0.0], "theta contains nan"),
    ):
        with pytest.raises(ValueError, match=name):
            g.linearize(theta, lam)


def test_it_is_an_outer_objective_only():
    f, g = ig.leave_one_out(ig.LeastSquares, X, Y, penalty=ig.L2())
    at = g.linearize(np.zeros(3), [0.0])
    for name in ("hess", "cross"):
        with pytest.raises(
            NotImplementedError, match=f"no {name}: it serves as an outer objective"
        ):
            getattr(at, name)
    with pytest.raises(NotImplementedError, match="outer objective"):
        ig.train(g, [0.0])
    assert repr(g) == f"LeaveOneOut({f!r})"


def test_nan_in_a_memmap_is_named(tmp_path):
    written = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", float, X.shape)
    written[:] = X
    written[3, 2] = np.nan
    written.flush()
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    _, g = ig.leave_one_out(ig.LeastSquares, mapped, Y, penalty=ig.L2())
    with pytest.raises(ValueError, match="X contains nan"):
        g.linearize(np.zeros(3), [0.0])
