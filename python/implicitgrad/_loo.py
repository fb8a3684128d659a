r"""The leave-one-out loss of a linear model as an outer objective, from one factorisation.

With f = Σ_i c_i ℓ_i(z_i) + ½ Σ_j s_j θ_j² and z = Aθ, A = [X, 1], let ℓ', ℓ'' be the derivatives at z,
H = AᵀDA + diag(s), D = diag(c ℓ''), and a_i = c_i x_iᵀH⁻¹x_i. Without row i, f lacks c_i ℓ_i and keeps
all else. One step of Newton's method on that, from θ, moves the margin of row i to

    m_i = z_i + ℓ'_i a_i / t_i,        t_i = 1 − ℓ''_i a_i,

which at θ⋆ is where it ends for a quadratic f, and close to that for others (ALO). g = Σ_i c_i ℓ_i(m_i),
and with φ'_i = c_i ℓ'_i(m_i), b_i = c_i φ'_i ℓ'_i / t_i² (never negative: ℓ' of the squared loss changes
its sign not between z and m, that of the logistic loss nowhere) and M = H⁻¹ (Σ_i b_i x_i x_iᵀ) H⁻¹

    ∇θ g = Aᵀ v,   v_i = φ'_i (1/t_i + ℓ'_i ℓ'''_i a_i²/t_i²) − c_i ℓ'''_i x_iᵀM x_i,
    ∂g/∂λ_l = −exp(λ_l) Σ_{j in l} M_jj.

`_loo_algebra` finds a, t, x_iᵀMx_i and M_jj, in ℝᵖ or in ℝⁿ.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit

from ._core import norm
from ._loo_algebra import Dual, Primal, Rows
from .linearization import EXACT, Linearization, Noise
from .objectives import LeastSquares, LinearModel, Logistic
from .penalties import L2

EPS = float(np.finfo(np.float64).eps)
SMALLEST = 16 * EPS  # of t_i, which is a difference of numbers near one where it is small
QUIET = 1e-10  # relative rounding errors up to here are not reported


def _squared(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    r = z - y
    return 0.5 * r * r, r, np.ones_like(r), np.zeros_like(r)


def _logistic(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    m = y * z
    up = expit(-m)
    return np.logaddexp(0.0, -m), -y * up, up * expit(m), -np.tanh(0.5 * z)


# By the name of a model's loss: (z, y) -> ℓ, ℓ', ℓ'', ℓ'''/ℓ''.
_LOSSES: dict[str, Callable[..., tuple[np.ndarray, ...]]] = {
    "squared": _squared,
    "logistic": _logistic,
}


def leave_one_out(
    objective: Any,
    X: Any,
    y: Any,
    *,
    penalty: L2 | None = None,
    fit_intercept: bool = False,
    sample_weight: Any = None,
    n_threads: int | None = None,
) -> tuple[LinearModel, LeaveOneOut]:
    r"""Training objective and leave-one-out loss of a linear model on the same rows.

    f is ``objective(X, y, ...)`` on all rows. g is the mean over rows of the loss of each row under the
    model that is trained without it: exact for `LeastSquares` [1]_, one Newton step from θ for
    `Logistic` (approximate leave-one-out, ALO [2]_). With a_i = c_i x_iᵀH⁻¹x_i,

    .. math:: g = \sum_i c_i\, \ell\Bigl(z_i + \frac{\ell'_i a_i}{1 - \ell''_i a_i},\, y_i\Bigr),
              \qquad c_i = w_i / \textstyle\sum w.

    Parameters
    ----------
    objective : {LeastSquares, Logistic}
        The class of the model.
    X, y, penalty, fit_intercept, sample_weight, n_threads
        As for that class.

    Returns
    -------
    f : LeastSquares or Logistic
    g : objective
        To be used as outer objective, with n_lam = f.n_lam: it depends on λ through H. It has
        `linearize`, `fun` and `jac`, and no second derivatives.

    Raises
    ------
    ValueError, TypeError
        Naming the argument at fault, before any work.

    Notes
    -----
    Leaving a row out takes its term from the sum and changes nothing else: the other rows keep their
    coefficients c_j, and the penalty its strength. That is the convention under which the formula is
    exact, and that of scikit-learn's ``RidgeCV``. A row of weight k is left out whole; k copies
    of a row are left out one by one, while the others stay in, so that the two are not the same here.

    θ is taken to be θ⋆(λ), as `implicit_grad` and `HyperObjective` see to. Where some row's left-out
    model is not determined (1 − ℓ''_i a_i at rounding level), g is inf and its gradient NaN. Where the
    penalty is so weak that rounding shows, its estimated size enters the `error` of results.

    With rows n and parameters p, an evaluation takes O(n p min(n, p)) flops, by BLAS, whose threads
    `n_threads` does not limit; and memory of min(n, p)² numbers beside blocks of rows.

    References
    ----------
    .. [1] D. M. Allen, "The relationship between variable selection and data augmentation and a method
           for prediction", Technometrics 16 (1974).
    .. [2] K. Rahnama Rad, A. Maleki, "A scalable estimate of the out-of-sample prediction error via
           approximate leave-one-out cross-validation", J. R. Stat. Soc. B 82 (2020).

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((40, 5))
    >>> y = X @ [1.0, 2.0, 0.0, 0.0, 0.0] + rng.standard_normal(40)
    >>> f, g = ig.leave_one_out(ig.LeastSquares, X, y, penalty=ig.L2("feature"))
    >>> best = ig.minimize(f, g, np.zeros(5), bounds=[(-8, 8)] * 5)
    >>> bool(best.success), bool(best.fun < g.fun(ig.train(f, np.zeros(5)).x, np.zeros(5)))
    (True, True)
    """
    known = isinstance(objective, type) and issubclass(objective, LinearModel)
    if not (known and objective._loss in _LOSSES and objective.linearize is LinearModel.linearize):
        names = " or ".join(c.__name__ for c in (LeastSquares, Logistic))
        raise TypeError(f"objective must be the class {names}, found {objective!r}")
    if np.ndim(y) > 1:
        raise ValueError(f"y must be one-dimensional here, found shape {np.shape(y)}")
    shared = {
        "fit_intercept": fit_intercept,
        "sample_weight": sample_weight,
        "n_threads": n_threads,
    }
    f = objective(X, y, penalty=penalty, **shared)
    return f, LeaveOneOut(f, objective(f.X, f.y, **shared))


class LeaveOneOut:
    """The outer objective that `leave_one_out` returns.

    Attributes
    ----------
    n_theta, n_lam : int
        Those of f.
    """

    def __init__(self, f: LinearModel, data: LinearModel):
        self._f, self._data = f, data  # with and without the penalty
        self.n_theta, self.n_lam, self.n_threads = f.n_theta, f.n_lam, f.n_threads
        self.n_outer = data.n_outer
        self._at = _LOSSES[f._loss]
        self._constant = f._loss == "squared"  # whether ℓ'' depends on nothing
        n, w = f.X.shape[0], f._weights
        kept = np.flatnonzero(w) if w.size else np.arange(n)
        # Rows of weight zero are in no model and in no sum.
        self._rows = Rows(f.X, f.fit_intercept, None if kept.size == n else kept)
        self._c = w[kept] / w.sum() if w.size else np.full(n, 1.0 / n)
        self._y = f.y[kept]
        penalty = f.penalty or L2("none")
        self._fixed = penalty.fixed
        self._group = penalty.groups(f.X.shape[1])[0] if f.n_lam else None
        self._primal = Primal(self._rows, data, self._constant)
        self._dual = Dual(self._rows)
        self._memory = threading.local()

    def __reduce__(self) -> Any:
        return LeaveOneOut, (self._f, self._data)

    def linearize(self, theta: Any, lam: Any = None) -> LeaveOneOutLinearization:
        """Value and both gradients at (θ, λ), from one factorisation.

        Parameters
        ----------
        theta : array, shape (n_theta,)
            θ⋆(λ), or near it.
        lam : array, shape (n_lam,)

        Returns
        -------
        Linearization
            fun, jac and jac_lam; `hess` and `cross` are not available.
        """
        theta, lam = self._f._point(theta, lam)
        key = theta.tobytes(), lam.tobytes()
        last = getattr(self._memory, "last", None)
        if last is None or last[0] != key:
            # What overflows or is not determined comes out as inf and NaN.
            with np.errstate(all="ignore"):
                last = self._memory.last = key, self._evaluate(theta, lam)
        return last[1]

    def fun(self, theta: Any, lam: Any = None) -> float:
        """g(θ, λ)."""
        return self.linearize(theta, lam).fun

    def jac(self, theta: Any, lam: Any = None) -> np.ndarray:
        """∇θ g(θ, λ), shape (n_theta,)."""
        return self.linearize(theta, lam).jac.copy()

    def _evaluate(self, theta: np.ndarray, lam: np.ndarray) -> LeaveOneOutLinearization:
        if self._data._unchecked:
            self._data.linearize(theta)  # refuses a memmap that holds NaN or infinity
        state = State(self, theta, lam)
        found = self._solve(state)
        fun = float(state.loss.sum())
        if found is None or not state.determined or math.isnan(fun):
            undefined = np.full(self.n_theta, math.nan), np.full(self.n_lam, math.nan)
            return LeaveOneOutLinearization(math.inf, *undefined)
        quadratic, shares = found
        jac_lam = np.zeros(self.n_lam)
        if self._group is not None:
            jac_lam -= np.bincount(self._group, shares, self.n_lam)
        jac = self._rows.transposed(state.slope - state.ratio * quadratic)
        return LeaveOneOutLinearization(fun, jac, jac_lam, state.rounding())

    def _solve(self, state: State) -> tuple[np.ndarray, np.ndarray] | None:
        wide = self._rows.n < self.n_theta and state.strength.min() > 0
        return (self._dual if wide else self._primal).solve(state)

    def __repr__(self) -> str:
        return f"LeaveOneOut({self._f!r})"


class State:
    """The rows at one (θ, λ), and what they are worth when each is left out."""

    def __init__(self, g: LeaveOneOut, theta: np.ndarray, lam: np.ndarray):
        self.theta, self.c = theta, g._c
        # The strength s_j of each feature, and the share of it that is exp(λ).
        self.own = np.zeros(g._rows.n_features)
        if g._group is not None:
            self.own = np.exp(lam)[g._group]
        self.strength = g._fixed + self.own
        self.single = lam.size == 1
        self._at, self._y = g._at, g._y
        self._z = g._rows.product(theta)
        _, self._first, self.second, self.ratio = self._at(self._z, self._y)
        # c_i ℓ_i(m_i), its derivative in z_i with a_i held, and whether 1 − ℓ''_i a_i is above rounding.
        self.loss, self.slope = np.empty((2, self._z.size))
        self.smallest = 1.0  # t_i so far
        self.growth = 1.0  # of rounding errors in the factorisation

    def leave_out(self, rows: slice, a: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Take note of a_i and t_i of these rows; returns their b_i."""
        c, first = self.c[rows], self._first[rows]
        loss, outer, *_ = self._at(self._z[rows] + first * a / t, self._y[rows])
        self.loss[rows] = c * loss
        third = self.second[rows] * self.ratio[rows]
        self.slope[rows] = c * outer * (1.0 / t + first * third * (a / t) ** 2)
        self.smallest = float(np.minimum(self.smallest, t.min()))  # or NaN
        return c * c * outer * first / t**2

    @property
    def determined(self) -> bool:
        return self.smallest > SMALLEST

    def rounding(self) -> float:
        """The relative error of the gradients, estimated: that of ℓ', as the margins are rounded, that
        of t_i, a difference to one, and what the factorisation makes of its own."""
        size = norm(self._first)
        of_first = norm(self._z * self.second) / size if size > 0 else 0.0
        return EPS * (of_first + 1.0 / self.smallest + self.growth)


class LeaveOneOutLinearization(Linearization):
    """Value and gradients; second derivatives are refused, as no outer objective needs them."""

    def __init__(self, fun: float, jac: np.ndarray, jac_lam: np.ndarray, rounding: float = 0.0):
        self.fun, self.jac, self.jac_lam = fun, jac, jac_lam
        self.noise = EXACT
        if rounding > QUIET:
            self.noise = Noise(jac=rounding * norm(jac), jac_lam=rounding * norm(jac_lam))

    hess = property(lambda self: _refuse("hess"))
    cross = property(lambda self: _refuse("cross"))


def _refuse(name: str) -> Any:
    raise NotImplementedError(
        f"a leave-one-out loss has no {name}: it serves as an outer objective, not as an inner one"
    )
