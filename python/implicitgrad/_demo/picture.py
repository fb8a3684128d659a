"""The demo's picture: losses along the outer iterations, and the tuned penalties."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from .. import plots
from .experiment import BOUNDS, Split


def picture(results: list[list[Split]], path: Path) -> None:
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
