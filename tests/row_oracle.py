"""Models of the oracle whose rows depend on λ, whatever the model is."""

import numpy as np

import reference
from reference import WIDE


class OnRows:
    """build(X, y, s) at each λ: strengths first, then the blocks of row_cases, in their order.
    Derivatives in λ are differences, as in `reference.HyperModel`."""

    def __init__(self, build, X, y, blocks):
        self.build, self.X, self.y, self.blocks = build, X.astype(WIDE), y, blocks
        model = build(self.X, y, np.ones(len(y), dtype=WIDE))
        self.n_theta, self.n_penalty = model.n_theta, model.n_lam
        self.n_lam = model.n_lam + sum(block.size for block in blocks)

    def at(self, lam):
        """The model of these rows, and its strengths."""
        lam, begin = np.asarray(lam, dtype=WIDE), self.n_penalty
        rows = self.X, self.y, np.ones(len(self.y), dtype=WIDE)
        for block in self.blocks:
            rows = block.rows(lam[begin : begin + block.size], *rows)
            begin += block.size
        return self.build(*rows), lam[: self.n_penalty]

    def _of(name):
        def call(self, theta, lam, *rest):
            model, strengths = self.at(lam)
            return getattr(model, name)(theta, strengths, *rest)

        return call

    fun, jac, hess = _of("fun"), _of("jac"), _of("hess")
    solve, system, polished = _of("solve"), _of("system"), _of("polished")

    def train(self, lam):
        model, strengths = self.at(lam)
        return model.train(strengths)

    def cross(self, theta, lam):
        return reference.HyperModel._by_lam(lambda x: self.jac(theta, x), lam).T

    def jac_lam(self, theta, lam):
        return reference.HyperModel._by_lam(lambda x: self.fun(theta, x), lam)
