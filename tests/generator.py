"""Random problems, each from one integer seed."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

import implicitgrad as ig
from designs import DEGENERATE, design, low_rank, pick, scale, targets
from implicitgrad import solvers
from oracle import Data, Double, Oracle, QuadraticData, norm


def callables(data, given):
    """The objective as Python functions, of which only those in `given` are passed on."""
    m = data.model(Double)
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

    def oracle(self, theta=None):
        """θ⋆ and dg/dλ, in extended precision; those that θ belongs to, where there are several."""
        return Oracle(self)

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
        if not np.isfinite(H).all():  # so far off that counts overflow
            H = np.eye(len(theta))
        if "damping" in how:
            options["damping"] = how["damping"] * float(np.max(np.abs(H)))
        if "stop" in how:
            level = how["stop"]
            if how["absolute"]:
                b = self.outer.model(Double).at(self.lam).gradient(theta)
                options["stop"] = max(np.nan_to_num(level * norm(b), posinf=0.0), 1e-300)
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
UNABLE = (
    *(*AS_ASKED, "cg stop kronecker", "cg maxiter", "callable loose"),
    *("cg damping", "cholesky damping", "cg gauss-newton"),  # another system than H q = b
)


def strategy(rng, source, kind):
    shares = {}
    for label, (share, name, _) in _STRATEGIES.items():
        if name is None or name in solvers.METHODS:
            shares[label] = share
    if source != "native":  # "jacobi" and "auto" are the same for callables: there is no diagonal
        shares["cg plain"] = 0
    if kind == "indefinite" and "minres" in shares:
        shares["minres"] = 60
    label = pick(rng, shares)
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
    data, where, asked, rank, other = (np.random.default_rng([seed, k]) for k in range(5))
    kind = pick(data, {"linear": 95, "quadratic": 2, "indefinite": 2, "singular": 1})
    source = pick(data, SOURCES) if kind == "linear" else "callables"
    if kind == "linear":
        inner, outer, lam, traits = _linear(data, source, rank)
        inner, outer = other_loss(other, source, inner, outer, traits)
    else:
        inner, outer, lam, traits = _quadratic(data, kind)

    exact = where.random() < 0.3
    offset = 0.0 if exact else 10 ** where.uniform(-12, 0)
    relative = bool(where.random() < 0.8)
    direction = where.standard_normal(inner.n_theta)
    direction /= norm(direction)

    method, options, how = strategy(asked, source, kind)
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


def _linear(rng, source, low):
    small = source == "values" or source == "outer values"
    p = int(rng.integers(1 if rng.random() < 0.5 else 2, 4 if small else 16))
    condition = 10 ** rng.uniform(0, 4 if small else 12)
    spread = pick(rng, {"spectrum": 40, "columns": 30, "penalty": 27, "vanishing": 3})
    # Only where X has no full rank is it the penalty that makes the condition.
    rank = rng.random() if spread == "penalty" else 1.0
    wide = rng.random() < 0.2 or rank < 0.4
    n = int(rng.integers(3, max(4, p))) if wide else int(rng.integers(max(3, p + 1), 61))
    loss = pick(rng, {"LeastSquares": 1, "Logistic": 1})
    outer_loss = loss if rng.random() < 0.75 else pick(rng, {"LeastSquares": 1, "Logistic": 1})
    x_scale = scale(rng, 0 if small else 0.25)
    y_scale = scale(rng, 0 if small else 0.25)
    v_scale = scale(rng, 0 if small else 0.25)

    n_val = int(rng.integers(2, 31))
    X = design(rng, n + n_val, p, condition, spread)
    if rng.random() < 0.5:
        X[n:] = rng.standard_normal((n_val, p))  # an outer loss that weighs weak directions too
    degenerate = pick(low, {"": 90, **dict.fromkeys(DEGENERATE, 2)})
    if degenerate:
        X[:n] = low_rank(low, X[:n], degenerate)
        if low.random() < 0.3:
            X[n:] = X[low.integers(0, n, n_val)]
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
    y = targets(rng, loss, inner_X, 0.0 if saturated else 0.5, y_scale)
    if degenerate and loss == "LeastSquares" and low.random() < 0.5:  # little of y is explained
        y = y + 10 ** low.uniform(0, 4) * y_scale * low.standard_normal(n)
    outer_y = targets(rng, outer_loss, outer_X, 0.5, y_scale * v_scale)
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
    penalty = pick(rng, {"feature": 45, "all": 25, "groups": 28, "none": 0 if small else 2})
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
    if degenerate:
        lam = -np.log(condition) - np.log(10) * low.uniform(-1, 1, n_lam)
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
        "ill by": degenerate or spread,
        "shape": "n < p" if n < p else "n > p",
        "columns": columns,
        "scales": "as is" if x_scale == y_scale == v_scale == 1.0 else "tiny or huge",
        "intercept": str(intercept),
        "weights": str(weighted),
    }
    return inner, outer, lam, traits


def other_loss(rng, source, inner, outer, traits):
    """In a part of the problems, the same rows with counts or with several classes."""
    loss = pick(rng, {"": 76, "Poisson": 12, "Softmax": 12})
    small = source in ("values", "outer values")
    if not loss or (loss == "Softmax" and small):
        return inner, outer
    sure = rng.random() < 0.25  # of its classes, or of counts that are nearly all zero
    if loss == "Poisson":
        # Rows that weigh directions which the inner ones hardly know of would overflow.
        between = inner.X[rng.integers(0, len(inner.y), (2, len(outer.y)))].mean(axis=0)
        outer = replace(outer, X=between)
        rate = 1.0 if small else 10 ** (-2 if sure else rng.choice([0.0, rng.uniform(0, 5)]))
        found = [replace(d, loss=loss, y=_counts(rng, d, rate)) for d in (inner, outer)]
    else:
        weighing = [_weighing(d) for d in (inner, outer)]
        classes = min(int(rng.integers(2, 5)), *(w.sum() for w in weighing))
        if classes < 2 or inner.X.size * classes**2 > 50_000:  # the oracle takes its time
            return inner, outer
        # Where f is known by callables only, nobody says what does not change it.
        free = inner.intercept and source == "native"
        truth = rng.standard_normal((inner.X.shape[1], classes))
        found = [
            replace(d, loss=loss, y=y, classes=int(classes), intercept=free)
            for d in (inner, outer)
            for y in [_classes(rng, d, truth, 0.0 if sure else 0.5)]
        ]
    traits["loss"] = loss + (" saturated" if sure else "")
    traits["outer"] = loss + (" penalised" if outer.penalty is not None else "")
    return found


def _weighing(data):
    return np.ones(len(data.y), dtype=bool) if data.weights is None else data.weights > 0


def _standard(z):
    return z / np.where(np.std(z, axis=0) > 0, np.std(z, axis=0), 1.0)


def _counts(rng, data, rate):
    z = _standard(data.X @ rng.standard_normal(data.X.shape[1]))
    y = rng.poisson(rate * np.exp(np.clip(z + 0.5 * rng.standard_normal(len(z)), -5, 5)))
    y = y.astype(float)
    y[np.flatnonzero(_weighing(data))[0]] += 1.0
    return y


def _classes(rng, data, truth, noise):
    z = _standard(data.X @ truth)
    y = np.argmax(z + noise * rng.standard_normal(z.shape), axis=1)
    classes = truth.shape[1]
    y[np.flatnonzero(_weighing(data))[:classes]] = np.arange(classes)  # each class counts
    return y.astype(float)


def _quadratic(rng, kind):
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
