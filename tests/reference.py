"""A naive oracle: dense formulas in extended precision, sharing no code with the library.

Everything is written as the mathematics is, with one design matrix A = [X, 1], dense Hessians and
dense cross matrices, in ``np.longdouble`` (80 bits on x86: three decimal digits more than the
library has; elsewhere it may be plain double, which every test's tolerance still allows).
"""

from itertools import pairwise

import numpy as np

WIDE = np.longdouble


def assert_near(got, want, rtol=1e-12, what=""):
    """Compare shape, and the largest difference with the largest entry of `want`."""
    got = np.asarray(got)
    want = np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, wanted {want.shape}"
    assert got.dtype == np.float64, f"{what}: dtype {got.dtype}"
    if want.size:
        assert np.isfinite(got).all(), f"{what}: not finite"
        off, scale = np.max(np.abs(got - want)), np.max(np.abs(want))
        assert off <= rtol * scale, f"{what}: off by {off:.2e}, allowed {rtol:.0e} of {scale:.2e}"


def relative_error(got, want):
    got, want = np.asarray(got, dtype=WIDE), np.asarray(want, dtype=WIDE)
    return float(np.sqrt(np.sum((got - want) ** 2)) / np.sqrt(np.sum(want**2)))


def cholesky_solve(H, B):
    """Solve H Q = B for positive definite H in extended precision (LAPACK has none)."""
    H, B = np.array(H, dtype=WIDE), np.array(B, dtype=WIDE)
    n = len(H)
    L = np.zeros_like(H)
    for j in range(n):
        column = H[j:, j] - L[j:, :j] @ L[j, :j]
        if not column[0] > 0:
            raise np.linalg.LinAlgError("not positive definite")
        L[j:, j] = column / np.sqrt(column[0])
    for j in range(n):
        B[j] = (B[j] - L[j, :j] @ B[:j]) / L[j, j]
    for j in reversed(range(n)):
        B[j] = (B[j] - L[j + 1 :, j] @ B[j + 1 :]) / L[j, j]
    return B


def signs(y):
    """Labels in {-1, 1}, {0, 1} or bool as -1 and 1."""
    y = np.asarray(y).astype(WIDE)
    return np.where(y > 0, WIDE(1), WIDE(-1))


