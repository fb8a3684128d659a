"""Random problems, each from one integer seed, and exact hypergradients to hold the estimates against.

`draw` makes a problem, `Oracle` solves it, `run` asks the library and compares, `summarise` counts.

The oracle shares no code with the library. It takes a factor of H from a QR decomposition in double
precision (of [√W A; √penalty], so that it sees the square root of the condition only), and refines θ⋆
and q with residuals in extended precision. Its error is measured: everything is computed a second
time with all sums in the opposite order, and the difference counts ten times. Where that is not far
below the errors to be judged, the residuals are taken in 50 decimal digits instead.
"""

import copy
import time
import warnings
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal, localcontext
from types import SimpleNamespace

import numpy as np
from scipy.linalg.lapack import dgetrf, dgetrs, dpotrs

import implicitgrad as ig
from implicitgrad import solvers

EPS = float(np.finfo(np.float64).eps)
WIDE = np.longdouble
WIDE_EPS = float(np.finfo(WIDE).eps)
DIGITS = 50

# The goals of the calibration, as shares (or ranges) over all problems.
GOALS = {
    "covered": 0.995,  # true error ≤ 3 × estimate
    "median": (0.7, 1.5),  # estimate / true error
    "bound_violated": 0,
    "false_success": 0,
    "refused": 0.01,  # of those where success was attainable
    "infinite": 0.02,  # of the estimates, where the theorem applies and no fixed number of terms
}


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

    @property
    def labels(self):
        p = self.X.shape[1]
        if self.penalty is None or isinstance(self.penalty, str):
            named = {"all": np.zeros(p, dtype=int), "feature": np.arange(p)}
            return named.get(self.penalty, np.full(p, -1))
        return self.penalty

    @property
    def n_theta(self):
        return self.X.shape[1] + self.intercept

    @property
    def n_lam(self):
        return int(self.labels.max()) + 1

    def native(self):
        penalty = None if self.penalty is None else ig.L2(self.penalty, fixed=self.fixed)
        return getattr(ig, self.loss)(
            *(self.X, self.y),
            penalty=penalty,
            fit_intercept=self.intercept,
            sample_weight=self.weights,
            n_threads=1,
        )


class Model:
    """(1/n) Σ s_i ℓ_i + ½ Σ_j (fixed + exp λ_j) θ_j² in one arithmetic; `at(lam)` before use."""

    convex = True

    def __init__(self, data, kit):
        n, p = data.X.shape
        self.kit, self.loss = kit, data.loss
        A = np.hstack([data.X, np.ones((n, 1))]) if data.intercept else data.X
        w = kit.array(np.ones(n) if data.weights is None else data.weights)
        member = np.zeros((data.n_theta, data.n_lam))
        member[np.arange(p)[data.labels >= 0], data.labels[data.labels >= 0]] = 1
        fixed = np.zeros(data.n_theta)
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

    def _slopes(self, theta):
        """First and second derivative of each row's loss in its margin."""
        z = self.A @ theta
        if self.loss == "LeastSquares":
            return z - self.y, None
        m = self.y * z
        t = self.kit.exp(-abs(m))
        below = 1 / (1 + t)
        return -self.y * np.where(m >= 0, t * below, below), t * below * below

    def value(self, theta):
        z = self.A @ theta
        squared = self.loss == "LeastSquares"
        each = (z - self.y) ** 2 / 2 if squared else np.logaddexp(0, -self.y * z)
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

    def direct(self, theta):
        return self.e * (self.member.T @ (theta * theta)) / 2 if self.n_lam else 0

    def factor(self, theta):
        """Double precision only: r ↦ H⁻¹r, the column scales, and H's condition number."""
        rows = np.sqrt(self.weights(theta))[:, None] * self.A
        rows = np.vstack([rows, np.diag(np.sqrt(self.strength))])
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

    @property
    def n_theta(self):
        return self.B.shape[0]

    @property
    def n_lam(self):
        return self.B.shape[1]


