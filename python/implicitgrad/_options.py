"""The `options` of `implicit_grad`, validated once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning

from . import _arrays

PRECONDITIONERS = ("auto", "jacobi", "sketch", "gram", "none")


@dataclass(frozen=True)
class Options:
    maxiter: int | None = None
    atol: float | None = None
    polish: bool = True
    certify: bool = False
    damping: float = 0.0
    preconditioner: Any = "auto"
    rank: int | None = None
    terms: int | None = None
    step_size: float | None = None
    stop: Any = None
    rng: Any = 0
    warn: bool = True

    def __post_init__(self) -> None:
        check = {
            "maxiter": lambda v: _arrays.integer(v, "maxiter", least=1),
            "rank": lambda v: _arrays.integer(v, "rank", least=1),
            "terms": lambda v: _arrays.integer(v, "terms", least=1),
            "atol": lambda v: _arrays.number(v, "atol", nonnegative=True),
            "step_size": lambda v: _arrays.number(v, "step_size", positive=True),
            "damping": lambda v: _arrays.number(v, "damping", nonnegative=True),
            "polish": lambda v: _arrays.boolean(v, "polish"),
            "certify": lambda v: _arrays.boolean(v, "certify"),
            "warn": lambda v: _arrays.boolean(v, "warn"),
        }
        for name, validate in check.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, validate(value))
        for name in ("damping", "polish", "certify", "warn"):
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
        try:
            np.random.default_rng(self.rng)
        except (TypeError, ValueError):
            raise TypeError(
                f"rng must be a seed or a numpy.random.Generator, found {self.rng!r}"
            ) from None

    @property
    def seed(self) -> int:
        """`rng` as a seed of the core's own generator."""
        return 0 if self.rng == 0 else int(np.random.default_rng(self.rng).integers(1, 2**63))


DEFAULT = Options()
_NAMES = frozenset(field.name for field in fields(Options))


def parse(options: Mapping[str, Any] | None) -> Options:
    """Options from a mapping; an unknown name warns, as in SciPy, and is left out."""
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
    return Options(**{name: value for name, value in options.items() if name in _NAMES})