class LinearModel:
    """f(theta, lam) = (1/n) sum_i s_i l_i(theta) + 1/2 sum_j (fixed + exp lam_group(j)) theta_j^2.

    penalty is None, "none", "all", "feature" or an array of group labels, one per column of X.
    """

    def __init__(
        self, loss, X, y, penalty=None, fixed=0.0, fit_intercept=False, sample_weight=None
    ):
        X = np.asarray(X).astype(WIDE)
        n, p = X.shape
        self.loss = loss
        self.A = np.hstack([X, np.ones((n, 1), dtype=WIDE)]) if fit_intercept else X
        self.y = signs(y) if loss == "Logistic" else np.asarray(y).astype(WIDE)
        w = np.ones(n) if sample_weight is None else np.asarray(sample_weight)
        self.s = n * w.astype(WIDE) / np.sum(w.astype(WIDE))
        self.n, self.p = n, p
        self.n_theta = self.A.shape[1]
        self.fixed = WIDE(0 if penalty is None else fixed)
        if penalty is None or (isinstance(penalty, str) and penalty == "none"):
            groups = np.full(p, -1)
        elif isinstance(penalty, str):
            groups = {"all": np.zeros(p, dtype=int), "feature": np.arange(p)}[penalty]
        else:
            groups = np.asarray(penalty)
        # n_theta × n_lam membership: which λ acts on which coefficient (none on the intercept).
        self.member = np.zeros((self.n_theta, groups.max(initial=-1) + 1), dtype=WIDE)
        for j, k in enumerate(groups):
            if k >= 0:
                self.member[j, k] = 1
        self.n_lam = self.member.shape[1]

    def strength(self, lam):
        d = np.zeros(self.n_theta, dtype=WIDE)
        d[: self.p] = self.fixed
        if self.n_lam:
            d += self.member @ np.exp(np.asarray(lam, dtype=WIDE))
        return d

    def pointwise(self, theta):
        """Each row's loss, and its first and second derivative in the margin z."""
        z = self.A @ np.asarray(theta, dtype=WIDE)
        if self.loss == "LeastSquares":
            r = z - self.y
            return r * r / 2, r, np.ones_like(r)
        if self.loss == "Poisson":
            return np.exp(z) - self.y * z, np.exp(z) - self.y, np.exp(z)
        if self.loss == "SoftLogistic":  # y is the probability of the class 1
            up, down = np.logaddexp(0, z), np.logaddexp(0, -z)
            value = self.y * down + (1 - self.y) * up
            return value, (1 - self.y) * np.exp(-down) - self.y * np.exp(-up), np.exp(-up - down)
        m = self.y * z
        up, down = np.logaddexp(0, m), np.logaddexp(0, -m)
        return down, -self.y * np.exp(-up), np.exp(-up - down)

    def fun(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        loss = np.sum(self.s * self.pointwise(theta)[0]) / self.n
        return loss + np.sum(self.strength(lam) * theta**2) / 2

    def jac(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        return self.A.T @ (self.s * self.pointwise(theta)[1]) / self.n + self.strength(lam) * theta

    def hess(self, theta, lam=()):
        d = self.s * self.pointwise(theta)[2] / self.n
        return self.A.T @ (d[:, None] * self.A) + np.diag(self.strength(lam))

    def solve(self, theta, lam, b):
        """The solution of H q = b; the least one of several."""
        return cholesky_solve(self.hess(theta, lam), b)

    def cross(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        if not self.n_lam:
            return np.zeros((self.n_theta, 0), dtype=WIDE)
        return self.member * theta[:, None] * np.exp(np.asarray(lam, dtype=WIDE))

    def jac_lam(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        if not self.n_lam:
            return np.zeros(0, dtype=WIDE)
        return np.exp(np.asarray(lam, dtype=WIDE)) * (self.member.T @ theta**2) / 2

    def train(self, lam=(), theta0=None):
        """theta*(lam) to the last bits of extended precision: Newton with backtracking."""
        theta = np.zeros(self.n_theta, dtype=WIDE)
        if theta0 is not None:
            theta = theta + np.asarray(theta0, dtype=WIDE)
        before = np.inf
        for _ in range(200):
            r = self.jac(theta, lam)
            s = self.solve(theta, lam, r)
            decrement, value = r @ s, self.fun(theta, lam)
            if decrement <= 1e-12 * (1 + abs(value)):
                # Full steps from here, until rounding ends their quadratic convergence.
                if decrement >= before / 4:
                    return theta
                theta, before = theta - s, decrement
                continue
            t = WIDE(1)
            while self.fun(theta - t * s, lam) > value - t * decrement / 4:
                t = t / 2
            theta = theta - t * s
        raise AssertionError("the oracle's Newton iteration did not converge")


def shares(y, classes):
    """Labels, or distributions over the classes, as the latter."""
    y = np.asarray(y)
    return np.eye(classes, dtype=WIDE)[y.astype(int)] if y.ndim == 1 else y.astype(WIDE)


class Softmax(LinearModel):
    """The same for K classes: theta = W.ravel(), W of shape (columns of A, K)."""

    def __init__(self, X, y, classes, **kwargs):
        super().__init__("Softmax", X, y, **kwargs)
        self.K, self.share = classes, shares(y, classes)
        self.n_theta *= classes
        self.rows = self.member.shape[0]
        self.member = np.repeat(self.member, classes, axis=0)
        self.penalised = np.repeat(np.arange(self.rows) < self.p, classes)

    def strength(self, lam):
        d = np.where(self.penalised, self.fixed, WIDE(0))
        return d + self.member @ np.exp(np.asarray(lam, dtype=WIDE)) if self.n_lam else d

    def probabilities(self, theta):
        z = self.A @ np.asarray(theta, dtype=WIDE).reshape(self.rows, self.K)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return z, e / e.sum(axis=1, keepdims=True)

    def fun(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        z = self.A @ theta.reshape(self.rows, self.K)
        z = z - (self.share * z).sum(axis=1, keepdims=True)
        top = z.max(axis=1)
        each = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
        return np.sum(self.s * each) / self.n + np.sum(self.strength(lam) * theta**2) / 2

    def jac(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        off = self.probabilities(theta)[1] - self.share
        data = self.A.T @ (self.s[:, None] * off) / self.n
        return data.ravel() + self.strength(lam) * theta

    def hess(self, theta, lam=()):
        p = self.probabilities(theta)[1]
        each = np.einsum("ia,ab->iab", p, np.eye(self.K, dtype=WIDE)) - p[:, :, None] * p[:, None]
        weighted = (self.s / self.n)[:, None, None] * each
        data = np.zeros((self.rows, self.K, self.rows, self.K), dtype=WIDE)
        for i in range(self.n):
            outer = np.outer(self.A[i], self.A[i])
            data += outer[:, None, :, None] * weighted[i][None, :, None, :]
        return data.reshape(self.n_theta, self.n_theta) + np.diag(self.strength(lam))

    def null(self, lam):
        """Columns that span the directions in which f is constant whatever the data."""
        free = self.strength(lam).reshape(self.rows, self.K)[:, 0] == 0
        return np.kron(np.eye(self.rows, dtype=WIDE)[:, free], np.ones((self.K, 1), dtype=WIDE))

    def solve(self, theta, lam, b):
        N = self.null(lam) / np.sqrt(WIDE(self.K))
        b = b - N @ (N.T @ b)
        return cholesky_solve(self.hess(theta, lam) + N @ N.T, b)


class HyperModel(LinearModel):
    """A linear model whose rows depend on λ: after the penalty's entries, `rows(lam, X, y, s)` gives
    inputs, targets and weights s_i. Derivatives in λ are central differences in extended precision,
    extrapolated once: good to about 1e-14."""

    def __init__(self, loss, X, y, rows, penalty, fit_intercept, sample_weight, soft):
        fixed = 0.1 if penalty == "none" else 0.0
        super().__init__(loss, X, y, penalty, fixed, fit_intercept, sample_weight)
        self.rows, self.n_penalty, self.X = rows, self.n_lam, np.asarray(X).astype(WIDE)
        self.fit_intercept, self.n_lam = fit_intercept, None
        if soft and loss == "Logistic":
            self.loss, self.y = "SoftLogistic", (1 + self.y) / 2

    def at(self, lam):
        """The model of these rows, a function of the strengths alone."""
        lam = np.asarray(lam, dtype=WIDE)
        X, y, s = self.rows(lam[self.n_penalty :], self.X, self.y, self.s)
        model = object.__new__(LinearModel)
        vars(model).update(vars(self))
        model.A = np.hstack([X, np.ones((self.n, 1), dtype=WIDE)]) if self.fit_intercept else X
        model.y, model.s, model.n_lam = y, s, self.n_penalty
        return model, lam[: self.n_penalty]

    def fun(self, theta, lam):
        model, strengths = self.at(lam)
        return model.fun(theta, strengths)

    def jac(self, theta, lam):
        model, strengths = self.at(lam)
        return model.jac(theta, strengths)

    def hess(self, theta, lam):
        model, strengths = self.at(lam)
        return model.hess(theta, strengths)

    def cross(self, theta, lam):
        return self._by_lam(lambda x: self.jac(theta, x), lam).T

    def jac_lam(self, theta, lam):
        return self._by_lam(lambda x: self.fun(theta, x), lam)

    @staticmethod
    def _by_lam(value, lam):
        lam, h = np.asarray(lam, dtype=WIDE), WIDE(1e-4)

        def central(u, h):
            return (value(lam + h * u) - value(lam - h * u)) / (2 * h)

        return np.array(
            [(4 * central(u, h / 2) - central(u, h)) / 3 for u in np.eye(len(lam), dtype=WIDE)]
        )


def hypergradient(f, g, theta, lam):
    """dg/dlam = ∂g/∂lam - Cᵀ H⁻¹ ∇θg at this theta. Returns (gradient, adjoint)."""
    q = f.solve(theta, lam, g.jac(theta, lam))
    response = -f.cross(theta, lam).T @ q
    return (g.jac_lam(theta, lam) + response if g.n_lam else response), q


def exact_hypergradient(f, g, lam):
    """The hypergradient at theta*(lam)."""
    return hypergradient(f, g, f.train(lam), lam)[0]


def resolved_differences(f, g, lam, directions=None, h=1e-4):
    """Derivatives of lam -> g(theta*(lam), lam) along each row of `directions` (default: every
    coordinate), by central differences of re-trained models, extrapolated once: O(h⁴)."""
    lam = np.asarray(lam, dtype=WIDE)
    directions = np.eye(len(lam)) if directions is None else directions
    start = f.train(lam)

    def value(x):
        return g.fun(f.train(x, start), x)

    def central(u, h):
        return (value(lam + h * u) - value(lam - h * u)) / (2 * h)

    rows = [np.asarray(u, dtype=WIDE) for u in directions]
    return np.array([(4 * central(u, h / 2) - central(u, h)) / 3 for u in rows])


def ridge_closed_form(X, y, X_val, y_val, lam):
    """Ridge with one log-penalty per feature and no intercept, straight from its normal equations.

    theta* = A⁻¹ Xᵀy/n with A = XᵀX/n + diag(e^lam), so dtheta*/dlam_j = -A⁻¹ e_j e^{lam_j} theta_j.
    Returns (theta*, the hypergradient of ½ mean squared validation residual).
    """
    X, y, X_val, y_val, lam = (np.asarray(a).astype(WIDE) for a in (X, y, X_val, y_val, lam))
    A = X.T @ X / len(y) + np.diag(np.exp(lam))
    theta = cholesky_solve(A, X.T @ y / len(y))
    J = -cholesky_solve(A, np.diag(np.exp(lam) * theta))
    return theta, J.T @ (X_val.T @ (X_val @ theta - y_val)) / len(y_val)


class MLP:
    """A multilayer perceptron, by complex steps: with h = 1e-30 the derivative of an analytic F is
    Im F(x + ih) / h to all digits. θ is W_1 (in, out) row-major, b_1, W_2, …

    penalty is None, "none", "all", "layer", "parameter" or an array of group labels, one a weight.
    """

    def __init__(
        self,
        X,
        y,
        hidden,
        activation,
        loss,
        penalty=None,
        fixed=0.0,
        sample_weight=None,
        n_outputs=None,
    ):
        self.X = np.asarray(X).astype(WIDE)
        self.activation, self.loss = activation, loss
        n, p = self.X.shape
        if loss == "softmax":
            outputs = n_outputs or (np.max(y) + 1 if np.ndim(y) == 1 else np.shape(y)[1])
            self.y = shares(y, outputs)
        else:
            self.y = np.asarray(y).astype(WIDE).reshape(n, -1)
            outputs = self.y.shape[1]
        w = np.ones(n) if sample_weight is None else np.asarray(sample_weight)
        self.c = w.astype(WIDE) / np.sum(w.astype(WIDE))
        self.widths = [p, *hidden, outputs]
        self.shapes = list(pairwise(self.widths))
        self.fixed = WIDE(0 if penalty is None else fixed)
        weight = np.concatenate([np.repeat([True, False], [a * b, b]) for a, b in self.shapes])
        self.n_theta = weight.size
        self.weights = np.flatnonzero(weight)
        layers = np.repeat(np.arange(len(self.shapes)), [a * b for a, b in self.shapes])
        count = len(layers)
        none = np.full(count, -1)
        groups = {"all": 0 * layers, "layer": layers, "parameter": np.arange(count), "none": none}
        labels = penalty if isinstance(penalty, np.ndarray) else groups[penalty or "none"]
        self.member = np.zeros((self.n_theta, labels.max(initial=-1) + 1), dtype=WIDE)
        for j, k in zip(self.weights, labels, strict=True):
            if k >= 0:
                self.member[j, k] = 1
        self.n_lam = self.member.shape[1]

    def strength(self, lam):
        d = np.zeros(self.n_theta, dtype=WIDE)
        d[self.weights] = self.fixed
        return d + self.member @ np.exp(np.asarray(lam, dtype=WIDE)) if self.n_lam else d

    def layers(self, theta):
        at = 0
        for a, b in self.shapes:
            yield theta[at : at + a * b].reshape(a, b), theta[at + a * b : at + (a + 1) * b]
            at += (a + 1) * b

    def phi(self, z):
        """The activation and its derivative."""
        if self.activation == "tanh":
            return np.tanh(z), 1 / np.cosh(z) ** 2
        if self.activation == "softplus":
            return np.log(1 + np.exp(z)), 1 / (1 + np.exp(-z))
        if self.activation == "relu":
            return z * (z.real > 0), (z.real > 0).astype(z.dtype)
        return z, np.ones_like(z)

    def outputs(self, theta):
        return self.passes(theta)[-1][0]

    def passes(self, theta):
        """(activation, its derivative) of every layer, the inputs first."""
        out = [(self.X, None)]
        for i, (W, b) in enumerate(self.layers(theta)):
            z = out[-1][0] @ W + b
            out.append(self.phi(z) if i < len(self.shapes) - 1 else (z, None))
        return out

    def losses(self, z):
        """Each row's loss and its derivative in the outputs."""
        if self.loss == "squared":
            r = z - self.y
            return np.sum(r * r, axis=1) / 2, r
        z = z - np.max(z.real, axis=1, keepdims=True)
        e = np.exp(z)
        total = np.sum(e, axis=1, keepdims=True)
        return np.log(total[:, 0]) - np.sum(self.y * z, axis=1), e / total - self.y

    def fun(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        loss = np.sum(self.c * self.losses(self.outputs(theta))[0])
        return loss + np.sum(self.strength(lam) * theta**2) / 2

    def jac(self, theta, lam=()):
        theta = np.asarray(theta)
        theta = theta if np.iscomplexobj(theta) else theta.astype(WIDE)
        a = self.passes(theta)
        delta = self.c[:, None] * self.losses(a[-1][0])[1]
        parts = []
        for i, (W, _) in reversed(list(enumerate(self.layers(theta)))):
            parts.append(np.concatenate([(a[i][0].T @ delta).ravel(), np.sum(delta, axis=0)]))
            if i:
                delta = (delta @ W.T) * a[i][1]
        return np.concatenate(parts[::-1]) + self.strength(lam) * theta

    def hess(self, theta, lam=()):
        return complex_steps(lambda t: self.jac(t, lam), theta)

    def gauss_newton(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        n, K = len(self.X), self.widths[-1]
        J = complex_steps(lambda t: self.outputs(t).ravel(), theta).reshape(n, K, -1)
        z = self.outputs(theta)
        curvature = complex_steps(lambda t: self.losses(t.reshape(n, K))[1].ravel(), z.ravel())
        curvature = np.stack([curvature.reshape(n, K, n, K)[i, :, i] for i in range(n)])
        data = np.einsum("i,ikp,ikl,ilq->pq", self.c, J, curvature, J)
        return data + np.diag(self.strength(lam))

    def cross(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        return self.member * theta[:, None] * np.exp(np.asarray(lam, dtype=WIDE))

    def jac_lam(self, theta, lam=()):
        theta = np.asarray(theta, dtype=WIDE)
        return np.exp(np.asarray(lam, dtype=WIDE)) * (self.member.T @ theta**2) / 2

    def system(self, theta, lam=()):
        """H with curvature along the common shift of the output biases, to which gradients are
        orthogonal: for the softmax loss f is constant along it."""
        u = np.zeros(self.n_theta, dtype=WIDE)
        u[-self.widths[-1] :] = self.loss == "softmax"
        return self.hess(theta, lam) + np.outer(u, u)

    def polished(self, theta, lam=()):
        """The minimum next to theta, by Newton's method without safeguards."""
        theta = np.asarray(theta, dtype=WIDE)
        for _ in range(4):
            theta = theta - cholesky_solve(self.system(theta, lam), self.jac(theta, lam))
        return theta


def complex_steps(function, x, h=1e-30):
    """The Jacobian of an analytic function at x, column by column."""
    x = np.asarray(x, dtype=WIDE)
    columns = []
    for j in range(len(x)):
        step = x.astype(np.clongdouble)
        step[j] += 1j * WIDE(h)
        columns.append(function(step).imag / WIDE(h))
    return np.stack(columns, axis=1)
