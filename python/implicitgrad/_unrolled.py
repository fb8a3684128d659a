"""Unrolled differentiation: the gradient through the steps of training themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from . import _arrays, _core, _implicit, _options, _result
from ._native import core_objective, is_native
from ._problem import Problem, tolerance
from ._result import UnrolledGradResult
from ._rules import adam, descent, heavy_ball, refuse_unknown

# The rule of each optimizer, and which options it takes.
_OPTIMIZERS: dict[str, tuple[Callable[..., _core.StepRule], tuple[str, ...]]] = {
    "gd": (descent, ()),
    "momentum": (heavy_ball, ("momentum",)),
    "adam": (adam, ("beta1", "beta2", "eps")),
}
MODES = ("reverse", "forward")

# Bytes for the tape of reverse mode, where nothing else is asked for.
MEMORY = 1 << 28


@dataclass(frozen=True)
class _Settings:
    memory: float = MEMORY
    certify: bool = False
    warn: bool = True

    def __post_init__(self) -> None:
        _arrays.number(self.memory, "memory", positive=True)
        _arrays.boolean(self.certify, "certify")
        _arrays.boolean(self.warn, "warn")


def unrolled_grad(
    f: Any,
    g: Any,
    theta0: Any,
    lam: Any,
    steps: int,
    step_size: float,
    optimizer: str = "gd",
    truncate: int | None = None,
    mode: str = "reverse",
    options: Mapping[str, Any] | None = None,
) -> UnrolledGradResult:
    r"""Gradient of an outer loss through the steps of training.

    θ_K comes of K steps of an optimizer on f(·, λ) from θ_0, and the gradient of g(θ_K(λ), λ) is found
    by the chain rule through those steps. For gradient descent with the step size α that is

    .. math:: \frac{dg}{d\lambda} = \frac{\partial g}{\partial\lambda} - \alpha \sum_{k=1}^{K}
              C_{k-1}^T \Big(\prod_{j=k}^{K-1} (I - \alpha H_j)\Big) \nabla_\theta g(\theta_K),

    H and C at each θ_j: the gradient of what was run, whether or not θ_K is a minimum. At a minimum, and
    with K → ∞, it is what `implicit_grad` gives for one solve; see ``docs/unrolling.md``.

    Parameters
    ----------
    f, g : objective
        Inner (training) and outer (validation) loss, as for `implicit_grad`.
    theta0 : array, shape (n_theta,)
        Where training starts.
    lam : array, shape (n_lam,)
        Hyperparameters.
    steps : int
        K ≥ 1, the number of steps.
    step_size : float
        α > 0, the length of a step.
    optimizer : {"gd", "momentum", "adam"}
        Gradient descent; the heavy-ball method v ← μ v + α ∇f, θ ← θ − v [1]_; Adam [2]_. The steps
        are those of ``train(method="sgd" or "adam")`` on all rows.
    truncate : int, optional
        Differentiate the last so many steps only, and take the θ that they start from as constant
        [3]_: less work and memory, and a bias.
    mode : {"reverse", "forward"}
        "reverse" carries ∇θg back: a product with H and one with Cᵀ a step, whatever n_lam is, and it
        has to remember the steps. "forward" carries dθ/dλ along: n_lam + 1 products with H a step in
        one block and all of C, and no steps to remember but blocks of n_theta (n_lam + 1) numbers; for
        few λ [4]_. All of C is n_theta calls of cross_vjp a step, where f is an `Objective` that has it.
    options : dict, optional
        momentum : float, default 0.9
            μ in [0, 1), of "momentum".
        beta1, beta2, eps : float, default 0.9, 0.999 and 1e-8
            Of "adam".
        memory : float, default 2²⁸ (268 MB)
            Bytes that reverse mode may remember steps in. Where all of them need more, it remembers
            θ at intervals and repeats the steps in between, which takes up to K linearisations more
            and in the least about 2 √K times what one step takes; it does with that where `memory` is
            less still. The result is the same to the last bit. Of a user's f it counts θ, λ and the
            derivatives that are arrays; what its functions hold cannot be seen.
        certify : bool, default False
            Estimate how far grad is from the hypergradient at the minimum, with one solve of
            `implicit_grad` from theta.
        warn : bool, default True
            Whether steps that diverge, or a value that is not finite, warn.

    Returns
    -------
    UnrolledGradResult
        grad, theta, grad_step_size, grad_theta0, success and the rest; see
        `implicitgrad.UnrolledGradResult`.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, for bad input. Numbers that go bad inside give a status instead.

    Warns
    -----
    ImplicitGradWarning
        Where the steps diverge or a value is not finite.
    scipy.optimize.OptimizeWarning
        For an option that is unknown, or that the optimizer does not use.

    Notes
    -----
    Each step reads the data once for its gradient, and in reverse mode once more for its product with H
    (and once for Cᵀ, where λ is in the rows). Derivatives of a step that diverges are those of
    diverging numbers: of α ≥ 2/λmax(H) the result says so where two or more of the later half of the
    steps show it. Where f or g is a user's, it is called at theta0 once more, before the first step, so
    that what does not fit is refused before the work; that is not counted in nfev and nhev.

    References
    ----------
    .. [1] B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR
           Comput. Math. Math. Phys. 4 (1964).
    .. [2] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.
    .. [3] A. Shaban, C.-A. Cheng, N. Hatch, B. Boots, "Truncated back-propagation for bilevel
           optimization", AISTATS 2019.
    .. [4] L. Franceschi, M. Donini, P. Frasconi, M. Pontil, "Forward and reverse gradient-based
           hyperparameter optimization", ICML 2017.

    Examples
    --------
    Here θ_K = (1 − 2⁻ᴷ) λ from θ_0 = 0, and g = ½ θ_K² + ½ (λ − 3)².

    >>> import numpy as np, implicitgrad as ig
    >>> f = ig.Objective(lambda w, lam: 0.5 * np.sum((w - lam) ** 2), lambda w, lam: w - lam)
    >>> g = ig.Objective(lambda w, lam: 0.5 * np.sum(w**2) + 0.5 * np.sum((lam - 3) ** 2))
    >>> res = ig.unrolled_grad(f, g, [0.0], [1.0], steps=2, step_size=0.5)
    >>> res.theta, res.grad.round(6)  # ¾ and ¾² − 2
    (array([0.75]), array([-1.4375]))
    """
    problem = Problem(f, g)
    theta0, lam = problem.check_theta(theta0, "theta0"), problem.check_lam(lam)
    steps = _arrays.integer(steps, "steps", least=1)
    optimizer = _arrays.choice(optimizer, "optimizer", (*_OPTIMIZERS,))
    differentiated = steps if truncate is None else _arrays.integer(truncate, "truncate", least=1)
    if differentiated > steps:
        raise ValueError(f"truncate = {differentiated} is more than steps = {steps}")
    mode = _arrays.choice(mode, "mode", MODES)
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, found {options!r}")
    given = dict(options or {})
    make, names = _OPTIMIZERS[optimizer]
    rule = make({"step_size": step_size, **_taken(given, names)}, name="step_size")
    settings = _Settings(**_taken(given, [field.name for field in fields(_Settings)]))
    refuse_unknown(given, stacklevel=3)

    inner = core_objective(problem.f, theta0.size, lam.size, "f")
    outer = core_objective(problem.g, theta0.size, lam.size, "g")
    with np.errstate(all="ignore"):  # what overflows in a user's functions comes out as a status
        problem.try_out(theta0, lam)
        report = _core.unroll(
            inner,
            outer,
            rule,
            theta0,
            lam,
            steps=steps,
            differentiated=differentiated,
            forward=mode == "forward",
            memory=settings.memory,
        )
        for loss in (problem.f, problem.g):
            if is_native(loss):
                loss._passed(report.status != "non_finite")
        known = settings.certify and report.status != "non_finite"
        near = _minimum(problem, report.theta, lam) if known else None
    result = _answer(report, rule, near, steps, differentiated)
    result.update(method=optimizer, mode=mode)
    if report.status != "finished":
        _result.warn(result, settings.warn)
    return result


def _taken(options: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the options, which no longer have them."""
    return {name: options.pop(name) for name in names if name in options}


