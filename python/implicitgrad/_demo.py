"""``python -m implicitgrad demo``: many penalties of real models, tuned on real data.

Two data sets, each split at random into training (50 %), validation (25 %) and test rows (25 %),
many times over. θ is always fitted on the training rows alone, penalties are chosen on the
validation rows alone, and the test rows are looked at once, for the table.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from . import L2, LeastSquares, Logistic, check_hypergrad, minimize, plots, train

BOUNDS = (-10.0, 10.0)  # of λ: from practically no penalty to a coefficient of practically zero
GRID = np.linspace(*BOUNDS, 41)
GRID_ROW, ONE_ROW = f"scikit-learn, best of {GRID.size}", "1 penalty, tuned"
EXTRA = 'pip install "implicitgrad[demo]"'


class DemoError(Exception):
    """Something the user can put right; its text says what."""


@dataclass
class Problem:
    """One data set, one split: standardised features, and what the table calls things."""

    title: str
    loss: type[Logistic] | type[LeastSquares]
    X: np.ndarray
    y: np.ndarray
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]  # rows of train, validation, test
    names: list[str]
    groups: np.ndarray
    group_names: tuple[str, ...]
    default: str
    score_name: str

    def objective(self, part: int, penalty: L2 | None = None) -> Any:
        rows = self.parts[part]
        return self.loss(self.X[rows], self.y[rows], penalty=penalty, fit_intercept=True)

    def score(self, theta: np.ndarray) -> float:
        """Accuracy or R² on the test rows."""
        rows = self.parts[2]
        y, z = self.y[rows], self.X[rows] @ theta[:-1] + theta[-1]
        if self.loss is Logistic:
            return float(np.mean((z > 0) == (y > 0)))
        return 1.0 - float(np.sum((y - z) ** 2) / np.sum((y - y.mean()) ** 2))


def _split(y: np.ndarray, seed: int, stratify: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    rows = np.arange(y.size)
    for_train, rest = train_test_split(
        rows, train_size=0.5, random_state=seed, stratify=y if stratify else None
    )
    validation, test = train_test_split(
        rest, train_size=0.5, random_state=seed, stratify=y[rest] if stratify else None
    )
    return for_train, validation, test


def _standardise(X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return (X - X[rows].mean(axis=0)) / X[rows].std(axis=0)


def breast_cancer(seed: int) -> Problem:
    """Malignant or benign, from ten measurements of cell nuclei: mean, error and worst of each."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    parts = _split(data.target, seed, stratify=True)
    return Problem(
        title="breast_cancer: logistic regression",
        loss=Logistic,
        X=_standardise(data.data, parts[0]),
        y=data.target.astype(float),
        parts=parts,
        names=[str(name) for name in data.feature_names],
        groups=np.repeat([0, 1, 2], 10),
        group_names=("mean", "error", "worst"),
        default="C = 1",
        score_name="accuracy",
    )


