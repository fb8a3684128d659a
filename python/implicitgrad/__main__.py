"""The command line: ``python -m implicitgrad demo`` and ``python -m implicitgrad info``."""

from __future__ import annotations

import argparse
import sys

import implicitgrad


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_count.__name__ = "positive integer"  # what argparse calls it in its message


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m implicitgrad", description=implicitgrad.__doc__, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=implicitgrad.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="tune the penalties of two models on real data, beside scikit-learn's grid search",
        description=(
            "Tunes one, three and many penalties of a logistic and a ridge regression on a "
            "validation part, beside no tuning and scikit-learn's grid search, and reports the "
            "losses on unseen rows. Takes some seconds; needs the extra 'demo'."
        ),
    )
    demo.add_argument(
        "--seeds", type=_count, metavar="N", help="random splits to average (20; with --quick 3)"
    )
    demo.add_argument("--quick", action="store_true", help="few splits")
    demo.add_argument("--no-picture", action="store_true", help="write no picture")
    demo.add_argument(
        "--picture",
        default="implicitgrad-demo.png",
        metavar="PATH",
        help="where the picture goes (%(default)s); the suffix sets the format",
    )
    commands.add_parser("info", help="print how this installation was built")
    given = parser.parse_args(arguments)

    for stream in (sys.stdout, sys.stderr):  # a terminal without λ gets a question mark
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if given.command == "info":
        for name, value in implicitgrad.build_info().items():
            print(f"{name:14}{value}")
        return 0

    from . import _demo

    seeds = given.seeds or (3 if given.quick else 20)
    try:
        _demo.main(seeds, None if given.no_picture else given.picture)
    except _demo.DemoError as error:
        print(f"{parser.prog} demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
