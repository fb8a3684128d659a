"""Hessian-vector products of networks: ours, JAX's compiled linearised gradient, PyTorch's double
backward (those that are installed), and SciPy's matrix products of the same number of flops.

They take turns in every round (see `_common.interleave`). JAX and PyTorch are given the point
beforehand, as ours is: `jax.linearize` of the gradient is compiled with its residuals as arguments,
and PyTorch's gradient keeps its graph. "GEMM" is what a product cannot avoid: 12 flops a weight and
row, 4 in the first layer.

    python bench/bench_mlp.py [--quick] [--threads 2] [--json mlp.json]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import _common

HIDDEN = [(128,), (256, 128)]
ROWS, INPUTS, CLASSES = 10_000, 784, 10
STRENGTH = -4.0  # log


def main() -> None:
    parser = _common.options(__doc__, "few rows, a smoke run")
    _common.add_threads(parser, len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=None, help="rounds per shape")
    args = parser.parse_args()
    _common.limit_threads(args.threads)

    rows, rounds = (500, 3) if args.quick else (ROWS, args.rounds or 15)
    print(f"{rows} rows, threads {args.threads}, medians of {rounds} in ms")
    print(f"{'layers':>16} {'dtype':>8} {'piece':>12} {'ms':>9} {'of ours':>8} {'differs by':>10}")
    report = []
    for hidden in HIDDEN:
        for dtype in ("float64", "float32"):
            found = measure(rows, hidden, dtype, args.threads, rounds)
            report.append(found)
            for name, seconds in found["seconds"].items():
                layers = "-".join(map(str, (INPUTS, *hidden, CLASSES)))
                share = _common.ratio(seconds, found["seconds"]["ours"])
                off = found["differences"].get(name)
                print(
                    f"{layers:>16} {dtype:>8} {name:>12} {1e3 * statistics.median(seconds):9.2f} "
                    f"{share:8.2f} {'' if off is None else f'{off:10.1e}'}",
                    flush=True,
                )
    _common.write(args.json, {"rows": rows, "threads": args.threads, "found": report})


def measure(rows: int, hidden: tuple[int, ...], dtype: str, threads: int, rounds: int) -> Any:
    import numpy as np

    import implicitgrad as ig

    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, INPUTS)).astype(dtype)
    y = rng.integers(0, CLASSES, rows)
    net = ig.MLP(X, y, hidden=hidden, penalty=ig.L2(), n_classes=CLASSES, n_threads=threads)
    theta, v = net.initial_theta(), rng.standard_normal(net.n_theta)
    L = net.linearize(theta, [STRENGTH])

    work: dict[str, Callable[[], Any]] = {"ours": lambda: L.hess @ v}
    work["ours, GN"] = lambda: L.gauss_newton @ v
    for name, make in (("JAX", _jax), ("PyTorch", _torch)):
        try:
            work[name] = make(X, y, net.widths, theta, v, threads)
        except ImportError:
            print(f"{name} is not installed")
    work["GEMM"] = _gemm(X, net.widths)

    exact, differences = work["ours"](), {}
    size = np.linalg.norm(exact)
    for name in ("JAX", "PyTorch"):
        if name in work:
            differences[name] = float(np.linalg.norm(work[name]() - exact) / size)
            if not differences[name] < (1e-10 if dtype == "float64" else 1e-4):
                raise SystemExit(f"{name} differs by {differences[name]:.1e}")
    turns = {name: _common.always(call) for name, call in work.items()}
    seconds = _common.interleave(turns, rounds, warm=True)
    return {"hidden": hidden, "dtype": dtype, "seconds": seconds, "differences": differences}


def _gemm(X: Any, widths: tuple[int, ...]) -> Callable[[], None]:
    """All the products of one HVP on whole arrays, with nothing in between."""
    import numpy as np
    from scipy.linalg.blas import dgemm, sgemm

    gemm = dgemm if X.dtype == np.float64 else sgemm
    rng = np.random.default_rng(1)

    def columns(a: int, b: int) -> Any:  # the transpose of a row-major b × a
        return np.asfortranarray(rng.standard_normal((a, b)), dtype=X.dtype)

    layers = [columns(width, len(X)) for width in widths]
    weights = [columns(b, a) for a, b in pairwise(widths)]
    sums = [np.zeros_like(W, order="F") for W in weights]

    def run() -> None:
        for i, W in enumerate(weights):
            for _ in range(2 if i else 1):
                gemm(1.0, W, layers[i], beta=0.0, c=layers[i + 1], overwrite_c=1)
                gemm(1.0, layers[i + 1], layers[i], trans_b=1, beta=0.0, c=sums[i], overwrite_c=1)
                if i:
                    gemm(1.0, W, layers[i + 1], trans_a=1, beta=0.0, c=layers[i], overwrite_c=1)

    return run


def _jax(
    X: Any, y: Any, widths: tuple[int, ...], theta: Any, v: Any, threads: int
) -> Callable[[], Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    import numpy as np

    inputs, labels = jnp.asarray(X), jnp.asarray(y)

    def loss(t: Any) -> Any:
        a, at, penalty = inputs, 0, 0.0
        for i, (m, k) in enumerate(pairwise(widths)):
            W, b = t[at : at + m * k].reshape(m, k), t[at + m * k : at + (m + 1) * k]
            a = a @ W + b
            a = a if i == len(widths) - 2 else jnp.tanh(a)
            penalty += np.exp(STRENGTH) * jnp.sum(W * W) / 2
            at += (m + 1) * k
        return jnp.mean(jax.nn.logsumexp(a, axis=1) - a[jnp.arange(len(y)), labels]) + penalty

    here, direction = jnp.asarray(theta, X.dtype), jnp.asarray(v, X.dtype)
    _, linear = jax.linearize(jax.jit(jax.grad(loss)), here)
    product = jax.jit(linear)
    return lambda: np.asarray(product(direction).block_until_ready())


def _torch(
    X: Any, y: Any, widths: tuple[int, ...], theta: Any, v: Any, threads: int
) -> Callable[[], Any]:
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
    here = torch.tensor(theta.astype(X.dtype), requires_grad=True)
    direction = torch.from_numpy(v.astype(X.dtype))
    a, at, penalty = inputs, 0, 0.0
    for i, (m, k) in enumerate(pairwise(widths)):
        W, b = here[at : at + m * k].reshape(m, k), here[at + m * k : at + (m + 1) * k]
        a = a @ W + b
        a = a if i == len(widths) - 2 else torch.tanh(a)
        penalty = penalty + float(np.exp(STRENGTH)) * (W * W).sum() / 2
        at += (m + 1) * k
    loss = torch.nn.functional.cross_entropy(a, labels) + penalty
    (gradient,) = torch.autograd.grad(loss, here, create_graph=True)
    return lambda: torch.autograd.grad(gradient, here, direction, retain_graph=True)[0].numpy()


if __name__ == "__main__":
    main()
