"""Exact hypergradients of linear models and quadratics, to hold the library's answers against.

Shares no code with the library. The oracle takes a factor of H from a QR decomposition in double
precision (of [√W A; √penalty], so that it sees the square root of the condition only), and refines θ⋆
and q with residuals in extended precision. Its error is measured: everything is computed a second
time with all sums in the opposite order, and the difference counts ten times. Where that is not far
below the errors to be judged, the residuals are taken in 50 decimal digits instead.
"""

import copy
from dataclasses import dataclass
from decimal import Decimal, localcontext
from types import SimpleNamespace

import numpy as np
from scipy.linalg.lapack import dgetrf, dgetrs, dpotrs

import implicitgrad as ig

EPS = float(np.finfo(np.float64).eps)
WIDE = np.longdouble
WIDE_EPS = float(np.finfo(WIDE).eps)
DIGITS = 50


# --- Arithmetic --------------------------------------------------------------------------------


class Double:
    exp = staticmethod(np.exp)

    @staticmethod
    def array(a):
        return np.asarray(a, dtype=np.float64)


class Long:
    exp = staticmethod(np.exp)

    @staticmethod
    def array(a):
        return np.asarray(a, dtype=WIDE)


class Decimals:
    """Object arrays of Decimal; to be used inside `localcontext(prec=DIGITS)`."""

    exp = staticmethod(np.frompyfunc(lambda x: x.exp(), 1, 1))

    @staticmethod
    def array(a):
        a = np.asarray(a)
        if a.dtype == object:
            return a
        high = a.astype(np.float64)
        found = _decimal(high)
        if a.dtype == WIDE:
            found = found + _decimal((a - high).astype(np.float64))
        return np.asarray(found, dtype=object)


_decimal = np.frompyfunc(lambda x: +Decimal(x), 1, 1)  # + rounds to the context


def double(a):
    return np.asarray(a, dtype=np.float64)


def norm(a):
    a = np.abs(np.atleast_1d(double(a)))
    top = float(a.max(initial=0.0))  # factored out: squares may overflow or underflow
    return top * float(np.linalg.norm(a / top)) if 0 < top < np.inf else top


# --- Objectives --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """What a linear-model objective is made of."""

    loss: str
    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None = None
    penalty: object = None  # "all", "feature", labels, "none", or None for a plain loss
    fixed: float = 0.0
    intercept: bool = False
    classes: int = 1  # of Softmax

    @property
    def labels(self):
        p = self.X.shape[1]
        if self.penalty is None or isinstance(self.penalty, str):
            named = {"all": np.zeros(p, dtype=int), "feature": np.arange(p)}
            return named.get(self.penalty, np.full(p, -1))
        return self.penalty

    @property
    def n_theta(self):
        return (self.X.shape[1] + self.intercept) * self.classes

    @property
    def n_lam(self):
        return int(self.labels.max()) + 1

    def model(self, kit):
        return (Softmax if self.loss == "Softmax" else Model)(self, kit)

    def native(self):
        penalty = None if self.penalty is None else ig.L2(self.penalty, fixed=self.fixed)
        given = {"n_classes": self.classes} if self.loss == "Softmax" else {}
        return getattr(ig, self.loss)(
            *(self.X, self.y),
            penalty=penalty,
            fit_intercept=self.intercept,
            sample_weight=self.weights,
            n_threads=1,
            **given,
        )


