"""Hypergradients by implicit differentiation, with an error estimate, at the speed of memory."""

from __future__ import annotations

from typing import Any

from scipy.linalg import cython_blas as _cython_blas
from scipy.linalg import cython_lapack as _cython_lapack

from . import _core
from ._check import check_hypergrad
from ._implicit import implicit_grad
from ._outer import HyperObjective, minimize
from ._result import ImplicitGradResult, ImplicitGradWarning
from ._train import train
from .callables import Objective
from .linearization import Linearization
from .objectives import LeastSquares, Logistic
from .penalties import L2

_core.load_blas(_cython_blas.__pyx_capi__, _cython_lapack.__pyx_capi__)

__all__ = [
    "L2",
    "HyperObjective",
    "ImplicitGradResult",
    "ImplicitGradWarning",
    "LeastSquares",
    "Linearization",
    "Logistic",
    "Objective",
    "build_info",
    "check_hypergrad",
    "implicit_grad",
    "minimize",
    "train",
]


def build_info() -> dict[str, Any]:
    """How this installation was built and what it runs with.

    Returns
    -------
    dict
        version, compiler, cxx_standard, simd (the level of the kernels in use), openmp (date of the
        specification), threads (default n_threads), blas (where BLAS and LAPACK come from), numpy
        and scipy (versions).

    Examples
    --------
    >>> import implicitgrad as ig
    >>> sorted(ig.build_info())[:3]
    ['blas', 'compiler', 'cxx_standard']
    """
    import numpy
    import scipy

    blas = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        **_core.build_info(),
        "blas": f"scipy.linalg ({blas.get('name', 'unknown')} {blas.get('version', '')})".strip(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
    }


__version__: str = _core.build_info()["version"]
