"""The library's answers to random problems beside the exact ones, and the counts.

`run` draws the problem of a seed (generator.py), solves it (oracle.py), asks the library and
compares; `run_network` does it for networks (generator_networks.py, oracle_networks.py), `run_lanes`
for CG with each preconditioner (generator_lanes.py); `summarise` counts.
"""

import copy
import time
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from decimal import localcontext
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np

import implicitgrad as ig
from generator import FIXED_TERMS, UNABLE, draw
from generator_lanes import LANES, draw_lanes
from generator_networks import NetworkProblem, draw_network
from implicitgrad import _core, solvers
from implicitgrad.linearization import NativeLinearization
from oracle import (
    DIGITS,
    EPS,
    Decimals,
    Double,
    Quadratic,
    QuadraticData,
    double,
    norm,
)

# The goals of the calibration, as shares (or ranges) over all problems.
GOALS = {
    "covered": 0.995,  # true error ≤ 3 × estimate
    "median": (0.7, 1.5),  # estimate / true error
    "bound_violated": 0,
    "false_success": 0,
    "refused": 0.01,  # of those where success was attainable
    "infinite": 0.02,  # of the estimates, where the theorem applies and no fixed number of terms
}

NEAR = 1e-6  # so far from θ⋆, relative to it, θ is beyond doubt near it


@dataclass
class Record:
    """One problem, what the library said, and what is true."""

    seed: int
    traits: dict
    applies: bool  # H positive definite beyond rounding, so that a number can be had
    attainable: bool  # θ⋆ itself, condition ≤ 1e8, tol ≥ 1e-6, a method that can
    condition: float = np.nan
    scaled_condition: float = np.nan
    offset: float = np.nan  # ‖θ − θ⋆‖/‖θ⋆‖, as given
    truth: float = np.nan  # ‖grad − exact‖
    oracle: float = np.nan  # error of `truth`
    floor: float = np.nan  # 64 ε (‖direct‖ + ‖|C|ᵀ|q|‖)
    size: float = np.nan  # ‖exact‖
    far: bool = False  # Newton's full step from the given θ does not halve the gradient
    plain: float = np.nan  # true error of a dense solve in double precision at θ⋆
    estimate: float = np.nan
    bound: float = np.nan
    allowed: float = np.nan
    success: bool = False
    status: int = -1
    message: str = ""
    nhev: int = 0
    seconds: float = 0.0
    oracle_seconds: float = 0.0
    digits: int = 0
    raised: str = ""

    # The truth is known up to `oracle`: each verdict is given only where that leaves no doubt.

    @property
    def resolved(self):
        return self.truth > 4 * self.oracle and np.isfinite(self.truth)

    @property
    def coarse(self):
        """The oracle's error is not far below all that it is to judge."""
        judged = [v for v in (self.truth, self.estimate, self.allowed) if np.isfinite(v)]
        return bool(self.known and self.oracle > 0.1 * max(judged))

    @property
    def finite(self):
        return bool(np.isfinite(self.estimate))

    @property
    def known(self):
        return bool(np.isfinite(self.truth))

    @property
    def missed(self):
        return self.known and self.truth - self.oracle > 3 * self.estimate

    @property
    def ratio(self):
        return self.estimate / self.truth if self.resolved and self.finite else np.nan

    @property
    def bound_violated(self):
        return self.known and self.truth - self.oracle > self.bound

    def false_success(self, factor=1.0):
        if not self.success:
            return False
        return not self.known or self.truth - self.oracle > factor * self.allowed

    @property
    def refused(self):
        return self.attainable and not self.success

    @property
    def fixed_terms(self):
        return self.traits["method"] in FIXED_TERMS or self.traits.get("checked by") == "none"


def decade(x, step=1):
    if not np.isfinite(x) or x >= 1e14:
        return "≥ 1e14"
    k = step * int(np.floor(np.log10(max(x, 1.0)) / step))
    return f"1e{k:02d} … 1e{k + step:02d}"


def offset_class(problem, offset):
    if problem.offset == 0:
        return "0 (rounded)"
    edges = [1e-12, 1e-9, 1e-6, 1e-3, 1e-1]
    for edge in edges:
        if offset <= edge:
            return f"≤ {edge:.0e}"
    return "> 1e-01"


def run_network(seed, keep=False):
    """`run` for a network."""
    return run(seed, keep, draw_network)


def run(seed, keep=False, draw=draw):
    """Draw, solve exactly, ask the library, compare. With `keep`, also (problem, oracle, result)."""
    problem = draw(seed)
    started = time.perf_counter()
    with np.errstate(all="ignore"):
        record, oracle, theta, call = _prepare(problem)
    record.oracle_seconds = time.perf_counter() - started

    f, g = problem.objectives()
    result = None
    started = time.perf_counter()
    try:
        with warnings.catch_warnings(), _forced(0, problem.strategy.get("own", False)):
            warnings.simplefilter("error")
            result = ig.implicit_grad(f, g, theta, problem.lam, tol=problem.tol, **call)
    except Exception as error:  # a crash is a finding, and must not end the run
        record.raised = f"{type(error).__name__}: {error}"
    record.seconds = time.perf_counter() - started
    if result is not None:
        with np.errstate(all="ignore"):
            if isinstance(problem, NetworkProblem):
                oracle = _belonging(problem, oracle, result.theta)
            _compare(record, problem, oracle, result)
    return (record, problem, oracle, result) if keep else record


