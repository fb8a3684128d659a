"""Exact hypergradients of small networks, as `oracle` has them of linear models: true minima by Newton's
method with residuals in extended precision, and what a stationary point is."""

import copy
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
from scipy.linalg.lapack import dgetrf, dgetrs

import implicitgrad as ig
from oracle import WIDE, WIDE_EPS, Long, Oracle, norm

# Of H's eigenvalues, relative to the largest: from here on they are zero, and from there on not.
FLAT, CURVED = 1e-13, 1e-9
_ln = np.frompyfunc(lambda x: x.ln(), 1, 1)


@dataclass(frozen=True)
class NetworkData:
    """What a network's objective is made of."""

    X: np.ndarray
    y: np.ndarray  # classes, or targets of shape (n, outputs)
    widths: tuple
    activation: str
    loss: str
    per: str | None = None  # "all", "layer", "parameter", or None for a plain loss
    fixed: float = 0.0
    weights: np.ndarray | None = None

    @property
    def sizes(self):
        return [a * b for a, b in pairwise(self.widths)]

    @property
    def labels(self):
        """For each entry of θ, which λ penalises it; −1 where it is a bias or there is none."""
        weights = sum(self.sizes)
        layers = np.repeat(np.arange(len(self.sizes)), self.sizes)
        of = {"all": 0 * layers, "layer": layers, "parameter": np.arange(weights)}
        found = np.full(self.n_theta, -1)
        found[self.weighed] = of.get(self.per, -1)
        return found

    @property
    def weighed(self):
        """Which entries of θ are weights: biases are not penalised."""
        pairs = zip(self.sizes, self.widths[1:], strict=True)
        return np.concatenate([np.repeat([True, False], pair) for pair in pairs])

    @property
    def n_theta(self):
        return sum(self.sizes) + sum(self.widths[1:])

    @property
    def n_lam(self):
        return int(self.labels.max()) + 1

    def model(self, kit):
        return Network(self, kit)

    def native(self):
        given = {"n_classes": self.widths[-1]} if self.loss == "softmax" else {}
        return ig.MLP(
            *(self.X, self.y),
            hidden=self.widths[1:-1],
            activation=self.activation,
            loss=self.loss,
            penalty=None if self.per is None else ig.L2(self.per, fixed=self.fixed),
            sample_weight=self.weights,
            n_threads=1,
            **given,
        )


def _tanh(kit, z):
    if z.dtype == object:
        t = kit.exp(-2 * abs(z))
        a = np.where(z >= 0, 1, -1) * (1 - t) / (1 + t)
    else:
        a = np.tanh(z)
    slope = 1 - a * a
    return a, slope, -2 * a * slope


def _softplus(kit, z):
    t = kit.exp(-abs(z))
    above = 1 / (1 + t)
    slope = np.where(z >= 0, above, t * above)
    log = _ln(1 + t) if z.dtype == object else np.log1p(t)
    return np.where(z >= 0, z, 0 * z) + log, slope, t * above * above


def _relu(kit, z):
    slope = kit.array((z > 0).astype(float))
    return z * slope, slope, 0 * z


def _identity(kit, z):
    return z, 1 + 0 * z, 0 * z


ACTIVATIONS = {"tanh": _tanh, "softplus": _softplus, "relu": _relu, "identity": _identity}


