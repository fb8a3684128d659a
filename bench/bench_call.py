"""What a small call costs: microseconds of implicit_grad, seconds of import, products counted.

python bench/bench_call.py [--quick] [--json call.json]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import _common
import implicitgrad as ig
from implicitgrad import _core, _options, solvers


def main() -> None:
    args = _common.options(__doc__, "fewer repetitions, a smoke run").parse_args()
    report = {
        "call_us": call_table(batches=5 if args.quick else 41),
        "import_s": import_table(runs=3 if args.quick else 11),
        "products": product_table(quick=args.quick),
    }
    _common.write(args.json, report)


def ridge(n: int, p: int, seed: int = 0) -> tuple[Any, Any, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((2 * n, p))
    y = X @ rng.standard_normal(p) + rng.standard_normal(2 * n)
    f = ig.LeastSquares(X[:n], y[:n], penalty=ig.L2("feature"))
    return f, ig.LeastSquares(X[n:], y[n:]), np.full(p, -2.0)


def logistic(n: int, p: int, seed: int = 0) -> tuple[Any, Any, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((2 * n, p))
    y = X @ rng.standard_normal(p) / np.sqrt(p) + rng.standard_normal(2 * n) > 0
    f = ig.Logistic(X[:n], y[:n], penalty=ig.L2("feature"), fit_intercept=True)
    return f, ig.Logistic(X[n:], y[n:], fit_intercept=True), np.full(p, -4.0)


def microseconds(call: Callable[[], Any], batches: int) -> float:
    """Median over batches of the mean within a batch of 50 calls."""
    means = []
    for _ in range(batches + 1):
        start = time.perf_counter()
        for _ in range(50):
            call()
        means.append((time.perf_counter() - start) / 50)
    return 1e6 * statistics.median(means[1:])  # the first one warms up


def call_table(batches: int) -> dict[str, float]:
    f, g, lam = ridge(200, 10)
    theta = ig.train(f, lam).x
    F, G = f.linearize(theta, lam), g.linearize(theta)
    hess, b = solvers.core_operator(F), G.jac
    direct, cg = (solvers.make_solver(m, hess, F, _options.DEFAULT, None) for m in ("auto", "cg"))

    def solve(solver: Any) -> Any:
        solver.setup(hess)
        return solver.solve(hess, b, [1e-7])

    f2, g2, lam2 = logistic(200, 10)
    theta2 = ig.train(f2, lam2).x
    bare = {"certify": False}
    calls: dict[str, Callable[[], Any]] = {
        "implicit_grad": lambda: ig.implicit_grad(f, g, theta, lam),
        "implicit_grad, uncertified": lambda: ig.implicit_grad(f, g, theta, lam, options=bare),
        "implicit_grad, logistic": lambda: ig.implicit_grad(f2, g2, theta2, lam2),
        "implicit_grad, logistic, uncertified": (
            lambda: ig.implicit_grad(f2, g2, theta2, lam2, options=bare)
        ),
        "implicit_grad, method='cg'": lambda: ig.implicit_grad(f, g, theta, lam, method="cg"),
        "  of these: linearize f and g": lambda: (f.linearize(theta, lam), g.linearize(theta)),
        "  of these: adjoint by Cholesky, no certificate": lambda: solve(direct),
        "  of these: adjoint by CG, no certificate": lambda: solve(cg),
        "  of these: one product H v": lambda: hess.apply(b),
        "  of these: cross-VJP": lambda: F._core.cross_transpose(b),
        "train from theta": lambda: ig.train(f, lam, theta),
        "nothing: one call into the extension": _core.default_threads,
    }
    print("ridge, 200 x 10, microseconds a call (medians)")
    result = {}
    for name, call in calls.items():
        result[name.strip()] = microseconds(call, batches)
        print(f"  {name:<50} {result[name.strip()]:8.1f}")
    return result


# What a user of SciPy has imported anyway, in three degrees.
_BASES = {
    "numpy, scipy": "import numpy, scipy",
    "numpy, scipy.linalg": "import numpy, scipy, scipy.linalg",
    "numpy, scipy.optimize, .sparse.linalg, .linalg": (
        "import numpy, scipy.optimize, scipy.sparse.linalg, scipy.linalg"
    ),
}
_TIMED = """
import time
{base}
start = time.perf_counter()
import implicitgrad
imported = time.perf_counter()
for name in implicitgrad.__all__:  # what is imported lazily is paid for at its first use
    getattr(implicitgrad, name)
print(imported - start, time.perf_counter() - start)
"""


def import_table(runs: int) -> dict[str, list[float]]:
    """Seconds of the import alone, and of the import and the first use of every public name."""
    print(f"\nseconds that implicitgrad adds, fresh interpreters (medians of {runs})")
    print(f"  {'on top of':<50} {'import':>8} {'all names':>10}")
    result = {}
    for name, base in _BASES.items():
        command = [sys.executable, "-c", _TIMED.format(base=base)]
        subprocess.run(command, check=True, capture_output=True)  # fills the disk cache
        times = [
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            for _ in range(runs)
        ]
        alone, used = (statistics.median(map(float, t)) for t in zip(*times, strict=True))
        result[name] = [alone, used]
        print(f"  {name:<50} {alone:8.3f} {used:10.3f}")
    return result


def product_table(quick: bool) -> list[dict[str, Any]]:
    """Products with H: of the adjoint alone, and of the call with its certificate."""
    sizes = [(500, 20), (2000, 200)] if quick else [(500, 20), (2000, 200), (4000, 1500)]
    print("\nproducts with H (by column): adjoint alone, and with the certificate")
    print(f"  {'problem':<10} {'n x p':>12} {'method':>9} {'tol':>6} {'alone':>6} {'certified':>9}")
    rows = []
    for make in (ridge, logistic):
        for n, p in sizes:
            f, g, lam = make(n, p)
            theta = ig.train(f, lam).x
            F, G = f.linearize(theta, lam), g.linearize(theta)
            hess = solvers.core_operator(F)
            for method in ("cholesky", "cg"):
                for tol in (1e-3, 1e-6, 1e-9):
                    solver = solvers.make_solver(method, hess, F, _options.DEFAULT, None)
                    alone = solver.setup(hess) + solver.solve(hess, G.jac, [0.1 * tol]).nhev
                    res = ig.implicit_grad(f, g, theta, lam, method=method, tol=tol)
                    rows.append(
                        {
                            "problem": make.__name__,
                            "n": n,
                            "p": p,
                            "method": method,
                            "tol": tol,
                            "alone": alone,
                            "certified": res.nhev,
                            "success": res.success,
                        }
                    )
                    print(
                        f"  {make.__name__:<10} {f'{n}x{p}':>12} {method:>9} {tol:6.0e} "
                        f"{alone:6d} {res.nhev:9d}{'' if res.success else '  not successful'}"
                    )
    return rows


if __name__ == "__main__":
    main()