class Model:
    """(1/n) Σ s_i ℓ_i + ½ Σ_j (fixed + exp λ_j) θ_j² in one arithmetic; `at(lam)` before use."""

    convex = True

    def __init__(self, data, kit):
        n, p = data.X.shape
        self.kit, self.loss = kit, data.loss
        A = np.hstack([data.X, np.ones((n, 1))]) if data.intercept else data.X
        w = kit.array(np.ones(n) if data.weights is None else data.weights)
        q = p + data.intercept
        member = np.zeros((q, data.n_lam))
        member[np.arange(p)[data.labels >= 0], data.labels[data.labels >= 0]] = 1
        fixed = np.zeros(q)
        fixed[:p] = 0.0 if data.penalty is None else data.fixed
        self.A, self.y, self.w = kit.array(A), kit.array(data.y), w / w.sum()
        self.member, self.fixed = kit.array(member), kit.array(fixed)
        self.n_lam = data.n_lam

    def at(self, lam):
        new = copy.copy(self)
        if self.n_lam:
            new.e = self.kit.exp(self.kit.array(lam))
            new.strength = self.fixed + self.member @ new.e
        else:
            new.strength = self.fixed
        return new

    def flipped(self):
        """The same function of θ[::-1], rounded differently (of λ too: an ulp up or down)."""
        new = copy.copy(self)
        new.A, new.y, new.w = self.A[::-1, ::-1], self.y[::-1], self.w[::-1]
        sign = np.where(np.arange(len(self.strength)) % 2, 1, -1)
        new.strength = (self.strength * (1 + sign * WIDE(WIDE_EPS)))[::-1]
        new.member = self.member[::-1]
        return new

    def margins(self, theta):
        return self.A @ theta

    def _slopes(self, theta):
        """First and second derivative of each row's loss in its margin."""
        z = self.A @ theta
        if self.loss == "LeastSquares":
            return z - self.y, None
        if self.loss == "Poisson":
            mean = self.kit.exp(z)
            return mean - self.y, mean
        m = self.y * z
        t = self.kit.exp(-abs(m))
        below = 1 / (1 + t)
        return -self.y * np.where(m >= 0, t * below, below), t * below * below

    def value(self, theta):
        z = self.A @ theta
        if self.loss == "LeastSquares":
            each = (z - self.y) ** 2 / 2
        elif self.loss == "Poisson":
            each = np.exp(z) - self.y * z
        else:
            each = np.logaddexp(0, -self.y * z)
        return self.w @ each + self.strength @ (theta * theta) / 2

    def gradient(self, theta):
        return self.A.T @ (self.w * self._slopes(theta)[0]) + self.strength * theta

    def weights(self, theta):
        second = self._slopes(theta)[1]
        return self.w if second is None else self.w * second

    def product(self, theta, v, weights=None):
        """H v; `weights` = self.weights(theta), to save computing it again."""
        weights = self.weights(theta) if weights is None else weights
        return self.A.T @ (weights * (self.A @ v)) + self.strength * v

    def hess(self, theta):
        return self.A.T @ (self.weights(theta)[:, None] * self.A) + np.diag(self.strength)

    def cross_t(self, theta, q):
        if not self.n_lam:
            return self.kit.array(np.zeros(0))
        return self.e * (self.member.T @ (theta * q))

    def cross(self, theta, u):
        return theta * (self.member @ (self.e * self.kit.array(u)))

    def direct(self, theta):
        return self.e * (self.member.T @ (theta * theta)) / 2 if self.n_lam else 0

    def _root(self, theta):
        """R with RᵀR = H but for the strengths."""
        return np.sqrt(self.weights(theta))[:, None] * self.A

    def factor(self, theta):
        """Double precision only: r ↦ H⁻¹r, the column scales, and H's condition number."""
        rows = np.vstack([self._root(theta), np.diag(np.sqrt(self.strength))])
        scale = np.sqrt(np.einsum("ij,ij->j", rows, rows))
        if not (scale > 0).all():
            raise np.linalg.LinAlgError("a column of zeros")
        R = np.linalg.qr(rows / scale, mode="r")

        def solve(r):
            x = dpotrs(R, double(r) / scale)[0] / scale
            if not np.isfinite(x).all():
                raise np.linalg.LinAlgError("the factor is singular")
            return x

        def conditions():
            of = [np.linalg.svd(M, compute_uv=False) for M in (R * scale, R)]
            return [float((s[0] / s[-1]) ** 2) if s[-1] > 0 else np.inf for s in of]

        return SimpleNamespace(solve=solve, scale=scale, conditions=conditions)


class Softmax(Model):
    """(1/n) Σ s_i (log Σ_c exp z_ic − z_{i,y_i}), θ = W by rows. `hess` and `factor` are of H plus
    something on the directions that do not change f, to which all gradients are orthogonal."""

    def __init__(self, data, kit):
        super().__init__(data, kit)
        self.K = data.classes
        self.label = np.asarray(data.y).astype(int)
        self.member = np.repeat(self.member, self.K, axis=0)
        self.fixed = np.repeat(self.fixed, self.K)

    def flipped(self):
        new = super().flipped()
        new.label = self.K - 1 - self.label[::-1]
        return new

    def margins(self, theta):
        return self.A @ theta.reshape(-1, self.K)

    def weights(self, theta):
        z = self.margins(theta)
        e = self.kit.exp(z - z.max(axis=1)[:, None])
        return e / e.sum(axis=1)[:, None]

    def value(self, theta):
        z = self.margins(theta)
        z = z - z[np.arange(len(z)), self.label][:, None]
        return self.w @ np.logaddexp.reduce(z, axis=1) + self.strength @ (theta * theta) / 2

    def gradient(self, theta):
        slope = self.weights(theta)
        rows = np.arange(len(slope))
        slope[rows, self.label] = 0
        slope[rows, self.label] = -slope.sum(axis=1)
        return (self.A.T @ (self.w[:, None] * slope)).ravel() + self.strength * theta

    def product(self, theta, v, weights=None):
        p = self.weights(theta) if weights is None else weights
        z = self.margins(v)
        z = z - z[np.arange(len(z)), p.argmax(axis=1)][:, None]
        z = p * (z - (p * z).sum(axis=1)[:, None])
        return (self.A.T @ (self.w[:, None] * z)).ravel() + self.strength * v

    def _root(self, theta):
        # diag(p) − ppᵀ = MᵀM with M = (I − √p √pᵀ) diag(√p), and 1 − p_a is the sum of the others.
        p, eye = self.weights(theta), np.eye(self.K)
        root = np.sqrt(p)
        rest = p @ (1 - eye)
        M = -root[:, :, None] * root[:, None, :] * (1 - eye) + rest[:, :, None] * eye
        M = np.sqrt(self.w)[:, None, None] * M * root[:, None, :]
        rows = self.A[:, None, :, None] * M[:, :, None, :]
        free = np.flatnonzero(self.strength.reshape(-1, self.K)[:, 0] == 0)
        null = np.zeros((len(free), self.A.shape[1], self.K))
        for k, j in enumerate(free):
            null[k, j] = np.sqrt((rows[:, :, j] ** 2).sum() / (self.K - 1) / self.K)
        size = self.A.shape[1] * self.K
        return np.vstack([rows.reshape(-1, size), null.reshape(-1, size)])

    def hess(self, theta):
        root = self._root(theta)
        return root.T @ root + np.diag(self.strength)


