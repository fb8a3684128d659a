"""Cleaning data: a weight for each training row, tuned on a small clean set.

A fifth of the training labels is flipped. The weights, sigmoids of 150 hyperparameters, are tuned by
their hypergradient; influence, one solve without any tuning, already ranks the rows.
"""

import numpy as np

import implicitgrad as ig

rng = np.random.default_rng(0)
truth = np.array([2.0, -1.0, 1.0, 0.0])


def sample(n):
    X = rng.standard_normal((n, truth.size))
    return X, X @ truth + 0.5 * rng.standard_normal(n) > 0


(X, y), clean, test = sample(150), sample(600), sample(5000)
flipped = rng.random(150) < 0.2
f = ig.Logistic(X, y ^ flipped, penalty=ig.L2("none", fixed=0.01), sample_weight=ig.SampleWeights())
g = ig.Logistic(*clean)

lam = np.zeros(f.n_lam)  # all weights ½
theta = ig.train(f, lam).x
suspects = np.argsort(ig.influence(f, g, theta, lam).influence)[::-1]
hits = flipped[suspects[: flipped.sum()]].mean()
print(f"{hits:.0%} of the {flipped.sum()} rows of the largest influence have a flipped label")

best = ig.minimize(f, g, lam, bounds=[(-5, 5)] * f.n_lam)
weights = 1 / (1 + np.exp(-best.x))
print(
    f"mean weight: {weights[flipped].mean():.2f} if flipped, {weights[~flipped].mean():.2f} if not"
)
for name, model in (("untuned", theta), ("tuned", best.theta)):
    print(f"{name}: test loss {ig.Logistic(*test).fun(model):.3f}")
