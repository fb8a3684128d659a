"""The hypergradient of logistic regression with a penalty per feature, by each library.

A peer is made for a problem and a trained θ, which may raise ImportError; its `ready(rtol)` is
untimed and returns the call to time. What a user does once is done when the peer is made: conversion
of the data, and compilation, whose seconds are kept apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import implicitgrad as ig
from _problems import Problem, curvature, gradient, hessian

# Beyond this many features a Hessian is not formed by NumPy.
DIRECT_LIMIT = 5000


@dataclass
class Answer:
    grad: np.ndarray
    products: int | None = None
    note: str = ""


@dataclass
class Peer:
    ready: Callable[[float], Callable[[], Answer]]
    compile_seconds: float | None = None
    adjustable: bool = True  # whether rtol means anything to it


def ours(problem: Problem, theta: np.ndarray, threads: int, construct: bool) -> Peer:
    """θ is given and nothing is reused: f and g are fresh."""

    def ready(rtol: float) -> Callable[[], Answer]:
        made = problem.objectives(threads)

        def call() -> Answer:
            f, g = problem.objectives(threads) if construct else made
            return certified(f, g, theta, rtol)

        return call

    def certified(f: Any, g: Any, theta: np.ndarray, rtol: float) -> Answer:
        res = ig.implicit_grad(f, g, theta, problem.lam, tol=rtol)
        claim = f"estimates {res.error / float(np.linalg.norm(res.grad)):.0e}"
        return Answer(res.grad, res.nhev, f"{res.method}, {claim if res.success else res.message}")

    return Peer(ready, adjustable=False)


def ours_trained(problem: Problem, theta: np.ndarray, threads: int, construct: bool) -> Peer:
    """Right after f was trained from zero, so that what the training left may be reused."""
    fresh = ours(problem, theta, threads, construct=False)

    def ready(rtol: float) -> Callable[[], Answer]:
        f, g = problem.objectives(threads)
        at = ig.train(f, problem.lam).x

        def call() -> Answer:
            res = ig.implicit_grad(f, g, at, problem.lam, tol=rtol)
            return Answer(res.grad, res.nhev, res.method if res.success else res.message)

        return call

    return Peer(ready, adjustable=fresh.adjustable)


def scipy_cg(
    problem: Problem, theta: np.ndarray, threads: int, construct: bool, jacobi: bool = False
) -> Peer:
    """SciPy's CG on NumPy's products Xᵀ(d(Xv))."""
    from scipy.sparse.linalg import LinearOperator, cg

    X, strength, p = problem.X, problem.strength, len(theta)

    def call(rtol: float) -> Answer:
        products = 0
        d = curvature(problem.loss, X, theta)

        def apply(v: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return X.T @ (d * (X @ v)) + strength * v

        H = LinearOperator((p, p), matvec=apply, dtype=np.float64)
        M = None
        if jacobi:
            diagonal = np.einsum("ij,ij,i->j", X, X, d) + strength
            M = LinearOperator((p, p), matvec=lambda v: v / diagonal, dtype=np.float64)
        b = gradient(problem.loss, problem.X_val, problem.y_val, theta)
        q, info = cg(H, b, rtol=rtol, maxiter=10 * p, M=M)
        return Answer(-strength * theta * q, products, "" if info == 0 else "not converged")

    return Peer(lambda rtol: lambda: call(rtol))


def scipy_cg_jacobi(problem: Problem, theta: np.ndarray, threads: int, construct: bool) -> Peer:
    return scipy_cg(problem, theta, threads, construct, jacobi=True)


def scipy_cholesky(problem: Problem, theta: np.ndarray, threads: int, construct: bool) -> Peer:
    """H formed by NumPy in blocks of rows, factored by SciPy."""
    from scipy.linalg import cho_factor, cho_solve

    if len(theta) > DIRECT_LIMIT:
        raise ImportError(f"more than {DIRECT_LIMIT} features")

    def call() -> Answer:
        b = gradient(problem.loss, problem.X_val, problem.y_val, theta)
        factor = cho_factor(hessian(problem, theta), overwrite_a=True)
        return Answer(-problem.strength * theta * cho_solve(factor, b))

    return Peer(lambda rtol: call, adjustable=False)


def jaxopt(problem: Problem, theta: np.ndarray, threads: int, construct: bool) -> Peer:
    """JAXopt's root_vjp with its solve_cg, what custom_root(…, solve=solve_cg) runs; compiled."""
    from jaxopt.implicit_diff import root_vjp
    from jaxopt.linear_solve import solve_cg

    def solve(slope: Any, theta: Any, lam: Any, b: Any, rtol: Any) -> Any:
        def cg(matvec: Any, rhs: Any) -> Any:
            return solve_cg(matvec, rhs, tol=rtol)

        return root_vjp(slope, theta, (lam,), b, solve=cg)[0]

    return _compiled(problem, theta, solve)


