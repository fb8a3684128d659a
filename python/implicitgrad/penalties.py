"""Penalties: how regularisation strengths depend on λ."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _arrays

_PER = ("all", "feature", "layer", "parameter", "none")


class L2:
    r"""Squared penalty :math:`\tfrac12 \sum_j (\text{fixed} + e^{\lambda_{l(j)}})\, \theta_j^2`.

    Parameters
    ----------
    per : {"all", "feature", "layer", "parameter", "none"} or array of int
        Which features share a strength: all of them (one λ), none (one λ per feature), those with
        the same label 0 … G−1 (G of them; shape (n_features,)), or "none" for no λ at all, only
        `fixed`. For the weights of a network "layer" is one λ a layer and "parameter" one a weight,
        in the order of θ; labels are then one a weight.
    fixed : float, default 0.0
        A constant strength added to each feature's or weight's.

    Notes
    -----
    λ is the logarithm of the strength. Intercepts and biases are never penalised.

    Raises
    ------
    ValueError, TypeError
        Naming `per` or `fixed`, where a label is not an integer, negative, or skips a number.

    Examples
    --------
    >>> import implicitgrad as ig
    >>> ig.L2("feature")
    L2('feature')
    >>> ig.L2([0, 0, 1], fixed=0.1)
    L2([0, 0, 1], fixed=0.1)
    """

    def __init__(self, per: Any = "all", *, fixed: float = 0.0):
        self.fixed = _arrays.number(fixed, "fixed", nonnegative=True)
        self.per: str | np.ndarray
        if isinstance(per, str):
            self.per = _arrays.choice(per, "per", _PER)
            return
        self.per = _arrays.group_labels(per, "per", "feature")

    def groups(self, n_features: int) -> tuple[np.ndarray, int]:
        """Each feature's group, and the number of groups (that is, of λ)."""
        if isinstance(self.per, np.ndarray):
            if self.per.size != n_features:
                raise ValueError(
                    f"penalty has {self.per.size} group labels, X has {n_features} columns"
                )
            return self.per, int(self.per.max()) + 1
        if self.per == "all":
            return np.zeros(n_features, dtype=np.int64), 1
        if self.per == "feature":
            return np.arange(n_features, dtype=np.int64), n_features
        if self.per != "none":
            raise ValueError(
                f"penalty = {self!r} is for networks; a linear model takes 'all', 'feature', 'none' "
                "or group labels"
            )
        return np.empty(0, dtype=np.int64), 0

    def weight_groups(self, sizes: list[int]) -> tuple[np.ndarray, int]:
        """The same for the weights of a network's layers, of these sizes. Empty labels with as many
        groups as weights say that each weight has its own."""
        total = sum(sizes)
        if isinstance(self.per, np.ndarray):
            if self.per.size != total:
                raise ValueError(
                    f"penalty has {self.per.size} group labels, the network has {total} weights"
                )
            return self.per, int(self.per.max()) + 1
        if self.per == "feature":
            raise ValueError(
                "penalty = L2('feature') is for linear models; a network takes 'all', 'layer', "
                "'parameter', 'none' or a group label for each weight"
            )
        if self.per == "all":
            return np.zeros(total, dtype=np.int64), 1
        if self.per == "layer":
            return np.repeat(np.arange(len(sizes)), sizes), len(sizes)
        return np.empty(0, dtype=np.int64), total if self.per == "parameter" else 0

    def __repr__(self) -> str:
        per = repr(self.per) if isinstance(self.per, str) else self.per.tolist()
        return f"L2({per}{f', fixed={self.fixed:g}' if self.fixed else ''})"
