"""Random small networks at their minima and at saddles, each from one integer seed."""

from dataclasses import dataclass, replace

import numpy as np

from designs import design, pick
from generator import Problem, strategy
from oracle import Double, norm
from oracle_networks import NetworkData, NetworkOracle, descend, nature

# Draws of data until training ends where it is meant to.
ATTEMPTS = 8
# Beside those of other problems: their shares of all.
OWN_WAYS = {
    "": 80,
    "cg kronecker": 0,
    "cg gauss-newton": 4,
    "cg stop kronecker": 4,
}


@dataclass
class NetworkProblem(Problem):
    start: np.ndarray | None = None  # the stationary point, in double precision

    def oracle(self, theta=None):
        if theta is None:
            return NetworkOracle(self, self.start)
        return NetworkOracle(self, theta, descent=True)


def draw_network(seed):
    """A native network near a minimum, or at a point where f is stationary and H indefinite."""
    data, where, asked = (np.random.default_rng([seed, 11, k]) for k in range(3))
    wanted = pick(data, {"minimum": 85, "saddle": 15})
    for _ in range(ATTEMPTS):
        inner, outer, lam, traits = _network(data, wanted == "saddle")
        try:
            with np.errstate(all="ignore"):
                theta, traits["at"] = _stationary(data, inner, lam, wanted == "saddle")
        except np.linalg.LinAlgError:
            continue
        if traits["at"] == wanted:
            break
    else:  # say a unit that is never on: its bias is free
        theta, traits["at"] = np.zeros(inner.n_theta), "flat"

    exact = where.random() < 0.3
    # From further off, Newton's step may lead to another minimum.
    offset = 0.0 if exact else 10 ** where.uniform(-12, -1)
    direction = where.standard_normal(inner.n_theta)
    direction /= norm(direction)

    kind = {"minimum": "linear", "saddle": "indefinite", "flat": "singular"}[traits["at"]]
    method, options, how = strategy(asked, "native", kind)
    way = pick(asked, OWN_WAYS)
    if way:
        method, how = way, {"name": "cg"}
        options = (
            {"curvature": "gauss_newton"} if "gauss" in way else {"preconditioner": "kronecker"}
        )
        if "stop" in way:
            how.update(stop=10 ** asked.uniform(-8, -1), absolute=True)
    tol = None if asked.random() < 0.3 else 10 ** asked.uniform(-10, -1)
    options["polish"] = bool(asked.random() < 0.7)
    own = bool(asked.random() < 0.5)
    # A solve that ends at its limit has nobody who checks it: a factor of H is not cheap enough.
    checker = "none" if method in ("cg maxiter", "neumann") else "cg" if own else "as chosen"
    traits |= {"atol": "default", "checked by": checker}
    return NetworkProblem(
        *(seed, inner, outer, lam, kind, "native", offset, True, direction),
        *(tol, method, options, how, traits, theta),
    )


def _network(rng, symmetric):
    """Objectives and λ. `symmetric`: λ the same for all units of a layer, so that f does not change
    where two of them change places."""
    p, outputs = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    hidden = tuple(rng.integers(2, 6 if symmetric else 7, pick(rng, {1: 85, 2: 15})).tolist())
    loss = pick(rng, {"softmax": 1, "squared": 1})
    outputs += loss == "softmax"
    activation = pick(rng, {"tanh": 45, "softplus": 30, "relu": 15, "identity": 10})
    per = pick(rng, {"all": 25, "layer": 35, "parameter": 0 if symmetric else 40})
    n, n_val = int(rng.integers(8, 50)), int(rng.integers(3, 20))
    spread = pick(rng, {"penalty": 50, "columns": 25, "spectrum": 25})
    X = design(rng, n + n_val, p, 10 ** rng.uniform(0, 4), spread)
    truth = rng.standard_normal((p, outputs)), rng.standard_normal((p, outputs))
    z = np.sin(2 * X @ truth[0]) + X @ truth[1] + 0.5 * rng.standard_normal((n + n_val, outputs))
    if loss == "softmax":
        y = z.argmax(axis=1)
        y[:outputs] = np.arange(outputs)  # each class counts
        y[n : n + 2] = 0, 1
        y = y.astype(float)
    else:
        y = z * 10 ** rng.choice([0.0, rng.uniform(-2, 2)])
    w = rng.integers(0, 4, n) + rng.random(n) if rng.random() < 0.25 else None
    if rng.random() < 0.15:
        X = X.astype(np.float32)
    inner = NetworkData(X[:n], y[:n], (p, *hidden, outputs), activation, loss, per, 0.0, w)
    if rng.random() < 0.15:
        inner = replace(inner, fixed=10 ** rng.uniform(-4, -1))
    outer = replace(inner, X=X[n:], y=y[n:], weights=None)
    penalised = rng.random() < 0.2
    if not penalised:
        outer = replace(outer, per=None, fixed=0.0)
    lam = np.log(10) * (rng.uniform(-5, -0.5) + 0.5 * rng.standard_normal(inner.n_lam))
    traits = {
        "loss": loss,
        "outer": loss + (" penalised" if penalised else ""),
        "activation": activation,
        "hidden layers": str(len(hidden)),
        "penalty": per + (" + fixed" if inner.fixed else ""),
        "ill by": spread,
        "weights": str(w is not None),
        "precision": str(X.dtype),
    }
    return inner, outer, lam, traits


def _stationary(rng, inner, lam, symmetric):
    """A stationary point and its nature: a minimum, or one among the θ that are their own image where
    two units of the first hidden layer change places, or where the signs of one do that is odd."""
    low = inner.model(Double).at(lam)
    theta = rng.standard_normal(inner.n_theta) * rng.choice([0.3, 1.0])
    basis = None
    if symmetric:
        image = _swapped(rng, inner)
        values, vectors = np.linalg.eigh((np.eye(len(theta)) + image) / 2)
        basis = vectors[:, values > 0.5]
        theta = basis @ (basis.T @ theta)
    theta = descend(low, theta, basis)
    return theta, nature(low, theta)


def _swapped(rng, inner):
    """The matrix that θ is multiplied with where two units change places, or where one that is odd
    changes its sign."""
    size, (p, width, after) = inner.n_theta, inner.widths[:3]
    j, k = rng.choice(width, 2, replace=False)
    odd = inner.activation in ("tanh", "identity") and rng.random() < 0.5

    def of(unit):
        begin = p * width
        out = begin + width + after * unit
        return np.concatenate([np.arange(p) * width + unit, [begin + unit], out + np.arange(after)])

    image = np.eye(size)
    if odd:
        image[of(j), of(j)] = -1.0
    else:
        image[of(j)], image[of(k)] = image[of(k)], image[of(j)]
    return image
