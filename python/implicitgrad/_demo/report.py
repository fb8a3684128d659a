"""What the demo prints of its splits: a table, what it means in plain words, and checks."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from scipy.special import stdtrit

from .data import Problem
from .experiment import BOUNDS, GRID, GRID_ROW, Split


def _mean(values: list[float], digits: int = 4) -> str:
    """Mean ± standard error."""
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1) / math.sqrt(len(values)):.{digits}f}"
    return text


def table(splits: list[Split]) -> str:
    problem = splits[0].problem
    head = ("", "validation loss", "test loss", problem.score_name, "outer it.")
    lines: list[tuple[str, ...]] = [(*head, "hypergrads", "HVPs", "time")]
    for label in splits[0].rows:
        rows = [split.rows[label] for split in splits]
        cells = [_mean([getattr(row, of) for row in rows]) for of in ("validation", "test")]
        cells.append(_mean([row.score for row in rows], digits=3))
        counts = [row.counts for row in rows if row.counts is not None]
        cells += [f"{c:.1f}" for c in np.mean(counts, axis=0)] if counts else [""] * 3
        cells.append(f"{1e3 * np.mean([row.seconds for row in rows]):.1f} ms")
        lines.append((label, *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def verdicts(splits: list[Split]) -> list[str]:
    """In plain words, from the numbers alone: the best row, and what each gained on the grid's."""
    problem = splits[0].problem
    rows = {label: [split.rows[label] for split in splits] for label in splits[0].rows}
    means = {label: float(np.mean([row.test for row in of])) for label, of in rows.items()}
    best = min(means, key=lambda label: means[label])
    found = [f"Lowest test loss: {best}, {means[best]:.4f}."]
    validation, base = (
        np.array([getattr(row, of) for row in rows[GRID_ROW]]) for of in ("validation", "test")
    )
    for label, of in rows.items():
        if of[0].counts is None:
            continue
        seen = np.mean([row.validation for row in of]) / validation.mean() - 1.0
        difference = np.array([row.test for row in of]) - base
        unseen = means[label] / means[GRID_ROW] - 1.0
        here, beyond = _tests(difference, problem)
        text = (
            f"{label}, against the grid's one: validation loss {_percent(seen)}, test loss "
            f"{_percent(unseen)} (lower on {np.sum(difference < 0)} of {difference.size} splits)"
        )
        if here:
            text += f": a {'loss' if unseen > 0 else 'gain'} on this data set"
            text += (
                " and, by the corrected test, beyond it." if beyond else ", not clear beyond it."
            )
            if seen < 0 < unseen:
                text += f" The {problem.parts[1].size} validation rows were overfitted."
        else:
            text += ": no clear difference."
        found += textwrap.wrap(text, 100, subsequent_indent="    ")
    return found


def _percent(change: float) -> str:
    return f"{100 * abs(change):.1f} % {'lower' if change < 0 else 'higher'}"


def _tests(difference: np.ndarray, problem: Problem) -> tuple[bool, bool]:
    """Whether the mean over splits differs from zero, by two-sided t-tests at 5 %: among splits of
    these rows, which are independent draws; and among data sets like this one, for which the
    variance is corrected since the splits share rows (C. Nadeau, Y. Bengio, "Inference for the
    generalization error", Machine Learning 52, 2003)."""
    runs = difference.size
    if runs < 2:
        return False, False
    for_train, validation, test = (rows.size for rows in problem.parts)
    limit = stdtrit(runs - 1, 0.975) * np.std(difference, ddof=1)
    shared = test / (for_train + validation)
    size = abs(difference.mean())
    return bool(size > limit * math.sqrt(1 / runs)), bool(
        size > limit * math.sqrt(1 / runs + shared)
    )


def checks(splits: list[Split]) -> list[str]:
    rows = [row for split in splits for row in split.rows.values() if row.counts]
    succeeded = [ok for row in rows for ok in row.succeeded]
    agreed = sum(split.check.success for split in splits)
    gap = max(split.check.error for split in splits)
    return [
        f"outer optimiser converged in {sum(row.converged for row in rows)} of {len(rows)} runs",
        f"hypergradients within tol at {sum(succeeded)} of {len(succeeded)} outer iterations, "
        f"largest estimated error / ‖grad‖ {max(row.relative_error for row in rows):.0e}",
        f"check_hypergrad agrees on {agreed} of {len(splits)} splits, largest gap {gap:.0e}",
        f"θ differs from scikit-learn's at the same penalty by at most "
        f"{max(split.theta_gap for split in splits):.0e}",
    ]


def report(splits: list[Split]) -> str:
    problem = splits[0].problem
    sizes = " / ".join(str(rows.size) for rows in problem.parts)
    runs = f"{len(splits)} splits" if len(splits) > 1 else "1 split"
    return "\n".join(
        [
            f"{problem.title}, {problem.X.shape[1]} features",
            f"{sizes} training / validation / test rows, {runs}",
            "",
            table(splits),
            "",
            *verdicts(splits),
            *(f"  {line}" for line in checks(splits)),
            "",
        ]
    )


LOW, HIGH = (f"{bound:g}" for bound in BOUNDS)
LEGEND = f"""\
In every row θ is fitted on the training rows alone, and penalties are chosen on the validation
rows alone. scikit-learn's grid has {GRID.size} values of λ from {LOW} to {HIGH}, which are also the
bounds of the tuned ones; these start from no tuning (1) and from the tuned single one (3 or more).
Losses are means of log(1 + exp(-yz)), or of half the squared error of the standardised target.
± is the standard error over splits; times are means of a split, with BLAS on one thread. "On this
data set" is a paired t-test at 5 % over the splits, "beyond it" one corrected for shared rows.
"""
