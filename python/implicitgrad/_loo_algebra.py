"""The dense algebra of the leave-one-out loss: what _loo.py's formulas need of H⁻¹, in ℝᵖ or in ℝⁿ.

Both forms take a `_loo.State`, which they tell a_i and t_i of its rows and which gives them b_i, and
return c_i ℓ''_i x_iᵀMx_i of each row (zero for the squared loss, which does not need it) and
exp(λ) M_jj of each feature; or None where H cannot be factored. All large products are BLAS's, on
blocks of rows or columns: a dense X is never copied. They are SciPy's BLAS's throughout, since the
threads of two libraries, NumPy's being another, get in each other's way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from scipy.linalg.blas import dgemm, dgemv, dsyrk, dtrsm
from scipy.linalg.lapack import dpotrf, dpotri

BLOCK = 1 << 18  # numbers in a block, two megabytes,
LEAST = 32  # but for so many rows or columns at least
# Stands in for a second derivative that is smaller, in the dual form, which divides by it.
FLOOR = 1e-200


class Rows:
    """The rows of A = [X, 1] that count."""

    def __init__(self, X: Any, intercept: bool, kept: np.ndarray | None):
        self.X, self.intercept, self.kept = X, intercept, kept
        self.n = X.shape[0] if kept is None else kept.size
        self.n_features = X.shape[1]
        self.n_theta = self.n_features + intercept
        self.sparse = scipy.sparse.issparse(X)
        self._wide = self.sparse or X.dtype == np.float64  # products need no conversion of X

    def spans(self, width: int) -> Iterator[slice]:
        """Slices of the rows that make blocks of so many columns."""
        step = max(LEAST, BLOCK // max(width, 1))
        return (slice(i, min(i + step, self.n)) for i in range(0, self.n, step))

    def take(self, rows: slice) -> Any:
        """Those rows of X, of X's own type."""
        return self.X[rows if self.kept is None else self.kept[rows]]

    def whole(self) -> Any:
        """X, without rows of weight zero."""
        return self.X if self.kept is None else self.X[self.kept]

    def dense(self, rows: slice) -> np.ndarray:
        """Those rows of A, in an array of their own."""
        out = np.empty((rows.stop - rows.start, self.n_theta))
        some = self.take(rows)
        out[:, : self.n_features] = some.toarray() if self.sparse else some
        out[:, self.n_features :] = 1.0
        return out

    def product(self, theta: np.ndarray) -> np.ndarray:
        """A θ."""
        w = theta[: self.n_features]
        if self._wide:
            z = _product(self.X, w)
            z = z if self.kept is None else z[self.kept]
        else:
            spans = self.spans(self.n_features)
            z = np.concatenate([_product(np.array(self.take(r), np.float64), w) for r in spans])
        return z + theta[-1] if self.intercept else z

    def transposed(self, v: np.ndarray) -> np.ndarray:
        """Aᵀ v."""
        out = np.empty(self.n_theta)
        out[self.n_features :] = v.sum()
        if self._wide:
            whole = v
            if self.kept is not None:
                whole = np.zeros(self.X.shape[0])
                whole[self.kept] = v
            out[: self.n_features] = _product(self.X.T, whole)
        else:
            spans = self.spans(self.n_features)
            terms = (_product(np.array(self.take(r), np.float64).T, v[r]) for r in spans)
            out[: self.n_features] = sum(terms)
        return out


def _product(X: Any, v: np.ndarray) -> np.ndarray:
    """X v, without a copy of X."""
    if isinstance(X, np.ndarray) and X.flags.c_contiguous:
        return dgemv(1.0, X.T, v, trans=1)
    if isinstance(X, np.ndarray) and X.flags.f_contiguous:
        return dgemv(1.0, X, v)
    return X @ v


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of two C-ordered matrices."""
    return dgemm(1.0, b.T, a.T).T


def factor(A: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(L, e) with diag(e) A diag(e) = L Lᵀ of unit diagonal; A is overwritten."""
    e = 1.0 / np.sqrt(A.diagonal())
    A *= e
    A *= e[:, None]
    L, info = dpotrf(A, lower=1, clean=1, overwrite_a=1)
    return (L, e) if info == 0 else None


def divide(L: np.ndarray, rows: np.ndarray, transposed: bool = False) -> np.ndarray:
    """The rows v of a C-ordered block become L⁻¹v, or L⁻ᵀv, in place: n p² flops."""
    solved = dtrsm(1.0, L, rows.T, lower=1, trans_a=int(transposed), overwrite_b=1)
    return solved.T