class Quadratic:
    """½ θᵀHθ − (Bλ)ᵀθ for any symmetric H; `at(lam)` before use."""

    convex = False

    def __init__(self, data, kit):
        self.kit, self.H, self.B = kit, kit.array(data.H), kit.array(data.B)
        self.n_lam = data.B.shape[1]

    def at(self, lam):
        new = copy.copy(self)
        new.shift = self.B @ self.kit.array(lam)
        return new

    def flipped(self):
        new = copy.copy(self)
        new.H, new.B, new.shift = self.H[::-1, ::-1], self.B[::-1], self.shift[::-1]
        return new

    def value(self, theta):
        return theta @ (self.H @ theta) / 2 - self.shift @ theta

    def gradient(self, theta):
        return self.H @ theta - self.shift

    def weights(self, theta):
        return None

    def product(self, theta, v, weights=None):
        return self.H @ v

    def hess(self, theta):
        return self.H

    def cross_t(self, theta, q):
        return -(self.B.T @ q)

    def cross(self, theta, u):
        return -(self.B @ self.kit.array(u))

    def direct(self, theta):
        return -(self.B.T @ theta)

    def factor(self, theta):
        lu, pivots, info = dgetrf(self.H)
        if info:
            raise np.linalg.LinAlgError("singular")
        scale = np.sqrt(np.abs(self.H).max(axis=0))

        def conditions():
            s = np.linalg.svd(self.H, compute_uv=False)
            t = np.linalg.svd(self.H / np.outer(scale, scale), compute_uv=False)
            return [float(v[0] / v[-1]) if v[-1] > 0 else np.inf for v in (s, t)]

        def solve(r):
            return dgetrs(lu, pivots, double(r))[0]

        return SimpleNamespace(solve=solve, scale=scale, conditions=conditions)


@dataclass(frozen=True)
class QuadraticData:
    H: np.ndarray
    B: np.ndarray
    loss: str = "Quadratic"

    def model(self, kit):
        return Quadratic(self, kit)

    @property
    def n_theta(self):
        return self.B.shape[0]

    @property
    def n_lam(self):
        return self.B.shape[1]


# --- The oracle --------------------------------------------------------------------------------