def model(data, kit):
    return (Quadratic if isinstance(data, QuadraticData) else Model)(data, kit)


def callables(data, given):
    """The objective as Python functions, of which only those in `given` are passed on."""
    m = model(data, Double)
    functions = {
        "fun": lambda t, x: float(m.at(x).value(t)),
        "jac": lambda t, x: m.at(x).gradient(t),
        "hessp": lambda t, v, x: m.at(x).product(t, v),
        "cross_vjp": lambda t, q, x: m.at(x).cross_t(t, q),
        "jac_lam": lambda t, x: m.at(x).direct(t),
    }
    if not data.n_lam:  # a plain loss gets the λ of f all the same, and ignores it
        del functions["cross_vjp"], functions["jac_lam"]
    kept = {name: f for name, f in functions.items() if name == "fun" or name in given}
    if list(kept) == ["fun"]:
        return kept["fun"]
    return ig.Objective(**kept, n_theta=data.n_theta, n_lam=data.n_lam)


class Wrapped:
    """The least an objective can be: an object with `linearize`."""

    def __init__(self, objective):
        self.objective = objective

    def linearize(self, theta, lam):
        at = self.objective.linearize(theta, lam)
        names = ("fun", "jac", "jac_lam", "hess", "cross")
        return SimpleNamespace(**{name: getattr(at, name) for name in names})


# --- The oracle --------------------------------------------------------------------------------


class Oracle:
    """θ⋆(λ) and dg/dλ of a problem; `sharpen` for 50 digits. LinAlgError where H is singular."""

    def __init__(self, problem):
        self.problem = problem
        lam, inner, outer = problem.lam, problem.inner, problem.outer
        self.low = model(inner, Double).at(lam)
        self.f, self.g = model(inner, Long).at(lam), model(outer, Long).at(lam)
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
            if np.max(np.abs(low.A @ s)) < 0.1:
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
            if np.max(np.abs(low.A @ s)) < 1e-9:
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
            self.f = model(self.problem.inner, Decimals).at(lam)
            self.g = model(self.problem.outer, Decimals).at(lam)
            self.theta = Decimals.array(self.theta)
            self._finish()

    def distance(self, grad):
        """‖grad − exact‖₂ of a double-precision answer."""
        with localcontext(prec=DIGITS):
            return norm(self.grad - self.f.kit.array(grad))

    def floor(self):
        """The rounding level below which the contract asks for nothing: the default of atol."""
        with localcontext(prec=DIGITS):
            return 64 * EPS * self._scale(self.q)


# --- The problems ------------------------------------------------------------------------------


@dataclass
class Problem:
    seed: int
    inner: object
    outer: object
    lam: np.ndarray
    kind: str  # "linear", or "quadratic", "indefinite", "singular" from callables
    source: str  # how f and g are given
    offset: float  # size of θ − θ⋆; 0 for θ⋆ rounded to double
    relative: bool  # whether that is relative to ‖θ⋆‖
    direction: np.ndarray
    tol: float | None
    method: str  # a label: `call` makes the arguments of it
    options: dict
    strategy: dict  # numbers that `call` needs, relative to the problem's own scale
    traits: dict = field(default_factory=dict)

    @property
    def resolution(self):
        """How well θ⋆ is to be known, relative to its norm."""
        return max(1e-3 * self.offset, 1e-18) if self.relative else 1e-18

    def objectives(self):
        if self.source == "native":
            return self.inner.native(), self.outer.native()
        if self.source == "wrapped":
            return Wrapped(self.inner.native()), Wrapped(self.outer.native())
        if self.source == "outer values":
            return self.inner.native(), callables(self.outer, ())
        given = {
            "callables": ("jac", "hessp", "cross_vjp", "jac_lam"),
            "jac only": ("jac",),
            "jac, jac_lam": ("jac", "jac_lam"),
            "values": (),
        }[self.source]
        if isinstance(self.inner, QuadraticData):
            return callables(self.inner, given), self.outer.native()
        return callables(self.inner, given), callables(self.outer, given)

    def call(self, low, theta):
        """method and options for implicit_grad, with the numbers that depend on the scale of H."""
        how, options = self.strategy, dict(self.options)
        options["warn"] = False
        H = low.hess(theta)
        if "damping" in how:
            options["damping"] = how["damping"] * float(np.max(np.abs(H)))
        if "stop" in how:
            level = how["stop"]
            if how["absolute"]:
                b = model(self.outer, Double).at(self.lam).gradient(theta)
                options["stop"] = max(level * norm(b), 1e-300)
            else:
                options["stop"] = lambda state: state.residual <= level
        if "step" in how:
            options["step_size"] = how["step"] / float(np.max(np.abs(np.linalg.eigvalsh(H))))
        if self.method.startswith("callable"):
            return _custom(how.get("noise", 0.0), self.seed), options
        return how["name"], options


