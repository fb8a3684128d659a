"""Error estimates against the truth, on random problems: see scoring.py and bench/calibration.py.

Any seed that fails here can be replayed: ``python bench/calibration.py --one SEED``.
"""

from collections import Counter
from decimal import localcontext

import numpy as np
import pytest

import generator
import oracle as exactly
import reference
import scoring
from designs import DEGENERATE
from generator_lanes import LANES
from generator_networks import draw_network
from scoring import GOALS

PROBLEMS = 2500
LANED = 400
NETWORKS = 150
# Problems beyond these that were successes with wrong numbers: parts of a Newton step that cancelled
# in the one number that was asked for (6629, 6635, 7880), an H by finite differences that is off by
# more than its smallest eigenvalue (7691), residuals of a user's function that cancel in its gradient
# (21913), a step of CG that its next one corrects by a thirtieth (647), and a direction that is lost in
# the sketch's rounding, so that CG never goes there (20427).
ONCE_FALSE = (6629, 6635, 7691, 7880, 21913)
ONCE_FALSE_IN_LANE = ((647, "jacobi"), (20427, "gram"), (20427, "sketch"))


@pytest.fixture(scope="module")
def records():
    return [scoring.run(seed) for seed in range(PROBLEMS)]


@pytest.fixture(scope="module")
def networks():
    return [scoring.run_network(seed) for seed in range(NETWORKS)]


@pytest.fixture(scope="module")
def summary(records):
    return scoring.summarise(records)


@pytest.fixture(scope="module")
def lanes():
    """CG with each preconditioner, most of them as their own checkers: the summary of each."""
    found = [scoring.run_lanes(seed) for seed in range(LANED)]
    of = dict(zip(LANES, zip(*found, strict=True), strict=True))
    return {lane: scoring.summarise(records) for lane, records in of.items()}


def seeds(records):
    return sorted(r.seed for r in records)[:40]


def test_estimate_covers_the_true_error(summary):
    assert summary.finite > 0.8 * PROBLEMS
    assert summary.covered >= GOALS["covered"], f"missed: {seeds(summary.missed)}"


def test_estimate_is_neither_high_nor_low(summary):
    low, high = GOALS["median"]
    assert low <= summary.median <= high
    assert low <= summary.median_above <= high


def test_bound_is_never_violated(summary):
    assert summary.bounded > 0.5 * PROBLEMS  # inf everywhere would be no bound
    assert not summary.bound_violated, f"violated: {seeds(summary.bound_violated)}"


def test_no_false_success(summary):
    assert summary.success > 0.5 * PROBLEMS
    assert not summary.false_success, f"false: {seeds(summary.false_success)}"


@pytest.mark.parametrize("seed", ONCE_FALSE)
def test_no_false_success_where_there_was_one(seed):
    record = scoring.run(seed)
    assert not record.raised and not record.false_success() and not record.missed


@pytest.mark.parametrize(("seed", "lane"), ONCE_FALSE_IN_LANE)
def test_no_false_success_in_a_lane_where_there_was_one(seed, lane):
    (record,) = scoring.run_lanes(seed, (lane,))
    assert not record.raised and not record.false_success() and not record.missed


def test_success_where_it_is_attainable(summary):
    assert summary.attainable > 0.05 * PROBLEMS
    assert summary.refused_share <= GOALS["refused"], f"refused: {seeds(summary.refused)}"


def test_estimates_are_finite(summary):
    assert summary.infinite_share <= GOALS["infinite"], (
        f"{len(summary.infinite)} of {summary.applying} infinite, {len(summary.infinite_far)} of "
        f"them from afar; others: {seeds([r for r in summary.infinite if not r.far])}"
    )


def test_nothing_raises(summary):
    assert not summary.raised, [(r.seed, r.raised) for r in summary.raised]


def test_problems_are_as_varied_as_they_are_meant_to_be(records):
    count = {
        name: Counter(r.traits.get(name) for r in records)
        for name in ("method", "source", "condition", "offset", "columns", "scales", "shape")
    }
    for k in range(12):
        assert count["condition"][f"1e{k:02d} … 1e{k + 1:02d}"] > 0.01 * PROBLEMS
    assert len(count["offset"]) == 7 and min(count["offset"].values()) > 0.01 * PROBLEMS
    assert len(count["source"]) == len(generator.SOURCES)
    assert {"duplicated", "zero", "plain"} <= set(count["columns"])
    assert count["scales"]["tiny or huge"] > 0.3 * PROBLEMS
    assert count["shape"]["n < p"] > 0.1 * PROBLEMS
    lacking = Counter(r.traits.get("ill by") for r in records)
    assert all(lacking[how] > 0.01 * PROBLEMS for how in DEGENERATE)
    statuses = {r.status for r in records}
    assert {0, 1, 2, 3, 4} <= statuses


@pytest.mark.parametrize("lane", LANES)
def test_every_preconditioner_of_cg_meets_the_goals(lanes, lane):
    of = lanes[lane]
    assert of.n > 0.95 * LANED and of.success > 0.8 * of.n and of.attainable > 0.2 * of.n
    assert not of.raised, [(r.seed, r.raised) for r in of.raised]
    assert of.covered >= GOALS["covered"], f"missed: {seeds(of.missed)}"
    assert GOALS["median"][0] <= of.median_above <= GOALS["median"][1]
    assert not of.bound_violated, f"violated: {seeds(of.bound_violated)}"
    assert not of.false_success_3, f"false: {seeds(of.false_success_3)}"
    assert of.refused_share <= GOALS["refused"], f"refused: {seeds(of.refused)}"
    assert of.infinite_share <= GOALS["infinite"], f"infinite: {seeds(of.infinite)}"


