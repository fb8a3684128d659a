"""What it costs to differentiate through K steps of training: time and memory against K, beside JAX's
scan (where it is installed) and beside implicit differentiation of the same loss.

Logistic regression with a penalty per feature, K steps of gradient descent from zero, the gradient of
a validation loss in all penalties. Each row is a process of its own: by how much its resident memory
grows at most during set-up (for JAX, compilation and its copy of X) and a first call, the data being
there as NumPy arrays; then the median time of further calls. "ours, least" is given no memory, so that
it repeats steps between checkpoints; "implicit" is `implicit_grad` at the trained θ, training not
included. All gradients of one K are compared.

    python bench/bench_unroll.py [--quick] [--threads 2] [--rounds 5] [--json unroll.json]
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import _common

ROWS, COLUMNS, STEPS = 20_000, 200, (100, 300, 1000)
LIBRARIES = ("ours", "ours, least", "jax", "implicit")
LOG_STRENGTH, STEP_SIZE = -5.0, 2.0


def main() -> None:
    parser = _common.options(__doc__, "few rows and steps, a smoke run")
    _common.add_threads(parser, len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    args = parser.parse_args()
    _common.limit_threads(args.threads)

    rows, columns, steps = (500, 20, (10, 40)) if args.quick else (ROWS, COLUMNS, STEPS)
    print(f"{rows} x {columns}, threads {args.threads}, medians of {args.rounds}")
    print(f"{'steps':>6} {'':<12} {'seconds':>8} {'of ours':>8} {'peak MB':>8} {'differs by':>11}")
    report = []
    for k in steps:
        found = {}
        for name in LIBRARIES:
            payload = {"library": name, "rows": rows, "columns": columns, "steps": k}
            one = _common.in_child(__file__, {**payload, "rounds": args.rounds})
            if one is None:
                print(f"{name} is not installed")
                continue
            found[name] = one
            report.append({**payload, **one})
            seconds = statistics.median(one["seconds"])
            ratio = seconds / statistics.median(found["ours"]["seconds"])
            off = distance(one["grad"], found["ours"]["grad"])
            if name in ("ours, least", "jax") and not off < 1e-10:
                raise SystemExit(f"{name} differs by {off:.1e}")
            print(f"{k:6d} {name:<12} {seconds:8.3f} {ratio:8.2f} {one['peak']:8.0f} {off:11.1e}")
    _common.write(args.json, {"threads": args.threads, "found": report})


def distance(a: list[float], b: list[float]) -> float:
    size = sum(y * y for y in b)
    return float((sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / size) ** 0.5)


def child(library: str, rows: int, columns: int, steps: int, rounds: int) -> Any:
    import numpy as np

    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows + rows // 5, columns))
    z = X @ rng.standard_normal(columns) / np.sqrt(columns) + rng.standard_normal(len(X))
    y = np.where(z > 0, 1.0, -1.0)
    data = (X[:rows], y[:rows], X[rows:], y[rows:])
    lam = np.full(columns, LOG_STRENGTH)
    make = {"jax": _jax, "implicit": _implicit}.get(library, _ours)
    memory = {"memory": 1} if library == "ours, least" else {}
    state: dict[str, Any] = {}
    try:  # what importing takes is not counted
        make(X[:50], y[:50], X[:50], y[:50], lam, 1)()
    except ImportError:
        return None

    def first() -> None:
        state["call"] = make(*data, lam, steps, **memory)
        state["grad"] = state["call"]()

    peak = _common.peak_growth(first)
    seconds = []
    for _ in range(rounds):
        time.sleep(0.05)
        start = time.perf_counter()
        state["call"]()
        seconds.append(time.perf_counter() - start)
    return {"peak": peak, "seconds": seconds, "grad": np.asarray(state["grad"]).tolist()}


def _objectives(X: Any, y: Any, X_val: Any, y_val: Any) -> Any:
    import implicitgrad as ig

    return ig.Logistic(X, y, penalty=ig.L2("feature")), ig.Logistic(X_val, y_val)


def _ours(
    X: Any, y: Any, X_val: Any, y_val: Any, lam: Any, steps: int, **options: Any
) -> Callable[[], Any]:
    import numpy as np

    import implicitgrad as ig

    f, g = _objectives(X, y, X_val, y_val)
    start = np.zeros(f.n_theta)
    return lambda: ig.unrolled_grad(f, g, start, lam, steps, STEP_SIZE, options=options).grad


def _implicit(
    X: Any, y: Any, X_val: Any, y_val: Any, lam: Any, steps: int, **options: Any
) -> Callable[[], Any]:
    import implicitgrad as ig

    f, g = _objectives(X, y, X_val, y_val)
    theta = ig.train(f, lam).x

    def call() -> Any:
        f.linearize(0 * theta, lam)  # so that nothing is left of the call before
        return ig.implicit_grad(f, g, theta, lam).grad

    return call


def _jax(X: Any, y: Any, X_val: Any, y_val: Any, lam: Any, steps: int) -> Callable[[], Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    import numpy as np

    def loss(theta: Any, X: Any, y: Any) -> Any:
        return jnp.mean(jax.nn.softplus(-y * (X @ theta)))

    def inner(theta: Any, lam: Any, X: Any, y: Any) -> Any:
        return loss(theta, X, y) + jnp.sum(jnp.exp(lam) * theta**2) / 2

    def outer(lam: Any, X: Any, y: Any, X_val: Any, y_val: Any) -> Any:
        def step(theta: Any, _: Any) -> Any:
            return theta - STEP_SIZE * jax.grad(inner)(theta, lam, X, y), None

        theta, _ = jax.lax.scan(step, jnp.zeros(len(lam)), None, length=steps)
        return loss(theta, X_val, y_val)

    arrays = [jax.device_put(a) for a in (lam, X, y, X_val, y_val)]
    compiled = jax.jit(jax.grad(outer)).lower(*arrays).compile()
    return lambda: np.asarray(compiled(*arrays).block_until_ready())


if __name__ == "__main__":
    payload = _common.child_payload()
    if payload is None:
        main()
    else:
        import json

        print(json.dumps(child(**payload)))
