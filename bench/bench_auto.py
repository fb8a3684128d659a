"""Whether method="auto" chooses well: every fixed method beside it, over shapes and conditioning.

    python bench/bench_auto.py [--quick] [--case 20000x200 …] [--loss logistic squared]
                               [--kappa easy scaled correlated] [--threads 2] [--json auto.json]

A certified hypergradient to a relative 1e-6, on an f and g on which nothing has been computed. "easy":
columns of one scale, a penalty of 0.1 per feature; "scaled": scales from 1 down to 0.03, a penalty of
1e-5; "correlated": the same, each column with a correlation of 0.98 with its neighbour. Methods
take turns; those that do not succeed, or whose first call took five times as long as the fastest, are
named and left out of the turns. The last column is auto over the best fixed method, a median over the
rounds (wanted: at most 1.3).
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import _common

SHAPES = [
    *[(200, 10), (2000, 100), (20_000, 200), (100_000, 500), (20_000, 2000), (2000, 5000)],
    *[(500, 20_000), (200_000, 50)],
]
SPARSE = [(100_000, 1000, 10), (20_000, 20_000, 30)]  # n, p, entries a row
CASES = {f"{n}x{p}": (n, p, None) for n, p in SHAPES}
CASES |= {f"{n}x{p}, {k} a row": (n, p, k) for n, p, k in SPARSE}
# Smallest scale, strength, correlation of neighbouring columns.
KAPPA = {"easy": (1.0, 0.1, 0.0), "scaled": (0.03, 1e-5, 0.0), "correlated": (0.03, 1e-5, 0.98)}
# The fixed choices: method and preconditioner.
FIXED = {
    "cholesky": ("cholesky", "auto"),
    "jacobi": ("cg", "jacobi"),
    "sketch": ("cg", "sketch"),
    "gram": ("cg", "gram"),
    "minres": ("minres", "auto"),
}
LARGEST_FACTOR = 5000  # features beyond which H is not formed for the comparison
TARGET = 1.3


def main() -> None:
    parser = _common.options(__doc__, "the three smallest shapes, a smoke run")
    parser.add_argument("--case", nargs="+", choices=CASES, default=None)
    parser.add_argument("--loss", nargs="+", default=["logistic", "squared"])
    parser.add_argument("--kappa", nargs="+", choices=KAPPA, default=list(KAPPA))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=5, help="of turns for each problem")
    _common.add_threads(parser, 2)
    args = parser.parse_args()
    _common.limit_threads(args.threads)
    names = args.case or (list(CASES)[:3] if args.quick else list(CASES))
    if args.quick:
        args.rounds, args.seconds = 5, 0.5
    fixed = list(FIXED)
    print(
        f"milliseconds (medians), {args.threads} threads; (n): not in the turns, first call or why"
    )
    print(f"{'problem':<38}" + "".join(f"{m:>11}" for m in (*fixed, "auto")) + f"{'auto/best':>11}")
    rows = []
    for name in names:
        for loss in args.loss:
            for kappa in args.kappa:
                row = compare(name, loss, kappa, fixed, args)
                if row:
                    rows.append(row)
    over = [row for row in rows if not row["of_best"] <= TARGET]
    print(f"{len(rows) - len(over)} of {len(rows)} problems within {TARGET} of the best")
    _common.write(args.json, {"threads": args.threads, "rows": rows})


def compare(name: str, loss: str, kappa: str, fixed: list[str], args: Any) -> dict[str, Any] | None:
    import _problems
    import implicitgrad as ig

    (n, p, per_row), (smallest, strength, near) = CASES[name], KAPPA[kappa]
    title = f"{name} {loss} {kappa}"
    if near and per_row is not None:
        return None
    problem = _problems.make(
        n, p, loss, smallest=smallest, strength=strength, per_row=per_row, correlation=near
    )
    try:
        theta = problem.train()
    except (TypeError, ValueError) as refused:
        print(f"{title:<38} skipped, {refused}")
        return None

    def ready(method: str, limit: float | None = None) -> Any:
        """One hypergradient; a solve that runs over its limit in seconds is stopped."""
        f, g = problem.objectives(args.threads)
        begin = time.perf_counter()

        def watch(intermediate_result: Any) -> None:
            if limit is not None and time.perf_counter() - begin > limit:
                raise StopIteration

        way, preconditioner = FIXED.get(method, ("auto", "auto"))
        given: dict[str, Any] = {"options": {"warn": False, "preconditioner": preconditioner}}
        if limit is not None:
            given["callback"] = watch
        return lambda: ig.implicit_grad(f, g, theta, problem.lam, way, **given)

    probes: dict[str, float] = {}
    why: dict[str, str] = {}
    chosen = ready("auto")().method  # untimed: the first call of all
    for method in ("auto", *fixed):
        if method == "cholesky" and p > LARGEST_FACTOR:
            why[method] = "large"
            continue
        limit = None if method == "auto" else max(0.2, 5 * probes["auto"])
        begin = time.perf_counter()
        result = ready(method, limit)()
        probes[method] = time.perf_counter() - begin
        if not result.success:
            why[method] = "slow" if result.status == 99 else f"status {result.status}"
    rivals = {method: t for method, t in probes.items() if method not in why}
    close = [m for m, t in rivals.items() if t <= 5 * min(rivals.values()) or m == "auto"]
    seconds = _common.interleave(
        {method: lambda method=method: ready(method) for method in close},
        args.rounds,
        seconds=args.seconds,
        warm=max(probes[method] for method in close) < 0.05,
    )
    best = min(
        (method for method in seconds if method != "auto"),
        key=lambda method: statistics.median(seconds[method]),
        default=None,
    )
    cells = []
    for method in (*fixed, "auto"):
        if method in seconds:
            cells.append(f"{1e3 * statistics.median(seconds[method]):.2f}")
        else:
            cells.append(f"({why.get(method) or f'{1e3 * probes[method]:.0f}'})")
    of_best = _common.ratio(seconds["auto"], seconds[best]) if best else float("nan")
    print(
        f"{title:<38}" + "".join(f"{cell:>11}" for cell in cells) + f"{of_best:11.2f}"
        f"  {chosen}, best {best}",
        flush=True,
    )
    return {
        "case": name,
        "loss": loss,
        "kappa": kappa,
        "chosen": chosen,
        "best": best,
        "seconds": {method: statistics.median(times) for method, times in seconds.items()},
        "first_call": probes,
        "left_out": why,
        "of_best": of_best,
    }


if __name__ == "__main__":
    main()
