"""Result classes, and the one place that holds every status text."""

from __future__ import annotations

import math
import warnings
from typing import Any

from scipy.optimize import OptimizeResult


class ImplicitGradWarning(UserWarning):
    """A hypergradient came back without success; its `message` says why."""


class ImplicitGradResult(OptimizeResult):
    """What `implicit_grad` returns: an `OptimizeResult` with these fields.

    Attributes
    ----------
    grad : ndarray, shape (n_lam,)
        dg/dλ = direct − Cᵀq.
    fun : float
        g(θ, λ).
    direct : ndarray, shape (n_lam,)
        ∂g/∂λ.
    adjoint : ndarray, shape (n_theta,)
        q ≈ H⁻¹∇θg.
    theta : ndarray, shape (n_theta,)
        The θ at which all of this was evaluated: the given one, or a polished one.
    error : float
        Estimate of ‖grad − exact‖₂; inf where none could be made.
    error_bound : float
        A guaranteed bound on the same, or inf where none is known.
    stationarity : float
        ‖∇θf‖₂ at theta.
    residual : float
        True ‖∇θg − Hq‖₂ / ‖∇θg‖₂, recomputed at the end.
    curvature : (float, float) or None
        Estimates of the smallest and largest eigenvalue of H that the solve saw.
    success : bool
        Whether error ≤ max(tol · ‖grad‖₂, atol) and the theorem applies.
    status : int
        0 ok, 1 iteration limit, 2 negative curvature, 3 singular or too ill-conditioned for tol,
        4 theta not stationary enough for tol, 5 non-finite value met, 99 stopped by callback.
    message : str
        What was found, in words, and what to try.
    nit, nhev : int
        Iterations of the linear solver; Hessian-vector products, counted by vector.
    method : str
        The solver used.
    """


class ResponseResult(OptimizeResult):
    """What `response` returns: an `OptimizeResult` with these fields.

    Attributes
    ----------
    response : ndarray, shape (n_theta,)
        dθ⋆/dλ · u = −H⁻¹C u.
    theta : ndarray, shape (n_theta,)
        The θ at which this was evaluated: the given one, or a polished one.
    error : float
        Estimate of ‖response − exact‖₂; inf where none could be made.
    error_bound : float
        A guaranteed bound on the same, or inf where none is known.
    residual : float
        True ‖C u + H response‖₂ / ‖C u‖₂, recomputed at the end.
    success : bool
        Whether error ≤ max(tol · ‖response‖₂, atol) and the theorem applies.
    stationarity, curvature, status, message, nit, nhev, method
        As in `ImplicitGradResult`.
    """


class InfluenceResult(OptimizeResult):
    """What `influence` returns: an `OptimizeResult` with these fields.

    Attributes
    ----------
    influence : ndarray, shape (n,)
        dg/dlog w_i = −c_i (∇θℓ_i)ᵀq, c_i = w_i / Σw being the coefficient of row i in f.
    fun : float
        g(θ, λ).
    adjoint : ndarray, shape (n_theta,)
        q ≈ H⁻¹∇θg.
    theta : ndarray, shape (n_theta,)
        The θ at which this was evaluated: the given one, or a polished one.
    error : float
        Estimate of ‖influence − exact‖₂; inf where none could be made.
    error_bound : float
        A guaranteed bound on the same, or inf where none is known.
    success : bool
        Whether error ≤ max(tol · ‖influence‖₂, atol) and the theorem applies.
    residual, stationarity, curvature, status, message, nit, nhev, method
        As in `ImplicitGradResult`.
    """