def diabetes(seed: int) -> Problem:
    """Disease progression from ten features, their products and squares: the 64 columns of Efron,
    Hastie, Johnstone and Tibshirani, "Least angle regression", Annals of Statistics 32 (2004). (The
    square of sex, which takes two values, would be sex again.) The target is standardised too."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    parts = _split(data.target, seed, stratify=False)
    X = _standardise(data.data, parts[0])
    base = [str(name) for name in data.feature_names]
    pairs = [(i, j) for i in range(10) for j in range(i, 10) if i != j or base[i] != "sex"]
    products = np.stack([X[:, i] * X[:, j] for i, j in pairs], axis=1)
    return Problem(
        title="diabetes with squares and products: ridge regression",
        loss=LeastSquares,
        X=_standardise(np.hstack([X, products]), parts[0]),
        y=_standardise(data.target, parts[0]),
        parts=parts,
        names=base + [f"{base[i]}²" if i == j else f"{base[i]}·{base[j]}" for i, j in pairs],
        groups=np.array([0] * 10 + [1 if i == j else 2 for i, j in pairs]),
        group_names=("features", "squares", "products"),
        default="alpha = 1",
        score_name="R²",
    )


@dataclass
class Row:
    """What one way of choosing penalties gave on one split."""

    validation: float
    test: float
    score: float
    seconds: float
    lam: np.ndarray = field(default_factory=lambda: np.empty(0))
    counts: tuple[int, int, int] | None = None  # outer iterations, hypergradients, HVPs
    history: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    converged: bool = True
    succeeded: list[bool] = field(default_factory=list)  # of the hypergradients, at each iteration
    relative_error: float = 0.0  # the largest res.error / ‖res.grad‖


@dataclass
class Split:
    """All rows of the table for one split, and its checks."""

    problem: Problem
    rows: dict[str, Row]
    check: Any  # of check_hypergrad
    theta_gap: float  # between our θ and scikit-learn's, at scikit-learn's penalty


def _measure(problem: Problem, theta: np.ndarray, seconds: float, **found: Any) -> Row:
    validation, test = problem.objective(1).fun(theta), problem.objective(2).fun(theta)
    return Row(validation, test, problem.score(theta), seconds, **found)


def _grid_search(problem: Problem) -> tuple[float, np.ndarray]:
    """scikit-learn's best λ of GRID on the validation rows, by the validation loss, and its θ,
    fitted on the training rows alone."""
    from sklearn.linear_model import LogisticRegressionCV, Ridge, RidgeCV
    from sklearn.model_selection import PredefinedSplit

    for_train, validation, _ = problem.parts
    n = for_train.size
    both = np.concatenate([for_train, validation])
    cv = PredefinedSplit(np.repeat([-1, 0], [n, validation.size]))
    X, y = problem.X[both], problem.y[both]
    strength = np.exp(GRID)  # of the mean loss; scikit-learn's C and alpha refer to the sum
    if problem.loss is Logistic:
        search = LogisticRegressionCV(
            Cs=1.0 / (n * strength),
            cv=cv,
            refit=False,  # keeps the fit on the training rows
            scoring="neg_log_loss",
            solver="newton-cholesky",
            tol=1e-8,
        )
        with warnings.catch_warnings():  # about defaults that will change and are not used here
            warnings.simplefilter("ignore", FutureWarning)
            search.fit(X, y)
        lam = -math.log(n * float(np.ravel(search.C_)[0]))
        return lam, np.append(search.coef_[0], search.intercept_)
    search = RidgeCV(alphas=n * strength, cv=cv, scoring="neg_mean_squared_error").fit(X, y)
    fitted = Ridge(alpha=search.alpha_).fit(X[:n], y[:n])  # RidgeCV refits on all rows
    return math.log(search.alpha_ / n), np.append(fitted.coef_, fitted.intercept_)


def _tune(problem: Problem, penalty: L2, start: float) -> Row:
    f, g, test = problem.objective(0, penalty), problem.objective(1), problem.objective(2)
    lam0 = np.full(f.n_lam, start)
    theta0 = train(f, lam0).x
    history = ([g.fun(theta0)], [test.fun(theta0)])
    succeeded: list[bool] = []
    errors = [0.0]

    def watch(intermediate_result: Any) -> None:
        history[0].append(intermediate_result.fun)
        history[1].append(test.fun(intermediate_result.theta))
        found = intermediate_result.hypergradient
        succeeded.append(found.success)
        errors.append(found.error / max(float(np.linalg.norm(found.grad)), sys.float_info.min))

    begin = time.perf_counter()
    # Few outer rows for so many penalties: what the rows of the test say of that is shown.
    quiet = {"warn": False}
    res = minimize(f, g, lam0, bounds=[BOUNDS] * f.n_lam, callback=watch, options=quiet)
    return _measure(
        problem,
        res.theta,
        time.perf_counter() - begin,
        lam=res.x,
        counts=(res.nit, res.nfev, res.nhev),
        history=history,
        converged=bool(res.success),
        succeeded=succeeded,
        relative_error=max(errors),
    )


def run(problem: Problem) -> Split:
    """Every row of the table on one split."""
    n, p = problem.parts[0].size, problem.X.shape[1]
    shared = problem.objective(0, L2("all"))
    default = -math.log(n)  # strength 1/n, which is C = 1 and alpha = 1
    begin = time.perf_counter()
    theta = train(shared, [default]).x
    rows = {f"no tuning ({problem.default})": _measure(problem, theta, time.perf_counter() - begin)}
    begin = time.perf_counter()
    lam, theta = _grid_search(problem)
    rows[GRID_ROW] = _measure(problem, theta, time.perf_counter() - begin)
    gap = float(np.max(np.abs(theta - train(shared, [lam]).x)))

    one = _tune(problem, L2("all"), default)
    start = float(one.lam[0])
    rows[ONE_ROW] = one
    rows[f"{len(problem.group_names)} penalties, tuned"] = _tune(problem, L2(problem.groups), start)
    rows[f"{p} penalties, tuned"] = _tune(problem, L2("feature"), start)
    check = check_hypergrad(
        problem.objective(0, L2("feature")), problem.objective(1), np.full(p, start)
    )
    return Split(problem, rows, check, gap)


# What is printed.


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


# The picture.


def picture(results: list[list[Split]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.5), layout="constrained")
    axes = figure.subplots(len(results), 2, width_ratios=(2, 3))
    for (left, right), splits in zip(axes, results, strict=True):
        problem = splits[0].problem
        tuned = [label for label, row in splits[0].rows.items() if row.counts is not None]
        for i, label in enumerate(tuned):
            for part, style in enumerate(("-", "--")):
                runs = [split.rows[label].history[part] for split in splits]
                name = None if part else label
                plots.outer_history(runs, left, color=f"C{i}", linestyle=style, label=name)
        left.set_title(f"{problem.title}\nvalidation loss (lines) and test loss (dashes)")
        left.set_xscale("symlog", linthresh=10)
        left.set_xticks([0, 5, 10, 20, 50, 100], ["0", "5", "10", "20", "50", "100"])
        left.set_xlim(0)
        left.legend()
        lam = [split.rows[tuned[-1]].lam for split in splits]
        names, groups = problem.names, problem.groups
        plots.penalties(
            lam, right, names=names, groups=groups, group_names=problem.group_names, bounds=BOUNDS
        )
        right.tick_params(axis="x", labelsize=7)
        right.set_title(f"{tuned[-1]}: each split, and the median")
        right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)


def _require(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DemoError(f"{module.split('.')[0]} is missing: {EXTRA}") from None


def _check_path(path: Path) -> None:
    from matplotlib.figure import Figure

    suffixes = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in suffixes:
        raise DemoError(f"--picture {path}: the name must end in one of {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise DemoError(f"--picture {path}: there is no folder {path.parent}")


def _progress(total: int) -> Callable[[Iterable[int], str], Iterable[int]]:
    """Shows a bar where both streams are terminals, and nothing at all elsewhere."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return lambda items, name: items
    tqdm = _require("tqdm").tqdm
    return lambda items, name: tqdm(items, desc=name, total=total, leave=False)


def main(seeds: int, path: str | None) -> None:
    """Run the demo on that many splits; the picture goes to `path`, or nowhere."""
    _require("sklearn")
    threadpoolctl = _require("threadpoolctl")
    target = None if path is None else Path(path)
    if target is not None:
        _require("matplotlib")
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports its first-run caches
        _check_path(target)
    progress = _progress(seeds)
    begin = time.perf_counter()
    results = []
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):  # the problems are small
        for make in (breast_cancer, diabetes):
            splits = [run(make(seed)) for seed in progress(range(seeds), make.__name__)]
            print(report(splits), flush=True)
            results.append(splits)
    print(LEGEND)
    if target is not None:
        picture(results, target)
        print(f"Picture: {target}")
    print(f"Total: {time.perf_counter() - begin:.1f} s")
