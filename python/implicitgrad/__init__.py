"""Hypergradients by implicit differentiation, with an error estimate, at the speed of memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _core

if TYPE_CHECKING:
    from ._check import check_hypergrad
    from ._cv import cross_validated
    from ._implicit import implicit_grad
    from ._influence import influence
    from ._loo import leave_one_out
    from ._minimize import minimize
    from ._outer import HyperObjective
    from ._overfit import OverfitWarning
    from ._response import response
    from ._result import (
        ImplicitGradResult,
        ImplicitGradWarning,
        InfluenceResult,
        ResponseResult,
        UnrolledGradResult,
    )
    from ._train import train
    from ._unrolled import unrolled_grad
    from .callables import Objective
    from .hyper import Inputs, SampleWeights, Targets
    from .linearization import Linearization
    from .mlp import MLP
    from .objectives import LeastSquares, Logistic, Poisson, Softmax
    from .penalties import L2
    from .transforms import Affine, Noise, Transform

# Where each public name lives. It is imported when first used, since SciPy's optimisers and linear
# algebra, which these modules build on, take a quarter of a second to import.
_HOMES = {
    "Affine": "transforms",
    "HyperObjective": "_outer",
    "ImplicitGradResult": "_result",
    "ImplicitGradWarning": "_result",
    "InfluenceResult": "_result",
    "Inputs": "hyper",
    "L2": "penalties",
    "MLP": "mlp",
    "LeastSquares": "objectives",
    "Linearization": "linearization",
    "Logistic": "objectives",
    "Noise": "transforms",
    "Objective": "callables",
    "OverfitWarning": "_overfit",
    "Poisson": "objectives",
    "ResponseResult": "_result",
    "SampleWeights": "hyper",
    "Softmax": "objectives",
    "Targets": "hyper",
    "Transform": "transforms",
    "UnrolledGradResult": "_result",
    "check_hypergrad": "_check",
    "cross_validated": "_cv",
    "implicit_grad": "_implicit",
    "influence": "_influence",
    "leave_one_out": "_loo",
    "minimize": "_minimize",
    "response": "_response",
    "train": "_train",
    "unrolled_grad": "_unrolled",
}

__all__ = [
    "L2",
    "MLP",
    "Affine",
    "HyperObjective",
    "ImplicitGradResult",
    "ImplicitGradWarning",
    "InfluenceResult",
    "Inputs",
    "LeastSquares",
    "Linearization",
    "Logistic",
    "Noise",
    "Objective",
    "OverfitWarning",
    "Poisson",
    "ResponseResult",
    "SampleWeights",
    "Softmax",
    "Targets",
    "Transform",
    "UnrolledGradResult",
    "build_info",
    "check_hypergrad",
    "cross_validated",
    "implicit_grad",
    "influence",
    "leave_one_out",
    "minimize",
    "response",
    "train",
    "unrolled_grad",
]

__version__: str = _core.build_info()["version"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def build_info() -> dict[str, Any]:
    """How this installation was built and what it runs with.

    Returns
    -------
    dict
        version, compiler, cxx_standard, simd (the level of the kernels in use), openmp (date of the
        specification), threads (default n_threads), numpy and scipy (versions).

    Examples
    --------
    >>> import implicitgrad as ig
    >>> sorted(ig.build_info())[:3]
    ['compiler', 'cxx_standard', 'numpy']
    """
    import numpy
    import scipy

    return {
        **_core.build_info(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
    }
