"""Hessian-vector products: ours, NumPy's two passes ``X.T @ (d * (X @ v))``, and a plain read of X.

The three take turns in every round, so that whatever else the machine does hits all of them; each
turn begins with a pause, in which the threads of the library that ran before stop spinning, and an
untimed call. The plain read is the faster of two ways to touch every byte of X once: BLAS's dot
product of X with itself, and the core's scan for NaN. NumPy works in X's own precision; ours
accumulates in float64.

    python bench/bench_hvp.py [--quick] [--threads 2] [--json hvp.json]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from typing import Any

import _common

SHAPES = [(1_000_000, 50), (100_000, 1000), (20_000, 5000), (1000, 40_000)]
QUICK = [(4000, 500)]


def main() -> None:
    parser = _common.options(__doc__, "one small shape, a smoke run")
    _common.add_threads(parser, len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=None, help="rounds per shape")
    args = parser.parse_args()
    _common.limit_threads(args.threads)

    import implicitgrad as ig

    rounds = args.rounds or (5 if args.quick else 21)
    info = ig.build_info()
    print(f"threads {args.threads}, simd {info['simd']}, medians of {rounds}")
    print(
        f"{'X':>14} {'dtype':>8} {'order':>5} {'read GB/s':>10} {'ours GB/s':>10} "
        f"{'numpy GB/s':>10} {'ours/read':>10} {'speed-up':>9}"
    )
    rows = []
    for n, p in QUICK if args.quick else SHAPES:
        for dtype in ("float64", "float32"):
            for order in ("C", "F"):
                row = measure(n, p, dtype, order, args.threads, rounds)
                rows.append(row)
                print(
                    f"{f'{n}x{p}':>14} {dtype:>8} {order:>5} {row['read_GBs']:10.1f} "
                    f"{row['ours_GBs']:10.1f} {row['numpy_GBs']:10.1f} {row['ours_of_read']:10.2f} "
                    f"{row['speedup']:9.2f}",
                    flush=True,
                )
    _common.write(args.json, {"threads": args.threads, "rows": rows})


def measure(n: int, p: int, dtype: str, order: str, threads: int, rounds: int) -> dict[str, Any]:
    import numpy as np

    import implicitgrad as ig
    from implicitgrad import _core

    rng = np.random.default_rng(0)
    X = np.empty((n, p), dtype, order=order)  # type: ignore[call-overload]
    lines = X if order == "C" else X.T
    for i in range(0, lines.shape[0], 1000):  # in pieces, without a float64 copy of all of X
        lines[i : i + 1000] = rng.uniform(-1, 1, lines[i : i + 1000].shape)
    y = rng.choice([-1.0, 1.0], n)
    theta, lam, v = rng.uniform(-1, 1, p) / p, rng.uniform(-1, 1, p), rng.uniform(-1, 1, p)

    f = ig.Logistic(X, y, penalty=ig.L2("feature"), n_threads=threads)
    H = f.linearize(theta, lam).hess
    u = 1 / (1 + np.exp(-(X @ theta.astype(dtype)).astype(np.float64)))
    d, strength = (u * (1 - u) / n).astype(dtype), np.exp(lam)
    w, flat, scan = v.astype(dtype), X.ravel(order="K"), _core.dense_matrix(X)
    work: dict[str, Callable[[], Any]] = {
        "dot": lambda: np.dot(flat, flat),
        "scan": lambda: scan.all_finite(threads),
        "ours": lambda: H @ v,
        "numpy": lambda: X.T @ (d * (X @ w)) + strength * v,
    }

    size = np.linalg.norm(work["numpy"]())
    error = float(np.linalg.norm(work["ours"]() - work["numpy"]()) / size)
    if not error < (1e-12 if dtype == "float64" else 1e-4):
        raise SystemExit(f"the two products differ by {error:.1e}")

    turns = {name: _common.always(call) for name, call in work.items()}
    seconds = _common.interleave(turns, rounds, warm=True)
    seconds["read"] = min(seconds["dot"], seconds["scan"], key=statistics.median)

    speed = {f"{k}_GBs": 1e-9 * X.nbytes / statistics.median(s) for k, s in seconds.items()}
    return {
        "n": n,
        "p": p,
        "dtype": dtype,
        "order": order,
        **speed,
        "ours_of_read": _common.ratio(seconds["read"], seconds["ours"]),
        "speedup": _common.ratio(seconds["numpy"], seconds["ours"]),
        "relative_difference": error,
    }


if __name__ == "__main__":
    main()