def jax_cg(problem: Problem, theta: np.ndarray, threads: int, construct: bool) -> Peer:
    """The same by JAX alone: its CG on the linearised gradient (forward over reverse), compiled."""
    import jax
    from jax.scipy.sparse.linalg import cg

    def solve(slope: Any, theta: Any, lam: Any, b: Any, rtol: Any) -> Any:
        hvp = jax.linearize(lambda t: slope(t, lam), theta)[1]
        q, _ = cg(hvp, b, tol=rtol)
        return -jax.vjp(lambda s: slope(theta, s), lam)[1](q)[0]

    return _compiled(problem, theta, solve)


def _compiled(problem: Problem, theta: np.ndarray, solve: Callable[..., Any]) -> Peer:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def plain(theta: Any, X: Any, y: Any) -> Any:
        return jnp.mean(jax.nn.softplus(-y * (X @ theta)))

    def inner(theta: Any, lam: Any, X: Any, y: Any) -> Any:
        return plain(theta, X, y) + 0.5 * jnp.sum(jnp.exp(lam) * theta**2)

    def whole(theta: Any, lam: Any, X: Any, y: Any, X_val: Any, y_val: Any, rtol: Any) -> Any:
        b = jax.grad(plain)(theta, X_val, y_val)

        def slope(theta: Any, lam: Any) -> Any:
            return jax.grad(inner)(theta, lam, X, y)

        return solve(slope, theta, lam, b, rtol)

    given = (theta, problem.lam, problem.X, problem.y, problem.X_val, problem.y_val)
    arrays = [jax.device_put(a) for a in given]
    start = time.perf_counter()
    compiled = jax.jit(whole).lower(*arrays, 1e-6).compile()
    seconds = time.perf_counter() - start
    return Peer(
        lambda rtol: lambda: Answer(np.asarray(compiled(*arrays, rtol).block_until_ready())),
        seconds,
    )


def torch(problem: Problem, theta: np.ndarray, threads: int, construct: bool) -> Peer:
    """PyTorch: products by differentiating the gradient's graph again, CG written by hand."""
    import torch

    torch.set_num_threads(threads)
    X, y, X_val, y_val = map(torch.from_numpy, (problem.X, problem.y, problem.X_val, problem.y_val))

    def plain(theta: Any, X: Any, y: Any) -> Any:
        return -torch.nn.functional.logsigmoid(y * (X @ theta)).mean()

    def call(rtol: float) -> Answer:
        t = torch.tensor(theta, requires_grad=True)
        lam = torch.tensor(problem.lam, requires_grad=True)
        (b,) = torch.autograd.grad(plain(t, X_val, y_val), t)
        inner = plain(t, X, y) + 0.5 * (torch.exp(lam) * t**2).sum()
        (slope,) = torch.autograd.grad(inner, t, create_graph=True)
        q, r = torch.zeros_like(b), b.clone()
        direction, square, products = r.clone(), r @ r, 0
        goal = rtol**2 * square
        while square > goal and products < 10 * len(theta):
            (image,) = torch.autograd.grad(slope, t, direction, retain_graph=True)
            products += 1
            step = square / (direction @ image)
            q += step * direction
            r -= step * image
            before, square = square, r @ r
            direction = r + (square / before) * direction
        (cross,) = torch.autograd.grad(slope, lam, q)
        return Answer(-cross.numpy(), products)

    return Peer(lambda rtol: lambda: call(rtol))


PEERS: dict[str, Callable[[Problem, np.ndarray, int, bool], Peer]] = {
    "implicitgrad": ours,
    "implicitgrad, after train": ours_trained,
    "jaxopt": jaxopt,
    "jax cg": jax_cg,
    "torch": torch,
    "numpy + scipy cg": scipy_cg,
    "numpy + scipy cg, jacobi": scipy_cg_jacobi,
    "numpy + scipy cholesky": scipy_cholesky,
}
