"""Steps of training beside products of a solve: error, time and memory, drawn in unrolling.png."""

from resource import RUSAGE_SELF, getrusage
from time import perf_counter

import matplotlib.figure
import numpy as np

import implicitgrad as ig

STEPS = (1, 3, 10, 30, 100, 300, 1000)
rng = np.random.default_rng(0)
X = rng.standard_normal((4000, 20)) * np.geomspace(1, 0.2, 20)
y = X @ rng.standard_normal(20) + rng.standard_normal(4000) > 0
f, g = ig.Logistic(X[:3000], y[:3000], penalty=ig.L2("feature")), ig.Logistic(X[3000:], y[3000:])
lam, start = np.full(20, -5.0), np.zeros(20)
w = ig.train(f, lam).x
exact = ig.implicit_grad(f, g, w, lam, tol=1e-12).grad
a = 1 / np.linalg.eigvalsh(f.linearize(w, lam).hess @ np.eye(20))[-1]
quiet = {"warn": False, "certify": False}
solve = lambda how, **o: ig.implicit_grad(f, g, w, lam, how, 1e-14, {**quiet, **o})  # noqa: E731
ways = {
    "identity": lambda k: solve("identity"),
    "CG": lambda k: solve("cg", maxiter=k, preconditioner="none"),
    "Neumann": lambda k: solve("neumann", terms=k, step_size=a),
    "last 30 steps": lambda k: ig.unrolled_grad(f, g, start, lam, k, a, truncate=min(k, 30)),
    "unrolled": lambda k: ig.unrolled_grad(f, g, start, lam, k, a),
}
axes = (figure := matplotlib.figure.Figure((12, 3.5), layout="constrained")).subplots(1, 3)
for name, way in ways.items():
    rows = []
    for k in STEPS:
        began, before = perf_counter(), getrusage(RUSAGE_SELF).ru_maxrss
        off = np.linalg.norm(way(k).grad - exact) / np.linalg.norm(exact)
        rows.append((off, perf_counter() - began, getrusage(RUSAGE_SELF).ru_maxrss - before))
    print(f"{name:14}", " ".join(f"{row[0]:6.0e}" for row in rows))
    for i, label in enumerate(("relative error", "seconds", "KiB more")):
        axes[i].semilogx(STEPS, np.array(rows)[:, i], label=name)
        axes[i].set(xlabel="K", ylabel=label)
axes[0].set_yscale("log"), axes[0].legend(), figure.savefig("unrolling.png")