def _custom(noise, seed):
    def solve(hess, b):
        x = np.linalg.lstsq(hess @ np.eye(len(b)), b, rcond=1e-15)[0]
        return x * (1 + noise * np.random.default_rng(seed).standard_normal(len(b)))

    return solve


# Each label with its share, and what it is made of: a name, fixed options, and drawn numbers.
_STRATEGIES = {
    "auto": (20, "auto", {}),
    "cholesky": (11, "cholesky", {}),
    "cg": (12, "cg", {"preconditioner": "auto"}),
    "cg plain": (9, "cg", {"preconditioner": "none"}),
    "cg maxiter": (5, "cg", {}),
    "cg stop": (4, "cg", {}),
    "cg stop callable": (3, "cg", {}),
    "cg damping": (4, "cg", {}),
    "cholesky damping": (2, "cholesky", {}),
    "neumann": (6, "neumann", {}),
    "neumann terms": (3, "neumann", {}),
    "neumann certify": (4, "neumann", {"certify": True}),
    "identity": (1, "identity", {}),
    "identity certify": (3, "identity", {"certify": True}),
    "callable": (4, None, {}),
    "callable loose": (4, None, {}),
    "minres": (7, "minres", {}),
    "nystrom": (5, "nystrom", {}),
}
FIXED_TERMS = ("neumann terms", "identity")
# Those that end when they are told to, and keep their q: no refusal counts against them.
AS_ASKED = (*FIXED_TERMS, "neumann certify", "identity certify", "cg stop", "cg stop callable")
UNABLE = (*AS_ASKED, "cg maxiter", "cg damping", "cholesky damping", "callable loose")


def _pick(rng, shares):
    names = list(shares)
    weights = np.array([shares[name] for name in names], dtype=float)
    return names[rng.choice(len(names), p=weights / weights.sum())]


def _strategy(rng, source, kind):
    shares = {}
    for label, (share, name, _) in _STRATEGIES.items():
        if name is None or name in solvers.METHODS:
            shares[label] = share
    if source != "native":  # "jacobi" and "auto" are the same for callables: there is no diagonal
        shares["cg plain"] = 0
    if kind == "indefinite" and "minres" in shares:
        shares["minres"] = 60
    label = _pick(rng, shares)
    _, name, options = _STRATEGIES[label]
    options, how = dict(options), {"name": name}
    exponent = rng.uniform(-8, -1)
    if label == "cg maxiter":
        options["maxiter"] = int(rng.integers(1, 12))
    elif "damping" in label:
        how["damping"] = 10 ** rng.uniform(-12, 0)
    elif "stop" in label:
        how.update(stop=10**exponent, absolute=label == "cg stop")
    elif label == "neumann":
        options["maxiter"] = int(rng.choice([30, 300, 2000]))
    elif label in ("neumann terms", "neumann certify"):
        options["terms"] = int(10 ** rng.uniform(0, 2.5))
        if rng.random() < 0.3:
            how["step"] = float(rng.uniform(0.2, 2.2))  # above 2 it diverges
    elif label == "callable loose":
        how["noise"] = 10 ** rng.uniform(-10, -1)
    return label, options, how


