"""Hypergradients and trainings beside other libraries, on the same problem to the same accuracy.

    python bench/peers.py [--quick] [--case main wide …] [--n 100000 --p 500] [--part hypergradient …]
                          [--threads 2] [--rounds 7] [--memory] [--construct] [--json peers.json]

hypergradient: dg/dλ of logistic regression with a penalty of 1e-3 per feature, columns scaled from 1
down to 0.03, to a relative 1e-6. Every library is given the same trained θ, whose exactness NumPy
verifies, and every answer is compared with a reference that shares no code with ours: H formed and
factored by NumPy and SciPy. A peer whose answer misses the tolerance is given a CG tolerance ten
times tighter until it does not; the one used is printed. Ours is certified (the default), on an f
and g on which nothing has been computed (their construction is timed as well with --construct), and
in a second row right after ig.train left f at that θ. Libraries take turns; times are medians, ratios
medians over the rounds. --memory: by how much the resident memory of a fresh process grows at most
during set-up (conversion, compilation) and one call, the data being there as NumPy arrays.

logistic, ridge: ig.train from zero with one penalty, λ = −log n (scikit-learn's C or alpha of 1),
beside scikit-learn's solvers, each with the loosest tolerance of a ladder that gets ‖∇f‖_∞ down to
1e-6 of its value at zero, as ours is asked to. Construction of our objective is timed.

Libraries that are not installed are skipped by name. Each has the same number of threads.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import _common

CASES = {  # n, p
    "main": (100_000, 500),
    "square": (20_000, 2000),
    "wide": (2000, 10_000),
    "tall": (1_000_000, 50),
}
PARTS = ("hypergradient", "logistic", "ridge")
TOL = 1e-6


def main() -> None:
    parser = _common.options(__doc__, "one small case, a smoke run")
    parser.add_argument("--case", nargs="+", choices=CASES, default=["main"])
    parser.add_argument("--n", type=int, default=None, help="rows, with --p instead of --case")
    parser.add_argument("--p", type=int, default=None, help="columns")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--peers", nargs="+", default=None, help="only names that hold one of these"
    )
    parser.add_argument("--rounds", type=int, default=7, help="at most; at least 3")
    parser.add_argument("--seconds", type=float, default=30, help="after which no round is begun")
    parser.add_argument("--memory", action="store_true", help="peak memory as well")
    parser.add_argument("--construct", action="store_true", help="time the construction of f and g")
    _common.add_threads(parser, 2)
    args = parser.parse_args()
    if (args.n is None) != (args.p is None):
        parser.error("--n and --p go together")
    _common.limit_threads(args.threads)

    cases = {name: CASES[name] for name in args.case}
    if args.n is not None:
        cases = {f"{args.n}x{args.p}": (args.n, args.p)}
    elif args.quick:
        cases = {"quick": (5000, 50)}
    if args.quick:
        args.rounds = 3
    run = {"hypergradient": hypergradient, "logistic": training, "ridge": training}
    rows = []
    for name, (n, p) in cases.items():
        for part in args.part:
            found = run[part](part, n, p, args)
            rows += [{"part": part, "case": name, "n": n, "p": p} | row for row in found]
    _common.write(args.json, {"threads": args.threads, "tol": TOL, "rows": rows})


def chosen(name: str, args: Any) -> bool:
    """Ours is always there, for the ratios."""
    return name == "implicitgrad" or not args.peers or any(part in name for part in args.peers)


def hypergradient(part: str, n: int, p: int, args: Any) -> list[dict[str, Any]]:
    import _peers
    import _problems

    problem = _problems.make(n, p)
    theta = problem.train()
    exact = _problems.reference(problem, theta)
    print(
        f"\nhypergradient, logistic {n} x {p}, {len(problem.y_val)} validation rows, "
        f"{args.threads} threads\n  theta: |grad f|_inf {exact.stationarity:.1e}, a Newton step from "
        f"it {exact.newton_step:.1e}; reference: residual {exact.residual:.1e}"
    )
    rows: dict[str, dict[str, Any]] = {}
    work: dict[str, _common.Ready] = {}
    for name, factory in _peers.PEERS.items():
        if not chosen(name, args):
            continue
        try:
            peer = factory(problem, theta, args.threads, args.construct)
        except ImportError as missing:
            print(f"  {name}: skipped, {missing}")
            continue
        rtol = TOL
        answer = peer.ready(rtol)()
        while peer.adjustable and exact.error(answer.grad) > TOL and rtol > 1e-13:
            rtol *= 0.1
            answer = peer.ready(rtol)()
        rows[name] = {
            "peer": name,
            "error": exact.error(answer.grad),
            "rtol": rtol if peer.adjustable else None,
            "products": answer.products,
            "note": answer.note,
            "compile_s": peer.compile_seconds,
        }
        work[name] = lambda peer=peer, rtol=rtol: peer.ready(rtol)
    seconds = _common.interleave(work, args.rounds, seconds=args.seconds)
    if args.memory:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "theta.bin")
            theta.tofile(path)
            for name, row in rows.items():
                ask = {"peer": name, "n": n, "p": p, "theta": path, "threads": args.threads}
                row["peak_MB"] = _common.in_child(__file__, ask)
    print(
        f"  {'':<26} {'seconds':>8} {'/ ours':>7} {'error':>8} {'cg rtol':>8} {'products':>8} "
        f"{'compile':>8} {'peak MB':>8}"
    )
    for name, row in rows.items():
        add_times(row, seconds, name)
        print(
            f"  {name:<26} {row['seconds']:8.3f} {row['of_ours']:7.2f} {row['error']:8.1e} "
            f"{show(row['rtol'], '.0e'):>8} {show(row['products']):>8} "
            f"{show(row['compile_s'], '.2f'):>8} {show(row.get('peak_MB'), '.0f'):>8}  {row['note']}"
            f"{'' if row['error'] <= TOL else '  MISSES THE TOLERANCE'}",
            flush=True,
        )
    return list(rows.values())


def add_times(row: dict[str, Any], seconds: dict[str, list[float]], name: str) -> None:
    row["rounds"] = len(seconds[name])
    row["seconds"] = statistics.median(seconds[name])
    row["of_ours"] = _common.ratio(seconds[name], seconds["implicitgrad"])


def show(value: Any, form: str = "") -> str:
    return "-" if value is None else format(value, form)


def training(part: str, n: int, p: int, args: Any) -> list[dict[str, Any]]:
    import numpy as np

    import _trainers

    case = _trainers.Case(part, n, p, args.threads, TOL)
    print(
        f"\n{part}, {n} x {p}, one penalty of 1/n, {args.threads} threads; "
        f"|grad f|_inf at zero {case.start:.1e}, wanted {case.goal:.1e}",
        flush=True,
    )
    rows: dict[str, dict[str, Any]] = {}
    work: dict[str, _common.Ready] = {}
    for name in case.names:
        if not chosen(name, args):
            continue
        try:
            found = case.calibrate(name, give_up=args.seconds / 3)
        except ImportError as missing:
            print(f"  {name}: skipped, {missing}")
            continue
        if not found.reached:
            print(
                f"  {name}: left out, the search for its tolerance was stopped after "
                f"{found.spent:.0f} s at |grad f|_inf {found.slope:.1e} (--seconds allows more)"
            )
            continue
        rows[name] = {
            "peer": name,
            "tol": found.tol,
            "slope": found.slope,
            "iterations": found.iterations,
        }
        work[name] = _common.always(lambda name=name, tol=found.tol: case.fit(name, tol))
    seconds = _common.interleave(work, args.rounds, seconds=args.seconds, least=1)
    print(f"  {'':<26} {'seconds':>8} {'/ ours':>7} {'tol':>8} {'|grad f|':>8} {'iterations':>10}")
    for name, row in rows.items():
        add_times(row, seconds, name)
        print(
            f"  {name:<26} {row['seconds']:8.3f} {row['of_ours']:7.2f} {show(row['tol'], '.0e'):>8} "
            f"{row['slope']:8.1e} {show(row['iterations']):>10}",
            flush=True,
        )
    peers = {name: seconds[name] for name in rows if name != "implicitgrad"}
    if peers and "implicitgrad" in rows:
        fastest = min(peers, key=lambda name: float(np.median(peers[name])))
        print(f"  fastest peer measured / ours: {rows[fastest]['of_ours']:.2f} ({fastest})")
    return list(rows.values())


def child(ask: dict[str, Any]) -> None:
    """Peak memory of one library, in a process of its own."""
    _common.limit_threads(ask["threads"])
    import json

    import numpy as np

    import _peers
    import _problems

    problem, theta = _problems.make(ask["n"], ask["p"]), np.fromfile(ask["theta"])
    factory, small = _peers.PEERS[ask["peer"]], _problems.make(50, 3)
    # Imports and the libraries' own pools are not counted.
    factory(small, np.zeros(3), ask["threads"], False).ready(TOL)()

    def whole() -> None:
        factory(problem, theta, ask["threads"], False).ready(TOL)()

    print(json.dumps(_common.peak_growth(whole)))


if __name__ == "__main__":
    payload = _common.child_payload()
    if payload is None:
        main()
    else:
        child(payload)
    sys.exit(0)
