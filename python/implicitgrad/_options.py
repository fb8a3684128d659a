"""The `options` of `implicit_grad` and `response`, validated once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning

from . import _arrays

CURVATURES = ("exact", "gauss_newton")
PRECONDITIONERS = ("auto", "jacobi", "sketch", "gram", "kronecker", "none")

_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("maxiter", "rank", "terms"), partial(_arrays.integer, least=1)),
    **dict.fromkeys(("atol", "damping"), partial(_arrays.number, nonnegative=True)),
    "step_size": partial(_arrays.number, positive=True),
    **dict.fromkeys(("polish", "certify", "bound", "warn"), _arrays.boolean),
}


# Those that only some methods use.
_USED_BY = {
    "preconditioner": ("auto", "cg", "nystrom"),  # the last refuses any but "auto", and says why
    "rank": ("nystrom",),
    "step_size": ("neumann",),
    "terms": ("neumann",),
}


@dataclass(frozen=True)
class Options:
    maxiter: int | None = None
    atol: float | None = None
    polish: bool = True
    certify: bool | None = None
    bound: bool = True
    damping: float = 0.0
    curvature: str = "exact"
    preconditioner: Any = "auto"
    rank: int | None = None
    terms: int | None = None
    step_size: float | None = None
    stop: Any = None
    rng: Any = 0
    warn: bool = True

    def __post_init__(self) -> None:
        for name, validate in _CHECKS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, validate(value, name))
        _arrays.choice(self.curvature, "curvature", CURVATURES)
        for name in ("bound", "damping", "polish", "warn"):
            if getattr(self, name) is None:
                raise TypeError(f"{name} must not be None")
        if self.stop is not None and not callable(self.stop):
            _arrays.number(self.stop, "stop", positive=True)
        if isinstance(self.preconditioner, str):
            _arrays.choice(self.preconditioner, "preconditioner", PRECONDITIONERS)
        elif self.preconditioner is not None and not (
            callable(self.preconditioner) or hasattr(self.preconditioner, "__matmul__")
        ):
            raise TypeError(
                f"preconditioner must be {', '.join(map(repr, PRECONDITIONERS))}, None, an operator "
                f"or a function, found {self.preconditioner!r}"
            )
        if not (type(self.rng) is int and self.rng >= 0):
            _arrays.generator(self.rng, "rng")

    @property
    def solved(self) -> str:
        """The system that is asked for, in words, where it is not H q = b."""
        name = "H" if self.curvature == "exact" else "G"
        if not self.damping:
            return "" if name == "H" else "G q = b, G the Gauss-Newton approximation of H"
        of = "" if name == "H" else ", G the Gauss-Newton approximation of H"
        return f"({name} + damping I) q = b with damping = {self.damping:g}{of}"

    @property
    def seed(self) -> int:
        """`rng` as a seed of the core's own generator."""
        return 0 if self.rng == 0 else int(np.random.default_rng(self.rng).integers(1, 2**63))


DEFAULT = Options()
_NAMES = frozenset(field.name for field in fields(Options))


def parse(options: Mapping[str, Any] | None, method: Any = None) -> Options:
    """Options from a mapping; an unknown name warns, as in SciPy, and is left out. So does one that
    this method does not use."""
    if not options:
        if options is None or isinstance(options, Mapping):
            return DEFAULT
        raise TypeError(f"options must be a dict or None, found {options!r}")
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, found {options!r}")
    unknown = [name for name in options if name not in _NAMES]
    if unknown:
        warnings.warn(
            f"Unknown options: {', '.join(map(repr, unknown))}", OptimizeWarning, stacklevel=3
        )
    found = Options(**{name: value for name, value in options.items() if name in _NAMES})
    for name, users in _USED_BY.items():
        value, default = getattr(found, name), getattr(DEFAULT, name)
        left = value is default or (isinstance(value, str) and value == default)
        if method is not None and method not in users and not left:
            named = repr(method) if isinstance(method, str) else "a callable"
            warnings.warn(
                f"Unused option: method = {named} does not use {name!r}",
                OptimizeWarning,
                stacklevel=3,
            )
    return found