def _scale(rng, share):
    """1, or in a share of cases anything between 1e-8 and 1e8."""
    return 10.0 ** rng.uniform(-8, 8) if rng.random() < share else 1.0


def _design(rng, n, p, condition, how):
    """n rows with a spectrum of XᵀX spread over `condition`, by its singular values or columns."""
    X = rng.standard_normal((n, p))
    if how == "columns":
        return X * rng.permutation(np.geomspace(1.0, condition**-0.5, p))
    if how == "spectrum":
        U, _, V = np.linalg.svd(X, full_matrices=False)
        k = min(n, p)
        s = np.geomspace(1.0, condition**-0.5, k)
        if rng.random() < 0.4:  # one direction far below the rest, or anything in between
            s = np.where(np.arange(k) < k - 1, 1.0, s[-1])
        elif rng.random() < 0.5:
            s = condition ** -(0.5 * rng.random(k))
        return np.sqrt(n) * (U * s) @ V
    return X


def _targets(rng, loss, X, noise, scale):
    z = X @ rng.standard_normal(X.shape[1])
    z = z / (np.std(z) or 1.0)
    z = z + rng.standard_normal(len(z)) * noise + 0.3
    if loss == "LeastSquares":
        return z * scale
    y = np.where(z > np.median(z), 1.0, -1.0)
    if np.all(y == y[0]):
        y[0] = -y[0]
    return y


SOURCES = {
    "native": 80,
    "wrapped": 3,
    "callables": 8,
    "jac only": 3,
    "jac, jac_lam": 2,
    "values": 3,
    "outer values": 1,
}


def draw(seed):
    """The problem of this seed."""
    # One stream for each aspect, so that a new choice in one leaves the others as they are.
    data, where, asked = (np.random.default_rng([seed, k]) for k in range(3))
    kind = _pick(data, {"linear": 95, "quadratic": 2, "indefinite": 2, "singular": 1})
    source = _pick(data, SOURCES) if kind == "linear" else "callables"
    make = _linear if kind == "linear" else _quadratic
    inner, outer, lam, traits = make(data, kind, source)

    exact = where.random() < 0.3
    offset = 0.0 if exact else 10 ** where.uniform(-12, 0)
    relative = bool(where.random() < 0.8)
    direction = where.standard_normal(inner.n_theta)
    direction /= norm(direction)

    method, options, how = _strategy(asked, source, kind)
    values = source in ("values", "outer values")
    default = asked.random() < 0.3 or values
    tol = None if default else 10 ** asked.uniform(-10, -1)
    options["polish"] = bool(asked.random() < 0.7)
    if asked.random() < 0.04:
        options["atol"] = 10 ** asked.uniform(-12, 0)
    traits["atol"] = "given" if "atol" in options else "default"
    return Problem(
        *(seed, inner, outer, lam, kind, source, offset, relative, direction),
        *(tol, method, options, how, traits),
    )