class Oracle:
    """θ⋆(λ) and dg/dλ of a problem; `sharpen` for 50 digits. LinAlgError where H is singular."""

    def __init__(self, problem):
        self.problem = problem
        lam, inner, outer = problem.lam, problem.inner, problem.outer
        self.low = inner.model(Double).at(lam)
        self.f, self.g = inner.model(Long).at(lam), outer.model(Long).at(lam)
        self.sharp = False
        self.theta = self._train()
        self.condition, self.scaled_condition = self.factor.conditions()
        self._finish()
        if problem.resolution * norm(self.theta) < self.theta_error:
            self.sharpen()

    def _train(self):
        """Newton's method, with a line search until the margins move by less than a tenth."""
        low, theta = self.low, np.zeros(self.problem.inner.n_theta)
        if isinstance(low, Quadratic) or low.loss == "LeastSquares":
            self.factor = low.factor(theta)
            return Long.array(self.factor.solve(-low.gradient(theta)))
        for _ in range(200):
            self.factor = low.factor(theta)
            r = low.gradient(theta)
            s = self.factor.solve(r)
            if np.max(np.abs(low.margins(s))) < 0.1:
                break
            t, value = 1.0, low.value(theta)
            while not low.value(theta - t * s) <= value - t * (r @ s) / 4:
                t /= 2
                if t < 1e-6:
                    raise np.linalg.LinAlgError("the oracle's training does not descend")
            theta = theta - t * s
        else:
            raise np.linalg.LinAlgError("the oracle's training does not converge")
        theta = Long.array(theta)
        for _ in range(8):  # full steps, with a new factor each time while they are large
            s = self.factor.solve(self.f.gradient(theta))
            theta = theta - s
            if np.max(np.abs(low.margins(double(s)))) < 1e-9:
                break
            self.factor = low.factor(double(theta))
        return theta

    def _settle(self, step, x, small=0.0):
        """x ← x − step(x) until the steps stop falling, or are small."""
        before = np.inf
        for _ in range(40):
            s = step(x)
            size = np.max(np.abs(double(s) * self.factor.scale))
            if not size < before / 2:
                break
            x, before = x - s, size
            if size <= small * np.max(np.abs(double(x) * self.factor.scale)):
                break
        return x

    def _steps(self, f, g):
        """Corrections of θ and of q, by residuals in the arithmetic of f and g."""
        cast, solve = f.kit.array, self.factor.solve

        def newton(theta):
            return cast(solve(f.gradient(theta)))

        def adjoint(theta, b, weights):
            return lambda q: cast(solve(f.product(theta, q, weights) - b))

        return newton, adjoint

    def _hypergradient(self, f, g, theta, q):
        return g.direct(theta) - f.cross_t(theta, q)

    def _finish(self):
        """From here on θ is right to about a digit or better: settle θ and q, and measure."""
        f, g = self.f, self.g
        small = 10.0 ** (16 - DIGITS) if self.sharp else 0.0
        newton, adjoint = self._steps(f, g)
        theta = self._settle(newton, self.theta, small)
        b, weights = g.gradient(theta), f.weights(theta)
        start = f.kit.array(self.factor.solve(b))
        q = self._settle(adjoint(theta, b, weights), start, small)
        grad = self._hypergradient(f, g, theta, q)
        if self.sharp:  # the effect of one more step is far above what is then left
            step = newton(theta)
            again = theta - step
            b, weights = g.gradient(again), f.weights(again)
            q = q - adjoint(again, b, weights)(q)
            other = self._hypergradient(f, g, again, q)
            self.error = 2 * norm(other - grad) + 10.0 ** (8 - DIGITS) * self._scale(q)
            self.theta_error = 2 * norm(step)
            self.theta, self.q, self.b, self.grad = again, q, b, other
            return
        # The same once more, with all sums in the opposite order.
        ff, gg = f.flipped(), g.flipped()
        step = Long.array(self.factor.solve(ff.gradient(theta[::-1])[::-1]))
        again = (theta - step)[::-1]
        rest = ff.product(again, q[::-1]) - gg.gradient(again)
        q2 = q[::-1] - self.factor.solve(rest[::-1])[::-1]
        other = self._hypergradient(ff, gg, again, q2)
        self.theta, self.q, self.b, self.grad = theta, q, b, grad
        self.error = 10 * norm(other - grad) + 8 * WIDE_EPS * self._scale(q)
        self.theta_error = 10 * norm(step)

    def _scale(self, q):
        """‖direct‖ + ‖ |C|ᵀ|q| ‖: the size of the terms of which the hypergradient is the sum."""
        theta = abs(self.theta)
        if isinstance(self.f, Quadratic):
            return norm(self.g.direct(theta)) + norm(abs(self.f.B).T @ abs(q))
        return norm(self.g.direct(theta)) + norm(self.f.cross_t(theta, abs(q)))

    def sharpen(self):
        if self.sharp:
            return
        self.sharp = True
        with localcontext(prec=DIGITS):
            lam = self.problem.lam
            self.f = self.problem.inner.model(Decimals).at(lam)
            self.g = self.problem.outer.model(Decimals).at(lam)
            self.theta = Decimals.array(self.theta)
            self._finish()

    def response(self, u):
        """dθ⋆/dλ · u = −H⁻¹C u, in the arithmetic of θ⋆."""
        with localcontext(prec=DIGITS):
            b, weights = -self.f.cross(self.theta, u), self.f.weights(self.theta)
            start = self.f.kit.array(self.factor.solve(b))
            _, adjoint = self._steps(self.f, self.g)
            small = 10.0 ** (16 - DIGITS) if self.sharp else 0.0
            return self._settle(adjoint(self.theta, b, weights), start, small)

    def distance(self, grad):
        """‖grad − exact‖₂ of a double-precision answer."""
        with localcontext(prec=DIGITS):
            return norm(self.grad - self.f.kit.array(grad))

    def floor(self):
        """The rounding level below which the contract asks for nothing: the default of atol."""
        with localcontext(prec=DIGITS):
            return 64 * EPS * self._scale(self.q)
