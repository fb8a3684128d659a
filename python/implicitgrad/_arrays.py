"""Where arguments are validated. Everything behind this module may rely on what it returns."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import scipy.sparse

from . import _core

MOST_THREADS = 1024
MOST_INTEGER = 2**63 - 1  # that the core can count to

# exp() of these is the smallest normal and the largest finite double.
LAM_MIN, LAM_MAX = -708.39641853226408, 709.78271289338397


def real_array(value: Any, name: str) -> np.ndarray:
    """`value` as an array of a real numeric dtype; no copy where it is one already."""
    if type(value) is np.ndarray and value.dtype == np.float64:
        return value
    if scipy.sparse.issparse(value):
        raise TypeError(
            f"{name} is sparse, and only X may be: expected a dense array, as {name}.toarray() gives"
        )
    try:
        array = np.asanyarray(value)
    except ValueError as error:  # ragged nested sequences
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array


def check_finite(array: np.ndarray, name: str) -> None:
    if not _core.all_finite(array):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        at = where[0] if array.ndim == 1 else where
        raise ValueError(f"{name} contains {array[where]} at index {at}, expected finite numbers")


def vector(value: Any, size: int, name: str, owner: str) -> np.ndarray:
    """A finite float64 vector of `size` entries; `owner` says in messages who wants that size."""
    array = real_array(value, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, found shape {array.shape}")
    if array.shape[0] != size:
        raise ValueError(f"{name} has {array.shape[0]} entries, {owner} expects {size}")
    array = np.ascontiguousarray(array, dtype=np.float64)
    check_finite(array, name)
    return array


class OutOfRange(ValueError):
    """λ at which a transform of it overflows or underflows: a later one may be an optimiser's step."""


def within(
    lam: np.ndarray, name: str, begin: int, low: float, high: float, what: str = "exp"
) -> None:
    """Refuse a block of λ, beginning at entry `begin`, whose transform leaves the range of doubles."""
    if not _core.within(lam, low, high):
        i = int(np.argmax((lam < low) | (lam > high)))
        raise OutOfRange(
            f"{name}[{begin + i}] = {lam[i]} is out of range: {what}({name}) must neither overflow nor "
            f"underflow, so {name} must lie in [{low:.2f}, {high:.2f}]"
        )


def logarithms(lam: np.ndarray, name: str, begin: int) -> None:
    """Refuse a block of λ of which an exponential overflows or underflows."""
    within(lam, name, begin, LAM_MIN, LAM_MAX)


def group_labels(value: Any, name: str, of: str) -> np.ndarray:
    """Integer labels 0 … G−1, each of them in use, one for each `of`."""
    given = real_array(value, name)
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"{name} must hold one group label a {of}, found shape {given.shape}")
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integer group labels, found dtype {given.dtype}")
    if given.min() < 0:
        raise ValueError(f"{name} holds the negative group label {given.min()}")
    unused = np.setdiff1d(np.arange(min(int(given.max()), given.size) + 1), given)
    if unused.size:
        raise ValueError(
            f"{name} must use every group label from 0 to its largest, {given.max()}; "
            f"label {unused[0]} has no {of}"
        )
    return given.astype(np.int64)


