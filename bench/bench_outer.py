"""Outer methods side by side: what each spends to bring the outer gradient below gtol.

For every case the HVPs (training, solves and certificates), linearisations (of f and g, a pass over
the data each), outer iterations, the final outer loss, and the time as a ratio to L-BFGS-B with its
fixed tight tolerances. All take turns in every round, so that whatever else the machine does hits all
of them, and ratios are medians of the rounds' own. "share" is the method's HVPs over those of L-BFGS-B.
Adam and plain descent stop after a number of steps, mostly far from the tolerance, and say so (status
1); their learning rates are set by hand.

    python bench/bench_outer.py [--quick] [--threads 2] [--rounds 3] [--only NAME]
                                [--methods L-BFGS-B,inexact] [--json outer.json]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import _common

BOUNDS = (-10.0, 10.0)
STEPS = 100  # of gd and adam
METHODS: dict[str, dict[str, Any]] = {
    "L-BFGS-B": {},
    "inexact": {},
    "gd": {"maxiter": STEPS},
    "adam": {"maxiter": STEPS, "learning_rate": 0.2},
}


def main() -> None:
    parser = _common.options(__doc__, "small cases and one round, a smoke run")
    _common.add_threads(parser, 2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=None, help="one case, by its name")
    parser.add_argument("--methods", default=",".join(METHODS), help="L-BFGS-B and others")
    args = parser.parse_args()
    methods = args.methods.split(",")
    if "L-BFGS-B" not in methods or not set(methods) <= set(METHODS):
        parser.error(f"--methods must hold L-BFGS-B and others of {', '.join(METHODS)}")
    _common.limit_threads(args.threads)

    cases = make_cases(args.threads, args.quick)
    if args.only:
        cases = {args.only: cases[args.only]}
    print(
        f"{'case':>24} {'method':>9} {'HVPs':>7} {'share':>6} {'passes':>7} {'steps':>6} {'calls':>6} "
        f"{'time':>6} {'outer loss':>11} {'gradient':>9} status"
    )
    rows = []
    for name, case in cases.items():
        rows += run(name, case, methods, 1 if args.quick else args.rounds)
    ours = [row for row in rows if row["method"] == "inexact"]
    within = sum(row["share"] <= 1 for row in ours)
    third = sum(row["share"] <= 1 / 3 for row in ours)
    print(f"inexact: no more HVPs in {within} of {len(ours)} cases, a third or less in {third}")
    _common.write(args.json, {"threads": args.threads, "rows": rows})


def run(
    name: str, case: Callable[[], Any], methods: list[str], rounds: int
) -> list[dict[str, Any]]:
    import numpy as np

    found: dict[str, Any] = {}

    def ready(method: str) -> Callable[[], Any]:
        f, g, lam, slope = case()
        options = dict(METHODS[method])
        if method == "gd":
            options["learning_rate"] = slope
        bounds = [BOUNDS] * lam.size
        passes = Passes()

        def call() -> None:
            with passes:
                found[method] = minimize(f, g, lam, method, bounds, options)
            found[method].passes = passes.count

        return call

    seconds = _common.interleave(
        {method: lambda method=method: ready(method) for method in methods},
        rounds,
        least=1,
        seconds=30,
    )
    rows = []
    for method, res in found.items():
        box = np.clip(res.x - res.jac, *BOUNDS)
        row = {
            "case": name,
            "method": method,
            "hvps": res.nhev,
            "share": res.nhev / found["L-BFGS-B"].nhev,
            "passes": res.passes,
            "steps": res.nit,
            "calls": res.nfev,
            "time": _common.ratio(seconds[method], seconds["L-BFGS-B"]),
            "seconds": statistics.median(seconds[method]),
            "loss": res.fun,
            "gradient": float(np.max(np.abs(res.x - box))),
            "status": res.status,
        }
        rows.append(row)
        print(
            f"{name:>24} {method:>9} {row['hvps']:7d} {row['share']:6.2f} {row['passes']:7d} "
            f"{row['steps']:6d} {row['calls']:6d} {row['time']:6.2f} {row['loss']:11.7f} "
            f"{row['gradient']:9.1e} {row['status']:6d}",
            flush=True,
        )
    return rows


def minimize(f: Any, g: Any, lam: Any, method: str, bounds: Any, options: Any) -> Any:
    import implicitgrad as ig

    options = {"warn": False, "maxiter": 1000, **options}
    return ig.minimize(f, g, lam, method=method, bounds=bounds, options=options)


class Passes:
    """Counts linearisations of the library's objectives, those in training included."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Passes:
        from implicitgrad import _train
        from implicitgrad.objectives import LinearModel

        self._evaluate, self._solve = LinearModel._evaluate, _train.solve

        def evaluate(model: Any, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return self._evaluate(model, *args, **kwargs)

        def solve(f: Any, *args: Any, **kwargs: Any) -> Any:
            res = self._solve(f, *args, **kwargs)
            if isinstance(f, LinearModel):  # of callables, `evaluate` sees each
                self.count += res.nfev
            return res

        LinearModel._evaluate, _train.solve = evaluate, solve
        return self

    def __exit__(self, *_: object) -> None:
        from implicitgrad import _train
        from implicitgrad.objectives import LinearModel

        LinearModel._evaluate, _train.solve = self._evaluate, self._solve


def make_cases(threads: int, quick: bool) -> dict[str, Callable[[], Any]]:
    """name → () → fresh (f, g, lam0, learning rate of gd)."""
    import numpy as np
    from sklearn.datasets import load_breast_cancer, load_diabetes

    import implicitgrad as ig
    from _problems import make

    def diabetes() -> Any:
        X, y = load_diabetes(return_X_y=True)
        a, b = np.triu_indices(X.shape[1])
        X = np.hstack([X, X[:, a] * X[:, b]])
        X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
        return pair(ig.LeastSquares, X, y, 221, -2.0, 20.0)

    def breast_cancer() -> Any:
        X, y = load_breast_cancer(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        X, y = ((X - X.mean(0)) / X.std(0))[order], y[order]
        return pair(ig.Logistic, X, y, 380, -5.0, 20.0)

    def pair(kind: Any, X: Any, y: Any, n: int, start: float, rate: float) -> Any:
        f = kind(X[:n], y[:n], penalty=ig.L2("feature"), fit_intercept=True, n_threads=threads)
        g = kind(X[n:], y[n:], fit_intercept=True, n_threads=threads)
        return f, g, np.full(X.shape[1], start), rate

    def made(rate: float, *shape: int, wrap: bool = False, **kwargs: Any) -> Callable[[], Any]:
        problem = make(*shape, **kwargs)

        def fresh() -> Any:
            f, g = problem.objectives(threads)
            return (Wrapped(f) if wrap else f), g, problem.lam, rate

        return fresh

    cases = {"diabetes products": diabetes, "breast cancer": breast_cancer}
    if quick:
        return cases | {"logistic 2000x100": made(50.0, 2000, 100)}
    sparse = {"per_row": 30, "smallest": 0.05, "n_val": 10_000}
    return cases | {
        "logistic 20000x300": made(50.0, 20_000, 300),
        "logistic, 12 groups": made(50.0, 20_000, 300, groups=12),
        "ridge 20000x300": made(50.0, 20_000, 300, "squared", strength=0.1),
        "logistic 4000x1000": made(50.0, 4000, 1000, strength=1e-2, n_val=4000),
        "sparse 20000x5000": made(50.0, 20_000, 5000, **sparse),
        "callables 3000x200": made(
            50.0, 3000, 200, strength=1e-2, smallest=0.1, n_val=2000, wrap=True
        ),
    }


class Wrapped:
    """An objective that the library knows by its operators only: no preconditioner, no factor."""

    def __init__(self, f: Any):
        self._f, self.n_theta, self.n_lam = f, f.n_theta, f.n_lam

    def linearize(self, theta: Any, lam: Any) -> Any:
        import implicitgrad as ig

        at = self._f.linearize(theta, lam)
        return ig.Linearization(at.fun, at.jac, at.jac_lam, at.hess, at.cross)


if __name__ == "__main__":
    main()