def _linear(rng, kind, source):
    small = source == "values" or source == "outer values"
    p = int(rng.integers(1 if rng.random() < 0.5 else 2, 4 if small else 16))
    condition = 10 ** rng.uniform(0, 4 if small else 12)
    spread = _pick(rng, {"spectrum": 40, "columns": 30, "penalty": 27, "vanishing": 3})
    # Only where X has no full rank is it the penalty that makes the condition.
    rank = rng.random() if spread == "penalty" else 1.0
    wide = rng.random() < 0.2 or rank < 0.4
    n = int(rng.integers(3, max(4, p))) if wide else int(rng.integers(max(3, p + 1), 61))
    loss = _pick(rng, {"LeastSquares": 1, "Logistic": 1})
    outer_loss = loss if rng.random() < 0.75 else _pick(rng, {"LeastSquares": 1, "Logistic": 1})
    x_scale = _scale(rng, 0 if small else 0.25)
    y_scale = _scale(rng, 0 if small else 0.25)
    v_scale = _scale(rng, 0 if small else 0.25)

    n_val = int(rng.integers(2, 31))
    X = _design(rng, n + n_val, p, condition, spread)
    if rng.random() < 0.5:
        X[n:] = rng.standard_normal((n_val, p))  # an outer loss that weighs weak directions too
    columns = "plain"
    if p > 1 and (rng.random() < 0.1 or 0.4 <= rank < 0.8):
        i, j = rng.choice(p, 2, replace=False)
        columns = "duplicated"
    elif rng.random() < 0.07:
        columns = "zero"
    saturated = loss == "Logistic" and rng.random() < 0.3
    inner_X, outer_X = X[:n] * x_scale, X[n:] * (x_scale * v_scale)
    if columns == "duplicated":
        inner_X[:, i] = inner_X[:, j]
        if rng.random() < 0.3:
            outer_X[:, i] = outer_X[:, j]
    elif columns == "zero":
        inner_X[:, rng.integers(p)] = 0.0
    y = _targets(rng, loss, inner_X, 0.0 if saturated else 0.5, y_scale)
    outer_y = _targets(rng, outer_loss, outer_X, 0.5, y_scale * v_scale)
    weighted = rng.random() < 0.25
    w = w_val = None
    if weighted:  # zero weights too, but not for both classes' only rows
        w = rng.integers(0, 4, n) + rng.random(n)
        w[rng.random(n) < 0.15] = 0.0
        w[np.argmin(y)] = w[np.argmax(y)] = 1.0
        w_val = rng.random(n_val) + 0.1

    # Strengths relative to the largest diagonal entry of XᵀX/n: between 1/condition and 1, down to
    # exactly 1/condition where they make the condition, and far below rounding where they vanish.
    size = float(np.max(np.sum(inner_X**2, axis=0))) / n or 1.0
    penalty = _pick(rng, {"feature": 45, "all": 25, "groups": 28, "none": 0 if small else 2})
    n_lam = {"feature": p, "all": 1, "none": 0}.get(penalty)
    per = penalty
    if n_lam is None:
        n_lam = int(rng.integers(1, p + 1))
        per = rng.permutation(np.concatenate([np.arange(n_lam), rng.integers(0, n_lam, p - n_lam)]))
    lam = -np.log(condition) * rng.random(n_lam)
    if spread in ("spectrum", "columns") and rng.random() < 0.8:
        lam = -np.log(condition) - np.log(10) * rng.uniform(-1, 2, n_lam)  # X decides
    elif n_lam and spread == "penalty":
        lam[rng.integers(n_lam)] = -np.log(condition)
        if rng.random() < 0.3:
            lam[:] = -np.log(condition)
    elif n_lam and spread == "vanishing":
        lam[:] = -np.log(10) * rng.uniform(14, 30, n_lam)
    fixed = 0.0
    if penalty == "none" or rng.random() < 0.15:
        fixed = float(size * condition ** -rng.random())
    lam = lam + np.log(size)

    penalised = rng.random() < 0.25 and n_lam > 0
    intercept = bool(rng.random() < 0.4)
    inner = Data(loss, inner_X, y, w, per, fixed, intercept)
    outer = Data(
        *(outer_loss, outer_X, outer_y, w_val),
        *((per, fixed * v_scale**2) if penalised else (None, 0.0)),
        intercept,
    )
    traits = {
        "loss": loss + (" saturated" if saturated else ""),
        "outer": outer_loss + (" penalised" if penalised else ""),
        "penalty": penalty + (" + fixed" if fixed else ""),
        "ill by": spread,
        "shape": "n < p" if n < p else "n > p",
        "columns": columns,
        "scales": "as is" if x_scale == y_scale == v_scale == 1.0 else "tiny or huge",
        "intercept": str(intercept),
        "weights": str(weighted),
    }
    return inner, outer, lam, traits


