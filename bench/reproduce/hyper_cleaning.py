"""Hyper-cleaning: a weight for each of 20,000 MNIST images, a tenth of whose labels are wrong.

Ehrhardt and Roberts (2023): softmax regression with a column of ones, f = (1/n) Σ σ(λ_i) ℓ_i +
0.001 ‖θ‖² on the first 20,000 images, g the mean loss on the first 5,000 of the test files, λ = 0 at
the start; gradient descent in λ with step 10 brings g from 0.569 to 0.455 in 100,000 iterations of
FISTA and CG together, 3,862 steps, 56 minutes: the budget, of which g ≤ 0.456 took some unpublished
part. Their noise is not ours, which replaces exactly 2,000 labels by other ones. The other 5,000 test
images are the test here.

1. The first adjoint, by plain CG and by the Neumann series with the step 1 / 44.79 (theirs, from a
   bound on the curvature) and with 1/λmax(H) as measured, to residuals of 0.1 and 0.01 in norm, not
   relative to ∇g; where 6,661 iterations do not suffice, the residual after them. Then the library's
   own choice, certified.
2. minimize(method="inexact") in λ: L-BFGS where they descend. Minutes until g ≤ 0.456, with training
   at the start; then on, until the gradient is small. A step of L-BFGS may take several evaluations
   of the hypergradient.
3. Which labels are corrupted: those of the least weights.

    python bench/reproduce/hyper_cleaning.py [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

import _protocol
import implicitgrad as ig
from _protocol import QUIET, Images

NOISE, DECAY, STEP, GOAL = 0.1, 0.002, 1 / 44.79, 0.456
MOST = 6661  # iterations of a solve, the most that were published


class Problem(NamedTuple):
    f: ig.Softmax
    g: ig.Softmax
    corrupted: np.ndarray
    test: Images


def problem(args: Any) -> Problem:
    if args.quick:
        train, val, test = _protocol.images(args, 100, 100)
    else:
        train, both = (
            _protocol.mnist(args, *part) for part in (("train", 20_000), ("t10k", 10_000))
        )
        val, test = both.rows(0, 5000), both.rows(5000)
    rng = np.random.default_rng(0)
    n = len(train.y)
    corrupted = np.zeros(n, bool)
    corrupted[rng.permutation(n)[: round(NOISE * n)]] = True
    labels = np.where(corrupted, (train.y + rng.integers(1, 10, n)) % 10, train.y)
    train, val, test = (
        Images(np.hstack([part.X, np.ones((len(part.y), 1))]), part.y)
        for part in (train, val, test)
    )
    f = ig.Softmax(
        *(train.X, labels),
        penalty=ig.L2("none", fixed=DECAY),
        sample_weight=ig.SampleWeights("sigmoid"),
        n_classes=10,
    )
    return Problem(f, ig.Softmax(*val, n_classes=10), corrupted, test)


def first_solve(p: Problem, theta: np.ndarray, table: _protocol.Published) -> None:
    lam = np.zeros(p.f.n_lam)
    size = float(np.linalg.norm(p.g.linearize(theta).jac))
    solvers: list[tuple[str, str, dict[str, Any], dict[float, str]]] = [
        ("CG", "cg", {"preconditioner": "none"}, {0.1: "6", 0.01: "21–24"}),
        ("Neumann, step 1/44.79", "neumann", {"step_size": STEP}, {0.1: "236", 0.01: "6661"}),
        ("Neumann, step 1/λmax(H)", "neumann", {}, {0.1: "", 0.01: ""}),
    ]
    for name, method, own, goals in solvers:
        for goal, published in goals.items():
            options = {**QUIET, **own, "stop": goal, "polish": False, "certify": False}
            options["maxiter"] = MOST
            res = ig.implicit_grad(p.f, p.g, theta, lam, method=method, options=options)
            reached = res.residual * size <= goal
            most = int(published.split("–")[-1]) if published else None
            same = reached and res.nit <= most if most else None
            ours = str(res.nit) if reached else f"{res.residual * size:.3f} at {res.nit}"
            table.row(f"{name}: iterations to {goal}", published, ours, same)
    res = ig.implicit_grad(p.f, p.g, theta, lam, options=QUIET)
    print(f"  default: {res.method}, {res.nhev} products, {_protocol.certificate(res)}")


def found(corrupted: np.ndarray, suspicion: np.ndarray) -> str:
    """The share of corrupted labels among as many of the highest suspicion (of equal ones, the mean),
    and how often a corrupted label is more suspicious than a clean one."""
    count = int(corrupted.sum())
    ranks = rankdata(suspicion)
    least = np.sort(suspicion)[-count]
    above, equal = suspicion > least, suspicion == least
    hits = corrupted[above].sum() + (count - above.sum()) * corrupted[equal].mean()
    wins = (ranks[corrupted].sum() - count * (count + 1) / 2) / (count * (len(ranks) - count))
    return f"{hits / count:.1%} (more suspicious than a clean one: {wins:.1%})"


def tune(p: Problem, theta: np.ndarray, clock: _protocol.Clock, table: _protocol.Published) -> None:
    lam, start = np.zeros(p.f.n_lam), p.g.fun(theta)
    reached: list[tuple[float, Any]] = []

    def watch(intermediate_result: Any) -> None:
        seconds = clock.stop()
        if intermediate_result.fun <= GOAL and not reached:
            reached.append((seconds, intermediate_result))
        clock.go()

    table.row("g at the start", "0.569", f"{start:.3f}", abs(start - 0.569) <= 0.01)
    # The entries of dg/dλ are of the order of 1 / n: no larger than 1.5e-4 at the start.
    res = ig.minimize(
        *(p.f, p.g, lam, theta, "inexact"),
        bounds=[(-10, 10)] * lam.size,
        tol=1e-6,
        callback=watch,
        options={**QUIET, "maxiter": 100},
    )
    seconds = clock.stop()
    if reached:
        s, there = reached[0]
        table.row(f"g ≤ {GOAL}: minutes", "within 56", f"{s / 60:.2f}", s <= 56 * 60)
        table.row("  steps in λ", "within 3862", str(there.nit), there.nit <= 3862)
        table.row("  evaluations of the hypergradient", "", str(there.nfev))
        table.row("  Hessian-vector products", "", str(there.nhev))
    else:
        table.row(f"g ≤ {GOAL}: minutes", "within 56", "never", False)
    table.row("g at the end", "0.455", f"{res.fun:.3f}", res.fun <= GOAL)
    table.row("  minutes", "56", f"{seconds / 60:.2f}")
    table.row("  steps in λ", "3862", str(res.nit))
    table.row("  evaluations of the hypergradient", "", str(res.nfev))
    table.row("  Hessian-vector products", "", str(res.nhev))
    print(f"  {res.message}\n  {_protocol.certificate(res.hypergradient)}")
    influence = ig.influence(p.f, p.g, theta, lam, options=QUIET).influence
    print("  Corrupted labels among as many of the most suspicious")
    print(f"    by influence, before any tuning: {found(p.corrupted, influence)}")
    at = {"at the start": (lam, theta)}
    if reached:
        at[f"at g ≤ {GOAL}"] = there.x, there.theta
    at["at the end"] = res.x, res.theta
    for name, (x, model) in at.items():
        low = [np.mean(x[rows] < 0) for rows in (p.corrupted, ~p.corrupted)]
        print(
            f"  {name}: accuracy on 5,000 test images {_protocol.accuracy(p.f, model, p.test):.4f}"
        )
        if name != "at the start":
            print(f"    least weights: {found(p.corrupted, -x)}")
            print(
                f"    weights below ½: of {low[0]:.1%} corrupted labels, of {low[1]:.1%} clean ones"
            )


def main(args: argparse.Namespace) -> None:
    p = problem(args)
    table = _protocol.Published(args)
    clock = _protocol.Clock()
    theta = ig.train(p.f, np.zeros(p.f.n_lam)).x
    clock.stop()
    first_solve(p, theta, table)
    clock.go()
    tune(p, theta, clock, table)


if __name__ == "__main__":
    _protocol.run(main, __doc__)
