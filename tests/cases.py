"""Every problem the tests know, once: loss × penalty × intercept × weights × type × layout × shape.

A new loss or penalty is a line in CASES; all the tests that are parametrised over it then apply.
"""

from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import scipy.sparse

import reference


@dataclass(frozen=True)
class Case:
    name: str
    loss: str
    n: int
    p: int
    penalty: str = "feature"  # "all", "feature", "groups", "none"
    fixed: float = 0.0
    fit_intercept: bool = False
    weights: bool = False
    dtype: str = "float64"
    order: str = "C"
    sparse: str = ""  # "csr", "csr64" (64-bit indices), "csc", "coo": most entries of X are zero
    labels: str = "signs"  # "signs" {-1, 1}, "zero-one" {0, 1} integers, "bool"
    penalised_outer: bool = False  # the outer loss has the same penalty: a direct part in lam
    spread: float = 1.0  # ratio of the largest to the smallest column scale: conditioning
    seed: int = 0
    n_val: int = field(default=29)
    classes: int = 1  # of Softmax

    def __str__(self):
        return self.name

    @property
    def n_lam(self):
        return {"all": 1, "feature": self.p, "groups": self.groups().max() + 1, "none": 0}[
            self.penalty
        ]

    @property
    def n_theta(self):
        return (self.p + self.fit_intercept) * self.classes

    def groups(self):
        # Interleaved, so that a library that assumes contiguous groups fails.
        return np.arange(self.p) % 3 if self.p > 3 else np.zeros(self.p, dtype=int)

    def lam(self):
        return np.random.default_rng(self.seed + 1).uniform(-4, 0, self.n_lam)

    def theta(self):
        return np.random.default_rng(self.seed + 2).standard_normal(self.n_theta)

    def data(self):
        rng = np.random.default_rng(self.seed)
        truth = rng.standard_normal(self.p) / np.sqrt(self.p)
        out = SimpleNamespace()
        for tail, n in (("", self.n), ("_val", self.n_val)):
            raw = rng.standard_normal((n, self.p))
            z = raw @ truth + 0.3 + 0.5 * rng.standard_normal(n)
            scales = np.geomspace(1.0, self.spread, self.p)
            if self.sparse:  # row 1 is empty, and so is the last column of the training data
                raw *= rng.random((n, self.p)) < 0.4
                raw[1], raw[:, -1] = 0.0, raw[:, -1] * bool(tail)
            X = np.asarray(raw * scales, dtype=self.dtype, order=self.order)
            if self.loss == "Logistic":
                hit = z > np.median(z)
                y = {
                    "signs": np.where(hit, 1.0, -1.0),
                    "zero-one": hit.astype(int),
                    "bool": hit,
                }[self.labels]
            elif self.loss == "Poisson":
                y = rng.poisson(np.exp(z))
            elif self.loss == "Softmax":
                noisy = raw @ rng.standard_normal((self.p, self.classes))
                y = np.argmax(noisy + rng.standard_normal(noisy.shape), axis=1)
                y[: self.classes] = np.arange(self.classes)
            else:
                y = z
            # Zeros are legal weights, and a zero weight must act as a missing row.
            w = rng.integers(0, 4, n) + rng.random(n) * (rng.random(n) < 0.5)
            setattr(out, "X" + tail, X)
            setattr(out, "y" + tail, y)
            setattr(out, "w" + tail, w if self.weights else None)
        return out

    def _pieces(self, part):
        d = self.data()
        if part == "train":
            return d.X, d.y, d.w, True
        return d.X_val, d.y_val, d.w_val, self.penalised_outer

    def reference(self, part):
        X, y, w, penalised = self._pieces(part)
        per = self.groups() if self.penalty == "groups" else self.penalty
        kwargs = {
            "penalty": per if penalised else None,
            "fixed": self.fixed,
            "fit_intercept": self.fit_intercept,
            "sample_weight": w,
        }
        if self.loss == "Softmax":
            return reference.Softmax(X, y, self.classes, **kwargs)
        return reference.LinearModel(self.loss, X, y, **kwargs)

    def objective(self, part, **kwargs):
        import implicitgrad as ig

        X, y, w, penalised = self._pieces(part)
        if self.sparse:
            X = getattr(scipy.sparse, f"{self.sparse[:3]}_array")(X)
            if self.sparse == "csr64":
                X.indptr, X.indices = X.indptr.astype(np.int64), X.indices.astype(np.int64)
        if penalised:
            per = self.groups() if self.penalty == "groups" else self.penalty
            kwargs["penalty"] = ig.L2(per, fixed=self.fixed)
        if w is not None:
            kwargs["sample_weight"] = w
        if self.loss == "Softmax":
            kwargs["n_classes"] = self.classes
        return getattr(ig, self.loss)(X, y, fit_intercept=self.fit_intercept, **kwargs)

    def problem(self, **kwargs):
        """f and g through the public API, a point, and the matching oracles."""
        return SimpleNamespace(
            f=self.objective("train", **kwargs),
            g=self.objective("validation", **kwargs),
            theta=self.theta(),
            lam=self.lam(),
            ref_f=self.reference("train"),
            ref_g=self.reference("validation"),
        )

    def nearest(self, best, theta):
        """The minimum with as much as theta of what does not change f."""
        best = np.array(best)
        if self.loss == "Softmax" and self.fit_intercept:
            last = slice(-self.classes, None)
            best[last] += np.mean(theta[last] - best[last])
        return best

    def solution(self):
        """theta*(lam) and the exact hypergradient there, from the oracle, in extended precision."""
        return _solution(self)