def _belonging(problem, oracle, theta):
    """The oracle of the minimum that this θ belongs to, None if there is none: a Newton step from afar
    may have led to another than was drawn, and a point beside a saddle has one below it."""
    known = oracle is not None and problem.kind == "linear"
    if known and norm(theta - double(oracle.theta)) <= NEAR * norm(oracle.theta):
        return oracle
    try:
        return problem.oracle(theta)
    except np.linalg.LinAlgError:
        return None


def run_lanes(seed, lanes=LANES):
    """One problem of `draw_lanes` with each preconditioner: a record for each."""
    problem = draw_lanes(seed)
    started = time.perf_counter()
    with np.errstate(all="ignore"):
        first, oracle, theta, call = _prepare(problem)
    first.oracle_seconds = time.perf_counter() - started
    return [_run_lane(lane, copy.deepcopy(first), problem, oracle, theta, call) for lane in lanes]


def _run_lane(lane, record, problem, oracle, theta, call):
    how, f, g = problem.strategy, *problem.objectives()
    record.traits["lane"] = lane
    options = call["options"] | {"preconditioner": "sketch" if lane == "rows" else lane}
    ask = partial(ig.implicit_grad, f, g, tol=problem.tol, method="cg", options=options)
    started = time.perf_counter()
    try:
        with warnings.catch_warnings(), _forced(how["rows"] if lane == "rows" else 0, how["own"]):
            warnings.simplefilter("error")
            if how["placed"] == "trained":
                theta = ig.train(f, problem.lam).x
            if how["placed"] == "again":
                ask(theta, problem.lam)
            result = ask(theta, problem.lam)
    except Exception as error:
        record.raised = f"{type(error).__name__}: {error}"
        return record
    record.seconds = time.perf_counter() - started
    with np.errstate(all="ignore"):
        _compare(record, problem, oracle, result)
    return record


@contextmanager
def _forced(rows, own):
    """Sketches of this many rows, and CG as its own checker: as a larger problem would have it."""
    checker = solvers.make_checker

    def fixed(at, kind, seed):
        if (kind, seed) not in at._kept:
            at._kept[kind, seed] = _core.KeptPreconditioner(kind, seed, rows)
        return at._kept[kind, seed]

    def same(solver, hess, at, solution, as_asked):
        if isinstance(at, NativeLinearization):
            return solver if isinstance(solver, solvers.CG) and not as_asked else solvers.CG(at=at)
        return checker(solver, hess, at, solution, as_asked)

    with ExitStack() as stack:
        if rows:
            stack.enter_context(mock.patch.object(NativeLinearization, "preconditioner", fixed))
        if own:
            stack.enter_context(mock.patch.object(solvers, "make_checker", same))
        yield


def _prepare(problem):
    """The record so far, the oracle (None where H is singular), θ, and the rest of the arguments."""
    traits = {
        "all": "all",
        "method": problem.method,
        "source": problem.source,
        "polish": str(problem.options["polish"]),
        **problem.traits,
    }
    record = Record(problem.seed, traits, applies=False, attainable=False)
    try:
        oracle = problem.oracle() if problem.kind != "singular" else None
    except np.linalg.LinAlgError:
        oracle = None
    star = oracle.theta if oracle else _least_norm(problem)
    size = norm(star)
    reach = problem.offset * (size if problem.relative and size > 0 else 1.0)
    theta = double(star) + reach * problem.direction
    with localcontext(prec=DIGITS):
        record.offset = norm(star - _like(theta, star)) / (size or 1.0)
    low = problem.inner.model(Double).at(problem.lam)
    if oracle:
        record.condition, record.scaled_condition = oracle.condition, oracle.scaled_condition
        # Beyond this, double precision cannot tell H from a singular matrix, whatever the scaling.
        record.applies = problem.kind != "indefinite" and oracle.scaled_condition < 1e14
        record.size = norm(oracle.grad)
        record.floor = oracle.floor()
        record.plain = _plain(problem, oracle, low)
        record.far = record.offset > 1e-12 and _far(low, theta)
        if not low.convex and record.applies:  # a minimum, seen from where H may be indefinite
            record.applies = bool(np.linalg.eigvalsh(low.hess(theta))[0] > 0)
    traits["offset"] = offset_class(problem, record.offset)
    traits["condition"] = decade(record.condition)
    method, options = problem.call(low, theta)
    return record, oracle, theta, {"method": method, "options": options}


def _like(theta, star):
    return Decimals.array(theta) if star.dtype == object else np.asarray(theta, dtype=star.dtype)


def _least_norm(problem):
    """For a singular problem: some θ to start from."""
    if isinstance(problem.inner, QuadraticData):
        return np.linalg.pinv(problem.inner.H, rcond=1e-10) @ (problem.inner.B @ problem.lam)
    return np.zeros(problem.inner.n_theta)


