"""Sparse Hessian-vector products: ours and SciPy's ``XT @ (d * (X @ v))``.

SciPy's is timed with ``XT = X.T`` (CSC, no copy) and with ``XT = X.T.tocsr()`` made beforehand; the
speed-up is over the faster of the two. All take turns in every round, so that whatever else the
machine does hits all of them, and ratios are medians of the rounds' own. Column indices are uniform
("uniform"), fall off as 1/rank as words do ("zipf"), or are those with a tenth of the rows a hundred
times longer than the rest ("long rows"). The last columns are the time of one pass with k vectors in
units of k passes with one.

    python bench/bench_sparse.py [--quick] [--threads 2] [--json sparse.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

# rows, columns, entries a row, kind, dtype
SHAPES = [
    (200_000, 50_000, 50, "uniform", "float64"),
    (200_000, 50_000, 50, "uniform", "float32"),
    (200_000, 50_000, 50, "zipf", "float64"),
    (200_000, 50_000, 50, "long rows", "float64"),
    (500_000, 1_000_000, 50, "uniform", "float64"),
    (500_000, 1_000_000, 50, "uniform", "float32"),
    (500_000, 1_000_000, 50, "zipf", "float64"),
    (500_000, 1_000_000, 50, "long rows", "float64"),
]
QUICK = [(4000, 3000, 20, "uniform", "float64")]
WIDTHS = (2, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small shape, a smoke run")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=None, help="rounds per shape")
    parser.add_argument("--only", type=int, default=None, help="one shape, by its number")
    parser.add_argument("--json", default=None, help="write the rows to this path as well")
    args = parser.parse_args()
    if args.threads < 1:
        parser.error("--threads must be at least 1")

    # BLAS, whose idle threads spin, reads this when NumPy is first imported, which happens below.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

    import implicitgrad as ig

    rounds = args.rounds or (5 if args.quick else 11)
    info = ig.build_info()
    print(f"threads {args.threads}, simd {info['simd']}, medians of {rounds}")
    print(
        f"{'X':>16} {'a row':>5} {'columns':>9} {'dtype':>8} {'ours ms':>8} {'scipy ms':>8} "
        f"{'X.T ms':>8} {'speed-up':>8} " + " ".join(f"{f'k = {k}':>6}" for k in WIDTHS)
    )
    rows = []
    shapes = QUICK if args.quick else SHAPES
    for shape in shapes if args.only is None else [shapes[args.only]]:
        row = measure(*shape, threads=args.threads, rounds=rounds)
        rows.append(row)
        n, p, length, kind, dtype = shape
        print(
            f"{f'{n}x{p}':>16} {length:>5} {kind:>9} {dtype:>8} {row['ours_ms']:8.2f} "
            f"{row['scipy_ms']:8.2f} {row['lazy_ms']:8.2f} {row['speedup']:8.2f} "
            + " ".join(f"{row[f'share_{k}']:6.2f}" for k in WIDTHS),
            flush=True,
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"info": info, "threads": args.threads, "rows": rows}, file, indent=1)
            file.write("\n")


def make(n: int, p: int, length: int, kind: str, dtype: str) -> Any:
    import numpy as np
    import scipy.sparse

    rng = np.random.default_rng(0)
    lengths = np.full(n, length)
    if kind == "long rows":  # the same number of entries in all
        long = rng.random(n) < 0.1
        lengths = np.where(long, 100, 1) * length * n // (n + 99 * long.sum())
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    size = int(indptr[-1])
    if kind == "zipf":
        indices = np.minimum(p ** rng.random(size, dtype=np.float32), p).astype(np.int32) - 1
    else:
        indices = rng.integers(0, p, size, dtype=np.int32)
    data = rng.uniform(-1, 1, size).astype(dtype)
    X = scipy.sparse.csr_array((data, indices, indptr.astype(np.int32)), shape=(n, p))
    X.sum_duplicates()
    return X


def measure(
    n: int, p: int, length: int, kind: str, dtype: str, threads: int, rounds: int
) -> dict[str, Any]:
    import numpy as np

    import implicitgrad as ig

    X = make(n, p, length, kind, dtype)
    rng = np.random.default_rng(1)
    f = ig.Logistic(X, rng.choice([-1.0, 1.0], n), n_threads=threads)
    theta, v = rng.uniform(-1, 1, p) / length, rng.uniform(-1, 1, p)
    H = f.linearize(theta).hess
    u = 1 / (1 + np.exp(-(X @ theta)))
    d = (u * (1 - u) / n).astype(dtype)
    w = v.astype(dtype)
    lazy, XT = X.T, X.T.tocsr()
    blocks = {k: np.asfortranarray(rng.uniform(-1, 1, (p, k))) for k in WIDTHS}
    work: dict[str, Any] = {
        "ours": lambda: H @ v,
        "scipy": lambda: XT @ (d * (X @ w)),
        "lazy": lambda: lazy @ (d * (X @ w)),
        **{f"k{k}": lambda V=V: H @ V for k, V in blocks.items()},
    }
    want = work["scipy"]()
    error = float(np.linalg.norm(work["ours"]() - want) / np.linalg.norm(want))
    if not error < (1e-12 if dtype == "float64" else 1e-4):
        raise SystemExit(f"the two products differ by {error:.1e}")

    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            time.sleep(0.05)
            if name == "ours":
                call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    best = min(("scipy", "lazy"), key=lambda name: statistics.median(seconds[name]))

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    return {
        "n": n,
        "p": p,
        "a_row": length,
        "kind": kind,
        "dtype": dtype,
        "entries": int(X.nnz),
        **{f"{name}_ms": 1e3 * statistics.median(s) for name, s in seconds.items()},
        "speedup": ratio(best, "ours"),
        **{f"share_{k}": ratio(f"k{k}", "ours") / k for k in WIDTHS},
        "relative_difference": error,
    }


if __name__ == "__main__":
    main()
