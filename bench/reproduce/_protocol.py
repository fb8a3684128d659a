"""What the reproductions share: options, images, accuracies, and published numbers beside ours."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # bench, for the readers of files

import _files

QUIET = {"warn": False}


def arguments(doc: str | None, argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, on data that scikit-learn bundles"
    )
    parser.add_argument(
        "--data", default=None, help="the folder that holds mnist/, a9a/, basehock/"
    )
    args = parser.parse_args(argv)
    args.folder = _files.data_folder(args.data)
    return args


def run(main: Callable[[argparse.Namespace], None], doc: str | None) -> None:
    """A script from its options to its total time, with the load of the machine around it."""
    args = arguments(doc)
    if args.quick:
        print("quick: a run on other, smaller data, to which published numbers do not apply")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    load, begin = os.getloadavg()[0], time.perf_counter()
    main(args)
    print(
        f"\ntotal {time.perf_counter() - begin:.0f} s, OMP_NUM_THREADS {threads}; "
        f"{os.cpu_count()} processors, load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    )


class Images(NamedTuple):
    """Pixels in [0, 1], shape (n, p), and classes 0 … 9."""

    X: np.ndarray
    y: np.ndarray

    def rows(self, begin: int, end: int | None = None) -> Images:
        return Images(self.X[begin:end], self.y[begin:end])


def mnist(args: argparse.Namespace, name: str, rows: int) -> Images:
    return Images(*_files.mnist(args.folder, name, rows))


def svm(args: argparse.Namespace, name: str, n_features: int | None = None) -> Any:
    """CSR and targets ±1."""
    return _files.svm(args.folder / name, n_features)


def digits() -> Images:
    """The 8 × 8 digits of scikit-learn, which stand in for MNIST where there are only seconds."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return Images(X / 16.0, y)


def images(args: argparse.Namespace, train: int, val: int) -> tuple[Images, Images, Images]:
    """MNIST: its first rows to train on, those that follow to validate, and its test set. Where
    quick, `digits`: at most 100 rows of each of the first two, and the rest."""
    if args.quick:
        train, val = min(train, 100), min(val, 100)
        both, test = digits(), digits().rows(train + val)
    else:
        both, test = mnist(args, "train", train + val), mnist(args, "t10k", 10_000)
    return both.rows(0, train), both.rows(train, train + val), test


def accuracy(model: Any, theta: np.ndarray, rows: Images) -> float:
    """Of a network with tanh, or of a linear softmax model (without an intercept) by its weights."""
    if hasattr(model, "unravel"):
        *hidden, last = model.unravel(theta)
    else:
        hidden, last = [], (theta.reshape(-1, model.n_classes), 0.0)
    A = rows.X
    for W, b in hidden:
        A = np.tanh(A @ W + b)
    return float(np.mean((A @ last[0] + last[1]).argmax(1) == rows.y))


def certificate(res: Any) -> str:
    """What a hypergradient says of itself."""
    if res is None:
        return "no certified hypergradient"
    if res.success:
        return (
            f"hypergradient certified (error {res.error:.1e}, norm {np.linalg.norm(res.grad):.1e})"
        )
    return f"hypergradient NOT certified (status {res.status}, error {res.error:.1e})"


class Published:
    """A table of what was published, what we find, and whether that is the same: of a quick run, whose
    data are others, there is no saying."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._quick = args.quick
        print(f"{'':44} {'published':>20} {'ours':>20}  reproduced", flush=True)

    def row(self, what: str, published: str, ours: str, reproduced: bool | None = None) -> None:
        verdict = {True: "yes", False: "NO", None: ""}[None if self._quick else reproduced]
        print(f"{what:<44} {published:>20} {ours:>20}  {verdict}".rstrip(), flush=True)


class Clock:
    """Seconds of work, without those spent looking at it."""

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, time.perf_counter()

    def stop(self) -> float:
        self.seconds += time.perf_counter() - self._since
        return self.seconds

    def go(self) -> None:
        self._since = time.perf_counter()