def _quadratic(rng, kind, source):
    p, k, n_val = int(rng.integers(2, 13)), int(rng.integers(1, 5)), int(rng.integers(2, 20))
    condition = 10 ** rng.uniform(0, 12 if kind == "quadratic" else 6)
    Q, _ = np.linalg.qr(rng.standard_normal((p, p)))
    spectrum = np.geomspace(1.0, 1 / condition, p)
    if kind == "indefinite":
        spectrum[rng.permutation(p)[: rng.integers(1, p + 1)]] *= -1
    elif kind == "singular":
        spectrum[rng.integers(p)] = 0.0
    H = (Q * spectrum) @ Q.T
    H = (H + H.T) / 2
    outer = Data("LeastSquares", rng.standard_normal((n_val, p)), rng.standard_normal(n_val))
    traits = {"loss": kind, "outer": "LeastSquares", "penalty": "quadratic"}
    return QuadraticData(H, rng.standard_normal((p, k))), outer, rng.standard_normal(k), traits


# --- Running and scoring -----------------------------------------------------------------------


@dataclass
class Record:
    """One problem, what the library said, and what is true."""

    seed: int
    traits: dict
    applies: bool  # H positive definite beyond rounding, so that a number can be had
    attainable: bool  # θ⋆ itself, condition ≤ 1e8, tol ≥ 1e-6, a method that can
    condition: float = np.nan
    scaled_condition: float = np.nan
    offset: float = np.nan  # ‖θ − θ⋆‖/‖θ⋆‖, as given
    truth: float = np.nan  # ‖grad − exact‖
    oracle: float = np.nan  # error of `truth`
    floor: float = np.nan  # 64 ε (‖direct‖ + ‖|C|ᵀ|q|‖)
    size: float = np.nan  # ‖exact‖
    far: bool = False  # Newton's full step from the given θ does not halve the gradient
    plain: float = np.nan  # true error of a dense solve in double precision at θ⋆
    estimate: float = np.nan
    bound: float = np.nan
    allowed: float = np.nan
    success: bool = False
    status: int = -1
    message: str = ""
    nhev: int = 0
    seconds: float = 0.0
    oracle_seconds: float = 0.0
    digits: int = 0
    raised: str = ""

    # The truth is known up to `oracle`: each verdict is given only where that leaves no doubt.

    @property
    def resolved(self):
        return self.truth > 4 * self.oracle and np.isfinite(self.truth)

    @property
    def coarse(self):
        """The oracle's error is not far below all that it is to judge."""
        judged = [v for v in (self.truth, self.estimate, self.allowed) if np.isfinite(v)]
        return bool(self.known and self.oracle > 0.1 * max(judged))

    @property
    def finite(self):
        return bool(np.isfinite(self.estimate))

    @property
    def known(self):
        return bool(np.isfinite(self.truth))

    @property
    def missed(self):
        return self.known and self.truth - self.oracle > 3 * self.estimate

    @property
    def ratio(self):
        return self.estimate / self.truth if self.resolved and self.finite else np.nan

    @property
    def bound_violated(self):
        return self.known and self.truth - self.oracle > self.bound

    def false_success(self, factor=1.0):
        if not self.success:
            return False
        return not self.known or self.truth - self.oracle > factor * self.allowed

    @property
    def refused(self):
        return self.attainable and not self.success

    @property
    def fixed_terms(self):
        return self.traits["method"] in FIXED_TERMS


def decade(x, step=1):
    if not np.isfinite(x) or x >= 1e14:
        return "≥ 1e14"
    k = step * int(np.floor(np.log10(max(x, 1.0)) / step))
    return f"1e{k:02d} … 1e{k + step:02d}"


def offset_class(problem, offset):
    if problem.offset == 0:
        return "0 (rounded)"
    edges = [1e-12, 1e-9, 1e-6, 1e-3, 1e-1]
    for edge in edges:
        if offset <= edge:
            return f"≤ {edge:.0e}"
    return "> 1e-01"