class UnrolledGradResult(OptimizeResult):
    """What `unrolled_grad` returns: an `OptimizeResult` with these fields.

    Attributes
    ----------
    grad : ndarray, shape (n_lam,)
        dg/dλ of g(θ_K(λ), λ), through the steps that were differentiated.
    fun : float
        g(θ_K, λ).
    direct : ndarray, shape (n_lam,)
        ∂g/∂λ at θ_K.
    theta : ndarray, shape (n_theta,)
        θ_K, where the K steps led.
    grad_step_size : float
        The derivative of g(θ_K, λ) in step_size, through the same steps.
    grad_theta0 : ndarray, shape (n_theta,), or None
        dg/dθ_0; None in forward mode, and where not all steps were differentiated.
    error : float
        Estimate of the distance ‖grad − dg/dλ at θ⋆(λ)‖₂ to what `implicit_grad` computes; inf unless
        options={"certify": True} asks for it.
    stationarity : float
        ‖∇θf‖₂ at theta.
    curvature : (float, float) or None
        Smallest and largest curvature vᵀHv / vᵀv that the steps and their derivatives met.
    success : bool
        Whether grad is the derivative of the training as it was run: every step differentiated, all
        numbers finite, and the steps not seen to diverge. It says nothing of θ⋆: `error` does.
    status : int
        0 ok, 1 truncated or diverging, 5 non-finite value met.
    message : str
        What was found, in words, and what to try.
    nit : int
        Steps of training; fewer than were asked for where a value was not finite.
    nfev, nhev : int
        Linearisations of f, and Hessian-vector products, counted by vector.
    method, mode : str
        The optimizer, and "reverse" or "forward".
    """


# How a solve can end, the status it gives, and what is said about it.
OK, LIMIT, NEGATIVE, SINGULAR, NOT_STATIONARY, NON_FINITE, STOPPED = 0, 1, 2, 3, 4, 5, 99

_ENDINGS: dict[str, tuple[int, str]] = {
    "ok": (
        OK,
        "The hypergradient is accurate to tol (estimated error {error:.1e}, allowed {target:.1e}).",
    ),
    "iteration_limit": (
        LIMIT,
        "The linear solve was stopped at relative residual {residual:.1e} (estimated error "
        "{error:.1e}, allowed {target:.1e}): raise maxiter, or use a better preconditioner or "
        "method='cholesky'.",
    ),
    "as_asked": (
        LIMIT,
        "The adjoint was computed as asked, which leaves a relative residual of {residual:.1e} "
        "(estimated error {error:.1e}, allowed {target:.1e}): more terms, a lower stop or less "
        "damping brings it closer, and method='auto' to tol.",
    ),
    "stagnated": (
        SINGULAR,
        "The linear solve stopped improving at relative residual {residual:.1e}: the Hessian is too "
        "ill-conditioned (eigenvalues from about {smallest:.1e} to {largest:.1e}). Add a penalty or "
        "remove redundant columns.",
    ),
    "terms": (
        LIMIT,
        "A fixed number of terms was summed (relative residual {residual:.1e}), so it is not known "
        "how far the hypergradient is off: options={{'certify': True}} pays for a solve that tells.",
    ),
    "uncertified": (
        LIMIT,
        "Not certified, as asked by options={{'certify': False}}: the adjoint has a relative residual "
        "of {residual:.1e}, and how far the hypergradient is off is not known.",
    ),
    "diverged": (
        LIMIT,
        "The Neumann series diverged (relative residual {residual:.1e}): its step size {step:.1e} "
        "exceeds 2 / λmax, and λmax is at least {largest:.1e}. Use a smaller step_size or "
        "method='cg'.",
    ),
    "bad_preconditioner": (
        LIMIT,
        "The preconditioner is not positive definite, so that CG cannot use it (relative residual "
        "{residual:.1e}).",
    ),
    "negative_curvature": (
        NEGATIVE,
        "The Hessian has negative curvature (an eigenvalue of at most {smallest:.1e}): theta is not "
        "a minimum of f, and the implicit function theorem does not give dg/dlam there. Train "
        "further, or check hessp.",
    ),
    "singular": (
        SINGULAR,
        "The Hessian is singular or too ill-conditioned for tol (eigenvalues from about "
        "{smallest:.1e} to {largest:.1e}; estimated error {error:.1e}, allowed {target:.1e}): add a "
        "penalty, remove redundant columns, or loosen tol.",
    ),
    "differences": (
        SINGULAR,
        "Derivatives taken by finite differences are not accurate enough for tol (estimated error "
        "{error:.1e}, allowed {target:.1e}): give jac, hessp and cross_vjp, or loosen tol.",
    ),
    "single": (
        SINGULAR,
        "Products in single precision are not accurate enough for tol (estimated error {error:.1e}, "
        "allowed {target:.1e}): give X in double precision, or loosen tol.",
    ),
    "not_stationary": (
        NOT_STATIONARY,
        "theta is not stationary enough for tol: the gradient of f has norm {stationarity:.1e} "
        "(estimated error {error:.1e}, allowed {target:.1e}). Train further, or leave "
        "options={{'polish': True}} on.",
    ),
    "non_finite": (
        NON_FINITE,
        "A NaN or infinite value was met (gradient of f of norm {stationarity:.1e}, eigenvalues from "
        "about {smallest:.1e} to {largest:.1e}); the last finite iterate is returned. Check the "
        "functions given and the scale of the data, or add a penalty where the curvature vanishes.",
    ),
    "callback": (STOPPED, "Stopped by the callback (relative residual {residual:.1e})."),
}


