"""Approximate inverse Hessians in a hypergradient, beside the exact solve.

Lorraine, Vicol and Duvenaud (2020) compare hypergradients by the identity, K terms of the Neumann series
and K steps of CG with the true one: by cosine similarity and relative ℓ2 distance. Here, on MNIST (500
images to train on, 500 to validate), a linear model with a decay for each weight, and a network with
one hidden layer of 16 tanh units; both trained to their minimum, the true hypergradient certified by
the library. Also the Nyström inverse of Hataya and Yamada (2023), from K random columns of H and the
damping ρ = 0.01 of their experiments. K products with H each (the last: K columns).

Errata, the first three as rows of the table:
- Algorithm 3 as printed on arXiv leaves out the factor α of the sum (the AISTATS version has it).
- Third-party code has p ← p − v for p ← p + v.
- Hataya and Yamada print the Neumann sum from i = 1, without the identity's term.
- The comparison published as code runs CG on the outer product of the validation gradient in place of
  H: of rank one, so that the solution is along ∇g, with the cosine of the identity, at any K.

    python bench/reproduce/inverse_hessian.py [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import eigsh

import _protocol
import implicitgrad as ig
from _protocol import QUIET

ROWS, STRENGTH, DAMPING = 500, np.log(0.01), 0.01
TERMS = (1, 2, 5, 10, 20, 50, 100)

Solver = Callable[[Any, np.ndarray], np.ndarray]


def series(step: float, terms: int, sign: float = 1.0, skip: int = 0, scale: bool = True) -> Solver:
    """α Σ_{skip ≤ j < K} (I − αH)^j b, and how it goes wrong: without α, or with the other sign for
    j ≥ 1."""

    def solve(hess: Any, b: np.ndarray) -> np.ndarray:
        v, total = b, np.zeros_like(b)
        for j in range(terms):
            if j:
                v = v - step * (hess @ v)
            if j >= skip:
                total = total + (sign if j else 1.0) * v
        return step * total if scale else total

    return solve


def nystrom(columns: int) -> Solver:
    """(ρI + C W⁻¹ Cᵀ)⁻¹ b for K columns C of H and their rows W of C, by Woodbury's formula:
    b/ρ − C (ρW + CᵀC)⁻¹ Cᵀb / ρ."""

    def solve(hess: Any, b: np.ndarray) -> np.ndarray:
        chosen = np.random.default_rng(0).permutation(b.size)[:columns]
        units = np.zeros((b.size, columns))
        units[chosen, np.arange(columns)] = 1.0
        C = hess @ units
        inner = DAMPING * C[chosen] + C.T @ C
        return (b - C @ np.linalg.lstsq(inner, C.T @ b, rcond=None)[0]) / DAMPING

    return solve


def compare(f: Any, g: Any, name: str) -> dict[str, dict[int, tuple[float, float]]]:
    lam = np.full(f.n_lam, STRENGTH)
    theta = ig.train(f, lam).x
    exact = ig.implicit_grad(f, g, theta, lam, tol=1e-8, options=QUIET)
    print(f"\n{name}: {f.n_theta} parameters, {f.n_lam} λ; {_protocol.certificate(exact)}")
    theta, size = exact.theta, float(np.linalg.norm(exact.grad))
    largest = eigsh(f.linearize(theta, lam).hess, 1, return_eigenvectors=False)
    step = 1.0 / float(largest[0])
    print(f"  largest eigenvalue of H {1 / step:.3g}, α its inverse")

    def scores(method: Any, **options: Any) -> tuple[float, float]:
        given = {**QUIET, "polish": False, "certify": False, **options}
        grad = ig.implicit_grad(f, g, theta, lam, method=method, options=given).grad
        cosine = float(grad @ exact.grad) / (size * float(np.linalg.norm(grad)))
        return cosine, float(np.linalg.norm(grad - exact.grad)) / size

    rows: dict[str, Callable[[int], tuple[float, float]]] = {
        "Neumann": lambda k: scores("neumann", terms=k, step_size=step),
        "CG": lambda k: scores("cg", maxiter=k, preconditioner="none"),
        "Nyström, ρ = 0.01": lambda k: scores(nystrom(k)),
        "Neumann without α": lambda k: scores(series(step, k, scale=False)),
        "Neumann, p − v": lambda k: scores(series(step, k, sign=-1.0)),
        "Neumann from i = 1": lambda k: scores(series(step, k + 1, skip=1)),
    }
    found = {name: {k: row(k) for k in TERMS} for name, row in rows.items()}
    found["identity"] = dict.fromkeys(TERMS, scores("identity"))
    for what, which in (("cosine similarity", 0), ("relative distance", 1)):
        print(f"  {what:<20}" + "".join(f"{f'K = {k}':>11}" for k in TERMS))
        for row, by_terms in found.items():
            print(f"  {row:<20}" + "".join(f"{v[which]:11.3g}" for v in by_terms.values()))
    return found


def main(args: argparse.Namespace) -> None:
    train, val, _ = _protocol.images(args, ROWS, ROWS)
    found = {}
    for name, hidden in (("linear", ()), ("one hidden layer", (4 if args.quick else 16,))):
        shape = {"hidden": hidden, "n_classes": 10}
        f = ig.MLP(*train, penalty=ig.L2("parameter"), **shape)
        found[name] = compare(f, ig.MLP(*val, **shape), name)
    print()
    table = _protocol.Published(args)
    for name, rows in found.items():
        neumann, cg, identity = rows["Neumann"], rows["CG"], rows["identity"]
        # Of one term the cosine is the identity's, up to rounding.
        wins = sum(neumann[k][0] >= identity[k][0] - 1e-12 for k in TERMS)
        table.row(f"{name}: K at which Neumann's cosine is", "", "")
        table.row("  no smaller than the identity's", "(figure only)", f"{wins} of {len(TERMS)}")
        wins = sum(cg[k][1] < neumann[k][1] for k in TERMS)
        table.row(
            "  K at which CG is closer than Neumann", "(figure only)", f"{wins} of {len(TERMS)}"
        )
        wins = sum(neumann[k][0] > cg[k][0] for k in TERMS)
        table.row(
            "  K at which Neumann has the larger cosine", "(figure only)", f"{wins} of {len(TERMS)}"
        )


if __name__ == "__main__":
    _protocol.run(main, __doc__)
