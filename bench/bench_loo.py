"""What the leave-one-out loss costs, beside scikit-learn's RidgeCV with its one penalty.

Each row times, in turns: RidgeCV(alphas=[alpha], cv=None), which fits and computes the leave-one-out
errors at that alpha; the least-squares loss of `leave_one_out` with both gradients, at first and again
at another λ, when what does not depend on λ is known; the same with a penalty per feature, whose
gradient has as many entries; and a whole `implicit_grad` at a θ near θ⋆. Ratios to RidgeCV within a
round, medians over the rounds: below 1 is faster.

python bench/bench_loo.py [--quick] [--json loo.json]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeCV

import _common
import implicitgrad as ig

SHAPES = [(2000, 200), (500, 2000)]


def work(n: int, p: int) -> tuple[dict[str, _common.Ready], float]:
    """The calls to time, and the relative difference of the two libraries' losses."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p))
    y = X[:, :10].sum(1) + rng.standard_normal(n)
    strength = 0.1
    lam = np.log([strength])
    calls: dict[str, _common.Ready] = {}

    def ridge() -> Any:
        model = RidgeCV(alphas=[n * strength], fit_intercept=True, store_cv_results=True)
        return model.fit(X, y)

    calls["RidgeCV"] = _common.always(ridge)
    found = {}
    for name, per in (("one penalty", "all"), ("per feature", "feature")):
        f, g = make(X, y, per)
        at = np.full(f.n_lam, lam[0])
        theta = ig.train(f, at).x
        found[name] = g.fun(theta, at)
        calls[f"{name}, first"] = fresh(X, y, per, theta, at)
        calls[f"{name}, again"] = moving(lambda x, g=g, theta=theta: g.linearize(theta, x), at)
        calls[f"{name}, implicit_grad"] = moving(
            lambda x, f=f, g=g, theta=theta: ig.implicit_grad(f, g, theta, x), at
        )
    want = 0.5 * float(ridge().cv_results_.mean())
    return calls, max(abs(v - want) / want for v in found.values())


def make(X: np.ndarray, y: np.ndarray, per: str) -> tuple[Any, Any]:
    return ig.leave_one_out(ig.LeastSquares, X, y, penalty=ig.L2(per), fit_intercept=True)


def moving(call: Callable[[np.ndarray], Any], lam: np.ndarray) -> _common.Ready:
    """A call at another λ each time, as the last point is remembered."""
    steps = itertools.count(1)
    return _common.always(lambda: call(lam * (1 + 1e-13 * next(steps))))


def fresh(X: np.ndarray, y: np.ndarray, per: str, theta: Any, lam: Any) -> _common.Ready:
    return _common.always(lambda: make(X, y, per)[1].linearize(theta, lam))


def main() -> None:
    args = _common.options(__doc__, "smaller and fewer, a smoke run").parse_args()
    rows = []
    for n, p in [(200, 50), (50, 200)] if args.quick else SHAPES:
        calls, difference = work(n, p)
        times = _common.interleave(calls, 3 if args.quick else 15, warm=True)
        print(f"{n} x {p}, losses agree to {difference:.1e}")
        print(f"  {'':<30} {'/ RidgeCV':>9}")
        for name in list(calls)[1:]:
            value = _common.ratio(times[name], times["RidgeCV"])
            rows.append({"n": n, "p": p, "work": name, "ratio": value, "difference": difference})
            print(f"  {name:<30} {value:9.3f}")
    _common.write(args.json, {"rows": rows})


if __name__ == "__main__":
    main()
