"""What the certificate costs: implicit_grad beside the same linear solve without it.

The two take turns; ratios are medians over the rounds. "theta exact" is a converged training, where the
screen applies; "theta off" moves it by a relative 1e-4, which asks for polishing.

python bench/bench_certificate.py [--quick] [--json certificate.json]
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

import _common
import implicitgrad as ig
from implicitgrad import _options, solvers

FACTORED = 1024  # the largest order at which a factor is tried too


def problem(n: int, p: int, strength: float) -> tuple[Any, Any, np.ndarray]:
    """Logistic regression on columns whose scales fall from 1 to 0.03."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n + n // 4, p)) * np.geomspace(1, 0.03, p)
    y = X @ rng.standard_normal(p) + rng.standard_normal(len(X)) > 0
    f = ig.Logistic(X[:n], y[:n], penalty=ig.L2("feature"))
    return f, ig.Logistic(X[n:], y[n:]), np.full(p, np.log(strength))


def compare(f: Any, g: Any, theta: Any, lam: Any, method: str, tol: float, rounds: int) -> Any:
    def uncertified() -> int:
        F, G = f.linearize(theta, lam), g.linearize(theta, lam)
        hess = solvers.core_operator(F)
        solver = solvers.make_solver(method, hess, F, _options.DEFAULT, None)
        products = solver.setup(hess)
        found = solver.solve(hess, G.jac, [0.1 * tol])
        F._core.cross_transpose(found.x)
        return products + found.nhev

    def certified() -> Any:
        return ig.implicit_grad(f, g, theta, lam, method, tol, {"warn": False})

    ratios = []
    products, result = uncertified(), certified()
    for _ in range(rounds):
        start = time.perf_counter()
        uncertified()
        middle = time.perf_counter()
        result = certified()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return {
        "time_ratio": statistics.median(ratios),
        "products": [products, result.nhev],
        "success": result.success,
        "error": result.error / float(np.linalg.norm(result.grad)),
    }


def main() -> None:
    args = _common.options(__doc__, "smaller and fewer, a smoke run").parse_args()
    n, sizes, rounds = (2_000, (100, 300), 2) if args.quick else (20_000, (100, 500, 1500), 7)
    print(f"logistic, n = {n}; certified / uncertified, medians of {rounds} rounds")
    print(f"{'p':>6} {'strength':>9} {'method':>9} {'theta':>7} {'tol':>6} {'time':>6}  products")
    rows = []
    for p in sizes:
        for strength in (1e-3, 1e-5):
            f, g, lam = problem(n, p, strength)
            exact = ig.train(f, lam).x
            moved = exact * (1 + 1e-4 * np.random.default_rng(1).standard_normal(p))
            for method in ("cholesky", "cg") if p <= FACTORED else ("cg",):
                for name, theta in (("exact", exact), ("off", moved)):
                    for tol in (1e-3, 1e-6):
                        row = compare(f, g, theta, lam, method, tol, rounds)
                        rows.append(
                            {"p": p, "strength": strength, "method": method, "theta": name}
                            | {"tol": tol}
                            | row
                        )
                        products = "{} -> {}".format(*row["products"])
                        note = "" if row["success"] else "  not successful"
                        print(
                            f"{p:6d} {strength:9.0e} {method:>9} {name:>7} {tol:6.0e} "
                            f"{row['time_ratio']:6.2f}  {products}{note}"
                        )
    _common.write(args.json, {"rows": rows})


if __name__ == "__main__":
    main()