class Primal:
    """By a factor H = (L/e)(L/e)ᵀ. With v_i = L⁻¹(e ∘ x_i), x_iᵀH⁻¹x_i = ‖v_i‖².

    Cost: n p² flops for H (squared loss: once), p³/3 for L, n p² for the v_i. The squared loss needs
    of M the diagonal only, Σ_i b_i (H⁻¹x_i)_j²: n p² more. Others need M = L⁻ᵀ (Σ_i b_i v_i v_iᵀ) L⁻¹
    and then each row's x_iᵀMx_i: 3 n p² + 2 p³.
    """

    def __init__(self, rows: Rows, data: Any, squared: bool):
        self.rows, self.data, self.squared = rows, data, squared
        self._gram: np.ndarray | None = None

    def _hessian(self, state: Any) -> np.ndarray:
        """H; its data term by the library's own kernel."""
        gram = self._gram
        if gram is None:
            gram = self.data.linearize(state.theta)._core.hess.dense()
            if self.squared:
                self._gram = gram
        H = np.array(gram, order="F")
        p = self.rows.n_features
        H[range(p), range(p)] += state.strength
        return H

    def solve(self, state: Any) -> tuple[np.ndarray, np.ndarray] | None:
        found = factor(self._hessian(state))
        if found is None:
            return None
        L, e = found
        state.growth = 1.0 / L.diagonal().min() ** 2
        rows, order = self.rows, self.rows.n_theta
        outer = np.zeros((order, order), order="F")  # Σ b v vᵀ
        diagonal = np.zeros(order)  # of M, in the scale of e
        for r in rows.spans(order):
            v = rows.dense(r)
            v *= e
            v = divide(L, v)
            a = state.c[r] * np.einsum("ij,ij->i", v, v)
            b = state.leave_out(r, a, 1.0 - state.second[r] * a)
            if self.squared:
                w = divide(L, v, transposed=True)
                diagonal += dgemv(1.0, np.square(w, out=w).T, b)
            else:
                v *= np.sqrt(b)[:, None]
                outer = dsyrk(1.0, v.T, 1.0, outer, lower=1, overwrite_c=1)
        quadratic = np.zeros(rows.n)
        if not self.squared:
            M = self._middle(outer, L)
            diagonal = M.diagonal()
            for r in rows.spans(order):
                x = rows.dense(r)
                x *= e
                quadratic[r] = np.einsum("ij,ij->i", multiply(x, M), x)
            quadratic *= state.c * state.second
        p = rows.n_features
        return quadratic, state.own * e[:p] ** 2 * diagonal[:p]

    @staticmethod
    def _middle(outer: np.ndarray, L: np.ndarray) -> np.ndarray:
        """L⁻ᵀ (outer) L⁻¹, outer being given by its lower triangle."""
        full = outer + np.tril(outer, -1).T
        half = divide(L, np.ascontiguousarray(full), transposed=True)  # its rows: (L⁻ᵀ full)ᵀ
        return divide(L, np.ascontiguousarray(half.T), transposed=True)


