"""How good the error estimates are, on any number of random problems.

    python bench/calibration.py --problems 100000 --processes 2 --picture calibration.png
    python bench/calibration.py --networks --problems 3000
    python bench/calibration.py --lanes --problems 20000
    python bench/calibration.py --one 1234

Problems, oracles and counts come from generator.py, generator_networks.py, generator_lanes.py,
oracle.py, oracle_networks.py and scoring.py in tests/. True errors are known up to the oracle's own
error, which is measured: a verdict (missed, violated, false) is given only where that leaves no doubt,
ratios only where the true error is above four times it, and problems where it exceeds a tenth of what it
is to judge are listed as "oracle too coarse".
"""

import argparse
import json
import os
import sys
import time
from collections import Counter, defaultdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # the problems are tiny: parallel over problems only

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import scoring  # noqa: E402
from oracle import DIGITS, double  # noqa: E402

CLASSES = (
    *("method", "source", "condition", "offset", "tol", "polish", "loss", "outer", "penalty"),
    *("ill by", "shape", "columns", "scales", "intercept", "weights", "status"),
    *("lane", "placed", "checked by", "size", "rows"),
    *("at", "activation", "hidden layers", "precision"),
)
HEAD = (
    f"{'':28} {'n':>7} {'covered':>8} {'median':>7} {'above':>7} {'bounded':>8} {'broken':>6} "
    f"{'success':>8} {'false':>6} {'>3x':>5} {'refused':>13} {'infinite':>14} {'rightly':>7} "
    f"{'coarse':>6}"
)
LEGEND = """
covered   share of the finite estimates with true error <= 3 x estimate            (goal >= 99.5 %)
median    of estimate / true error, where the true error is resolved               (goal 0.7 ... 1.5)
above     the same, where the true error is above the rounding level, the default of atol
bounded   share with a finite error_bound; broken: how many were violated          (goal 0)
success   share; false: true error above max(tol |grad|, atol), or no exact answer (goal 0); > 3 x that
refused   of those where success was attainable: the exact theta, condition <= 1e8, tol >= 1e-6, and
          a method that can                                                        (goal <= 1 %)
infinite  estimates, where the theorem applies and no fixed number of terms was asked for
          (goal <= 2 %); rightly: H indefinite, or singular to double precision
coarse    the oracle's own error is above a tenth of what it is to judge
"""


def line(name, s):
    percent = lambda part, whole: f"{100 * part / whole:.2f}%" if whole else "-"  # noqa: E731
    number = lambda v: f"{v:.3g}" if np.isfinite(v) else "-"  # noqa: E731
    with_share = lambda part, whole: (  # noqa: E731
        f"{part}/{whole} {percent(part, whole) if part else ''}".strip()
    )
    return (
        f"{name[:28]:28} {s.n:7d} {percent(s.finite - len(s.missed), s.finite):>8} "
        f"{number(s.median):>7} {number(s.median_above):>7} {percent(s.bounded, s.n):>8} "
        f"{len(s.bound_violated):6d} {percent(s.success, s.n):>8} {len(s.false_success):6d} "
        f"{len(s.false_success_3):5d} {with_share(len(s.refused), s.attainable):>13} "
        f"{with_share(len(s.infinite), s.applying):>14} {len(s.infinite_rightly):7d} "
        f"{len(s.coarse):6d}"
    )


def table(records):
    print(HEAD)
    print(line("all", scoring.summarise(records)))
    for name in CLASSES:
        if not any(name in record.traits for record in records):
            continue
        groups = defaultdict(list)
        for record in records:
            groups[record.traits.get(name, "-")].append(record)
        print(f"{name}:")
        for key in sorted(groups, key=_order):
            print(line("  " + key, scoring.summarise(groups[key])))
    print(LEGEND)


def _order(key):
    return (key.startswith("≥"), key.startswith(">"), key) if key != "-" else (True, True, key)


