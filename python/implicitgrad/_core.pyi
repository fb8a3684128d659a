"""The compiled core. Vectors are float64 arrays of shape (n,), blocks of k vectors of shape (n, k);
other dtypes and layouts are converted on the way in."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Array: TypeAlias = NDArray[np.float64]
# Called as monitor(iteration, relative residual, x); returns True to stop.
_Monitor: TypeAlias = Callable[[int, float, _Array], bool]

class _BuildInfo(TypedDict):
    version: str
    compiler: str
    cxx_standard: int
    simd: str
    openmp: int
    threads: int

def build_info() -> _BuildInfo: ...
def default_threads() -> int: ...
def set_patience(seconds: float, /) -> None: ...
def all_finite(v: ArrayLike, /) -> bool: ...
def within(v: ArrayLike, low: float, high: float, /) -> bool: ...
def negligible(s: ArrayLike, theta: ArrayLike, /) -> bool: ...
def norm(v: ArrayLike, /) -> float: ...

# Operators.

class Operator:
    @property
    def size(self) -> int: ...
    @property
    def dense_products(self) -> int: ...
    @property
    def rows_can_be_sampled(self) -> bool: ...
    def apply(self, v: ArrayLike, /) -> _Array: ...
    def dense(self) -> _Array: ...

class CallbackOperator(Operator):
    def __init__(self, apply: Callable[[_Array], ArrayLike], size: int, /) -> None: ...

class ShiftedOperator(Operator):
    def __init__(self, operator: Operator, shift: float, /) -> None: ...
    @property
    def shift(self) -> float: ...

class JacobiPreconditioner(Operator):
    @staticmethod
    def of(operator: Operator, /) -> JacobiPreconditioner | None: ...  # None: no diagonal known
    @property
    def diagonal(self) -> _Array: ...

class CholeskyFactor(Operator):
    def __init__(self, operator: Operator, /) -> None: ...
    @property
    def verdict(self) -> str: ...  # "positive", "singular" or "indefinite"
    @property
    def diagonal(self) -> _Array: ...
    def proven_minimum(self, slack: float, /) -> float: ...
    @property
    def curvature_min(self) -> float: ...
    @property
    def curvature_max(self) -> float: ...

class KroneckerPreconditioner(Operator):
    @staticmethod
    def of(
        at: Linearization, shift: float
    ) -> KroneckerPreconditioner | None: ...  # None: no layers
    @property
    def smallest(self) -> float: ...
    @property
    def largest(self) -> float: ...

class NystromPreconditioner(Operator):
    def __init__(self, operator: Operator, rank: int, seed: int) -> None: ...
    @property
    def rank(self) -> int: ...  # 0: no sketch could be made
    @property
    def products(self) -> int: ...
    @property
    def verdict(self) -> str: ...  # "positive" or "indefinite"
    @property
    def curvature_min(self) -> float: ...
    @property
    def curvature_max(self) -> float: ...
    @property
    def largest(self) -> float: ...
    @property
    def smallest(self) -> float: ...

# Solvers.

class SolveReport:
    @property
    def status(self) -> str: ...
    @property
    def iterations(self) -> int: ...
    @property
    def products(self) -> int: ...
    @property
    def residual(self) -> list[float]: ...
    @property
    def curvature_min(self) -> float: ...
    @property
    def curvature_max(self) -> float: ...
    @property
    def condition(self) -> float: ...
    @property
    def least(self) -> float: ...

# Three columns and more share one Krylov space, unless a checkpoint is asked for.
def cg(
    a: Operator,
    b: ArrayLike,
    rtol: Sequence[float],
    preconditioner: Operator | None,
    x0: ArrayLike | None,
    maxiter: int,
    monitor: _Monitor | None,
    checkpoint_rtol: float = 0.0,
    recompute: bool = True,  # the residual at the end, from which all it says of convergence comes
) -> tuple[_Array, SolveReport, _Array]: ...

class KeptPreconditioner:
    def __init__(self, kind: str, seed: int, rows: int = 0, lasting: bool = False) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def strong(self) -> bool: ...  # a sketch of all that couples the entries of θ
    def apply(self, v: ArrayLike, /) -> _Array: ...
    def prepare(self, a: Operator, nats: float, /) -> int: ...
    def solve(
        self,
        a: Operator,
        b: ArrayLike,
        rtol: Sequence[float],
        x0: ArrayLike | None,
        maxiter: int,
        monitor: _Monitor | None,
        checkpoint_rtol: float = 0.0,
        recompute: bool = True,
    ) -> tuple[_Array, SolveReport, _Array]: ...

def nystrom(
    preconditioner: NystromPreconditioner,
    a: Operator,
    b: ArrayLike,
    rtol: Sequence[float],
    x0: ArrayLike | None,
    maxiter: int,
    monitor: _Monitor | None,
    checkpoint_rtol: float = 0.0,
) -> tuple[_Array, SolveReport, _Array]: ...
def minres(
    a: Operator,
    b: ArrayLike,
    rtol: Sequence[float],
    x0: ArrayLike | None,
    maxiter: int,
    monitor: _Monitor | None,
) -> tuple[_Array, SolveReport]: ...
def neumann(
    a: Operator,
    b: ArrayLike,
    rtol: Sequence[float],
    step_size: float,
    terms: int,
    maxiter: int,
    monitor: _Monitor | None,
) -> tuple[_Array, SolveReport]: ...

# Models.

class Matrix:
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    def all_finite(self, n_threads: int, /) -> bool: ...

def dense_matrix(x: NDArray[Any], /) -> Matrix: ...

# The matrix, or None, what is wrong with the index arrays and where.
def csr_matrix(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    data: NDArray[Any],
    cols: int,
    n_threads: int,
) -> tuple[Matrix | None, str, int]: ...

class NativeObjective:
    @property
    def n_theta(self) -> int: ...
    @property
    def n_lam(self) -> int: ...
    def linearize(
        self, theta: ArrayLike, lam: ArrayLike, remember: bool = True
    ) -> Linearization: ...

class GramSums:  # of all rows where `rows` is empty
    def __init__(
        self,
        x: Matrix,
        intercept: bool,
        y: ArrayLike,
        weights: ArrayLike,
        rows: ArrayLike,
        offset: ArrayLike,
        n_threads: int,
    ) -> None: ...
    @property
    def weight(self) -> float: ...
    @property
    def squares(self) -> _Array: ...
    @property
    def diagonal(self) -> _Array: ...
    @property
    def last_column(self) -> _Array: ...
    def minus(self, some: GramSums, /) -> GramSums: ...

# y may have a column for each target, weights one for each fold.
class LinearModel(NativeObjective):
    @staticmethod
    def of_grams(
        folds: Sequence[GramSums],
        target: int,  # -1: all of them
        fixed: float,
        n_groups: int,
        group: ArrayLike,
        n_threads: int,
    ) -> LinearModel: ...
    def __init__(
        self,
        x: Matrix,
        y: ArrayLike,
        weights: ArrayLike,
        loss: str,
        fixed: float,
        n_groups: int,
        group: ArrayLike,
        intercept: bool,
        n_threads: int,
        classes: int = 1,  # of the loss "softmax", whose y holds labels 0 … classes − 1
    ) -> None: ...
    def finite(self) -> bool: ...  # whether the norms of X's rows are

# Number i of the rows is entry slot[i] of t(λ), or not λ's where that is -1; "shares" are those of runs
# of `width` entries.
class RowMap:
    def __init__(self, transform: str, n_lam: int, slot: ArrayLike, width: int, /) -> None: ...

class InputMap:
    @property
    def n_lam(self) -> int: ...

class InputRows(InputMap):  # row rows[s] is number slot[s] of the `count` rows that λ holds
    def __init__(self, rows: ArrayLike, slot: ArrayLike, count: int, width: int, /) -> None: ...

class CallbackInputs(InputMap):
    def __init__(
        self,
        value: Callable[[_Array], _Array],
        pull: Callable[[_Array, _Array], _Array],
        push: Callable[[_Array, _Array], _Array],
        rows: int,
        cols: int,
        n_lam: int,
        /,
    ) -> None: ...

class HyperModel(NativeObjective):
    def __init__(
        self,
        x: Matrix,
        y: ArrayLike,
        coefficients: ArrayLike,
        loss: str,
        fixed: float,
        n_groups: int,
        group: ArrayLike,
        intercept: bool,
        n_threads: int,
        weights: RowMap | None,
        inputs: InputMap | None,
        targets: RowMap | None,
        classes: int = 1,
    ) -> None: ...
    def finite(self) -> bool: ...
    # The model at lam, with factors e^μ of its coefficients as the only hyperparameters.
    def reweighted(self, lam: ArrayLike, /) -> HyperModel: ...

class Linearization:
    # fun, jac and its norm, jac_lam and its norm
    def first_order(self) -> tuple[float, _Array, float, _Array, float]: ...
    @property
    def hess(self) -> Operator: ...
    @property
    def system(self) -> Operator: ...  # what solvers take for H: definite where f is degenerate
    @property
    def degenerate(self) -> bool: ...  # f is constant in some directions, whatever the data
    def project(self, v: ArrayLike, /) -> _Array: ...  # takes off what v has of them
    @property
    def gauss_newton(self) -> Operator | None: ...
    @property
    def bytes(self) -> float: ...  # that it holds for itself
    def costs(self, nats: float, /) -> tuple[float, float, float, float]: ...
    def gradient_terms(self, by_row: bool, /) -> _Array: ...
    # Columns (t + |diagonal ∘ q|) ∘ pattern and u ∘ pattern, t and u the gradient_terms of g and f.
    def rounding_noise(
        self,
        g: Linearization,
        q: ArrayLike,
        diagonal: ArrayLike,
        pattern: ArrayLike,
        by_row: bool,
        /,
    ) -> _Array: ...
    def cross(self, u: ArrayLike, /) -> _Array: ...
    def cross_transpose(self, q: ArrayLike, /) -> _Array: ...
    def cross_transpose_and_scale(self, q: ArrayLike, /) -> tuple[_Array, float]: ...

class LinearModelLinearization(Linearization):
    def cross_change(self, d: ArrayLike, q: ArrayLike) -> _Array: ...  # ∂C[d]ᵀq, d by column
    @property
    def constant_curvature(self) -> bool: ...  # whether H does not depend on θ
    @property
    def values(self) -> _Array: ...  # the data term's, one a model
    @property
    def strength(self) -> _Array: ...  # one an entry of theta; inf for an intercept
    def errors(self) -> tuple[float, ...]: ...  # the fields of linearization.Terms
    # ‖Cᵀx‖, ‖∂C[d]ᵀq‖ (inf where it is not known) and ‖d‖ of columns x and d.
    def arrival(self, sent: ArrayLike, q: ArrayLike, /) -> tuple[float, float, float]: ...
    def reach(self, v: ArrayLike, /) -> float: ...  # bounds ‖∂C[d]ᵀv‖ / √(dᵀHd)
    def response_rate(self, u: ArrayLike, /) -> float: ...  # the Lipschitz constant of C u in θ

class HyperModelLinearization(LinearModelLinearization): ...

# Networks. The capsules are SciPy's; False where their integers are not 32 bits wide.

def set_blas(dgemm: object, sgemm: object, dsyevd: object, /) -> bool: ...

class MlpArchitecture:
    def __init__(
        self,
        widths: Sequence[int],
        activation: str,
        loss: str,
        fixed: float,
        n_groups: int,
        group: ArrayLike,
    ) -> None: ...

# y has a class for each row, or the targets row after row.
def mlp(
    architecture: MlpArchitecture, x: Matrix, y: ArrayLike, weights: ArrayLike, n_threads: int
) -> NativeObjective: ...

class HyperMlp(NativeObjective):
    def __init__(
        self,
        architecture: MlpArchitecture,
        x: Matrix,
        y: ArrayLike,
        coefficients: ArrayLike,
        n_threads: int,
        weights: RowMap | None,
        inputs: InputMap | None,
        targets: RowMap | None,
    ) -> None: ...
    def reweighted(self, lam: ArrayLike, /) -> HyperMlp: ...

# Training.

# linearize(theta, lam) -> an object with fun, jac, bytes, hess() -> Operator, jac_lam(), cross(u) and
# cross_transpose(q), whose methods are called when they are needed.
class CallbackObjective(NativeObjective):
    def __init__(
        self, linearize: Callable[[_Array, _Array], Any], n_theta: int, n_lam: int, /
    ) -> None: ...

class TrainReport:
    @property
    def at(self) -> Linearization: ...
    @property
    def status(self) -> str: ...
    @property
    def iterations(self) -> int: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def products(self) -> int: ...
    @property
    def fun(self) -> float: ...
    @property
    def stationarity(self) -> float: ...

def train(
    objective: NativeObjective,
    theta0: ArrayLike,
    lam: ArrayLike,
    tol: float,
    maxiter: int,
    direct: bool,
    kept: KeptPreconditioner | None,
) -> tuple[_Array, TrainReport]: ...

# First-order rules, and derivatives through their steps.

class StepRule:
    @staticmethod
    def descent(rate: float, momentum: float, /) -> StepRule: ...
    @staticmethod
    def adam(rate: float, beta1: float, beta2: float, eps: float, /) -> StepRule: ...
    @property
    def most_curvature(self) -> float: ...  # beyond which steps on a quadratic grow

class Stepper:
    def __init__(self, rule: StepRule, /) -> None: ...
    def step(self, gradient: ArrayLike, /) -> _Array: ...

class UnrollReport:
    @property
    def status(self) -> str: ...  # "finished", "diverged" or "non_finite"
    @property
    def steps(self) -> int: ...
    @property
    def linearizations(self) -> int: ...
    @property
    def products(self) -> int: ...
    @property
    def fun(self) -> float: ...
    @property
    def stationarity(self) -> float: ...
    @property
    def theta(self) -> _Array: ...
    @property
    def direct(self) -> _Array: ...
    @property
    def grad(self) -> _Array: ...
    @property
    def grad_rate(self) -> float: ...
    @property
    def grad_theta0(self) -> _Array: ...  # empty where there is none
    @property
    def curvature_min(self) -> float: ...
    @property
    def curvature_max(self) -> float: ...

def unroll(
    f: NativeObjective,
    g: NativeObjective,
    rule: StepRule,
    theta0: ArrayLike,
    lam: ArrayLike,
    steps: int,
    differentiated: int,
    forward: bool,
    memory: float,
) -> UnrollReport: ...
