"""A weight decay for every weight of a network, tuned while it is trained, on a part of MNIST.

784-64-10, 1,000 rows to train on and 1,000 to tune on, about 51,000 log strengths, by
``minimize(..., method="alternating")``: Adam on minibatches for θ, Adam for λ. After some steps of λ:
loss and accuracy on the rows that tune (g) and on the 10,000 of the test, at the θ of the loop; and
beside the loop's own gradient, the certified one at a θ that was trained further: cosine, ratio of
norms, the certificate's status, g there. Without a floor under the strengths f has directions so flat
that bounded training does not reach a minimum, so that there is no certificate (status 2); with one
there is. The same network with one fixed strength, trained by as many steps, stands beside.

    python bench/bench_alternating.py [--quick] [--data FOLDER] [--threads 2] [--json alternating.json]
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import _common

ROWS, HIDDEN, START = 1000, (64,), -4.0
OPTIONS = {
    "inner_steps": 5,
    "warmup": 200,
    "batch_size": 100,
    "terms": 10,
    "maxiter": 100,
    "warn": False,
}
# The least strengths, and the checks there.
FLOORS = {0.0: {"check_every": 100}, 0.03: {"check_every": 50, "check_maxiter": 400}}


def main() -> None:
    parser = _common.options(__doc__, "few steps, a smoke run")
    _common.add_threads(parser, len(os.sched_getaffinity(0)))
    parser.add_argument("--data", default=None, help="the folder that holds mnist/")
    args = parser.parse_args()
    _common.limit_threads(args.threads)
    from _files import data_folder

    folder = data_folder(args.data)
    quick = {"maxiter": 10, "check_maxiter": 20} if args.quick else {}
    report = [
        tune(folder, floor, {**OPTIONS, **checks, **quick}, args.threads)
        for floor, checks in FLOORS.items()
    ]
    _common.write(args.json, {"threads": args.threads, "found": report})


def tune(folder: Path, floor: float, options: dict[str, Any], threads: int) -> dict[str, Any]:
    import numpy as np

    import implicitgrad as ig
    from _files import mnist

    X, y = mnist(folder, "train", 2 * ROWS)
    shape = {"hidden": HIDDEN, "n_classes": 10, "n_threads": threads}
    f = ig.MLP(X[:ROWS], y[:ROWS], penalty=ig.L2("parameter", fixed=floor), **shape)
    g = ig.MLP(X[ROWS:], y[ROWS:], **shape)
    test = ig.MLP(*mnist(folder, "t10k", 10_000), **shape)
    lam, seen = np.full(f.n_lam, START), []
    print(f"{f.n_theta} weights and biases, {f.n_lam} strengths above {floor}, {threads} threads")
    print(", ".join(f"{name} {value}" for name, value in options.items()))

    def accuracy(objective: Any, theta: np.ndarray) -> float:
        (W1, b1), (W2, b2) = f.unravel(theta)
        outputs = np.tanh(objective.X @ W1 + b1) @ W2 + b2
        return float(np.mean(outputs.argmax(1) == objective.y))

    def show(name: str, theta: np.ndarray, check: Any = None) -> None:
        losses = [part(o, theta) for o in (g, test) for part in (lambda o, t: o.fun(t), accuracy)]
        row = "{:8.4f} {:8.4f} {:8.4f} {:8.4f}".format(*losses)
        if check is not None:
            row += f" {check.cosine:8.3f} {check.ratio:9.2e} {check.status:6d} {check.fun:8.4f}"
        print(f"{name:>18} {time.perf_counter() - begin:7.1f} {row}", flush=True)
        seen.append([name, *losses])

    def watch(intermediate_result: Any) -> None:
        state = intermediate_result
        if state.nit % 20 == 0 or "check" in state:
            show(str(state.nit), state.theta, state.get("check"))

    titles = ("g", "accuracy", "test", "accuracy", "cosine", "ratio", "status", "g there")
    print(("{:>18} {:>7} " + 5 * "{:>8} " + "{:>9} {:>6} {:>8}").format("steps", "s", *titles))
    begin = time.perf_counter()
    fixed = ig.MLP(X[:ROWS], y[:ROWS], penalty=ig.L2(fixed=floor), **shape)
    rest = {"batch_size": options["batch_size"]}
    steps = options["warmup"] + options["inner_steps"] * options["maxiter"]
    for strength in (START, START - 2):
        trained = ig.train(fixed, [strength], maxiter=steps, method="adam", options=rest)
        show(f"fixed, {strength:g}", trained.x)

    begin, found = time.perf_counter(), []

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ig.ImplicitGradWarning)
            found.append(
                ig.minimize(
                    *(f, g, lam),
                    method="alternating",
                    bounds=[(-7.0, 2.0)] * f.n_lam,
                    callback=watch,
                    options=options,
                )
            )

    grown = _common.peak_growth(run)
    result = found[0]
    show("end, trained on", result.theta)
    spread = np.percentile(result.x, [0, 10, 50, 90, 100])
    print(f"{result.message} {result.nhev} Hessian-vector products, {result.nfev} checks.")
    print(f"The last check: {result.checks[-1].message}")
    print(f"strengths, percentiles 0 10 50 90 100: {np.array2string(spread, precision=2)}")
    print(f"memory grew by {grown:.0f} MB, {1e6 * grown / 8 / f.n_theta:.0f} times θ")
    print()
    return {"floor": floor, "rows": seen, "memory_mb": grown, "n_lam": f.n_lam}


if __name__ == "__main__":
    main()
