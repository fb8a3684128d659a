"""A check of hypergradients against re-solved differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from . import _arrays, _differences
from ._core import norm
from ._outer import HyperObjective

RTOL = 1e-5  # disagreement beyond this, and beyond the differences' own error, is an error


def check_hypergrad(f: Any, g: Any, lam: Any, theta0: Any = None, rng: Any = 0) -> OptimizeResult:
    """Compare the hypergradient with differences of g between re-trained models.

    Along two directions, the hypergradient's own and a random one, λ is moved a little to both
    sides, f is trained anew each time, and the slope of g is compared with direction · gradient. The
    cost is nine trainings, whatever n_lam, and one more where the first leaves θ too far off.

    Parameters
    ----------
    f, g, lam : as for `implicit_grad`
    theta0 : array, shape (n_theta,), optional
        Start of the trainings; zeros by default.
    rng : seed or Generator, default 0

    Returns
    -------
    OptimizeResult
        expected (slopes by differences), got (slopes from the hypergradient), both of shape (2,);
        error (the larger relative disagreement); tolerance (what is allowed, from 1e-5 and the
        differences' own error); success; message; hypergradient (the `ImplicitGradResult`).

    Raises
    ------
    ValueError
        Where training fails at lam or next to it.

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(3), [1.0, 2.0, 3.0], penalty=ig.L2("feature"))
    >>> g = ig.LeastSquares(np.ones((1, 3)), [5.0])
    >>> ig.check_hypergrad(f, g, np.zeros(3)).success
    True
    """
    h = HyperObjective(f, g, theta0=theta0, options={"warn": False, "atol": 0.0})
    lam = h._problem.check_lam(lam)
    rng = _arrays.generator(rng, "rng")
    fun, grad = h(lam)
    if not math.isfinite(fun) or h.result is None:
        raise ValueError("training f failed at lam, so that there is nothing to compare with")
    result = h.result

    random = rng.standard_normal(lam.size)
    size = norm(grad)
    directions = [grad / size if size > 0 else np.ones(lam.size) / math.sqrt(lam.size)]
    directions.append(random / norm(random))

    def value(at: np.ndarray) -> float:
        fun = h._value(at)
        if not math.isfinite(fun):
            raise ValueError(
                "training f failed next to lam, so that there is nothing to compare with"
            )
        return fun

    expected, allowed = np.empty(2), np.empty(2)
    got = np.array([float(u @ grad) for u in directions])
    for i, u in enumerate(directions):
        slope, doubt = _differences.directional(value, lam, u)
        expected[i] = slope
        allowed[i] = 10 * doubt + RTOL * max(abs(float(slope)), abs(got[i]))
    gap = np.abs(expected - got)
    scale = np.maximum(np.maximum(np.abs(expected), np.abs(got)), np.finfo(float).tiny)
    success = bool((gap <= allowed).all())
    error, tolerance = float(np.max(gap / scale)), float(np.max(allowed / scale))
    if success:
        message = f"The hypergradient agrees with re-solved differences to {error:.1e}."
    else:
        message = (
            f"The hypergradient disagrees with re-solved differences: slopes {got.tolist()} against "
            f"{expected.tolist()}. Check the derivatives that were given, cross_vjp first."
        )
    return OptimizeResult(
        expected=expected,
        got=got,
        error=error,
        tolerance=tolerance,
        success=success,
        message=message,
        hypergradient=result,
    )
