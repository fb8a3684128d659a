"""One penalty per feature for a ridge regression, tuned with scipy.optimize.minimize.

Of 40 features 5 matter. One penalty cannot keep those and shrink the others; 40 penalties can, and
the validation rows are many enough here to choose them.
"""

import numpy as np
from scipy.optimize import minimize

import implicitgrad as ig

rng = np.random.default_rng(0)
truth = np.zeros(40)
truth[:5] = [3.0, -2.0, 1.5, 1.0, -1.0]


def sample(n):
    X = rng.standard_normal((n, truth.size))
    return X, X @ truth + 2.0 * rng.standard_normal(n)


for_train, for_validation, for_test = sample(80), sample(400), sample(2000)
g = ig.LeastSquares(*for_validation)
test = ig.LeastSquares(*for_test)

for per in ("all", "feature"):
    f = ig.LeastSquares(*for_train, penalty=ig.L2(per))
    h = ig.HyperObjective(f, g)  # λ ↦ (validation loss, hypergradient)
    bounds = [(-10, 10)] * f.n_lam
    res = minimize(h, np.zeros(f.n_lam), jac=True, method="L-BFGS-B", bounds=bounds)
    print(
        f"{f.n_lam:2d} penalties: validation loss {res.fun:.3f}, test loss {test.fun(h.theta):.3f}, "
        f"{res.nit} iterations, {h.nfev} hypergradients"
    )

switched_off = np.sum(res.x[5:] > 3)
print(f"{switched_off} of the 35 idle features have λ > 3; the others: {res.x[:5].round(1)}")