@cache
def _solution(case):
    f, g, lam = case.reference("train"), case.reference("validation"), case.lam()
    theta = f.train(lam)
    grad = reference.hypergradient(f, g, theta, lam)[0]
    theta.setflags(write=False)
    grad.setflags(write=False)
    return theta, grad


LS, LOG, POI, SOFT = "LeastSquares", "Logistic", "Poisson", "Softmax"
CASES = [
    Case("ridge-feature-40x7", LS, 40, 7),
    Case("ridge-all-41x5-f", LS, 41, 5, "all", order="F"),
    Case("ridge-groups-33x8-intercept", LS, 33, 8, "groups", fit_intercept=True),
    Case("ridge-all-fixed-weights", LS, 37, 6, "all", fixed=0.25, weights=True),
    Case("ridge-none-fixed", LS, 23, 4, "none", fixed=0.5, fit_intercept=True),
    Case("ridge-wide-11x29", LS, 11, 29),
    Case("ridge-wide-f32-intercept", LS, 13, 31, "groups", fit_intercept=True, dtype="float32"),
    Case("ridge-one-column", LS, 17, 1, "all"),
    Case("ridge-one-column-intercept", LS, 5, 1, fit_intercept=True, weights=True),
    Case("ridge-tall-1000x3", LS, 1000, 3, fit_intercept=True, weights=True),
    Case("ridge-597x43-f32-f", LS, 597, 43, dtype="float32", order="F"),
    Case("ridge-penalised-outer", LS, 40, 9, fixed=0.1, penalised_outer=True),
    Case("ridge-badly-scaled", LS, 50, 10, spread=100.0, fit_intercept=True),
    Case("logistic-feature-61x9", LOG, 61, 9),
    Case("logistic-all-intercept", LOG, 45, 6, "all", fit_intercept=True, labels="zero-one"),
    Case("logistic-groups-weights-f", LOG, 53, 7, "groups", weights=True, order="F", labels="bool"),
    Case("logistic-none-fixed", LOG, 31, 5, "none", fixed=0.3, fit_intercept=True),
    Case("logistic-wide-12x33", LOG, 12, 33, fixed=0.01, fit_intercept=True),
    Case("logistic-one-column", LOG, 19, 1, "all", fit_intercept=True, weights=True),
    Case("logistic-tall-1000x3-f32", LOG, 1000, 3, dtype="float32", fit_intercept=True),
    Case("logistic-597x43", LOG, 597, 43, fit_intercept=True, weights=True),
    Case("logistic-f32-f-31x17", LOG, 31, 17, "groups", dtype="float32", order="F"),
    Case("logistic-badly-scaled", LOG, 80, 8, "all", spread=100.0),
    Case("ridge-csr-60x9", LS, 60, 9, sparse="csr"),
    Case(
        "ridge-csr64-f32-intercept",
        LS,
        200,
        31,
        "groups",
        fixed=0.1,
        fit_intercept=True,
        weights=True,
        dtype="float32",
        sparse="csr64",
    ),
    Case("ridge-csc-wide-13x40", LS, 13, 40, fixed=0.01, fit_intercept=True, sparse="csc"),
    Case("logistic-csr-597x43", LOG, 597, 43, fit_intercept=True, weights=True, sparse="csr"),
    Case("logistic-csr-groups", LOG, 80, 12, "groups", penalised_outer=True, sparse="csr"),
    Case("logistic-coo-f32-all", LOG, 70, 8, "all", dtype="float32", sparse="coo"),
    Case("logistic-penalised-outer", LOG, 50, 8, "groups", penalised_outer=True),
    Case("poisson-feature-61x9", POI, 61, 9),
    Case(
        "poisson-groups-weights-intercept", POI, 53, 7, "groups", weights=True, fit_intercept=True
    ),
    Case("poisson-f32-f-31x7-fixed", POI, 31, 7, "all", 0.1, dtype="float32", order="F"),
    Case("poisson-wide-12x33", POI, 12, 33, fixed=0.01, fit_intercept=True),
    Case("poisson-csr-80x12", POI, 80, 12, fit_intercept=True, penalised_outer=True, sparse="csr"),
    Case("softmax-feature-61x9", SOFT, 61, 9, classes=4),
    Case("softmax-two-classes", SOFT, 47, 6, "groups", fit_intercept=True, classes=2),
    Case("softmax-all-weights-f", SOFT, 53, 5, "all", weights=True, order="F", classes=3),
    Case("softmax-none-fixed", SOFT, 31, 4, "none", 0.3, fit_intercept=True, classes=3),
    Case("softmax-wide-f32-12x23", SOFT, 12, 23, fit_intercept=True, dtype="float32", classes=3),
    Case("softmax-tall-500x4", SOFT, 500, 4, fit_intercept=True, weights=True, classes=5),
    Case("softmax-csr-80x12", SOFT, 80, 12, "groups", fit_intercept=True, sparse="csr", classes=3),
    Case("softmax-penalised-outer", SOFT, 50, 6, penalised_outer=True, classes=3),
]
CASES = [Case(**{**c.__dict__, "seed": 10 * i}) for i, c in enumerate(CASES)]
HYPER = [c for c in CASES if c.n_lam]  # those with something to differentiate
BY_NAME = {c.name: c for c in CASES}


