"""Multilayer perceptrons, for users; their numerics live in the core."""

from __future__ import annotations

from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse

from . import _arrays, _classes, _core, hyper
from ._blocks import Block
from ._native_objective import NativeObjective, effective_rows
from .linearization import EXACT, HessianOperator, NativeLinearization, Noise
from .penalties import L2

ACTIVATIONS = ("tanh", "softplus", "relu", "identity")
LOSSES = ("softmax", "squared")

_SINGLE = float(np.finfo(np.float32).eps)
ROUNDED = 0.25  # the root mean square of the errors of rounded numbers, in units of that


class MLPLinearization(NativeLinearization):
    """A network at one (θ, λ), with its Gauss-Newton approximation of H.

    Attributes
    ----------
    gauss_newton : LinearOperator, shape (n_theta, n_theta)
        JᵀΛJ + diag(strength), with J the derivatives of the outputs and Λ those of the loss: H
        without the network's own curvature. (For the softmax loss it has curvature along the common
        shift of the output biases, too, along which f is constant.)
    """

    single = False  # whether its products are in float32
    rows = False  # whether λ is in the rows, so that products with C are, too

    @cached_property
    def gauss_newton(self) -> HessianOperator:
        return HessianOperator(self._core.gauss_newton)

    @cached_property
    def noise(self) -> Noise:  # type: ignore[override]
        """What float32 leaves: of the gradient by the size of its terms and what the rounding of θ makes
        of it, of products with H by what a product with a random vector comes to. Estimates."""
        if not self.single:
            return EXACT
        v = np.random.default_rng(0).standard_normal(self.jac.size)
        hess = _core.norm(self._core.hess.apply(v)) / _core.norm(v)
        jac = _core.norm(self._core.gradient_terms(False)) + ROUNDED * hess * self.theta_norm
        of_lam = 0.0, 0.0
        if self.rows:
            scale = self._core.cross_transpose_and_scale(v)[1] / _core.norm(v)
            of_lam = self.jac_lam_norm, scale
        return Noise(*(_SINGLE * size for size in (jac, of_lam[0], hess, of_lam[1])))


class SingleLinearization(MLPLinearization):
    single = True


class SingleRowsLinearization(SingleLinearization):
    rows = True