def _plain(problem, oracle, low):
    """What a textbook double-precision computation at θ⋆ gets."""
    theta = double(oracle.theta)
    outer = problem.outer.model(Double).at(problem.lam)
    try:
        q = np.linalg.solve(low.hess(theta), outer.gradient(theta))
    except np.linalg.LinAlgError:
        return np.inf
    return oracle.distance(outer.direct(theta) - low.cross_t(theta, q))


def _far(low, theta):
    try:
        with np.errstate(all="ignore"):
            r = low.gradient(theta)
            after = norm(low.gradient(theta - low.factor(theta).solve(r)))
    except np.linalg.LinAlgError:
        return True
    # At rounding level the ratio says nothing.
    level = 100 * EPS * norm(abs(low.hess(theta)) @ abs(theta))
    return not after <= max(0.5 * norm(r), level)


def _compare(record, problem, oracle, result):
    from_values = problem.source in ("values", "outer values")
    tol = (1e-3 if from_values else 1e-6) if problem.tol is None else problem.tol
    record.traits["tol"] = f"1e{int(np.floor(np.log10(tol) + 1e-9)):03d}"
    record.traits["status"] = str(result.status)
    record.estimate, record.bound = float(result.error), float(result.error_bound)
    record.success, record.status = bool(result.success), int(result.status)
    record.message, record.nhev = result.message, int(result.nhev)
    # The accuracy asked for, from the contract: atol defaults to 64 ε (‖direct‖ + ‖|C|ᵀ|q|‖).
    atol = problem.options.get("atol")
    if atol is None:
        at = problem.inner.model(Double).at(problem.lam)
        terms = (
            abs(at.B).T @ abs(result.adjoint)
            if isinstance(at, Quadratic)
            else at.cross_t(abs(result.theta), abs(result.adjoint))
        )
        atol = 64 * EPS * (norm(result.direct) + norm(terms))
    record.allowed = max(tol * norm(result.grad), atol)
    if oracle is None:
        return
    judged = [v for v in (record.estimate, record.allowed, record.bound) if np.isfinite(v)]
    record.truth, record.oracle = oracle.distance(result.grad), oracle.error
    large = oracle.theta.size > 20  # fifty digits take their time: only for the verdict on success
    needed = 10 * record.allowed if large else min([record.truth, *judged])
    if oracle.error > 0.01 * needed:
        started = time.perf_counter()
        oracle.sharpen()
        record.truth, record.oracle = oracle.distance(result.grad), oracle.error
        record.oracle_seconds += time.perf_counter() - started
    record.digits = DIGITS if oracle.sharp else 18
    able = problem.method not in UNABLE
    if problem.method == "neumann":
        able = record.condition * np.log(10 / tol) < problem.options["maxiter"] / 2
    record.attainable = bool(
        able
        and record.applies
        and problem.offset == 0
        and record.condition <= 1e8
        and tol >= 1e-6 * (1 - 1e-12)
        and problem.source in ("native", "wrapped", "callables")
        and record.traits.get("precision") != "float32"
    )


def summarise(records):
    """The counts that the goals are about, of any set of records."""
    done = [r for r in records if not r.raised]
    finite = [r for r in done if r.finite and r.known]
    free = [r for r in done if not r.fixed_terms]
    applying = [r for r in free if r.applies]
    attainable = [r for r in done if r.attainable]
    ratios = np.array([r.ratio for r in finite if r.resolved])
    above = np.array([r.ratio for r in finite if r.resolved and r.truth > r.floor])
    missed = [r for r in finite if r.missed]
    return SimpleNamespace(
        n=len(records),
        raised=[r for r in records if r.raised],
        coarse=[r for r in done if r.coarse],
        finite=len(finite),
        missed=missed,
        covered=1 - len(missed) / len(finite) if finite else np.nan,
        ratios=ratios,
        median=float(np.median(ratios)) if len(ratios) else np.nan,
        median_above=float(np.median(above)) if len(above) else np.nan,
        unresolved=len(finite) - len(ratios),
        bounded=sum(np.isfinite(r.bound) for r in done),
        bound_violated=[r for r in done if r.bound_violated],
        success=sum(r.success for r in done),
        false_success=[r for r in done if r.false_success()],
        false_success_3=[r for r in done if r.false_success(3.0)],
        attainable=len(attainable),
        refused=[r for r in attainable if r.refused],
        refused_share=_share(sum(r.refused for r in attainable), len(attainable)),
        applying=len(applying),
        infinite=[r for r in applying if not r.finite],
        infinite_share=_share(sum(not r.finite for r in applying), len(applying)),
        infinite_far=[r for r in applying if not r.finite and r.far],
        infinite_rightly=[r for r in free if not r.applies and not r.finite],
    )


def _share(part, whole):
    return part / whole if whole else np.nan


def to_json(record):
    found = asdict(record)
    return {
        k: v if not isinstance(v, float) or np.isfinite(v) else str(v) for k, v in found.items()
    }


def from_json(found):
    numbers = {f.name for f in fields(Record) if f.type is float}
    return Record(**{k: float(v) if k in numbers else v for k, v in found.items()})
