"""What accuracy costs, and how far the error estimate can be trusted: θ is stopped early, or the
solve is, and the estimate is set beside the true error."""

import numpy as np

import implicitgrad as ig

rng = np.random.default_rng(0)
X = rng.standard_normal((1000, 100)) * np.geomspace(1, 0.03, 100)
y = X @ rng.standard_normal(100) + rng.standard_normal(1000) > 0
f = ig.Logistic(X[:500], y[:500], penalty=ig.L2("feature"))
g = ig.Logistic(X[500:], y[500:])
lam = np.full(100, -7.0)
exact = ig.implicit_grad(f, g, ig.train(f, lam).x, lam, tol=1e-11).grad
size = np.linalg.norm(exact)


def show(name, theta, **how):
    res = ig.implicit_grad(f, g, theta, lam, **how)
    true = np.linalg.norm(res.grad - exact)
    print(
        f"{name:26}{res.nhev:5d} HVPs   estimate {res.error / size:7.0e}   true {true / size:7.0e}"
        f"   status {res.status}"
    )


theta = ig.train(f, lam).x
for tol in (1e-2, 1e-4, 1e-8):
    show(f"cg, tol={tol:.0e}", theta, method="cg", tol=tol)
show("cholesky", theta)
rough = ig.train(f, lam, tol=1e-3).x  # θ stopped early: polished, or left alone and flagged
quiet = {"warn": False}
show("θ rough, polished", rough)
show("θ rough, left alone", rough, options={"polish": False, **quiet})
show("q = ∇g, certified", theta, method="identity", options={"certify": True, **quiet})
show("10 Neumann terms", theta, method="neumann", options={"terms": 10, **quiet})
