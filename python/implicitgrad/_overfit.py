"""Overfitting of the outer set: how many hyperparameters its rows can support."""

from __future__ import annotations

import warnings
from typing import Any

# Rows of the outer set that one hyperparameter asks for.
ROWS_EACH = 2


class OverfitWarning(UserWarning):
    """More hyperparameters are tuned than the rows of the outer set can support.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.LeastSquares(np.eye(3), [1.0, 2.0, 3.0], penalty=ig.L2("feature"))
    >>> g = ig.LeastSquares(np.ones((1, 3)), [1.0])
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     res = ig.minimize(f, g, np.zeros(3), bounds=[(-5, 5)] * 3)
    >>> str(seen[0].message)[:59]
    '3 hyperparameters are tuned on 1 outer rows, which support '
    """


def outer_rows(g: Any) -> float | None:
    """How many rows g averages over: its attribute `n_outer`; None where it has none."""
    rows = getattr(g, "n_outer", None)
    return None if rows is None else float(rows)


def warn_of_few_rows(g: Any, n_lam: int) -> None:
    """Warn where the outer set has fewer than `ROWS_EACH` rows a hyperparameter.

    A log strength moves θ along one curve, so that it takes up one degree of freedom at most. For
    squares, a fit of d parameters to m rows with noise σ² leaves σ²(1 − d/m) on these rows and
    σ²(1 + d/m) on others, so that the outer loss is too small by a factor of (m − d)/(m + d) at worst.
    On simulated ridge problems the factor was 0.4 to 0.6 at one row each, 0.7 to 0.8 at two and 0.8 to
    0.9 at four; on new rows a penalty each did no better than one for all at one row each, where all
    features mattered, about as well at two, and better in every case from four on.
    """
    rows = outer_rows(g)
    if rows is not None and n_lam > 1 and n_lam * ROWS_EACH > rows:
        warnings.warn(
            f"{n_lam} hyperparameters are tuned on {rows:.0f} outer rows, which support about "
            f"{max(1, int(rows // ROWS_EACH))}: the outer loss will be too small to be believed. Use "
            "fewer (groups), more outer rows, or watch a third set (watch=). options={'warn': False} "
            "silences this.",
            OverfitWarning,
            stacklevel=4,
        )


def outnumbered(g: Any, n_lam: int) -> bool:
    """Whether there are more hyperparameters than rows of the outer set, so that its loss can be made
    nearly zero whatever the truth is."""
    rows = outer_rows(g)
    return rows is not None and n_lam > 1 and n_lam > rows
