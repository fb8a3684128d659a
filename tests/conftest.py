"""Shared fixtures only; the problems are in cases.py, the oracle in reference.py."""

import numpy as np
import pytest

from implicitgrad import _core

_core.set_patience(0.0)  # threads in every loop, however short


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def sealed():
    """Register arrays as inputs: they are made read-only, and must hold the same bytes at the end
    (native code could write past the flag)."""
    kept = []

    def seal(*arrays):
        for a in arrays:
            a.setflags(write=False)
            kept.append((a, a.tobytes()))
        return arrays if len(arrays) != 1 else arrays[0]

    yield seal
    for a, before in kept:
        assert a.tobytes() == before, "an input array was modified"
