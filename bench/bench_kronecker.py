"""What a preconditioner saves in the damped Gauss-Newton system of a network on MNIST.

784-128-10 after 1000 steps of Adam: (G + damping I) q = ∇θg by CG to a relative residual of 1e-5,
without a preconditioner, with the exact diagonal of G and with Kronecker factors of its layers: for one
strength a layer, and for one a weight, spread over three decades. Seconds hold the making of the
preconditioner, but for the diagonal, which NumPy makes here; they take turns in every round.

    python bench/bench_kronecker.py [--quick] [--rows 5000] [--rounds 3] [--data FOLDER] [--threads 2]
                                    [--json kronecker.json]
"""

from __future__ import annotations

import os
import statistics
from typing import Any

import _common

HIDDEN, STRENGTH, DAMPINGS, RTOL = (128,), -7.0, (1e-2, 1e-3, 1e-4), 1e-5


def main() -> None:
    parser = _common.options(__doc__, "scikit-learn's digits and a narrow network, a smoke run")
    _common.add_threads(parser, len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, default=5000, help="to train on; as many to tune on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default=None, help="the folder that holds mnist/")
    args = parser.parse_args()
    _common.limit_threads(args.threads)
    import numpy as np

    import implicitgrad as ig
    from _files import data_folder, mnist

    rows, hidden = (200, (16,)) if args.quick else (args.rows, HIDDEN)
    rounds = 1 if args.quick else args.rounds
    if args.quick:
        from sklearn.datasets import load_digits

        X, y = (part[: 2 * rows] for part in load_digits(return_X_y=True))
        X = X / 16
    else:
        X, y = mnist(data_folder(args.data), "train", 2 * rows)
    print(
        f"{'-'.join(map(str, (X.shape[1], *hidden, 10)))}, {rows} + {rows} rows, {args.threads} threads"
    )
    print(
        f"{'dtype':>8} {'per':>10} {'damping':>8} {'preconditioner':>14} {'products':>8} {'seconds':>8} "
        f"{'of none':>8} {'differs by':>10}"
    )
    report: list[dict[str, Any]] = []
    for dtype, per in (("float64", "layer"), ("float32", "parameter")):
        shape = {"hidden": hidden, "n_classes": 10, "n_threads": args.threads}
        data = X.astype(dtype)
        f = ig.MLP(data[:rows], y[:rows], penalty=ig.L2(per), **shape)
        g = ig.MLP(data[rows:], y[rows:], **shape)
        lam = np.full(f.n_lam, STRENGTH)
        if per == "parameter":
            lam += np.log(10) * np.random.default_rng(0).uniform(-1.5, 1.5, lam.size)
        theta = ig.train(f, lam, method="adam", maxiter=1000, options={"batch_size": 100}).x
        diagonal = gauss_newton_diagonal(f, theta, lam)
        for damping in DAMPINGS:
            found = measure(f, g, theta, lam, damping, diagonal, rounds)
            for name, (products, seconds, off) in found.items():
                share = statistics.median(seconds) / statistics.median(found["none"][1])
                print(
                    f"{dtype:>8} {per:>10} {damping:8g} {name:>14} {products:8d} "
                    f"{statistics.median(seconds):8.3f} {share:8.2f} {off:10.1e}",
                    flush=True,
                )
            report.append({"dtype": dtype, "per": per, "damping": damping, "found": found})
    _common.write(args.json, {"rows": rows, "threads": args.threads, "found": report})


def measure(
    f: Any, g: Any, theta: Any, lam: Any, damping: float, diagonal: Any, rounds: int
) -> dict[str, Any]:
    """By name: products, seconds and how far q is from the one without a preconditioner."""
    import numpy as np

    import implicitgrad as ig

    inverse = 1.0 / (diagonal + damping)
    choices = {"none": "none", "diagonal": lambda v: inverse * v, "kronecker": "kronecker"}
    answers: dict[str, Any] = {}
    size = np.linalg.norm(g.jac(theta))

    def solve(name: str) -> Any:
        options = {
            "preconditioner": choices[name],
            "curvature": "gauss_newton",
            "damping": damping,
            "certify": False,
            "stop": RTOL * size,
            "warn": False,
            "maxiter": 20_000,
        }
        at = f.linearize(theta, lam)
        at.forget()
        answers[name] = ig.implicit_grad(f, g, theta, lam, method="cg", options=options)

    seconds = _common.interleave({n: _common.always(lambda n=n: solve(n)) for n in choices}, rounds)
    plain = answers["none"].adjoint

    def off(name: str) -> float:
        return float(np.linalg.norm(answers[name].adjoint - plain) / np.linalg.norm(plain))

    return {n: (int(answers[n].nhev), seconds[n], off(n)) for n in choices}


def gauss_newton_diagonal(f: Any, theta: Any, lam: Any) -> Any:
    """The diagonal of JᵀΛJ + diag(strength) for one hidden layer of tanh, by a pass for each class."""
    import numpy as np

    (W1, b1), (W2, b2) = f.unravel(theta)
    X = np.asarray(f.X, dtype=float)
    a = np.tanh(X @ W1 + b1)
    z = a @ W2 + b2
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    squares_out, squares_in = np.zeros_like(p), np.zeros_like(a)
    for k in range(p.shape[1]):
        g = np.sqrt(p[:, k : k + 1]) * (np.eye(p.shape[1])[k] - p)
        squares_out += g**2
        squares_in += ((g @ W2.T) * (1 - a**2)) ** 2
    n = len(X)
    first = (X**2).T @ squares_in / n
    second = (a**2).T @ squares_out / n
    bias = squares_in.sum(axis=0) / n, squares_out.sum(axis=0) / n
    diagonal = np.concatenate([first.ravel(), bias[0], second.ravel(), bias[1]])
    weights = np.concatenate([np.ones(W1.size), 0 * b1, np.ones(W2.size), 0 * b2])
    values = np.exp(lam) if lam.size > 2 else np.repeat(np.exp(lam), [W1.size, W2.size])
    diagonal[weights > 0] += values
    return diagonal


if __name__ == "__main__":
    main()
