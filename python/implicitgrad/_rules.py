"""Update rules of first-order methods, as options choose them: the core has their steps and the
derivatives of these, which training, the outer loop and `unrolled_grad` share.

A rule takes its own names out of a dict of options; `prefix` tells those of training from those of the
outer loop, where both are in one dict, and `name` is what the length of a step is called.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from scipy.optimize import OptimizeWarning

from . import _arrays, _core


def descent(
    options: dict[str, Any],
    rate: float = 1.0,
    momentum: float = 0.0,
    prefix: str = "",
    name: str = "learning_rate",
) -> _core.StepRule:
    """v ← μ v + α ∇,  x ← x − v: gradient descent, with momentum where μ > 0."""
    rate = _arrays.number(options.pop(prefix + name, rate), prefix + name, positive=True)
    return _core.StepRule.descent(rate, _share(options, prefix + "momentum", momentum))


# With the momentum that is usual.
heavy_ball = partial(descent, momentum=0.9)


def adam(
    options: dict[str, Any], rate: float = 0.1, prefix: str = "", name: str = "learning_rate"
) -> _core.StepRule:
    """Steps of about α in each entry, from running means of the gradient and its square."""
    rate = _arrays.number(options.pop(prefix + name, rate), prefix + name, positive=True)
    beta1 = _share(options, prefix + "beta1", 0.9)
    beta2 = _share(options, prefix + "beta2", 0.999)
    eps = _arrays.number(options.pop(prefix + "eps", 1e-8), prefix + "eps", positive=True)
    return _core.StepRule.adam(rate, beta1, beta2, eps)


def _share(options: dict[str, Any], name: str, default: float) -> float:
    value = _arrays.number(options.pop(name, default), name, nonnegative=True)
    if not value < 1:
        raise ValueError(f"{name} must be below 1, found {value}")
    return value


def refuse_unknown(options: dict[str, Any], stacklevel: int = 5) -> None:
    """Warn, as SciPy does, of what nobody has taken out of the options."""
    if options:
        unknown = ", ".join(map(repr, options))
        warnings.warn(f"Unknown options: {unknown}", OptimizeWarning, stacklevel=stacklevel)