def quadratic(H, B):
    """f = ½ θᵀHθ - (Bλ)ᵀθ from callables, so that any H, even an indefinite one, can be tried:
    its cross matrix is -B, and the adjoint q of an outer gradient c gives dg/dλ = Bᵀq."""
    import implicitgrad as ig

    H, B = np.array(H, dtype=float), np.array(B, dtype=float)
    return ig.Objective(
        fun=lambda theta, lam: 0.5 * theta @ H @ theta - theta @ (B @ lam),
        jac=lambda theta, lam: H @ theta - B @ lam,
        hessp=lambda theta, v, lam: H @ v,
        cross_vjp=lambda theta, q, lam: -(B.T @ q),
        jac_lam=lambda theta, lam: -(B.T @ theta),
        n_theta=B.shape[0],
        n_lam=B.shape[1],
    )


def linear(c, n_lam):
    """g = cᵀθ, whose gradient is c everywhere."""
    import implicitgrad as ig

    c = np.array(c, dtype=float)
    return ig.Objective(
        fun=lambda theta, lam: c @ theta,
        jac=lambda theta, lam: c.copy(),
        hessp=lambda theta, v, lam: np.zeros(len(c)),
        cross_vjp=lambda theta, q, lam: np.zeros(n_lam),
        jac_lam=lambda theta, lam: np.zeros(n_lam),
        n_theta=len(c),
        n_lam=n_lam,
    )