def _minimum(problem: Problem, theta: np.ndarray, lam: np.ndarray) -> Any:
    """The hypergradient at the minimum that θ is near."""
    quiet = _options.Options(warn=False)
    return _implicit.solve(problem, theta, lam, "auto", tolerance(problem, None), quiet)


def _answer(
    report: Any, rule: Any, near: Any, steps: int, differentiated: int
) -> UnrolledGradResult:
    error, distance = math.inf, _result.UNROLL_DISTANCE["unknown"]
    if near is not None:
        error = _core.norm(report.grad - near.grad) + near.error
        found = "failed"
        if math.isfinite(error):
            found = "known" if near.success else "doubtful"
        distance = _result.UNROLL_DISTANCE[found].format(error=error, message=near.message)
    why = report.status
    if why == "finished" and differentiated < steps:
        why = "truncated"
    low, high = report.curvature_min, report.curvature_max
    cause = ""
    if high > rule.most_curvature:
        cause = f": the curvature of f reaches {high:.1e}, for which step_size is too large"
    status, text = _result.UNROLL_ENDINGS[why]
    if why == "diverged" and differentiated < steps:
        text = f"{text} {_result.UNROLL_TRUNCATED}"
    return UnrolledGradResult(
        grad=report.grad,
        fun=report.fun,
        direct=report.direct,
        theta=report.theta,
        grad_step_size=report.grad_rate,
        grad_theta0=report.grad_theta0 if report.grad_theta0.size else None,
        error=error,
        stationarity=report.stationarity,
        curvature=(low, high) if low <= high else None,
        success=status == _result.OK,
        status=status,
        message=text.format(
            steps=report.steps,
            differentiated=differentiated,
            largest=high,
            limit=rule.most_curvature,
            distance=distance,
            why=cause,
        ),
        nit=report.steps,
        nfev=report.linearizations,
        nhev=report.products + (near.nhev if near is not None else 0),
    )
