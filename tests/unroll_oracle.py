"""Training and its derivatives by a plain sweep in extended precision: dense matrices of tangents along
every λ, the step size and every entry of θ_0, carried through the steps as their formulas stand."""

from types import SimpleNamespace

import numpy as np

from reference import WIDE

OPTIMIZERS = ("gd", "momentum", "adam")
MODES = ("reverse", "forward")


def step_size(ref, theta, lam, optimizer):
    """One that suits the optimizer at θ."""
    if optimizer == "adam":
        return 0.05
    return 0.5 / float(np.linalg.eigvalsh(np.asarray(ref.hess(theta, lam), dtype=float))[-1])


def unrolled(f, g, theta0, lam, steps, alpha, optimizer="gd", truncate=None):
    """θ_K, g(θ_K) and its gradients in λ, α and θ_0, through the last `truncate` steps."""
    theta = np.asarray(theta0, dtype=WIDE)
    n, n_lam, alpha = len(theta), len(lam), WIDE(alpha)
    mu, b1, b2, eps = WIDE(0.0 if optimizer == "gd" else 0.9), WIDE(0.9), WIDE(0.999), WIDE(1e-8)
    v, m, s = np.zeros((3, n), dtype=WIDE)
    dv, dm, ds, dtheta = np.zeros((4, n, n_lam + 1 + n), dtype=WIDE)
    dtheta[:, n_lam + 1 :] = np.eye(n, dtype=WIDE)
    for t in range(1, steps + 1):
        if t == steps - (truncate or steps) + 1 and t > 1:
            for tangent in (dv, dm, ds, dtheta):
                tangent[:] = 0
        slope = f.jac(theta, lam)
        dslope = f.hess(theta, lam) @ dtheta
        dslope[:, :n_lam] += f.cross(theta, lam)
        if optimizer == "adam":
            m, dm = b1 * m + (1 - b1) * slope, b1 * dm + (1 - b1) * dslope
            s = b2 * s + (1 - b2) * slope**2
            ds = b2 * ds + (1 - b2) * 2 * slope[:, None] * dslope
            top, dtop = m / (1 - b1**t), dm / (1 - b1**t)
            root = np.sqrt(s / (1 - b2**t))
            rate = np.divide(1, 2 * root, out=np.zeros(n, dtype=WIDE), where=root > 0)
            droot = rate[:, None] * ds / (1 - b2**t)
            step = alpha * top / (root + eps)
            dstep = alpha * dtop / (root + eps)[:, None]
            dstep -= (alpha * top / (root + eps) ** 2)[:, None] * droot
            dstep[:, n_lam] += top / (root + eps)
        else:
            v = mu * v + alpha * slope
            dv = mu * dv + alpha * dslope
            dv[:, n_lam] += slope
            step, dstep = v, dv
        theta, dtheta = theta - step, dtheta - dstep
    at_lam = lam if g.n_lam else ()
    gradient = g.jac(theta, at_lam) @ dtheta
    direct = g.jac_lam(theta, at_lam) if g.n_lam else np.zeros(n_lam, dtype=WIDE)
    return SimpleNamespace(
        theta=theta,
        fun=g.fun(theta, at_lam),
        grad=gradient[:n_lam] + direct,
        grad_step_size=gradient[n_lam],
        grad_theta0=gradient[n_lam + 1 :],
    )