def spd(n, low, high, seed=0):
    """A symmetric positive definite matrix with spectrum spread evenly in log over [low, high]."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    H = (Q * np.geomspace(low, high, n)) @ Q.T
    return (H + H.T) / 2


def well_posed(n=12, low=0.1, high=3.0):
    """A quadratic problem with everything known: f, g, θ⋆, λ, H, B, c = ∇g, q = H⁻¹c and dg/dλ."""
    H, B = spd(n, low, high), np.cos(np.arange(2.0 * n)).reshape(n, 2)
    c, lam = np.sin(1.0 + np.arange(n)), np.array([0.4, -0.7])
    q = np.linalg.solve(H, c)
    return SimpleNamespace(
        f=quadratic(H, B),
        g=linear(c, 2),
        theta=np.linalg.solve(H, B @ lam),
        lam=lam,
        H=H,
        B=B,
        c=c,
        q=q,
        exact=B.T @ q,
    )


def replaced(objective, **callables):
    """An Objective with some of its callables exchanged."""
    import implicitgrad as ig

    parts = {
        "fun": objective.fun,
        "jac": objective.jac,
        "hessp": objective.hessp,
        "cross_vjp": lambda t, q, x: objective.linearize(t, x).cross.T @ q,
        "jac_lam": lambda t, x: objective.linearize(t, x).jac_lam,
        "n_theta": objective.n_theta,
        "n_lam": objective.n_lam,
    }
    return ig.Objective(**{**parts, **callables})


class Wrapped:
    """The least an objective can be: an object with `linearize`. Scales the wrapped objective."""

    def __init__(self, objective, scale=1.0):
        self.objective, self.scale = objective, scale

    def linearize(self, theta, lam):
        c, L = self.scale, self.objective.linearize(theta, lam)
        return SimpleNamespace(
            fun=c * L.fun,
            jac=c * L.jac,
            jac_lam=c * L.jac_lam,
            hess=c * L.hess,
            cross=c * L.cross,
        )


@dataclass(frozen=True)
class MlpCase:
    """A small network with its data, as `Case` is a linear model."""

    name: str
    activation: str
    loss: str
    hidden: tuple = (5,)
    n: int = 40
    p: int = 4
    outputs: int = 3
    penalty: str = "layer"  # "all", "layer", "parameter", "groups", "none"
    fixed: float = 0.0
    weights: bool = False
    dtype: str = "float64"
    order: str = "C"
    seed: int = 0

    def __str__(self):
        return self.name

    def rtol(self, double):
        """What float32 layers leave of an accuracy."""
        return double if self.dtype == "float64" else 2e-5

    @property
    def per(self):
        widths = (self.p, *self.hidden, self.outputs)
        count = sum(a * b for a, b in pairwise(widths))
        return np.arange(count) % 3 if self.penalty == "groups" else self.penalty

    def data(self, part="train"):
        rng = np.random.default_rng(self.seed + (part != "train"))
        X = rng.standard_normal((self.n, self.p))
        truth = np.random.default_rng(self.seed + 3).standard_normal((self.p, self.outputs))
        z = np.sin(X @ truth) + 0.5 * rng.standard_normal((self.n, self.outputs))
        y = z.argmax(1) if self.loss == "softmax" else z
        y = y[:, 0] if self.loss == "squared" and self.outputs == 1 else y
        w = rng.integers(0, 4, self.n) * rng.random(self.n) if self.weights else None
        return np.asarray(X, dtype=self.dtype, order=self.order), y, w

    def _arguments(self, part):
        X, y, w = self.data(part)
        given = {"activation": self.activation, "loss": self.loss, "sample_weight": w}
        return X, y, given

    def objective(self, part, **kwargs):
        import implicitgrad as ig

        X, y, given = self._arguments(part)
        if part == "train":
            kwargs["penalty"] = ig.L2(self.per, fixed=self.fixed)
        if self.loss == "softmax":
            kwargs["n_classes"] = self.outputs
        return ig.MLP(X, y, hidden=self.hidden, **given, **kwargs)

    def reference(self, part):
        X, y, given = self._arguments(part)
        penalty = {"penalty": self.per, "fixed": self.fixed} if part == "train" else {}
        return reference.MLP(X, y, self.hidden, **given, **penalty, n_outputs=self.outputs)

    def theta(self):
        f = self.reference("train")
        return np.random.default_rng(self.seed + 2).standard_normal(f.n_theta)

    def lam(self):
        n_lam = self.reference("train").n_lam
        return np.random.default_rng(self.seed + 1).uniform(-4, -2, n_lam)


MLP_CASES = [
    MlpCase("tanh-softmax", "tanh", "softmax"),
    MlpCase("tanh-two-layers", "tanh", "softmax", (5, 4), penalty="parameter", order="F"),
    MlpCase("tanh-squared-one-output", "tanh", "squared", outputs=1, penalty="all", weights=True),
    MlpCase("tanh-squared-f32", "tanh", "squared", (6, 3), penalty="groups", dtype="float32"),
    MlpCase("softplus-softmax-weights", "softplus", "softmax", (3, 4, 3), weights=True, fixed=0.1),
    MlpCase("softplus-squared", "softplus", "squared", (4,), penalty="parameter"),
    MlpCase("softplus-f32-f", "softplus", "softmax", dtype="float32", order="F"),
    MlpCase("relu-softmax", "relu", "softmax", (6,), penalty="none", fixed=0.2),
    MlpCase("relu-squared", "relu", "squared", (5, 3), penalty="groups", weights=True),
    MlpCase("identity-two-layers", "identity", "softmax", (2, 3), penalty="all"),
    MlpCase("no-hidden-layer", "tanh", "softmax", (), penalty="parameter"),
    MlpCase("one-of-each", "tanh", "squared", (1,), n=1, p=1, outputs=1),
    MlpCase("wide-rows-300", "tanh", "softmax", (2,), n=300, p=9, outputs=2, weights=True),
]
MLP_CASES = [MlpCase(**{**c.__dict__, "seed": 10 * i + 500}) for i, c in enumerate(MLP_CASES)]
MLP_BY_NAME = {c.name: c for c in MLP_CASES}
