"""Targets of classes: labels, or soft labels, which are distributions over the classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import check_finite, integer, one_target, real_array

MOST_CLASSES = 1 << 20
SHARES_OFF = 1e-3  # from a sum of one: what rounding to half precision leaves


def labels(y: Any, n_rows: int) -> np.ndarray:
    """Labels 0, 1, …"""
    array = one_target(y, n_rows)
    wrong = (array < 0) | (array != np.floor(array)) | (array >= MOST_CLASSES)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"y must hold integer labels 0, 1, …, K − 1, K at most {MOST_CLASSES}; found y[{i}] = "
            f"{array[i]:g}"
        )
    return array


def targets(y: Any, n_rows: int) -> np.ndarray:
    """Labels 0, 1, …; or of shape (n, K), row-major, a distribution over the classes for each row."""
    array = real_array(y, "y")
    if array.ndim != 2:
        return labels(array, n_rows)
    if array.shape[0] != n_rows or not 2 <= array.shape[1] <= MOST_CLASSES:
        raise ValueError(
            f"y has shape {array.shape}, expected ({n_rows},) for labels or ({n_rows}, K) for "
            f"distributions over 2 to {MOST_CLASSES} classes: X has {n_rows} rows"
        )
    array = np.array(array, dtype=np.float64, order="C")
    check_finite(array, "y")
    if (array < 0).any():
        at = tuple(int(i) for i in np.argwhere(array < 0)[0])
        raise ValueError(f"y contains {array[at]:g} at index {at}, expected a share >= 0")
    sums = array.sum(axis=1, keepdims=True)
    off = np.abs(sums[:, 0] - 1) > SHARES_OFF
    if off.any():
        i = int(np.argmax(off))
        raise ValueError(f"row {i} of y sums to {sums[i, 0]:g}, expected shares that sum to 1")
    return array / sums


def counts(y: np.ndarray, classes: int) -> np.ndarray:
    """How many rows have each class; of distributions, the sum of their shares."""
    return np.bincount(y.astype(np.intp), minlength=classes) if y.ndim == 1 else y.sum(axis=0)


def one_hot(y: np.ndarray, classes: int) -> np.ndarray:
    """Labels as distributions; where they are such already, these."""
    if y.ndim == 2:
        return y
    out = np.zeros((y.size, classes))
    out[np.arange(y.size), y.astype(np.intp)] = 1.0
    return out


def number(y: Any, given: Any) -> int:
    """K, from y where it is not given."""
    array = real_array(y, "y")
    if array.ndim == 2:
        if given is not None and integer(given, "n_classes", least=2) != array.shape[1]:
            raise ValueError(f"y has {array.shape[1]} columns, n_classes is {given}")
        return array.shape[1]
    given_labels = labels(array, array.size)
    largest = int(given_labels.max(initial=0.0))
    if given is not None:
        classes = integer(given, "n_classes", least=2)
        if largest >= classes:
            raise ValueError(f"y holds the label {largest}, n_classes is {classes}")
        return classes
    unused = np.setdiff1d(np.arange(max(largest, 1) + 1), given_labels)
    if unused.size:
        raise ValueError(
            f"y has no label {unused[0]}: where it may lack one of the labels 0 … K − 1, n_classes "
            "must say what K is"
        )
    return largest + 1
