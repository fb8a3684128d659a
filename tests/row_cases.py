"""Problems with hyperparameters in the rows, each once: what the library is given, and what it means,
written naively, for the oracle. A new block is a line in CASES."""

from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import numpy as np
import scipy.sparse

import implicitgrad as ig
import reference
from reference import WIDE

N, P, K, N_VAL = 30, 4, 3, 25
GROUPS = np.arange(N) % 7
SOME = np.array([8, 3, 21])  # not in order
NOISE = np.random.default_rng(3).standard_normal((N, P))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return len(x) * e / e.sum()


def warp(X, lam):
    """A transform that is not linear in λ: each input moves along a sine."""
    return X + lam[0] * np.sin(X + lam[1])


def warp_vjp(X, lam, M):
    wave, slope = np.sin(X + lam[1]), lam[0] * np.cos(X + lam[1])
    return np.array([np.sum(M * wave), np.sum(M * slope)])


def warp_jvp(X, lam, u):
    return u[0] * np.sin(X + lam[1]) + u[1] * lam[0] * np.cos(X + lam[1])


@dataclass(frozen=True)
class Block:
    """An argument of the objective, the length of its λ, and what that makes of (X, y, s)."""

    given: object
    size: int
    rows: object


def weights(transform, t, groups=None):
    slot = np.arange(N) if groups is None else groups

    def rows(lam, X, y, s):
        return X, y, s * t(lam)[slot]

    return Block(lambda: ig.SampleWeights(transform, groups), slot.max() + 1, rows)


def targets(at=None, soft=False):
    at_ = np.arange(N) if at is None else at

    def rows(lam, X, y, s):
        y = y.copy()
        y[at_] = sigmoid(lam) if soft else lam
        return X, y, s

    return Block(lambda: ig.Targets(at), len(at_), rows)


def outputs(at=None, soft=False):
    """A target for each of K outputs; soft labels of y, which are labels or soft labels."""
    at_ = np.arange(N) if at is None else at

    def rows(lam, X, y, s):
        y = reference.shares(y, K) if soft else y.copy()
        e = lam.reshape(-1, K)
        e = np.exp(e - e.max(axis=1, keepdims=True)) if soft else e
        y[at_] = e / e.sum(axis=1, keepdims=True) if soft else e
        return X, y, s

    return Block(lambda: ig.Targets(at), K * len(at_), rows)


def inputs(at=None):
    at_ = np.arange(N) if at is None else at

    def rows(lam, X, y, s):
        X = X.copy()
        X[at_] = lam.reshape(-1, P)
        return X, y, s

    return Block(lambda: ig.Inputs(at), P * len(at_), rows)


def moved(given, size, move):
    return Block(given, size, lambda lam, X, y, s: (move(X, lam), y, s))


BLOCKS = {
    "sigmoid": weights("sigmoid", sigmoid),
    "softplus": weights("softplus", lambda x: np.log1p(np.exp(x))),
    "exp": weights("exp", np.exp),
    "softmax": weights("softmax", softmax),
    "sigmoid-groups": weights("sigmoid", sigmoid, GROUPS),
    "softmax-groups": weights("softmax", softmax, GROUPS),
    "targets": targets(),
    "targets-some": targets(SOME),
    "soft": targets(soft=True),
    "soft-some": targets(SOME, soft=True),
    "outputs": outputs(),
    "outputs-some": outputs(SOME),
    "shares": outputs(soft=True),
    "shares-some": outputs(SOME, soft=True),
    "inputs": inputs(),
    "inputs-some": inputs(SOME),
    "affine": moved(ig.Affine, 2 * P, lambda X, lam: X * np.exp(lam[:P]) + lam[P:]),
    "noise": moved(lambda: ig.Noise(rng=3), 1, lambda X, lam: X + np.exp(lam) * NOISE),
    "noise-feature": moved(
        lambda: ig.Noise("feature", rng=3), P, lambda X, lam: X + np.exp(lam) * NOISE
    ),
    "warp": moved(lambda: ig.Transform(warp, warp_vjp, 2, jvp=warp_jvp), 2, warp),
}


