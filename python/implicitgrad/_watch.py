"""What sees each outer iteration: the user's callback, the third set, the progress bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from ._callback import takes_intermediate_result
from ._outer import HyperObjective
from ._third_set import ThirdSet


class Watch:
    """The outer callback, in SciPy's protocol, with the state of the hyper-objective added.

    Raises StopIteration where the user's callback does, or where the third set has lost patience.
    """

    def __init__(
        self,
        h: HyperObjective,
        callback: Callable[..., Any] | None,
        third: ThirdSet | None,
        progress: bool,
    ):
        self.h, self.callback, self.third = h, callback, third
        self.stopped = self.stopped_early = False
        self.nit = 0
        self.last = np.empty(0)  # λ after the last iteration
        self._whole = callback is not None and takes_intermediate_result(callback)
        self._bar = _bar() if progress else None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, lam: np.ndarray) -> None:
        """Where the loop begins, θ being that of the hyper-objective."""
        if self.third is not None:
            self.third.see(lam, self._theta(lam))

    def __call__(self, intermediate_result: OptimizeResult) -> None:
        self.nit += 1
        if not isinstance(intermediate_result, OptimizeResult):  # some of SciPy's methods give x
            intermediate_result = OptimizeResult(x=intermediate_result)
        h, state = self.h, OptimizeResult(intermediate_result)
        lam = np.asarray(state.x, dtype=np.float64)
        if self._bar is not None:
            self._bar.set_postfix(nhev=h.nhev, refresh=False)
            self._bar.update()
        self.last = lam.copy()
        if self.callback is not None:
            state.update(nit=self.nit, nfev=h.nfev, nhev=h.nhev)
            state.update(theta=self._theta(lam).copy(), hypergradient=h.result)
            if "grad" in state:  # trust-constr calls the constraints' Jacobians jac
                state.jac = state.grad
            elif "jac" not in state and h.result is not None:
                state.jac = h.result.grad
            if "fun" not in state and h.result is not None:
                state.fun = h.result.fun
            state.x = lam.copy()
            if "jac" in state:  # the callback's own, whatever it does with it
                state.jac = np.array(state.jac)
            try:
                if self._whole:
                    self.callback(intermediate_result=state)
                else:
                    self.callback(np.copy(state.x))
            except StopIteration:
                self.stopped = True
                raise
        if self.third is not None and not self.third.see(lam, self._theta(lam)):
            self.stopped_early = True
            raise StopIteration

    def _theta(self, lam: np.ndarray) -> np.ndarray:
        """θ at λ: at once where λ was the last that was tried, as it nearly always is."""
        if self.h._lam is not None and not np.array_equal(self.h._lam, lam):
            self.h(lam)
        assert self.h.theta is not None
        return self.h.theta


def _bar() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            'progress=True needs tqdm: pip install "implicitgrad[progress]"'
        ) from None
    return tqdm(desc="outer", unit=" iterations")