def verdict(s):
    """The goals, and whether they are met."""
    goals = scoring.GOALS
    low, high = goals["median"]
    rows = [
        ("true error <= 3 x estimate", s.covered, s.covered >= goals["covered"]),
        ("median estimate / true error", s.median, low <= s.median <= high),
        ("error_bound violated", len(s.bound_violated), not s.bound_violated),
        ("false success", len(s.false_success), not s.false_success),
        ("false success by 3", len(s.false_success_3), not s.false_success_3),
        ("refused though attainable", s.refused_share, s.refused_share <= goals["refused"]),
        ("exceptions", len(s.raised), not s.raised),
        ("infinite estimates", s.infinite_share, s.infinite_share <= goals["infinite"]),
    ]
    for name, value, met in rows:
        print(f"{'ok  ' if met else 'FAIL'} {name}: {value:.5g}")
    print(
        f"     of these from a theta that Newton's full step does not improve: {len(s.infinite_far)}"
    )
    print(
        f"     true errors below the oracle's resolution (left out of the median): {s.unresolved}"
    )


def offenders(s, most):
    """Seeds to look at, worst first."""

    def show(title, records, key, columns):
        if records:
            print(f"\n{title}: {len(records)}")
            for r in sorted(records, key=key, reverse=True)[:most]:
                found = "  ".join(f"{name} {getattr(r, name):.2e}" for name in columns)
                t = r.traits
                print(
                    f"  {r.seed:8d}  {found}  offset {r.offset:.0e}  condition {r.condition:.0e}"
                    f"  status {r.status}  {t['method']}, {t['source']}, {t['loss']}"
                    f"{'' if t['polish'] == 'True' else ', no polish'}"
                    f"{', ' + t['lane'] if 'lane' in t else ''}"
                )

    near = [r for r in s.infinite if not r.far]
    by_message = Counter((r.status, " ".join(r.message.split()[:6])) for r in near)
    show("raised", s.raised, lambda r: -r.seed, ())
    for r in s.raised[:most]:
        print(f"  {r.seed:8d}  {r.raised}")
    both = ("truth", "estimate")
    show("missed", s.missed, lambda r: r.truth / max(r.estimate, 1e-300), both)
    show(
        *("bound violated", s.bound_violated),
        *(lambda r: r.truth / max(r.bound, 1e-300), ("truth", "bound")),
    )
    show(
        *("false success", s.false_success),
        *(lambda r: r.truth / max(r.allowed, 1e-300), (*both, "allowed")),
    )
    show("refused", s.refused, lambda r: -r.condition, (*both, "allowed", "plain"))
    show("infinite, from a theta not far off", near, lambda r: -r.condition, ("truth", "allowed"))
    for (status, text), count in by_message.most_common():
        print(f"    {count:6d}  status {status}: {text} ...")
    show("oracle too coarse", s.coarse, lambda r: r.oracle, (*both, "oracle"))


def replay(seed, run):
    """One problem with everything that is known about it."""
    record, problem, oracle, result = run(seed, keep=True)
    print(f"seed {seed}: {problem.kind}, source {problem.source}")
    for name, value in record.traits.items():
        print(f"  {name:12} {value}")
    inner = problem.inner
    if hasattr(inner, "widths"):
        print(
            f"  {inner.widths}, {len(inner.X)} rows, outer {len(problem.outer.X)}, lam {problem.lam}"
        )
    elif hasattr(inner, "X"):
        n, p = inner.X.shape
        print(f"  inner {inner.loss} {n} x {p}, outer {problem.outer.X.shape}, lam {problem.lam}")
    print(f"  method {problem.method!r} {problem.strategy}, tol {problem.tol}, {problem.options}")
    for name in (
        *("condition", "scaled_condition", "offset", "size", "floor", "plain", "truth", "oracle"),
        *("estimate", "bound", "allowed"),
    ):
        print(f"  {name:18} {getattr(record, name):.6e}")
    verdicts = {
        "missed": record.missed,
        "bound violated": record.bound_violated,
        "false success": record.false_success(),
        "refused": record.refused,
        "applies": record.applies,
        "attainable": record.attainable,
        "far": record.far,
    }
    print(f"  {verdicts}")
    if record.raised:
        print(f"  raised {record.raised}")
    if oracle is not None:
        np.set_printoptions(precision=17, linewidth=120)
        print(f"  exact  {double(oracle.grad)}")
    if result is not None:
        print(f"  grad   {result.grad}\n\n{result}")