class Dual:
    """By matrices of order n, for n < p and strengths above zero.

    Let X̂ = D^{1/2} X S^{-1/2}, K = X̂X̂ᵀ, and Q = (I + K)⁻¹ or, with an intercept and r = D^{1/2}1,
    Q = W − W r rᵀ W / rᵀWr, W = (I + K)⁻¹. Then D^{1/2} A H⁻¹ Aᵀ D^{1/2} = I − Q =: P, so that

        ℓ''_i a_i = P_ii,   t_i = Q_ii,   d_i x_iᵀMx_i = Σ_r (b_r/d_r) P_ir²,
        M_jj = Σ_r (b_r/d_r) (X̂ᵀQ)_jr² / s_j.

    P is −Q off the diagonal, and 1 − Q_ii on it is free of cancellation where that entry of K is large;
    where it is small, P = QK + D^{1/2}(1 rᵀW)/(rᵀWr) is. K is scaled so that nothing overflows.

    Cost: n² p flops for K (where all strengths are equal: once), n³ for Q, 2 n² p for all M_jj, or
    2 n³ for their sum.
    """

    def __init__(self, rows: Rows):
        self.rows = rows
        self._plain: np.ndarray | None = None  # X Xᵀ

    def _kernel(self, strength: np.ndarray, least: float) -> np.ndarray:
        """X diag(least / s) Xᵀ."""
        if (strength == least).all():
            if self._plain is None:
                self._plain = self._gram(None)
            return self._plain.copy()
        return self._gram(np.sqrt(least / strength))

    def _gram(self, scale: np.ndarray | None) -> np.ndarray:
        rows = self.rows
        out = np.zeros((rows.n, rows.n), order="F")
        if rows.sparse:
            X = rows.whole()
            for r in rows.spans(rows.n_features):
                some = rows.take(r).toarray().astype(np.float64, copy=False)
                out[:, r] = X @ (some if scale is None else some * scale**2).T
            return out
        for columns in self._columns():
            some = self._dense(columns)
            if scale is not None:
                some *= scale[columns]
            out = dsyrk(1.0, some.T, 1.0, out, trans=1, lower=1, overwrite_c=1)
        return out + np.tril(out, -1).T

    def _columns(self) -> Iterator[slice]:
        step, p = max(LEAST, BLOCK // self.rows.n), self.rows.n_features
        return (slice(j, min(j + step, p)) for j in range(0, p, step))

    def _dense(self, columns: slice) -> np.ndarray:
        """Columns of a dense X, in a C-ordered array of their own."""
        some = self.rows.X[:, columns]
        some = some if self.rows.kept is None else some[self.rows.kept]
        return np.array(some, dtype=np.float64, order="C")

    def solve(self, state: Any) -> tuple[np.ndarray, np.ndarray] | None:
        rows, second = self.rows, np.maximum(state.second, FLOOR)
        d = state.c * second
        root, least = np.sqrt(d), state.strength.min()
        K = self._kernel(state.strength, least)
        K *= root
        K *= root[:, None]
        # I + K/least, times omega: entries of about one, at most.
        top = max(least, K.diagonal().max())
        omega = least / top
        state.growth = 1.0 / omega  # rows that are alike lose as much of what sets them apart
        K /= top
        of_k = K.diagonal().copy()
        E = K.copy(order="F")
        E[range(rows.n), range(rows.n)] += omega
        N = self._inverse(E)
        if N is None:
            return None
        shift = 0.0
        if rows.intercept:
            w = dgemv(1.0, N, root)
            total = root @ w
            shift = root * w / total
            N -= np.outer(w / total, w)
        t = omega * N.diagonal()
        small = np.einsum("ij,ij->i", N, K) + shift
        h = np.where(of_k < omega, small, 1.0 - t)
        b = state.leave_out(slice(0, rows.n), h / second, t) / d
        quadratic = np.zeros(rows.n)
        if state.ratio.any():
            P = -omega * N
            P[range(rows.n), range(rows.n)] = h
            P *= np.sqrt(b)
            quadratic = np.einsum("ij,ij->i", P, P)
        return quadratic, self._shares(state, K, N, b, root, top, omega)

    @staticmethod
    def _inverse(E: np.ndarray) -> np.ndarray | None:
        found = factor(E)
        if found is None:
            return None
        L, e = found
        N, info = dpotri(L, lower=1, overwrite_c=1)
        if info:
            return None
        N = np.tril(N) + np.tril(N, -1).T
        N *= e
        N *= e[:, None]
        return N

    def _shares(
        self,
        state: Any,
        K: np.ndarray,
        N: np.ndarray,
        b: np.ndarray,
        root: np.ndarray,
        top: float,
        omega: float,
    ) -> np.ndarray:
        """exp(λ) M_jj of each feature; where one λ rules all, their sum is put in the first."""
        rows = self.rows
        out = np.zeros(rows.n_features)
        if not state.own.any():
            return out
        share = state.own / state.strength
        if state.single:
            whole = np.einsum("ij,ij->i", multiply(N, K), N)
            out[0] = share[0] * omega * (b @ whole)
            return out
        N = N * (root * math.sqrt(omega / top))[:, None]
        if rows.sparse:
            transposed = rows.whole().T
            for r in rows.spans(rows.n_features):
                half = transposed @ np.ascontiguousarray(N[:, r])
                out += _product(np.square(half, out=half), b[r])
        else:
            for columns in self._columns():
                half = dgemm(1.0, N.T, self._dense(columns).T, trans_b=1)
                out[columns] = dgemv(1.0, np.square(half, out=half), b, trans=1)
        return out * share * (state.strength.min() / state.strength)
