"""``python -m implicitgrad demo``: many penalties of real models, tuned on real data.

Two data sets, split at random many times over. θ is always fitted on the training rows alone,
penalties are chosen on the validation rows alone, and the test rows are looked at once, for the table.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .data import breast_cancer, diabetes
from .experiment import run
from .report import LEGEND, report

EXTRA = 'pip install "implicitgrad[demo]"'


class DemoError(Exception):
    """Something the user can put right; its text says what."""


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
        from .picture import picture

        picture(results, target)
        print(f"Picture: {target}")
    print(f"Total: {time.perf_counter() - begin:.1f} s")