def describe(why: str, **found: Any) -> tuple[int, str]:
    """The status and the message of an ending, with the numbers found filled in."""
    status, text = _ENDINGS[why]
    smallest, largest = found.pop("curvature") or (math.nan, math.nan)
    return status, text.format(smallest=smallest, largest=largest, **found)


def of_influence(text: str) -> str:
    """A message about a hypergradient as one about influences."""
    return text.replace("The hypergradient is", "The influence is").replace(
        "the hypergradient", "the influence"
    )


def of_response(text: str) -> str:
    """A message about a hypergradient and its adjoint as one about a response."""
    for ours, theirs in (
        ("hypergradient", "response"),
        ("adjoint", "response"),
        ("dg/dlam", "dtheta/dlam"),
    ):
        text = text.replace(ours, theirs)
    return text


def warn(result: OptimizeResult, wanted: bool) -> None:
    """Warn the caller's caller of a result without success, where that is `wanted` and not what was
    asked for."""
    if result.status != OK and wanted and not result.message.startswith("Not certified, as asked"):
        warnings.warn(result.message, ImplicitGradWarning, stacklevel=3)


TRAIN_MESSAGES = {
    "converged": "Training converged: the gradient of f has infinity norm {stationarity:.1e}.",
    "iteration_limit": (
        "Training stopped at its iteration limit of {nit} with a gradient of infinity norm "
        "{stationarity:.1e}: raise maxiter, or add a penalty if the minimum lies at infinity."
    ),
    "line_search_failed": (
        "Training stopped: no step length decreases f any further, at a gradient of infinity norm "
        "{stationarity:.1e}. The tolerance may be below rounding."
    ),
    "non_finite": "Training stopped: f or its gradient is NaN or infinite.",
}
TRAIN_STATUS = {"converged": 0, "iteration_limit": 1, "line_search_failed": 4, "non_finite": 5}

# How unrolled differentiation can end.
UNROLL_TRUNCATED = (
    "The derivative of g through the last {differentiated} of {steps} steps, as asked; what came before "
    "counts as constant, which biases it."
)
UNROLL_ENDINGS: dict[str, tuple[int, str]] = {
    "finished": (OK, "The derivative of g through all {steps} steps. {distance}"),
    "truncated": (
        LIMIT,
        f"{UNROLL_TRUNCATED} {{distance}}",
    ),
    "diverged": (
        LIMIT,
        "The steps diverge: f has a curvature of at least {largest:.1e} there, and with this step_size "
        "the steps grow beyond {limit:.1e} (2 / step_size, for plain gradient descent). Use a smaller "
        "step_size. {distance}",
    ),
    "non_finite": (
        NON_FINITE,
        "A NaN or infinite value was met after {steps} steps{why}. theta is the last finite iterate, "
        "and grad the derivative of g there, or NaN where that is not finite either.",
    ),
}
UNROLL_DISTANCE = {
    "unknown": (
        "How far it is from the hypergradient at the minimum is not known: options={'certify': True} "
        "pays for a solve that tells."
    ),
    "known": "Its estimated distance to the hypergradient at the minimum is {error:.1e}.",
    "doubtful": (
        "Its distance to the hypergradient at the minimum may be {error:.1e}, but the solve for that "
        "one did not succeed: {message}"
    ),
    "failed": "The hypergradient at the minimum was not found, to compare with: {message}",
}
