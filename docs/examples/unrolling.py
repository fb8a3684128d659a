"""Steps of training beside products of a solve: error, time and memory, drawn in unrolling.png."""

from resource import RUSAGE_SELF, getrusage
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

import implicitgrad as ig

STEPS, LABELS = (1, 3, 10, 30, 100, 300, 1000), ("log10 of the error", "seconds", "KiB more")
rng = np.random.default_rng(0)
X = rng.standard_normal((4000, 20)) * np.geomspace(1, 0.2, 20)
y = X @ rng.standard_normal(20) + rng.standard_normal(4000) > 0
f, g = ig.Logistic(X[:3000], y[:3000], penalty=ig.L2("feature")), ig.Logistic(X[3000:], y[3000:])
lam, start = np.full(20, -5.0), np.zeros(20)
w = ig.train(f, lam).x
exact = ig.implicit_grad(f, g, w, lam, tol=1e-12).grad
a = 1 / np.linalg.eigvalsh(f.linearize(w, lam).hess @ np.eye(20))[-1]
cg = {"preconditioner": "none", "certify": False, "warn": False}
series = {"step_size": a, "certify": False, "warn": False}
ways = {
    "CG": lambda k: ig.implicit_grad(f, g, w, lam, "cg", 1e-14, {**cg, "maxiter": k}),
    "Neumann": lambda k: ig.implicit_grad(f, g, w, lam, "neumann", None, {**series, "terms": k}),
    "last 30 steps": lambda k: ig.unrolled_grad(f, g, start, lam, k, a, truncate=min(k, 30)),
    "unrolled": lambda k: ig.unrolled_grad(f, g, start, lam, k, a),
}
figure, panels = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
for name, way in ways.items():
    rows, before = [], getrusage(RUSAGE_SELF).ru_maxrss  # a peak: the largest way comes last
    for k in STEPS:
        began, grad = perf_counter(), way(k).grad
        took, peak = perf_counter() - began, getrusage(RUSAGE_SELF).ru_maxrss
        rows.append((np.log10(np.linalg.norm(grad - exact)), took, peak - before))
    print(f"{name:14}", " ".join(f"{row[0]:5.1f}" for row in rows))
    for panel, label, values in zip(panels, LABELS, np.transpose(rows), strict=True):
        panel.plot(STEPS, values, label=name)
        panel.set(xlabel="K", ylabel=label, xscale="log")
panels[0].legend()
figure.savefig("unrolling.png")