def run(seed, keep=False):
    """Draw, solve exactly, ask the library, compare. With `keep`, also (problem, oracle, result)."""
    problem = draw(seed)
    started = time.perf_counter()
    with np.errstate(all="ignore"):
        record, oracle, theta, call = _prepare(problem)
    record.oracle_seconds = time.perf_counter() - started

    f, g = problem.objectives()
    result = None
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = ig.implicit_grad(f, g, theta, problem.lam, tol=problem.tol, **call)
    except Exception as error:  # a crash is a finding, and must not end the run
        record.raised = f"{type(error).__name__}: {error}"
    record.seconds = time.perf_counter() - started
    if result is not None:
        with np.errstate(all="ignore"):
            _compare(record, problem, oracle, result)
    return (record, problem, oracle, result) if keep else record


def _prepare(problem):
    """The record so far, the oracle (None where H is singular), θ, and the rest of the arguments."""
    traits = {
        "all": "all",
        "method": problem.method,
        "source": problem.source,
        "polish": str(problem.options["polish"]),
        **problem.traits,
    }
    record = Record(problem.seed, traits, applies=False, attainable=False)
    try:
        oracle = Oracle(problem) if problem.kind != "singular" else None
    except np.linalg.LinAlgError:
        oracle = None
    star = oracle.theta if oracle else _least_norm(problem)
    size = norm(star)
    reach = problem.offset * (size if problem.relative and size > 0 else 1.0)
    theta = double(star) + reach * problem.direction
    with localcontext(prec=DIGITS):
        record.offset = norm(star - _like(theta, star)) / (size or 1.0)
    low = model(problem.inner, Double).at(problem.lam)
    if oracle:
        record.condition, record.scaled_condition = oracle.condition, oracle.scaled_condition
        # Beyond this, double precision cannot tell H from a singular matrix, whatever the scaling.
        record.applies = problem.kind != "indefinite" and oracle.scaled_condition < 1e14
        record.size = norm(oracle.grad)
        record.floor = oracle.floor()
        record.plain = _plain(problem, oracle, low)
        record.far = record.offset > 1e-12 and _far(low, theta)
    traits["offset"] = offset_class(problem, record.offset)
    traits["condition"] = decade(record.condition)
    method, options = problem.call(low, theta)
    return record, oracle, theta, {"method": method, "options": options}


def _like(theta, star):
    return Decimals.array(theta) if star.dtype == object else np.asarray(theta, dtype=star.dtype)


def _least_norm(problem):
    """For a singular problem: some θ to start from."""
    if isinstance(problem.inner, QuadraticData):
        return np.linalg.pinv(problem.inner.H, rcond=1e-10) @ (problem.inner.B @ problem.lam)
    return np.zeros(problem.inner.n_theta)


def _plain(problem, oracle, low):
    """What a textbook double-precision computation at θ⋆ gets."""
    theta = double(oracle.theta)
    outer = model(problem.outer, Double).at(problem.lam)
    try:
        q = np.linalg.solve(low.hess(theta), outer.gradient(theta))
    except np.linalg.LinAlgError:
        return np.inf
    return oracle.distance(outer.direct(theta) - low.cross_t(theta, q))


def _far(low, theta):
    try:
        with np.errstate(all="ignore"):
            r = low.gradient(theta)
            after = norm(low.gradient(theta - low.factor(theta).solve(r)))
    except np.linalg.LinAlgError:
        return True
    # At rounding level the ratio says nothing.
    level = 100 * EPS * norm(abs(low.hess(theta)) @ abs(theta))
    return not after <= max(0.5 * norm(r), level)


