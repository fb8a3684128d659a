"""Central differences with one Richardson step, each with an estimate of its own error.

With D(h) the central difference at step h, (4 D(h) − D(2h))/3 is accurate to O(h⁴); steps are chosen
so that truncation and rounding are about equal. Every function returns (value, error).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EPS = float(np.finfo(np.float64).eps)
FIRST = EPS ** (1 / 5)  # step for first derivatives: rounding ε/h against truncation h⁴
SECOND = EPS ** (1 / 6)  # step for second derivatives: ε/h² against h⁴


def _combine(near: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The two differ by 3 h² f'''/6, and what the combination leaves is smaller by a factor of about
    # h² times a ratio of derivatives; a thousandth is on the safe side of that.
    better = (4 * near - far) / 3
    return better, 1e-3 * np.abs(better - near)


def directional(
    fun: Callable[[np.ndarray], np.ndarray | float],
    x: np.ndarray,
    v: np.ndarray,
    shrink: float = 1.0,
) -> tuple[np.ndarray, float]:
    """d/dt fun(x + t v) at t = 0, for a scalar or vector function; 4 evaluations.

    The step is `shrink` times the one that suits a function of unit scale.
    """
    size = float(np.max(np.abs(v), initial=0.0))
    if size == 0.0:
        return np.zeros_like(np.asarray(fun(x), dtype=np.float64)), 0.0
    h = shrink * FIRST * max(1.0, float(np.max(np.abs(x)))) / size
    values = [np.asarray(fun(x + t * h * v), dtype=np.float64) for t in (1, -1, 2, -2)]
    near, far = (values[0] - values[1]) / (2 * h), (values[2] - values[3]) / (4 * h)
    better, truncation = _combine(near, far)
    rounding = 2 * EPS * max(float(np.linalg.norm(value)) for value in values) / h
    return better, float(np.linalg.norm(truncation)) + rounding


def suit(
    fun: Callable[[np.ndarray], np.ndarray], x: np.ndarray, v: np.ndarray
) -> tuple[float, float]:
    """A factor for the step of `directional` that suits this function, and the error it leaves.

    Two steps that are both too long can agree on a wrong value; one 32 times shorter does not agree
    with them. Where it differs by more than its own rounding, it takes over. A gradient nearly
    cancels at a minimum, so that the size of its terms, which sets its rounding, is taken from a
    point at some distance.
    """
    size = float(np.max(np.abs(v), initial=0.0))
    if size == 0.0:
        return 1.0, 0.0
    reach = max(1.0, float(np.max(np.abs(x)))) / size
    terms = float(np.linalg.norm(np.asarray(fun(x + reach * v), dtype=np.float64)))
    terms = EPS * terms / FIRST / reach if np.isfinite(terms) else 0.0
    shrink = 1.0
    value, error = directional(fun, x, v)
    while shrink > 1e-6:
        shorter, its_error = directional(fun, x, v, shrink / 32)
        gap = float(np.linalg.norm(shorter - value))
        if not gap > 4 * (its_error + 32 * terms / shrink):
            break
        shrink, value, error = shrink / 32, shorter, its_error
    return shrink, error + terms / shrink


def gradient(
    fun: Callable[[np.ndarray], np.ndarray | float], x: np.ndarray
) -> tuple[np.ndarray, float]:
    """∂fun/∂x, of shape fun's shape + (n,); 4 evaluations for each entry of x."""
    columns, error = [], 0.0
    for j in range(x.size):
        unit = np.zeros(x.size)
        unit[j] = max(1.0, abs(x[j]))
        slope, doubt = directional(fun, x, unit)
        columns.append(slope / unit[j])
        error = float(np.hypot(error, doubt / unit[j]))
    return np.stack(columns, axis=-1) if columns else np.empty(0), error


def mixed(
    fun: Callable[[np.ndarray, np.ndarray], float], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, float]:
    """∂²fun/∂x∂y from values, shape (x.size, y.size); 8 evaluations for each entry."""
    result, square = np.empty((x.size, y.size)), 0.0
    for i in range(x.size):
        for j in range(y.size):
            h, k = SECOND * max(1.0, abs(x[i])), SECOND * max(1.0, abs(y[j]))

            def corner(s: float, t: float, i: int = i, j: int = j, h: float = h, k: float = k):
                u, v = x.copy(), y.copy()
                u[i] += s * h
                v[j] += t * k
                return float(fun(u, v))

            def difference(step: int, corner=corner, area: float = h * k):
                a, b = corner(step, step), corner(step, -step)
                c, d = corner(-step, step), corner(-step, -step)
                return (a - b - c + d) / (4 * step * step * area), max(map(abs, (a, b, c, d)))

            (near, size), (far, _) = difference(1), difference(2)
            value, truncation = _combine(np.asarray(near), np.asarray(far))
            result[i, j] = value
            square += (float(truncation) + 2 * EPS * size / (h * k)) ** 2
    return result, float(np.sqrt(square))


def hessian(fun: Callable[[np.ndarray], float], x: np.ndarray) -> tuple[np.ndarray, float]:
    """∂²fun/∂x² from values, symmetric; about 4 n² evaluations."""
    n = x.size
    result, square = np.empty((n, n)), 0.0
    step = SECOND * np.maximum(1.0, np.abs(x))
    centre = float(fun(x))

    def at(i: int, s: float, j: int, t: float) -> float:
        u = x.copy()
        u[i] += s * step[i]
        u[j] += t * step[j]
        return float(fun(u))

    for i in range(n):
        for j in range(i + 1):
            area = step[i] * step[j]
            if i == j:
                values = [at(i, s, i, 0) for s in (1, -1, 2, -2)]
                near = (values[0] - 2 * centre + values[1]) / area
                far = (values[2] - 2 * centre + values[3]) / (4 * area)
            else:
                values = [at(i, s, j, t) for m in (1, 2) for s in (m, -m) for t in (m, -m)]
                near, far = (
                    (v[0] - v[1] - v[2] + v[3]) / (4 * m * m * area)
                    for m, v in ((1, values[:4]), (2, values[4:]))
                )
            value, truncation = _combine(np.asarray(near), np.asarray(far))
            result[i, j] = result[j, i] = value
            size = max(map(abs, [*values, centre]))
            square += (1 if i == j else 2) * (float(truncation) + 4 * EPS * size / area) ** 2
    return result, float(np.sqrt(square))