def picture(records, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # Errors in units of the gradient, so that scales of X, y and g do not spread the picture.
    shown = [r for r in records if r.finite and r.known and r.size > 0 and r.truth > 0]
    x = np.array([r.truth / r.size for r in shown])
    y = np.array([max(r.estimate / r.size, 1e-22) for r in shown])
    figure, axes = plt.subplots(1, 3, figsize=(19, 6.5), sharex=True, sharey=True)
    span = np.array([1e-20, 1e6])
    for axis, name in zip(axes, ("method", "condition", "offset"), strict=True):
        keys = sorted({r.traits[name] for r in shown}, key=_order)
        colours = plt.get_cmap("tab20" if name == "method" else "viridis")
        for k, key in enumerate(keys):
            here = np.array([r.traits[name] == key for r in shown])
            colour = colours(k % 20 if name == "method" else k / max(len(keys) - 1, 1))
            axis.plot(x[here], y[here], ".", ms=2, alpha=0.5, color=colour, label=key)
        axis.plot(span, span, "k-", lw=0.8)
        axis.plot(span, span / 3, "k--", lw=0.8)
        axis.set(xscale="log", yscale="log", xlim=span, ylim=span, title=f"by {name}")
        axis.set_xlabel("true error / |dg/dlam|")
        axis.legend(markerscale=5, fontsize=7, loc="upper left")
    axes[0].set_ylabel("estimate / |dg/dlam|   (dashed: a third of the true error)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="the first problem's seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--worst", type=int, default=12, help="offenders listed of each kind")
    parser.add_argument("--json", type=Path, help="write every record here, one a line")
    parser.add_argument("--picture", type=Path, help="draw estimate against truth")
    parser.add_argument(
        "--lanes", action="store_true", help="other problems, each by CG with every preconditioner"
    )
    parser.add_argument("--networks", action="store_true", help="small networks, also at saddles")
    parser.add_argument("--one", type=int, metavar="SEED", help="replay one problem verbosely")
    args = parser.parse_args()
    of_one = scoring.run_network if args.networks else scoring.run
    if args.one is not None:
        replay(args.one, of_one)
        return
    started = time.perf_counter()
    seeds = range(args.seed, args.seed + args.problems)
    run = scoring.run_lanes if args.lanes else of_one
    if args.processes > 1:
        with get_context("spawn").Pool(args.processes) as pool:
            found = list(pool.imap(run, seeds, chunksize=20))
    else:
        found = list(map(run, seeds))
    records = [record for lanes in found for record in lanes] if args.lanes else found
    wall = time.perf_counter() - started
    summary = scoring.summarise(records)
    table(records)
    verdict(summary)
    if args.lanes:
        for lane in scoring.LANES:
            print(f"\n{lane}:")
            verdict(scoring.summarise([r for r in records if r.traits["lane"] == lane]))
    offenders(summary, args.worst)
    mean = partial(np.mean, dtype=float)
    print(
        f"\n{len(records)} problems in {wall:.0f} s; a problem takes the oracle "
        f"{1e3 * mean([r.oracle_seconds for r in records]):.1f} ms "
        f"({100 * mean([r.digits == DIGITS for r in records]):.0f} % with "
        f"{DIGITS} digits), the library {1e3 * mean([r.seconds for r in records]):.1f} ms"
    )
    if args.json:
        with args.json.open("w") as file:
            for record in records:
                file.write(json.dumps(scoring.to_json(record)) + "\n")
    if args.picture:
        picture(records, args.picture)


if __name__ == "__main__":
    main()
