"""Fills the core's table of BLAS and LAPACK routines with those that SciPy publishes for Cython.

Imported by every module whose native work may factor a matrix.
"""

from scipy.linalg import cython_blas, cython_lapack

from . import _core

_core.load_blas(cython_blas.__pyx_capi__, cython_lapack.__pyx_capi__)
