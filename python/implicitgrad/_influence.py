"""What each training row does to the outer loss: hypergradients of its weight, from one solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import _arrays, _implicit, _options, _result, solvers
from ._blocks import Block
from ._cv import FoldedModel
from ._native import is_native, linearizer, passer
from ._native_objective import NativeObjective
from ._problem import Point, Problem, tolerance
from ._result import InfluenceResult
from .linearization import EXACT, Linearization, NativeLinearization, Noise


def influence(
    f: Any,
    g: Any,
    theta: Any,
    lam: Any = None,
    method: Any = "auto",
    tol: float | None = None,
    options: Mapping[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
) -> InfluenceResult:
    r"""Effect of each training row on an outer loss.

    Let row i count (1 + ε_i) times as much in f. At the minimum of f,

    .. math:: \mathrm{influence}_i = \frac{dg}{d\varepsilon_i} = -c_i\, (\nabla_\theta \ell_i)^T q,
              \qquad H q = \nabla_\theta g,

    c_i being the coefficient of ℓ_i in f (1/n without weights): all n of them for one linear solve.
    Removing row i, with all other coefficients and λ as they are, changes g by about −influence_i; a
    row with a large positive influence does harm. Copying it changes g by about +influence_i.

    Parameters
    ----------
    f : LeastSquares, Logistic, Softmax, Poisson or MLP
        The training objective; a linear model with one target.
    g : objective
        The outer loss, as for `implicit_grad`.
    theta : array, shape (n_theta,)
        The trained parameters, near the minimum of f(·, λ).
    lam : array, shape (n_lam,), optional
        Hyperparameters, which are held; may be left out where f has none.
    method, tol, options, callback
        As for `implicit_grad`; tol is the accuracy of `influence` as a vector.

    Returns
    -------
    InfluenceResult
        influence, error, success and the rest; see `implicitgrad.InfluenceResult`. Its error is that of
        the derivative: what removing a row does beyond first order is not in it, and grows with the
        leverage of the row.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, for bad input.

    Warns
    -----
    ImplicitGradWarning
        Where status is not 0.

    References
    ----------
    .. [1] P. W. Koh, P. Liang, "Understanding black-box predictions via influence functions", ICML
           2017.
    .. [2] R. D. Cook, S. Weisberg, *Residuals and Influence in Regression*, Chapman and Hall, 1982.

    Examples
    --------
    The third label is wrong, and the outer loss would fall without it:

    >>> import numpy as np, implicitgrad as ig
    >>> X = np.array([[-2.0], [-1.0], [1.5], [2.0], [3.0]])
    >>> f = ig.Logistic(X, [0, 0, 0, 1, 1], penalty=ig.L2("none", fixed=0.1))
    >>> g = ig.Logistic([[-1.0], [1.0]], [0, 1])
    >>> res = ig.influence(f, g, ig.train(f).x)
    >>> res.success, int(np.argmax(res.influence))
    (True, 2)
    """
    if not is_native(f) or isinstance(f, FoldedModel):
        raise TypeError(f"f must be an objective of the library, and no folds, found {f!r}")
    if f._several:
        raise ValueError(f"f must have one target, found y of shape {f.y.shape}")
    if lam is None and f.n_lam:
        raise ValueError(f"lam is missing: f has n_lam = {f.n_lam}")
    pair = Problem(f, g)
    theta = pair.check_theta(theta)
    problem = InfluenceProblem(f, pair, pair.check_lam(np.empty(0) if lam is None else lam))
    method = solvers.check_method(method)
    accuracy = tolerance(problem, tol)
    parsed = _options.parse(options, method)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, found {callback!r}")
    as_it_is = np.zeros(problem.f.n_lam)
    result: Any = _implicit.solve(problem, theta, as_it_is, method, accuracy, parsed, callback)
    _result.warn(result, parsed.warn)
    return result


class Reweighted(NativeObjective):
    """f at one λ, its only hyperparameters being logarithms of factors of its coefficients."""

    def __init__(self, f: NativeObjective, lam: np.ndarray):
        vars(self).update(vars(f))
        self.convex, self._linearization = f.convex, f._linearization
        self._own(f._reweighted(lam))
        self._blocks = [Block("sample_weight", self.n_lam, _arrays.logarithms)]


class InfluenceProblem(Problem):
    """The pair with the factors of the rows in the place of λ."""

    def __init__(self, f: NativeObjective, pair: Problem, lam: np.ndarray):
        self.f, self.g = Reweighted(f, lam), pair.g
        self.native, self.convex = True, f.convex
        self._linearize_f, self._linearize_g = linearizer(self.f), pair._linearize_g
        self._pass_f, self._pass_g = passer(self.f), pair._pass_g
        self._held = lam

    def at(self, theta: np.ndarray, lam: np.ndarray) -> Point:
        F, G = self._linearize_f(theta, lam), self._linearize_g(theta, self._held)
        return InfluencePoint(F, G, theta, lam)

    def beside(self, theta: np.ndarray, lam: np.ndarray) -> Point:
        F, G = self._pass_f(theta, lam), self._pass_g(theta, self._held)
        return InfluencePoint(F, G, theta, lam)


class InfluencePoint(Point):
    """There is no direct part: no weight of a training row enters g."""

    answer = "influence"

    __slots__ = ()

    def __init__(self, F: Any, G: Any, theta: np.ndarray, lam: np.ndarray):
        if not isinstance(G, NativeLinearization):
            noise = Noise(jac=getattr(G, "noise", EXACT).jac)  # all of g's that enters
            G = Linearization(G.fun, G.jac, None, None, None, noise)
        super().__init__(F, G, theta, lam)
        self.direct, self.direct_norm = np.zeros(lam.size), 0.0

    def result(self, value: np.ndarray, q: np.ndarray, **found: Any) -> Any:
        found["message"] = _result.of_influence(found["message"])
        return InfluenceResult(influence=value, fun=self.G.fun, adjoint=q, **found)
