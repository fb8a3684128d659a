"""Blocks of λ: their names, their lengths, and what they must not overflow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import _arrays


class Block(NamedTuple):
    """A named stretch of λ, and the check of its range: refuse(entries, name of λ, where it begins).

    Its last `raw` entries are in units of the data, whatever those are; the others are logarithms or
    logits, in which a step of 1 is a moderate one.
    """

    name: str
    size: int
    refuse: Callable[[np.ndarray, str, int], None]
    raw: int = 0


def anything(lam: np.ndarray, name: str, begin: int) -> None:
    """A block of λ that is used as it is."""


def _sigmoid(lam: np.ndarray, name: str, begin: int) -> None:
    _arrays.within(lam, name, begin, _arrays.LAM_MIN, -_arrays.LAM_MIN, "sigmoid")


def _softplus(lam: np.ndarray, name: str, begin: int) -> None:
    _arrays.within(lam, name, begin, _arrays.LAM_MIN, math.inf, "softplus")


def _softmax(lam: np.ndarray, name: str, begin: int) -> None:
    most = float(lam.max())
    _arrays.within(lam, name, begin, most + _arrays.LAM_MIN, most, "softmax")


def shares(width: int, lam: np.ndarray, name: str, begin: int) -> None:
    """Logits, of which each `width` are one softmax."""
    rows = lam.reshape(-1, width)
    low = rows.max(axis=1, keepdims=True) + _arrays.LAM_MIN
    if (rows < low).any():
        i = int(np.argmax((rows < low).any(axis=1)))
        _softmax(rows[i], name, begin + i * width)


# Of transforms by name.
RANGES = {
    "identity": anything,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "exp": _arrays.logarithms,
    "softmax": _softmax,
}
