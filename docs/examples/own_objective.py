"""An objective of one's own from callables: smoothing a signal with a strength for each quarter.

f(θ, λ) = ½ ‖θ − y‖² + ½ Σ_i exp(λ_s(i)) (Dθ)_i², D second differences and s(i) the quarter of row i;
g(θ) = ½ ‖θ − z‖² for a second noisy recording z of the same signal.
"""

import numpy as np

import implicitgrad as ig

n = 60
t = np.linspace(0, 1, n)
signal = np.where(t < 0.5, t, 0.5 + 0.4 * np.sin(25 * (t - 0.5)))  # a slope, then waves
rng = np.random.default_rng(1)
y, z = signal + 0.1 * rng.standard_normal((2, n))
D = np.diff(np.eye(n), 2, axis=0)
quarter = (4 * np.arange(n - 2)) // (n - 2)
sums = np.eye(4)[quarter].T  # (4, n − 2): adds up the rows of each quarter


def strength(lam):
    return np.exp(lam)[quarter]


f = ig.Objective(
    fun=lambda theta, lam: 0.5 * np.sum((theta - y) ** 2) + 0.5 * strength(lam) @ (D @ theta) ** 2,
    jac=lambda theta, lam: theta - y + D.T @ (strength(lam) * (D @ theta)),
    hessp=lambda theta, v, lam: v + D.T @ (strength(lam) * (D @ v)),
    cross_vjp=lambda theta, q, lam: sums @ (strength(lam) * (D @ theta) * (D @ q)),
    n_theta=n,
    n_lam=4,
)
g = ig.Objective(lambda theta, lam: 0.5 * np.sum((theta - z) ** 2), lambda theta, lam: theta - z)

print(ig.check_hypergrad(f, g, np.zeros(4)).message)
best = ig.minimize(f, g, np.zeros(4), bounds=[(-10, 20)] * 4)
print("log strengths by quarter:", best.x.round(1))
print(f"distance to the signal: {np.linalg.norm(best.theta - signal):.2f} smoothed, ", end="")
print(f"{np.linalg.norm(y - signal):.2f} recorded")