def matrix(X: Any, n_threads: int) -> tuple[Any, Any, bool]:
    """X as a core matrix, the array (dense or CSR) whose memory it reads, and whether its entries have
    been checked.

    C- and F-ordered float64 and float32 are borrowed, rows or columns of padding included, and so
    are the arrays of a CSR matrix; anything else is converted once.
    """
    if scipy.sparse.issparse(X):
        return *_csr_matrix(X, n_threads), True
    array = real_array(X, "X")
    if array.ndim != 2:
        raise ValueError(f"X must be two-dimensional, found shape {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"X is empty: it has shape {array.shape}")
    if array.dtype not in (np.float64, np.float32) or not array.dtype.isnative:
        array = np.asarray(array, dtype=np.float64)
    if not _can_be_borrowed(array):
        array = np.ascontiguousarray(array)
    return _core.dense_matrix(array), array, False


def _can_be_borrowed(array: np.ndarray) -> bool:
    """One dimension contiguous, the other with a stride that is at least as long."""
    item, aligned = array.itemsize, array.flags.aligned
    for inner, outer in ((1, 0), (0, 1)):
        contiguous = array.strides[inner] == item or array.shape[inner] == 1
        stride = array.strides[outer]
        if (
            contiguous
            and aligned
            and (
                array.shape[outer] == 1
                or (stride % item == 0 and stride >= item * array.shape[inner])
            )
        ):
            return True
    return False


def _csr_matrix(X: Any, n_threads: int) -> tuple[Any, Any]:
    """A sparse X as a core matrix, and the CSR array or matrix whose memory it reads.

    The arrays may hold anything: none of SciPy's compiled functions sees them before they have been
    checked, since those trust what they are given.
    """
    if X.ndim != 2:
        raise ValueError(f"X must be two-dimensional, found shape {X.shape}")
    if 0 in X.shape:
        raise ValueError(f"X is empty: it has shape {X.shape}")
    if X.format != "csr":
        X = _to_csr(X, n_threads)
    handle, indptr, indices, data = _borrow_csr(X, X.shape, ("rows", "columns"), n_threads)
    if handle is None:  # unsorted or repeated columns: a copy in order
        X = scipy.sparse.csr_array((data, indices, indptr), shape=X.shape, copy=True)
        X.sum_duplicates()
        handle, indptr, indices, data = _borrow_csr(X, X.shape, ("rows", "columns"), n_threads)
    if not handle.all_finite(n_threads):
        e = int(np.argmin(np.isfinite(data)))
        i = int(np.searchsorted(indptr, e, side="right")) - 1
        raise ValueError(
            f"X contains {data[e]} at index {(i, int(indices[e]))}, expected finite numbers"
        )
    if not (data is X.data and indices is X.indices and indptr is X.indptr):
        X = scipy.sparse.csr_array((data, indices, indptr), shape=X.shape)
    return handle, X


def _borrow_csr(
    X: Any, shape: tuple[int, int], names: tuple[str, str], n_threads: int
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of a CSR matrix (or of a CSC matrix, its transpose) as a core matrix, None where
    the entries of a line are out of order or repeated; and the arrays: a line's begin, the indices
    and the values, converted where the core cannot read them. `names` are those of the lines and of
    what the indices count."""
    lines, width = shape
    given = indptr, indices = _index_array(X.indptr, "indptr"), _index_array(X.indices, "indices")
    data = _values(X.data)
    if len(indptr) != lines + 1:
        raise ValueError(
            f"X.indptr has {len(indptr)} entries, expected {lines + 1}: X has {lines} {names[0]}"
        )
    if not (indptr.dtype == indices.dtype and indptr.dtype in (np.int32, np.int64)):
        indptr, indices = indptr.astype(np.int64), indices.astype(np.int64)
    handle, fault, at = _core.csr_matrix(indptr, indices, data, width, n_threads)
    if handle is not None or fault == "not canonical":
        # Arrays may be longer than they need be.
        end = int(indptr[-1])
        if handle is None and end < max(len(indices), len(data)):
            indices, data = indices[:end], data[:end]
        return handle, indptr, indices, data
    if fault == "start":
        raise ValueError(f"X.indptr starts at {given[0][0]}, expected 0")
    if fault == "decreasing":
        raise ValueError(
            f"X.indptr decreases from {given[0][at]} to {given[0][at + 1]} at index {at + 1}"
        )
    if fault == "too long":
        raise ValueError(
            f"X.indptr ends at {given[0][-1]}, but X.indices has {len(indices)} entries and X.data "
            f"{len(data)}"
        )
    raise ValueError(
        f"X.indices contains {given[1][at]} at index {at}, expected 0 to {width - 1}: "
        f"X has {width} {names[1]}"
    )


def _to_csr(X: Any, n_threads: int) -> Any:
    """Another sparse format as CSR."""
    if X.format == "csc":
        shape = X.shape
        _, indptr, indices, data = _borrow_csr(X, shape[::-1], ("columns", "rows"), n_threads)
        return scipy.sparse.csc_array((data, indices, indptr), shape=shape).tocsr()
    try:
        if X.format == "lil" and list(map(len, X.rows)) != list(map(len, X.data)):
            raise ValueError("a row has not as many columns as values")
        coo = X.tocoo()
        coords = tuple(coo.coords)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"X is not a valid {X.format} matrix: {error}") from None
    data = _values(coo.data)
    for axis, (name, what) in enumerate((("row", "rows"), ("col", "columns"))):
        index, size = _index_array(coords[axis], name), X.shape[axis]
        if len(index) != len(data):
            raise ValueError(f"X.{name} has {len(index)} entries, X.data has {len(data)}")
        bad = (index < 0) | (index >= size)
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(
                f"X.{name} contains {index[at]} at index {at}, expected 0 to {size - 1}: "
                f"X has {size} {what}"
            )
    return scipy.sparse.coo_array((data, coords), shape=X.shape).tocsr()


def _index_array(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"X.{name} must be one-dimensional, found shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"X.{name} has dtype {array.dtype}, expected integers")
    if array.dtype.isnative and array.flags.aligned and array.flags.c_contiguous:
        return array
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _values(value: Any) -> np.ndarray:
    """The stored values of a sparse X as float64 or float32."""
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"X.data must be one-dimensional, found shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {array.dtype}, expected real numbers")
    if array.dtype in (np.float64, np.float32) and array.dtype.isnative:
        return array if array.flags.aligned and array.flags.c_contiguous else array.copy()
    return array.astype(np.float64)


def targets(y: Any, n_rows: int) -> np.ndarray:
    """One target a row, or a column for each of several."""
    array = real_array(y, "y")
    if array.ndim != 2:
        return one_target(array, n_rows)
    if array.shape[0] != n_rows or array.shape[1] == 0:
        raise ValueError(f"y has shape {array.shape}, X has {n_rows} rows")
    array = np.array(array, dtype=np.float64, order="F")
    check_finite(array, "y")
    return array


def one_target(y: Any, n_rows: int) -> np.ndarray:
    array = real_array(y, "y")
    if array.ndim != 1:
        raise ValueError(f"y must be one-dimensional, found shape {array.shape}")
    if array.shape[0] != n_rows:
        raise ValueError(f"y has {array.shape[0]} entries, X has {n_rows} rows")
    array = np.array(array, dtype=np.float64)
    check_finite(array, "y")
    return array


def labels(y: Any, n_rows: int) -> np.ndarray:
    """Binary labels as −1 and 1."""
    array = one_target(y, n_rows)
    found = np.unique(array)
    if not (np.isin(found, (-1.0, 1.0)).all() or np.isin(found, (0.0, 1.0)).all()):
        shown = ", ".join(f"{v:g}" for v in found[:5]) + (", …" if len(found) > 5 else "")
        raise ValueError(f"y must hold labels -1 and 1, 0 and 1, or booleans; found {shown}")
    array[array == 0.0] = -1.0
    return array


def counts(y: Any, n_rows: int) -> np.ndarray:
    """Targets y ≥ 0."""
    array = one_target(y, n_rows)
    if (array < 0).any():
        i = int(np.argmax(array < 0))
        raise ValueError(f"y[{i}] = {array[i]:g} is negative; y must hold counts or rates")
    return array


UNTRAINABLE = (
    "y {}, so that no model can be trained on it; as a plain loss (without hyperparameters) it is "
    "accepted"
)


def weights(sample_weight: Any, n_rows: int) -> np.ndarray:
    """Weights as given (the core scales them to sum 1); empty where all rows count alike."""
    if sample_weight is None:
        return np.empty(0)
    array = real_array(sample_weight, "sample_weight")
    if array.ndim != 1:
        raise ValueError(f"sample_weight must be one-dimensional, found shape {array.shape}")
    if array.shape[0] != n_rows:
        raise ValueError(f"sample_weight has {array.shape[0]} entries, X has {n_rows} rows")
    array = np.array(array, dtype=np.float64)
    check_finite(array, "sample_weight")
    if (array < 0).any():
        i = int(np.argmax(array < 0))
        raise ValueError(f"sample_weight[{i}] = {array[i]} is negative")
    if not (array > 0).any():
        raise ValueError("sample_weight is zero everywhere")
    return array / array.max()  # so that the sum cannot overflow


def threads(n_threads: Any) -> int:
    if n_threads is None:
        return _core.default_threads()
    return min(integer(n_threads, "n_threads", least=1), MOST_THREADS)


def integer(value: Any, name: str, least: int) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, found {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, found {number}")
    if number > MOST_INTEGER:
        raise ValueError(f"{name} must be at most 2**63 - 1, found {number}")
    return number


def boolean(value: Any, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, found {value!r}")
    return bool(value)


def number(value: Any, name: str, *, positive: bool = False, nonnegative: bool = False) -> float:
    """A finite float, > 0 or ≥ 0 where asked."""
    if isinstance(value, (bool, str, bytes)):
        raise TypeError(f"{name} must be a number, found {value!r}")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, found {value!r}") from None
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, found {result}")
    if positive and result <= 0:
        raise ValueError(f"{name} must be positive, found {result}")
    if nonnegative and result < 0:
        raise ValueError(f"{name} must not be negative, found {result}")
    return result


def generator(value: Any, name: str) -> np.random.Generator:
    """A source of random numbers from a seed, or the caller's own."""
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"{name} must be a seed, an integer >= 0, or a numpy.random.Generator, found {value!r}"
        ) from None


def returned(value: Any, size: int | None, name: str) -> np.ndarray:
    """What the user's function `name` returned, as float64; NaN and infinity are let through, since
    they are met inside a solve and give a status there."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} returned {value!r}, expected real numbers")
    if array.size != (size or 1):
        raise ValueError(f"{name} returned shape {array.shape}, expected {(size,) if size else ()}")
    return array.astype(np.float64).reshape((size,) if size else ())


def shaped(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A part `name` of a user's linearisation, as float64; NaN and infinity are let through."""
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    return array


def choice(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, found {value!r}")
    if value not in allowed:
        raise ValueError(f"{name} = {value!r} is unknown; choose from {', '.join(allowed)}")
    return value