class Network:
    """(1/n) Σ s_i ℓ(z_i) + ½ Σ_j (fixed + exp λ_j) W_j² in one arithmetic; `at(lam)` before use."""

    convex = False

    def __init__(self, data, kit):
        self.kit, self.data, self.n_lam = kit, data, data.n_lam
        self.activation, self.loss = ACTIVATIONS[data.activation], data.loss
        w = kit.array(np.ones(len(data.X)) if data.weights is None else data.weights)
        self.X, self.w = kit.array(data.X.astype(np.float64)), w / w.sum()
        if self.loss == "softmax":
            self.label = np.asarray(data.y).astype(int)
        else:
            self.y = kit.array(data.y)
        self.fixed = kit.array(np.where(data.weighed & (data.per is not None), data.fixed, 0.0))
        self.member = kit.array((data.labels[:, None] == np.arange(self.n_lam)).astype(float))
        self.backwards = False

    def at(self, lam):
        new = copy.copy(self)
        new.strength = self.fixed
        if self.n_lam:
            new.e = self.kit.exp(self.kit.array(lam))
            new.strength = self.fixed + self.member @ new.e
        return new

    def flipped(self):
        """The same function of θ[::-1]: rows, inputs, units and outputs in the opposite order."""
        new = copy.copy(self)
        new.backwards = True
        new.X, new.w = self.X[::-1, ::-1], self.w[::-1]
        if self.loss == "softmax":
            new.label = self.data.widths[-1] - 1 - self.label[::-1]
        else:
            new.y = self.y[::-1, ::-1]
        sign = np.where(np.arange(len(self.strength)) % 2, 1, -1)
        new.strength = (self.strength * (1 + sign * WIDE(WIDE_EPS)))[::-1]
        new.member = self.member[::-1]
        return new

    def _layers(self, theta):
        """[(W, b), …] of a θ, or of an array of them."""
        begin, found = 0, []
        theta = theta[..., ::-1] if self.backwards else theta
        for a, b in pairwise(self.data.widths):
            W = theta[..., begin : begin + a * b].reshape(*theta.shape[:-1], a, b)
            begin += a * b
            found.append((W, theta[..., begin : begin + b]))
            begin += b
        if self.backwards:
            found = [(W[..., ::-1, ::-1], b[..., ::-1]) for W, b in found]
        return found

    def _joined(self, layers):
        if self.backwards:
            layers = [(W[..., ::-1, ::-1], b[..., ::-1]) for W, b in layers]
        flat = [part for W, b in layers for part in (W.reshape(*W.shape[:-2], -1), b)]
        joined = np.concatenate(flat, axis=-1)
        return joined[..., ::-1] if self.backwards else joined

    def weights(self, theta):
        """All that products need of θ: activations a, φ', φ'', deltas ∂f/∂z, and what φ' is to
        multiply to make those; p of a softmax."""
        at = SimpleNamespace(layers=self._layers(theta), a=[self.X], slope=[], bend=[], p=None)
        for W, b in at.layers[:-1]:
            a, slope, bend = self.activation(self.kit, at.a[-1] @ W + b)
            at.a.append(a), at.slope.append(slope), at.bend.append(bend)
        W, b = at.layers[-1]
        at.z = at.a[-1] @ W + b
        if self.loss == "softmax":
            e = self.kit.exp(at.z - at.z.max(axis=1)[:, None])
            at.p = e / e.sum(axis=1)[:, None]
            out, rows = at.p.copy(), np.arange(len(e))
            out[rows, self.label] = 0
            out[rows, self.label] = -out.sum(axis=1)
        else:
            out = at.z - self.y
        at.delta, at.before = [self.w[:, None] * out], []
        for k in range(len(at.layers) - 1, 0, -1):
            at.before.insert(0, at.delta[0] @ at.layers[k][0].T)
            at.delta.insert(0, at.slope[k - 1] * at.before[0])
        return at

    def value(self, theta):
        at = self.weights(theta)
        if self.loss == "softmax":
            z = at.z - at.z[np.arange(len(at.z)), self.label][:, None]
            each = np.logaddexp.reduce(z, axis=1)
        else:
            each = ((at.z - self.y) ** 2).sum(axis=1) / 2
        return self.w @ each + self.strength @ (theta * theta) / 2

    def gradient(self, theta):
        at = self.weights(theta)
        parts = [(a.T @ d, d.sum(axis=0)) for a, d in zip(at.a, at.delta, strict=True)]
        return self._joined(parts) + self.strength * theta

    def product(self, theta, v, weights=None):
        """H v, for each v of an array of them: the derivative of the gradient along v."""
        at = self.weights(theta) if weights is None else weights
        along, ra, rz = self._layers(v), [None], []
        for k, ((W, _), (V, u)) in enumerate(zip(at.layers, along, strict=True)):
            z = at.a[k] @ V + u[..., None, :]
            rz.append(z if ra[-1] is None else z + ra[-1] @ W)
            if k < len(at.slope):
                ra.append(at.slope[k] * rz[-1])
        out = rz[-1]
        if at.p is not None:
            out = at.p * (out - (at.p * out).sum(axis=-1)[..., None])
        rdelta = [self.w[:, None] * out]
        for k in range(len(at.layers) - 1, 0, -1):
            back = rdelta[0] @ at.layers[k][0].T + at.delta[k] @ np.swapaxes(along[k][0], -1, -2)
            rdelta.insert(0, at.slope[k - 1] * back + at.bend[k - 1] * rz[k - 1] * at.before[k - 1])
        parts = []
        for a, delta, moved, rd in zip(at.a, at.delta, ra, rdelta, strict=True):
            W = a.T @ rd
            if moved is not None:
                W = W + np.swapaxes(moved, -1, -2) @ delta
            parts.append((W, rd.sum(axis=-2)))
        return self._joined(parts) + self.strength * v

    def hess(self, theta):
        """H, plus something along the common shift of a softmax's outputs, where f is constant."""
        at, size = self.weights(theta), self.data.n_theta
        H = self.product(theta, self.kit.array(np.eye(size)), at)
        H = (H + H.T) / 2
        if at.p is not None:
            K = self.data.widths[-1]
            some = (self.w[:, None] * at.p * (1 - at.p)).sum() / K
            H[-K:, -K:] = H[-K:, -K:] + some / K
        return H

    def cross_t(self, theta, q):
        if not self.n_lam:
            return self.kit.array(np.zeros(0))
        return self.e * (self.member.T @ (theta * q))

    def cross(self, theta, u):
        return theta * (self.member @ (self.e * self.kit.array(u)))

    def direct(self, theta):
        return self.e * (self.member.T @ (theta * theta)) / 2 if self.n_lam else 0

    def factor(self, theta):
        """Double precision only, as that of a `Quadratic`, of H scaled to a unit diagonal."""
        H = self.hess(theta)
        scale = np.sqrt(np.abs(H).max(axis=0))
        if not (np.isfinite(H).all() and (scale > 0).all()):
            raise np.linalg.LinAlgError("a column of zeros, or numbers that are not finite")
        scaled = H / np.outer(scale, scale)
        lu, pivots, info = dgetrf(scaled)
        if info:
            raise np.linalg.LinAlgError("singular")

        def conditions():
            of = [np.linalg.svd(M, compute_uv=False) for M in (H, scaled)]
            return [float(s[0] / s[-1]) if s[-1] > 0 else np.inf for s in of]

        def solve(r):
            x = dgetrs(lu, pivots, np.asarray(r, dtype=np.float64) / scale)[0] / scale
            if not np.isfinite(x).all():
                raise np.linalg.LinAlgError("the factor is singular")
            return x

        return SimpleNamespace(solve=solve, scale=scale, conditions=conditions)


