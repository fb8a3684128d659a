"""What hyperparameters in the rows cost, beside as many penalties as features.

On one logistic problem: a certified hypergradient in n sample weights and `influence`, beside the
hypergradient in p penalties, at the same θ, in turns, nothing being reused from call to call. Cᵀq takes
a pass over X for weights and next to nothing for penalties, and the certificate asks for some; what a
pass takes is shown as well. Ratios within a round, medians over the rounds.

python bench/bench_hyper.py [--quick] [--json hyper.json]
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import _common
import implicitgrad as ig

QUIET = {"warn": False}


def problem(n: int, p: int) -> tuple[Any, Any, Any]:
    """The same training loss with penalties and with weights as λ, and an outer loss."""
    rng = np.random.default_rng(0)
    X, X_val = rng.standard_normal((n, p)), rng.standard_normal((n // 5, p))
    truth = rng.standard_normal(p) / np.sqrt(p)
    y, y_val = (A @ truth + 0.5 * rng.standard_normal(len(A)) > 0 for A in (X, X_val))
    strength = ig.L2("none", fixed=float(np.exp(-6.0)))
    weighted = ig.Logistic(X, y, penalty=strength, sample_weight=ig.SampleWeights("exp"))
    return ig.Logistic(X, y, penalty=ig.L2("feature")), weighted, ig.Logistic(X_val, y_val)


def work(n: int, p: int) -> dict[str, _common.Ready]:
    penalised, weighted, g = problem(n, p)
    strengths, ones = np.full(p, -6.0), np.zeros(n)
    theta = ig.train(penalised, strengths).x
    steps = itertools.count(1)

    def point() -> np.ndarray:  # another one each time, as the last is remembered
        return theta * (1 + 1e-14 * next(steps))

    def hypergradient(f: Any, lam: np.ndarray) -> _common.Ready:
        return _common.always(lambda: ig.implicit_grad(f, g, point(), lam, options=QUIET))

    H, v = penalised.linearize(theta, strengths).hess, np.ones(p)
    return {
        "p penalties": hypergradient(penalised, strengths),
        "n weights": hypergradient(weighted, ones),
        "influence": _common.always(
            lambda: ig.influence(penalised, g, point(), strengths, options=QUIET)
        ),
        "a pass": _common.always(lambda: H @ v),
    }


def main() -> None:
    args = _common.options(__doc__, "a smaller problem, a smoke run").parse_args()
    n, p = (4000, 50) if args.quick else (100_000, 500)
    times = _common.interleave(work(n, p), 3 if args.quick else 9, warm=True)
    print(f"logistic, {n} x {p}: time beside that of the hypergradient in p penalties")
    ratios = {name: _common.ratio(found, times["p penalties"]) for name, found in times.items()}
    for name, value in ratios.items():
        print(f"  {name:<12} {value:6.3f}")
    _common.write(args.json, {"n": n, "p": p, "ratios": ratios})


if __name__ == "__main__":
    main()
