"""Which objectives are the library's own, so that work on them may stay in the core.

A subclass that overrides `linearize` is not: what it overrides is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._native_objective import NativeObjective
from .callables import Objective


def is_native(f: Any) -> bool:
    return isinstance(f, NativeObjective) and type(f).linearize is NativeObjective.linearize


def linearizer(f: Any) -> Callable[..., Any]:
    """``linearize`` of an objective, without its validation where that is the library's own."""
    if is_native(f) or (isinstance(f, Objective) and type(f).linearize is Objective.linearize):
        return f._linearize
    return f.linearize


def passer(f: Any) -> Callable[..., Any]:
    """`linearizer`, for a point that the objective need not remember."""
    return f._pass if is_native(f) else linearizer(f)
