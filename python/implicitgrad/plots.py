"""Plots, on matplotlib (the extra ``plot``). Each function draws on one Axes and returns it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def outer_history(runs: Any, ax: Axes | None = None, **line: Any) -> Axes:
    """Plot the outer loss by outer iteration.

    Parameters
    ----------
    runs : sequence of float, or sequence of such sequences
        Losses, the first at the start. Of several runs the mean is drawn; one that ended earlier
        counts with its last value.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    **line
        Passed on to ``ax.plot``: label, color, …

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Where matplotlib is missing.
    ValueError
        Where there is nothing to draw.

    Examples
    --------
    >>> import implicitgrad as ig
    >>> from implicitgrad import plots
    >>> f = ig.LeastSquares([[1.0], [2.0]], [1.0, 3.0], penalty=ig.L2())
    >>> g = ig.LeastSquares([[1.0]], [1.0])
    >>> losses = []
    >>> def record(intermediate_result):
    ...     losses.append(intermediate_result.fun)
    >>> res = ig.minimize(f, g, [-3.0], callback=record)
    >>> ax = plots.outer_history(losses, label="validation loss")
    """
    if len(runs) == 0 or np.ndim(runs[0]) == 0:
        runs = [runs]
    length = max(len(run) for run in runs)
    if min(len(run) for run in runs) == 0:
        raise ValueError("runs is empty, or holds an empty run")
    held = [np.pad(np.asarray(run, float), (0, length - len(run)), mode="edge") for run in runs]
    ax = _axes(ax)
    ax.plot(np.arange(length), np.mean(held, axis=0), **line)
    ax.set_xlabel("outer iteration")
    ax.set_ylabel("loss")
    return ax


def penalties(
    lam: Any,
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    groups: Any = None,
    group_names: Sequence[str] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Axes:
    """Plot log penalties, one a column.

    Parameters
    ----------
    lam : array, shape (n_lam,) or (n_runs, n_lam)
        Log penalties λ. Of several runs each is a faint dot and their median a strong one.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    names : sequence of str, optional
        Labels of the columns.
    groups : array of int, shape (n_lam,), optional
        Columns with the same label get the same colour.
    group_names : sequence of str, optional
        What the legend calls group 0, 1, …
    bounds : (float, float), optional
        Drawn as lines: columns at the upper bound are switched off, those at the lower one free.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Where matplotlib is missing.

    Examples
    --------
    >>> from implicitgrad import plots
    >>> ax = plots.penalties([-2.0, 0.5, 10.0], names=["age", "bmi", "bp"], bounds=(-10, 10))
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['age', 'bmi', 'bp']
    """
    runs = np.atleast_2d(np.asarray(lam, float))
    columns = np.arange(runs.shape[1])
    labels = np.zeros(columns.size, int) if groups is None else np.asarray(groups)
    ax = _axes(ax)
    for label in np.unique(labels):
        of = columns[labels == label]
        colour = f"C{label}"
        if len(runs) > 1:
            ax.plot(np.tile(of, len(runs)), runs[:, of].ravel(), ".", color=colour, alpha=0.2)
        name = None if group_names is None else group_names[label]
        ax.plot(of, np.median(runs[:, of], axis=0), "o", color=colour, label=name)
    for bound in bounds or ():
        ax.axhline(bound, color="0.7", linewidth=0.8, zorder=0)
    if names is not None:
        ax.set_xticks(columns, names, rotation=90)
    ax.set_ylabel("λ (log penalty)")
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError('plots need matplotlib: pip install "implicitgrad[plot]"') from None
    return pyplot.subplots(layout="constrained")[1]