@dataclass(frozen=True)
class Case:
    name: str
    loss: str
    sample_weight: str = ""
    inputs: str = ""
    targets: str = ""
    penalty: str = "feature"
    fit_intercept: bool = False
    weights: bool = False  # fixed ones
    dtype: str = "float64"
    order: str = "C"
    sparse: bool = False
    n_val: int = field(default=N_VAL)

    def __str__(self):
        return self.name

    @property
    def blocks(self):
        return [BLOCKS[b] for b in (self.sample_weight, self.inputs, self.targets) if b]

    @property
    def n_penalty(self):
        return {"feature": P, "all": 1, "none": 0}[self.penalty]

    @property
    def n_lam(self):
        return self.n_penalty + sum(block.size for block in self.blocks)

    @property
    def n_theta(self):
        return P + self.fit_intercept

    def lam(self, seed=1):
        rng = np.random.default_rng(seed)
        lam = 0.7 * rng.standard_normal(self.n_lam)
        lam[: self.n_penalty] = rng.uniform(-4, -1, self.n_penalty)
        return lam

    def theta(self):
        return np.random.default_rng(2).standard_normal(self.n_theta)

    def data(self):
        rng = np.random.default_rng(11)
        truth = rng.standard_normal(P)
        out = SimpleNamespace()
        for tail, n in (("", N), ("_val", self.n_val)):
            X = rng.standard_normal((n, P))
            if self.sparse:
                X *= rng.random((n, P)) < 0.5
            z = X @ truth + 0.3 + 0.7 * rng.standard_normal(n)
            setattr(out, "X" + tail, np.asarray(X, dtype=self.dtype, order=self.order))
            setattr(out, "y" + tail, np.where(z > 0, 1.0, -1.0) if self.loss == "Logistic" else z)
        out.w = rng.integers(0, 4, N) if self.weights else None
        return out

    def objectives(self, **kwargs):
        d = self.data()
        build = getattr(ig, self.loss)
        X = scipy.sparse.csr_array(d.X) if self.sparse else d.X
        given = {
            name: BLOCKS[getattr(self, name)].given()
            for name in ("sample_weight", "inputs", "targets")
            if getattr(self, name)
        }
        if self.weights:
            given["sample_weight"] = d.w
        penalty = ig.L2(self.penalty, fixed=0.1 if self.penalty == "none" else 0.0)
        kwargs = {"fit_intercept": self.fit_intercept, **kwargs}
        return build(X, d.y, penalty=penalty, **given, **kwargs), build(d.X_val, d.y_val, **kwargs)

    def references(self):
        d = self.data()
        f = reference.HyperModel(
            self.loss,
            d.X,
            d.y,
            self.rows,
            self.penalty,
            self.fit_intercept,
            d.w,
            self.targets != "",
        )
        g = reference.LinearModel(self.loss, d.X_val, d.y_val, fit_intercept=self.fit_intercept)
        return f, g

    def rows(self, lam, X, y, s):
        """What the blocks after the penalty's make of the rows."""
        for block in self.blocks:
            X, y, s = block.rows(lam[: block.size], X, y, s)
            lam = lam[block.size :]
        return X, y, s

    def solution(self):
        """θ⋆ and the exact hypergradient at `lam()`, in extended precision."""
        return _solution(self)


@cache
def _solution(case):
    f, g = case.references()
    theta = f.train(case.lam())
    grad = reference.hypergradient(f, g, theta, case.lam())[0]
    return theta.astype(WIDE), grad


LS, LOG = "LeastSquares", "Logistic"
CASES = [
    Case("ridge-sigmoid", LS, "sigmoid"),
    Case("ridge-softplus-intercept", LS, "softplus", fit_intercept=True),
    Case("ridge-exp-f32", LS, "exp", dtype="float32", order="F"),
    Case("ridge-softmax", LS, "softmax", penalty="all"),
    Case("ridge-groups", LS, "softmax-groups", penalty="none"),
    Case("ridge-sigmoid-csr", LS, "sigmoid", sparse=True, fit_intercept=True),
    Case("ridge-targets", LS, targets="targets", fit_intercept=True),
    Case("ridge-targets-some-csr", LS, targets="targets-some", weights=True, sparse=True),
    Case("ridge-inputs", LS, inputs="inputs"),
    Case("ridge-inputs-some-f32", LS, inputs="inputs-some", dtype="float32", weights=True),
    Case("ridge-affine", LS, inputs="affine", fit_intercept=True),
    Case("ridge-noise", LS, inputs="noise"),
    Case("ridge-warp", LS, inputs="warp", weights=True),
    Case("ridge-all-blocks", LS, "exp", "inputs-some", "targets-some", fit_intercept=True),
    Case("logistic-sigmoid", LOG, "sigmoid", fit_intercept=True),
    Case("logistic-softplus", LOG, "softplus", penalty="all"),
    Case("logistic-exp-f", LOG, "exp", order="F"),
    Case("logistic-softmax-csr", LOG, "softmax", sparse=True),
    Case("logistic-groups", LOG, "sigmoid-groups", fit_intercept=True),
    Case("logistic-soft", LOG, targets="soft"),
    Case(
        "logistic-soft-some-intercept", LOG, targets="soft-some", fit_intercept=True, weights=True
    ),
    Case("logistic-inputs", LOG, inputs="inputs", fit_intercept=True),
    Case("logistic-inputs-some", LOG, inputs="inputs-some", penalty="none"),
    Case("logistic-affine", LOG, inputs="affine"),
    Case("logistic-noise-feature", LOG, inputs="noise-feature", fit_intercept=True),
    Case("logistic-warp-f32", LOG, inputs="warp", dtype="float32"),
    Case("logistic-weights-and-soft-csr", LOG, "softplus", targets="soft-some", sparse=True),
    Case("logistic-all-blocks", LOG, "softmax-groups", "warp", "soft", fit_intercept=True),
]