def _compare(record, problem, oracle, result):
    from_values = problem.source in ("values", "outer values")
    tol = (1e-3 if from_values else 1e-6) if problem.tol is None else problem.tol
    record.traits["tol"] = f"1e{int(np.floor(np.log10(tol) + 1e-9)):03d}"
    record.traits["status"] = str(result.status)
    record.estimate, record.bound = float(result.error), float(result.error_bound)
    record.success, record.status = bool(result.success), int(result.status)
    record.message, record.nhev = result.message, int(result.nhev)
    # The accuracy asked for, from the contract: atol defaults to 64 ε (‖direct‖ + ‖|C|ᵀ|q|‖).
    atol = problem.options.get("atol")
    if atol is None:
        at = model(problem.inner, Double).at(problem.lam)
        terms = (
            abs(at.B).T @ abs(result.adjoint)
            if isinstance(at, Quadratic)
            else at.cross_t(abs(result.theta), abs(result.adjoint))
        )
        atol = 64 * EPS * (norm(result.direct) + norm(terms))
    record.allowed = max(tol * norm(result.grad), atol)
    if oracle is None:
        return
    judged = [v for v in (record.estimate, record.allowed, record.bound) if np.isfinite(v)]
    record.truth, record.oracle = oracle.distance(result.grad), oracle.error
    if oracle.error > 0.01 * min([record.truth, *judged]):
        started = time.perf_counter()
        oracle.sharpen()
        record.truth, record.oracle = oracle.distance(result.grad), oracle.error
        record.oracle_seconds += time.perf_counter() - started
    record.digits = DIGITS if oracle.sharp else 18
    able = problem.method not in UNABLE
    if problem.method == "neumann":
        able = record.condition * np.log(10 / tol) < problem.options["maxiter"] / 2
    record.attainable = bool(
        able
        and record.applies
        and problem.offset == 0
        and record.condition <= 1e8
        and tol >= 1e-6 * (1 - 1e-12)
        and problem.source in ("native", "wrapped", "callables")
    )


def summarise(records):
    """The counts that the goals are about, of any set of records."""
    done = [r for r in records if not r.raised]
    finite = [r for r in done if r.finite and r.known]
    free = [r for r in done if not r.fixed_terms]
    applying = [r for r in free if r.applies]
    attainable = [r for r in done if r.attainable]
    ratios = np.array([r.ratio for r in finite if r.resolved])
    above = np.array([r.ratio for r in finite if r.resolved and r.truth > r.floor])
    missed = [r for r in finite if r.missed]
    return SimpleNamespace(
        n=len(records),
        raised=[r for r in records if r.raised],
        coarse=[r for r in done if r.coarse],
        finite=len(finite),
        missed=missed,
        covered=1 - len(missed) / len(finite) if finite else np.nan,
        ratios=ratios,
        median=float(np.median(ratios)) if len(ratios) else np.nan,
        median_above=float(np.median(above)) if len(above) else np.nan,
        unresolved=len(finite) - len(ratios),
        bounded=sum(np.isfinite(r.bound) for r in done),
        bound_violated=[r for r in done if r.bound_violated],
        success=sum(r.success for r in done),
        false_success=[r for r in done if r.false_success()],
        false_success_3=[r for r in done if r.false_success(3.0)],
        attainable=len(attainable),
        refused=[r for r in attainable if r.refused],
        refused_share=_share(sum(r.refused for r in attainable), len(attainable)),
        applying=len(applying),
        infinite=[r for r in applying if not r.finite],
        infinite_share=_share(sum(not r.finite for r in applying), len(applying)),
        infinite_far=[r for r in applying if not r.finite and r.far],
        infinite_rightly=[r for r in free if not r.applies and not r.finite],
    )


def _share(part, whole):
    return part / whole if whole else np.nan


def to_json(record):
    found = asdict(record)
    return {
        k: v if not isinstance(v, float) or np.isfinite(v) else str(v) for k, v in found.items()
    }


def from_json(found):
    numbers = {f.name for f in fields(Record) if f.type is float}
    return Record(**{k: float(v) if k in numbers else v for k, v in found.items()})