class MLP(NativeObjective):
    r"""Loss of a multilayer perceptron.

    With :math:`A_0 = X`, :math:`A_l = \varphi(A_{l-1} W_l + 1 b_l^T)` for the hidden layers and
    outputs :math:`z = A_{L-1} W_L + 1 b_L^T`,

    .. math:: f(\theta, \lambda) = \frac1n \sum_i s_i\, \ell(z_i, y_i)
              + \tfrac12 \sum_j (\text{fixed} + e^{\lambda_{l(j)}})\, W_j^2.

    θ holds W_1 (row-major, shape (in, out)), b_1, W_2, …: see `unravel`.

    Parameters
    ----------
    X : array, shape (n, p)
        C- or F-ordered float64 or float32 is borrowed, not copied: it must not change while the
        objective lives. Other real dtypes and layouts are converted once. With float32, layers are
        computed in float32, θ, λ and sums over blocks of rows in float64: gradients and products are
        then accurate to about 1e-6 relative to their terms, which the certificate counts.
    y : array
        For "softmax" a class 0 … K−1 for each row, shape (n,), or soft labels, shape (n, K): a
        distribution over the classes for each row. For "squared" real targets, shape (n,) or (n, t).
    hidden : tuple of int, default (128,)
        Widths of the hidden layers; () is a linear model.
    activation : {"tanh", "softplus", "relu", "identity"}, default "tanh"
        Of the hidden layers. relu has a kink: its second derivative is taken to be 0, and the theorem
        does not hold where a sample sits on it.
    loss : {"softmax", "squared"}, default "softmax"
        logsumexp(z) − z_y, of soft labels logsumexp(z) − yᵀz; or ½ ‖z − y‖² summed over outputs.
    penalty : L2, optional
        How λ enters; without it the objective is a plain loss with n_lam = 0. Biases are not
        penalised.
    sample_weight : array, shape (n,), or SampleWeights, optional
        Weights w ≥ 0, used as s_i = n w_i / Σ w. With `SampleWeights` they are hyperparameters.
    inputs : Inputs, Transform, Affine or Noise, optional
        Rows of X, or a transform of all of them, as hyperparameters; the network is then computed in
        float64.
    targets : Targets, optional
        Targets as hyperparameters, t or K entries of λ a row.
    n_classes : int, optional
        K, where y may lack the last classes; for "softmax" only.
    n_threads : int, optional
        Threads of what is done entry by entry; by default what OpenMP allows. Matrix products are
        SciPy's BLAS's, which has its own (as threadpoolctl sets them): results repeat bit for bit
        where their number stays the same.

    Attributes
    ----------
    n_theta, n_lam : int
        Lengths of θ and λ.
    n_outer : float
        Over how many rows of equal weight it averages: (Σw)² / Σw².

    Raises
    ------
    ValueError, TypeError
        Naming the argument at fault, before any work; a sparse X is refused.

    Notes
    -----
    `linearize` keeps activations and derivatives of all rows, so that a product with H takes only
    the passes of Pearlmutter's method [1]_: 12 flops a weight and row, 4 in the first layer.

    f is not convex in θ: `implicit_grad` reports status 2 where H is indefinite. For the softmax
    loss a constant added to the output biases changes nothing: the adjoint is the solution without a
    part along it, and `curvature` leaves it out.

    References
    ----------
    .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994).

    Examples
    --------
    >>> import numpy as np, implicitgrad as ig
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> net = ig.MLP(X, X[:, 0] ** 2, hidden=(4,), loss="squared", penalty=ig.L2("layer"))
    >>> net.n_theta, net.n_lam
    (13, 2)
    >>> [(W.shape, b.shape) for W, b in net.unravel(np.zeros(13))]
    [((1, 4), (4,)), ((4, 1), (1,))]
    """

    convex = False

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        hidden: tuple[int, ...] = (128,),
        activation: str = "tanh",
        loss: str = "softmax",
        penalty: L2 | None = None,
        sample_weight: Any = None,
        inputs: Any = None,
        targets: Any = None,
        n_classes: int | None = None,
        n_threads: int | None = None,
    ):
        self.n_threads = _arrays.threads(n_threads)
        self.hidden = _widths(hidden)
        self.activation = _arrays.choice(activation, "activation", ACTIVATIONS)
        self.loss = _arrays.choice(loss, "loss", LOSSES)
        if penalty is not None and not isinstance(penalty, L2):
            raise TypeError(f"penalty must be an implicitgrad.L2 or None, found {penalty!r}")
        self.penalty = penalty
        if scipy.sparse.issparse(X):
            raise TypeError("X is sparse, which MLP does not take: pass X.toarray()")
        handle, self.X, _ = _arrays.matrix(X, self.n_threads)
        n, p = self.X.shape
        if loss == "softmax":
            self.y = _classes.targets(y, n)
            outputs = _classes.number(self.y, n_classes)
        elif n_classes is not None:
            raise ValueError("n_classes is for loss = 'softmax'; for 'squared' y says it all")
        else:
            self.y = _arrays.targets(y, n)
            outputs = 1 if self.y.ndim == 1 else self.y.shape[1]
        as_lam = isinstance(sample_weight, hyper.SampleWeights)
        self._in_rows = (sample_weight if as_lam else None), inputs, targets
        if not handle.all_finite(self.n_threads):
            self._refuse_non_finite()
        weights = _arrays.weights(None if as_lam else sample_weight, n)
        self.n_outer = effective_rows(weights) if weights.size else float(n)
        # The c_i of the core: s_i / n.
        self._weights = weights / weights.sum() if weights.size else np.full(n, 1.0 / n)
        self.widths = (p, *self.hidden, outputs)
        if self.X.dtype == np.float32 and inputs is None:
            in_rows = as_lam or targets is not None
            self._linearization = SingleRowsLinearization if in_rows else SingleLinearization
        else:
            self._linearization = MLPLinearization
        self._own(self._build(handle))
        if loss == "softmax" and self.n_lam and not self._free_targets:
            counted = self.y[self._weights > 0]
            if np.count_nonzero(_classes.counts(counted, outputs)) == 1:
                raise ValueError(_arrays.UNTRAINABLE.format("holds one class only"))

    _transient = ("_core", "_memory", "_architecture")

    def _build(self, handle: Any) -> Any:
        if "_architecture" not in vars(self):  # subsets of rows share one
            use_blas()
            sizes = [a * b for a, b in pairwise(self.widths)]
            group, n_groups = (self.penalty or L2("none")).weight_groups(sizes)
            self._blocks = [Block("penalty", n_groups, _arrays.logarithms)]
            self._architecture = _core.MlpArchitecture(
                list(self.widths),
                self.activation,
                self.loss,
                self.penalty.fixed if self.penalty else 0.0,
                n_groups,
                group,
            )
        transform = "identity" if self.loss == "squared" else "shares"
        rows = hyper.bind(self.X, self._in_rows, (transform, self.widths[-1]))
        self._blocks = [self._blocks[0], *rows.blocks]
        self._free_targets = rows.free_targets
        if rows.blocks:
            return self._hyper_model(handle, rows)
        return _core.mlp(self._architecture, handle, self.y.ravel(), self._weights, self.n_threads)

    def _hyper_model(self, handle: Any, rows: hyper.Blocks) -> _core.HyperMlp:
        """The same with blocks of λ in the rows."""
        y = self.y
        if self.loss == "softmax" and rows.targets:
            y = _classes.one_hot(y, self.widths[-1])
        return _core.HyperMlp(
            *(self._architecture, handle, y.ravel(), self._weights, self.n_threads),
            weights=rows.weights,
            inputs=rows.inputs,
            targets=rows.targets,
        )

    def _coefficients(self) -> np.ndarray:
        return self._weights

    def unravel(self, theta: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """[(W, b), …] of the layers, W of shape (in, out) and b of shape (out,): views of θ."""
        theta = _arrays.vector(theta, self.n_theta, "theta", type(self).__name__)
        out, at = [], 0
        for a, b in pairwise(self.widths):
            end = at + a * b
            out.append((theta[at:end].reshape(a, b), theta[end : end + b]))
            at = end + b
        return out

    def initial_theta(self, rng: Any = 0) -> np.ndarray:
        """A start for training, shape (n_theta,): weights uniform in ±√(6 / (in + out)), biases 0.

        Zeros would be a saddle of f. From X. Glorot and Y. Bengio, "Understanding the difficulty of
        training deep feedforward neural networks", AISTATS 2010.
        """
        source = _arrays.generator(rng, "rng")
        theta = np.zeros(self.n_theta)
        for W, _ in self.unravel(theta):
            limit = np.sqrt(6 / sum(W.shape))
            W[...] = source.uniform(-limit, limit, W.shape)
        return theta

    def __repr__(self) -> str:
        n, p = self.X.shape
        return (
            f"MLP(<{n} × {p} {self.X.dtype}>, hidden={self.hidden}, "
            f"activation={self.activation!r}, loss={self.loss!r}, penalty={self.penalty!r}"
            f"{hyper.shown(self._in_rows)})"
        )


@cache
def use_blas() -> None:
    """Hand the core the matrix products of SciPy's BLAS, and the eigenvalues of its LAPACK."""
    from scipy.linalg import cython_blas, cython_lapack

    blas, lapack = cython_blas.__pyx_capi__, cython_lapack.__pyx_capi__
    if not _core.set_blas(blas["dgemm"], blas["sgemm"], lapack["dsyevd"]):
        raise ImportError("SciPy's BLAS has integers of another width than MLP can use")


def _widths(hidden: Any) -> tuple[int, ...]:
    if isinstance(hidden, (str, bytes)) or not hasattr(hidden, "__iter__"):
        raise TypeError(f"hidden must be a tuple of layer widths, found {hidden!r}")
    return tuple(_arrays.integer(width, "hidden", least=1) for width in hidden)