def nature(low, theta):
    """What a stationary point is, by the eigenvalues of H: "minimum", "saddle" or "flat"."""
    found = np.linalg.eigvalsh(low.hess(theta))
    if found[0] < -CURVED * found[-1]:
        return "saddle"
    return "minimum" if found[0] > FLAT * found[-1] else "flat"


def descend(low, theta, basis=None):
    """To where f is stationary (in a subspace), by Newton's method with the absolute values of H's
    eigenvalues and a line search. LinAlgError where it does not get there."""
    T = np.eye(len(theta)) if basis is None else basis
    value = low.value(theta)
    for _ in range(300):
        g = T.T @ low.gradient(theta)
        H = T.T @ low.hess(theta) @ T
        if not np.isfinite(H).all():
            break
        values, vectors = np.linalg.eigh(H)
        size = np.abs(values)
        s = vectors @ ((vectors.T @ g) / np.maximum(size, 1e-8 * size.max()))
        if norm(s) <= 1e-9 * norm(theta):
            return theta
        t = 1.0
        while True:
            ahead = theta - t * (T @ s)
            reached = low.value(ahead)
            if reached <= value - t * (g @ s) / 1e4 or t < 1e-8:
                break
            t /= 2
        if t < 1e-8:  # rounding is all that is left
            return theta
        theta, value = ahead, reached
    raise np.linalg.LinAlgError("the oracle's training does not converge")


class NetworkOracle(Oracle):
    """θ⋆ and dg/dλ of the stationary point at `start`; with `descent`, of the minimum below it."""

    def __init__(self, problem, start, descent=False):
        self.start, self.descent = start, descent
        super().__init__(problem)

    def _train(self):
        theta = descend(self.low, self.start) if self.descent else self.start
        self.factor = self.low.factor(theta)
        theta, before = Long.array(theta), np.inf
        for _ in range(30):  # full steps, which contract quadratically
            s = self.factor.solve(self.f.gradient(theta))
            size = norm(s * self.factor.scale)
            if not size < 0.5 * before:
                break
            theta, before = theta - s, size
            self.factor = self.low.factor(np.asarray(theta, dtype=np.float64))
        kind = nature(self.low, np.asarray(theta, dtype=np.float64))
        if before > 1e-6 * norm(theta * self.factor.scale) or (self.descent and kind != "minimum"):
            raise np.linalg.LinAlgError(f"the oracle ends at something else: {kind}")
        return theta
