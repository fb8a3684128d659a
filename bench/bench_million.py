"""One hypergradient in about a million hyperparameters: a decay for every weight of a network on MNIST.

784-1024-256-10, after some steps of Adam: by Neumann's series (20 terms) and by CG on the damped
Gauss-Newton system (20 iterations), from two linearisations that are made first. Time of each and by how
much memory grows, in θ's of float64, beyond data, activations and what else a linearisation keeps; and
beside them the same series in PyTorch, by its double backward.

    python bench/bench_million.py [--quick] [--rows 5000] [--data FOLDER] [--threads 2]
                                  [--json million.json]
"""

from __future__ import annotations

import os
import time
from typing import Any

import _common

HIDDEN, STRENGTH, TERMS, DAMPING = (1024, 256), -7.0, 20, 0.01


def main() -> None:
    parser = _common.options(__doc__, "few rows and a narrow network, a smoke run")
    _common.add_threads(parser, len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, default=5000, help="to train on; as many to tune on")
    parser.add_argument("--data", default=None, help="the folder that holds mnist/")
    args = parser.parse_args()
    _common.limit_threads(args.threads)
    import numpy as np

    import implicitgrad as ig
    from _files import data_folder, mnist

    folder = data_folder(args.data)
    rows, hidden = (200, (64, 32)) if args.quick else (args.rows, HIDDEN)
    X, y = mnist(folder, "train", 2 * rows)
    X = X.astype(np.float32)
    shape = {"hidden": hidden, "n_classes": 10, "n_threads": args.threads}
    f = ig.MLP(X[:rows], y[:rows], penalty=ig.L2("parameter"), **shape)
    g = ig.MLP(X[rows:], y[rows:], **shape)
    lam = np.full(f.n_lam, STRENGTH)
    theta = ig.train(f, lam, method="adam", maxiter=300, options={"batch_size": 100}).x
    kept = rows * (2 * sum(hidden) + 10) * 4 / 1e6
    print(
        f"{'-'.join(map(str, f.widths))}, {f.n_theta} parameters, {f.n_lam} hyperparameters, {rows} + "
        f"{rows} rows of float32, {args.threads} threads;\nθ: {8e-6 * f.n_theta:.1f} MB, activations "
        f"and slopes of each objective: {kept:.0f} MB"
    )
    print(f"{'':>22} {'seconds':>8} {'MB more':>8} {'in θ':>6} {'products':>8} {'residual':>9}")
    f.linearize(theta, lam)
    g.linearize(theta)
    report: list[dict[str, Any]] = []
    ours: dict[str, Any] = {}
    for name, (method, options) in WAYS.items():

        def call(name: str = name, method: str = method, options: Any = options) -> None:
            ours[name] = ig.implicit_grad(f, g, theta, lam, method=method, options=options)

        grown = _common.peak_growth(call)  # the first, with memory to ask for
        begin = time.perf_counter()
        call()
        seconds, found = time.perf_counter() - begin, ours[name]
        show(report, name, seconds, grown, f.n_theta, found.nhev, found.residual)
    try:
        seconds, grad = torch_neumann(X, y, rows, f, theta, lam, args.threads)
    except ImportError:
        print("PyTorch is not installed")
    else:
        show(report, f"PyTorch, {TERMS} terms", seconds, None, f.n_theta, TERMS - 1, None)
        mine = next(iter(ours.values())).grad
        print(f"differs by {np.linalg.norm(grad - mine) / np.linalg.norm(mine):.1e}")
    _common.write(args.json, {"rows": rows, "threads": args.threads, "found": report})


STEP = 0.1
WAYS = {
    f"Neumann, {TERMS} terms": ("neumann", {"terms": TERMS, "step_size": STEP, "warn": False}),
    "CG, damped": (
        "cg",
        {
            "curvature": "gauss_newton",
            "damping": DAMPING,
            "maxiter": TERMS,
            "certify": False,
            "warn": False,
        },
    ),
}


def show(
    report: list[Any], name: str, seconds: float, grown: Any, n_theta: int, nhev: int, rest: Any
) -> None:
    memory = " " * 15 if grown is None else f"{grown:8.0f} {1e6 * grown / 8 / n_theta:6.1f}"
    residual = "" if rest is None else f"{rest:9.1e}"
    print(f"{name:>22} {seconds:8.2f} {memory} {nhev:8d} {residual}", flush=True)
    report.append({"name": name, "seconds": seconds, "memory_mb": grown, "nhev": nhev})


def torch_neumann(
    X: Any, y: Any, rows: int, f: Any, theta: Any, lam: Any, threads: int
) -> tuple[float, Any]:
    """Seconds for −Cᵀq with q = α Σ_j (I − αH)^j ∇g, and that, by PyTorch."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    parts = []
    for W, b in f.unravel(theta):
        parts += [torch.tensor(part.astype(np.float32), requires_grad=True) for part in (W, b)]
    strengths = torch.tensor(np.exp(lam).astype(np.float32))
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)

    def loss(chosen: slice) -> Any:
        a = inputs[chosen]
        for i in range(0, len(parts), 2):
            a = a @ parts[i] + parts[i + 1]
            a = torch.tanh(a) if i < len(parts) - 2 else a
        return torch.nn.functional.cross_entropy(a, labels[chosen])

    def run() -> tuple[float, Any]:
        begin = time.perf_counter()
        b = torch.autograd.grad(loss(slice(rows, None)), parts)
        at, penalty = 0, 0.0
        for W in parts[::2]:
            penalty = penalty + (strengths[at : at + W.numel()].reshape(W.shape) * W * W).sum() / 2
            at += W.numel()
        inner = torch.autograd.grad(loss(slice(0, rows)) + penalty, parts, create_graph=True)
        v, q = list(b), [part.clone() for part in b]
        for _ in range(TERMS - 1):
            hv = torch.autograd.grad(inner, parts, v, retain_graph=True)
            v = [x - STEP * h for x, h in zip(v, hv, strict=True)]
            q = [x + each for x, each in zip(q, v, strict=True)]
        weights = torch.cat([W.detach().reshape(-1) for W in parts[::2]])
        grad = -strengths * weights * STEP * torch.cat([part.reshape(-1) for part in q[::2]])
        return time.perf_counter() - begin, grad.numpy().astype(np.float64)

    run()
    return run()


if __name__ == "__main__":
    main()
