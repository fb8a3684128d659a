"""How cost grows: one product with H, a certified hypergradient and a training, against rows, columns,
entries of a sparse X, hyperparameters and threads.

    python bench/scaling.py [--quick] [--sweep rows columns …] [--threads 2] [--passes 3]
                            [--json scaling.json]

Logistic regression, columns scaled from 1 down to 0.03, a penalty of 1e-3 per feature. Each problem is
measured in a fresh process; the problems of a sweep take turns, pass after pass, and each figure is
the median over the passes of medians within a process. The hypergradient (default options, its
certificate on) and the training (from zero) start from an f on which nothing has been computed. Ratios
are to the line above; a line is marked * where X is smaller than the last-level cache. Memory is by
how much the resident memory grows at most during a first training and a first hypergradient, the
data being there.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import _common

TASKS = ("product", "hypergradient", "training")
Spec = dict[str, Any]


def sweeps(threads: int, quick: bool) -> dict[str, list[Spec]]:
    """Each a list of problems: arguments of `_problems.make`, and the number of threads."""
    unit, wide, counts = (1000, 50, (1, 2)) if quick else (100_000, 500, (1, 2))
    few = [1, 10, wide]
    columns = (20, 50) if quick else (50, 200, 500, 1000, 2000)
    return {
        "rows": [{"n": n, "p": 50} for n in (unit // 10, unit, 10 * unit)],
        "columns": [{"n": unit // 5, "p": p} for p in columns],
        "nnz": [{"n": unit, "p": 20 * wide, "per_row": k} for k in (10, 30, 100)],
        "hyperparameters": [{"n": unit, "p": wide, "groups": k} for k in few],
        "threads": [
            {"n": 10 * unit, "p": 50, "threads": k} for k in counts if k <= max(threads, 1)
        ],
    }


def main() -> None:
    parser = _common.options(__doc__, "small problems, a smoke run")
    names = list(sweeps(1, False))
    parser.add_argument("--sweep", nargs="+", choices=names, default=names)
    parser.add_argument("--passes", type=int, default=3, help="fresh processes for each problem")
    parser.add_argument("--seconds", type=float, default=4, help="of timing in each process")
    _common.add_threads(parser, 2)
    args = parser.parse_args()
    if args.quick:
        args.passes, args.seconds = 1, 0.5
    report = {}
    for name in args.sweep:
        specs = [
            {"threads": args.threads, **spec} for spec in sweeps(args.threads, args.quick)[name]
        ]
        report[name] = sweep(name, specs, args.passes, args.seconds)
    cache = _common.last_level_cache()
    _common.write(args.json, {"threads": args.threads, "cache": cache, "sweeps": report})


def sweep(name: str, specs: list[Spec], passes: int, seconds: float) -> list[dict[str, Any]]:
    found: list[list[dict[str, Any]]] = [[] for _ in specs]
    for _ in range(passes):
        for spec, rows in zip(specs, found, strict=True):
            rows.append(_common.in_child(__file__, {**spec, "seconds": seconds}))
    print(f"\n{name}")
    print(
        f"  {'problem':<30} {'X MB':>6} "
        + " ".join(f"{task + ' ms':>16} {'ratio':>6}" for task in TASKS)
        + f" {'memory MB':>12}  method"
    )
    table: list[dict[str, Any]] = []
    for spec, passed in zip(specs, found, strict=True):
        if "refused" in passed[0]:
            print(f"  {label(spec):<30} skipped, {passed[0]['refused']}")
            continue
        row: dict[str, Any] = {**spec, "method": passed[0]["method"], "X_MB": passed[0]["X_MB"]}
        row["success"] = all(one["success"] for one in passed)
        for key in (*TASKS, "training_MB", "hypergradient_MB"):
            row[key] = statistics.median(one[key] for one in passed)
        cells = []
        for task in TASKS:
            grown = f"{row[task] / table[-1][task]:.2f}" if table else ""
            cells.append(f"{1e3 * row[task]:16.3f} {grown:>6}")
        small = "*" if 1e6 * row["X_MB"] < _common.last_level_cache() else " "
        memory = f"{row['training_MB']:.0f} + {row['hypergradient_MB']:.0f}"
        print(
            f"  {label(spec):<30} {row['X_MB']:5.0f}{small} {' '.join(cells)} {memory:>12}  "
            f"{row['method']}{'' if row['success'] else ', not successful'}",
            flush=True,
        )
        table.append(row)
    return table


def label(spec: Spec) -> str:
    extra = {"per_row": "a row", "groups": "hyperparameters"}
    words = [f"{spec['n']} x {spec['p']}"]
    words += [f"{spec[key]} {text}" for key, text in extra.items() if key in spec]
    return ", ".join([*words, f"{spec['threads']} thr."])


def child(spec: Spec) -> dict[str, Any]:
    """One problem in this process."""
    threads, seconds = spec.pop("threads"), spec.pop("seconds")
    _common.limit_threads(threads)
    import numpy as np

    import _problems
    import implicitgrad as ig

    small = _problems.make(50, 3)  # imports and pools of memory are not counted
    ig.implicit_grad(*small.objectives(threads), small.train(), small.lam)
    problem = _problems.make(**spec)
    try:
        f, _ = problem.objectives(threads)
    except (TypeError, ValueError) as refused:
        return {"refused": str(refused)}
    kept: dict[str, Any] = {}

    def train() -> None:
        kept["theta"] = ig.train(f, problem.lam).x

    def solve() -> None:
        kept["result"] = ig.implicit_grad(*problem.objectives(threads), theta, problem.lam)

    memory = {"training_MB": _common.peak_growth(train)}
    theta = kept["theta"]
    memory["hypergradient_MB"] = _common.peak_growth(solve)
    H, v = f.linearize(theta, problem.lam).hess, np.ones(len(theta))

    def fresh_gradient() -> Any:
        f, g = problem.objectives(threads)
        return lambda: ig.implicit_grad(f, g, theta, problem.lam)

    def fresh_training() -> Any:
        f, _ = problem.objectives(threads)
        return lambda: ig.train(f, problem.lam)

    work = dict(
        zip(TASKS, (_common.always(lambda: H @ v), fresh_gradient, fresh_training), strict=True)
    )
    spent = _common.interleave(work, 15, seconds=seconds, least=2, warm=True)
    X, result = problem.X, kept["result"]
    size = X.nbytes if isinstance(X, np.ndarray) else X.data.nbytes + X.indices.nbytes
    return {
        **{task: statistics.median(times) for task, times in spent.items()},
        **memory,
        "X_MB": 1e-6 * size,
        "method": result.method,
        "success": bool(result.success),
    }


if __name__ == "__main__":
    payload = _common.child_payload()
    if payload is None:
        main()
    else:
        print(json.dumps(child(payload)))