def test_networks_at_their_minima(networks):
    of = scoring.summarise([r for r in networks if r.traits["at"] == "minimum"])
    assert of.success > 0.3 * of.n and of.attainable > 0.05 * of.n
    assert not of.raised, [(r.seed, r.raised) for r in of.raised]
    assert of.covered >= 0.98, f"missed: {seeds(of.missed)}"
    assert GOALS["median"][0] <= of.median_above <= GOALS["median"][1]
    assert not of.bound_violated, f"violated: {seeds(of.bound_violated)}"
    assert not of.false_success, f"false: {seeds(of.false_success)}"
    assert of.refused_share <= GOALS["refused"], f"refused: {seeds(of.refused)}"
    assert of.infinite_share <= GOALS["infinite"], f"infinite: {seeds(of.infinite)}"


def test_networks_at_saddles_are_told_so(networks):
    of = [r for r in networks if r.traits["at"] == "saddle"]
    assert len(of) > 0.05 * NETWORKS
    assert not any(r.success or r.raised for r in of), seeds([r for r in of if r.success])
    asked_to_stop = {1}  # by a number of terms or an iteration limit, before that was seen
    for r in of:
        assert r.status in {2, 3, 4} | asked_to_stop, (r.seed, r.status)


def test_no_false_success_where_all_units_are_off():
    """In float32, where Lanczos' method takes the noise of products for curvature."""
    record = scoring.run_network(101144)
    assert not record.raised and not record.false_success()


def test_the_oracle_of_networks_against_differences():
    """Its gradient by differences of its value, and its products by those of its gradient."""
    compared = 0
    for seed in range(12):
        problem = draw_network(seed)
        if problem.inner.activation == "relu":  # a difference may cross a kink
            continue
        f = problem.inner.model(exactly.Long).at(problem.lam)
        rng = np.random.default_rng(seed)
        theta, v = rng.standard_normal((2, problem.inner.n_theta)).astype(np.longdouble)
        step = np.longdouble(1e-6)
        ahead, behind = theta + step * v, theta - step * v
        slope = (f.value(ahead) - f.value(behind)) / (2 * step)
        assert abs(slope - f.gradient(theta) @ v) <= 1e-9 * (1 + abs(slope))
        product = (f.gradient(ahead) - f.gradient(behind)) / (2 * step)
        assert exactly.norm(product - f.product(theta, v)) <= 1e-9 * (1 + exactly.norm(product))
        flipped = f.flipped().gradient(theta[::-1])[::-1]
        assert exactly.norm(flipped - f.gradient(theta)) <= 1e-15 * exactly.norm(f.gradient(theta))
        compared += 1
    assert compared > 5


def test_oracle_is_not_the_limit(summary):
    # What is left are Hessians that are singular to double precision many times over.
    assert len(summary.coarse) < 0.004 * PROBLEMS, seeds(summary.coarse)
    assert not any(r.success for r in summary.coarse)


def test_oracle_knows_its_own_error():
    """Extended precision against fifty digits."""
    compared, off = 0, []
    for seed in range(150):
        problem = generator.draw(seed)
        if problem.kind == "singular":
            continue
        with np.errstate(all="ignore"):  # counts overflow on the way
            oracle = exactly.Oracle(problem)
        if oracle.sharp:
            continue
        before, error = oracle.grad, oracle.error
        oracle.sharpen()
        compared += 1
        with localcontext(prec=exactly.DIGITS):
            distance = exactly.norm(oracle.grad - exactly.Decimals.array(before))
        if distance > error:
            off.append((seed, distance, error))
        assert distance <= 10 * error
    assert compared > 80
    assert len(off) <= 1, off


def test_oracle_agrees_with_the_naive_one():
    compared = 0
    for seed in range(60):
        problem = generator.draw(seed)
        if problem.kind != "linear" or not problem.inner.n_lam:
            continue
        if problem.inner.loss == "Softmax":
            continue
        if problem.traits["ill by"] in DEGENERATE:  # the other is not made for those
            continue
        with np.errstate(all="ignore"):  # counts overflow on the way
            oracle = exactly.Oracle(problem)
        if oracle.sharp or oracle.scaled_condition > 1e8:
            continue
        f, g = (
            reference.LinearModel(
                *(d.loss, d.X, d.y, None if d.penalty is None else d.labels),
                *(d.fixed, d.intercept, d.weights),
            )
            for d in (problem.inner, problem.outer)
        )
        # Started at our θ⋆, since it stops early where the margins are in the hundreds; it has
        # Newton's method, with a dense H in extended precision, confirm that θ⋆.
        theta = f.train(problem.lam, oracle.theta)
        exact = reference.hypergradient(f, g, theta, problem.lam)[0]
        compared += 1
        slack = 1e3 * oracle.scaled_condition * exactly.WIDE_EPS
        assert oracle.distance(exact) <= slack * exactly.norm(exact) + oracle.floor(), seed
    assert compared > 30


def test_a_problem_is_its_seed():
    a, b = scoring.run(7), scoring.run(7)
    for name in ("truth", "estimate", "bound", "success", "traits"):
        assert getattr(a, name) == getattr(b, name) or np.isnan(getattr(a, name))
