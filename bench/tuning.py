"""Tuning many penalties beside other ways of choosing them: test loss and time.

    python bench/tuning.py [--quick] [--part sets folds rows] [--case useful groups …]
                           [--methods TPE …] [--draws 3] [--data ../shared/data] [--threads 2]
                           [--json tuning.json]

sets: on each case every method chooses penalties by 5-fold cross-validation on the training rows and
is fitted on all of them; the test rows are for the table alone. Real sets are split anew for each
draw, made ones are drawn anew; methods take turns within a draw. `loss` is the mean test loss (½ r² of
a target, or log(1 + exp(−yz))), `- ours` the mean difference from our row with many penalties and its
standard error over the draws, `cv` the validation loss that was minimised (summed over targets),
`/ ours` the median ratio of times within a draw. `closed`: of the way from our single penalty to the
loss of the weights that made the data, how much was gone.

Ours are the estimators of `implicitgrad.sklearn`: a penalty for each feature or group, none much below
the best single one; `free`: without that bound; `one`: a single penalty; `chosen`: one, groups, many or
free, by a cross-validation around the whole tuning. TPE and random search (Optuna's) search as many λ
between -12 and 4 for as long as ours took, on the same folds, each trial trained by ig.train from the
last trial's θ, so that what differs is the search; `from our one` is told our best single λ first.

folds: the whole of our tuning with five folds and with the first of them only, on 100,000 × 500.

rows: how many rows many penalties need: the test losses of one penalty and of one per feature, bounded
and free, on made data of 100 features, where few of them matter and where all matter alike.

Libraries and sets that are not there are skipped by name.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import _common

PARTS = ("sets", "folds", "rows")


def main() -> None:
    parser = _common.options(
        __doc__, "small cases, our own rows and what is installed, a smoke run"
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=["sets"])
    parser.add_argument("--case", nargs="+", default=None, help="of part sets; all by default")
    parser.add_argument(
        "--methods", nargs="+", default=None, help="only names that hold one of these"
    )
    parser.add_argument(
        "--draws", type=int, default=None, help="splits or samples; each case has its own"
    )
    parser.add_argument("--data", default=None, help="folder of the LIBSVM files")
    _common.add_threads(parser, 2)
    args = parser.parse_args()
    _common.limit_threads(args.threads)

    import _files
    import _tuning_data

    cases = _tuning_data.cases(_files.data_folder(args.data))
    names = args.case or (["breast_cancer", "diabetes"] if args.quick else list(cases))
    if unknown := [name for name in names if name not in cases]:
        parser.error(f"--case {' '.join(unknown)}: choose from {', '.join(cases)}")
    if args.quick and args.draws is None:
        args.draws = 2
    run = {"sets": lambda: sets({name: cases[name] for name in names}, args),
           "folds": lambda: folds(args), "rows": lambda: rows(args)}  # fmt: skip
    report = {part: run[part]() for part in args.part}
    _common.write(args.json, {"threads": args.threads, **report})


def chosen(name: str, case: Any, args: Any) -> bool:
    """Ours with many and with one are always there, for the differences."""
    if name in ("implicitgrad", "implicitgrad, one"):
        return True
    wanted = [words for words in (case.methods, args.methods) if words]
    return all(any(word in name for word in words) for words in wanted)


def sets(cases: dict[str, Any], args: Any) -> list[dict[str, Any]]:
    import _tuners
    import _tuning_data

    warm = _tuning_data.Case(True, lambda seed: _tuning_data.synthetic(True, 200, 5, 2, 1, 0, seed))
    _tuners.ours(_tuners.Task(warm, warm.draw(0), 0))
    table = []
    for name, case in cases.items():
        try:
            case.draw(0)
        except OSError as missing:
            print(f"\n{name}: skipped, {missing}", flush=True)
            continue
        table += one_set(name, case, args)
    return table


def one_set(name: str, case: Any, args: Any) -> list[dict[str, Any]]:
    import _tuners

    left = {who: tuner for who, tuner in _tuners.TUNERS.items() if chosen(who, case, args)}
    found: dict[str, list[dict[str, Any]]] = {}
    truths, shape = [], (0, 0)
    draws = args.draws or case.draws
    for seed in range(draws):
        split = case.draw(seed)
        task, shape = _tuners.Task(case, split, seed), split.X.shape
        truths.append(split.truth)
        for who, tuner in list(left.items()):
            time.sleep(0.05)
            try:
                tuned = tuner(task)
            except ImportError as missing:
                del left[who]
                if missing.name:  # a library, and not a method that is for other cases
                    print(f"  {who}: skipped, {missing}")
                continue
            found.setdefault(who, []).append({
                "loss": split.loss(case.logistic, tuned.theta),
                "score": split.score(case.logistic, tuned.theta),
                "seconds": tuned.seconds, "cv": tuned.cv, "tried": tuned.tried,
            })  # fmt: skip
    return print_set(name, case, shape, truths, found, args)


def print_set(
    name: str, case: Any, shape: tuple[int, int], truths: list[Any], found: Any, args: Any
) -> list[dict[str, Any]]:
    known = truths[0] is not None
    score = "accuracy" if case.logistic else "R²"
    print(
        f"\n{name}, {'logistic' if case.logistic else 'least squares'}, {shape[0]} x {shape[1]}, "
        f"{len(truths)} draws, {args.threads} threads"
        + (f"; true weights' test loss {statistics.mean(truths):.4f}" if known else "")
        + f"\n  {'':<26} {'loss':>8} {'- ours':>8} {'±':>7} {'closed':>6} {score:>8} {'cv':>8} "
        f"{'seconds':>8} {'/ ours':>7}"
    )
    ours, one = (
        [run["loss"] for run in found[who]] for who in ("implicitgrad", "implicitgrad, one")
    )
    table = []
    for who, runs in found.items():
        loss = [run["loss"] for run in runs]
        apart = [a - b for a, b in zip(loss, ours, strict=True)]
        spread = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else None
        seconds, base = ([run["seconds"] for run in of] for of in (runs, found["implicitgrad"]))
        row = {
            "case": name, "n": shape[0], "p": shape[1], "method": who, "draws": len(runs),
            "loss": statistics.mean(loss), "minus_ours": statistics.mean(apart), "error": spread,
            "score": statistics.mean(run["score"] for run in runs),
            "cv": None if runs[0]["cv"] is None else statistics.mean(run["cv"] for run in runs),
            "seconds": statistics.median(seconds), "of_ours": _common.ratio(seconds, base),
            "tried": runs[0]["tried"], "runs": runs,
        }  # fmt: skip
        if known:
            gone = [(b - a) / (b - t) for a, b, t in zip(loss, one, truths, strict=True) if b != t]
            row["closed"] = statistics.mean(gone)
        table.append(row)
        print(
            f"  {who:<26} {row['loss']:8.4f} {row['minus_ours']:8.4f} {show(spread, '.4f'):>7} "
            f"{show(row.get('closed'), '.2f'):>6} {row['score']:8.4f} {show(row['cv'], '.4f'):>8} "
            f"{row['seconds']:8.2f} {row['of_ours']:7.2f}  {row['tried']}",
            flush=True,
        )
    return table


def show(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def folds(args: Any) -> list[dict[str, Any]]:
    """Five folds beside one."""
    from functools import partial

    from sklearn.model_selection import KFold

    import _tuners
    import _tuning_data

    n, p = (10_000, 100) if args.quick else (100_000, 500)
    table = []
    for logistic in (True, False):
        draw = partial(_tuning_data.synthetic, logistic, n, p, p // 10, 0.3, 1.0, n_test=1)
        task = _tuners.Task(_tuning_data.Case(logistic, draw), draw(0), 0)
        splits = list(KFold(_tuners.CV, shuffle=True, random_state=0).split(task.split.X))
        calls: dict[int, int] = {}

        def whole(count: int) -> None:
            task.cv = splits[:count]  # noqa: B023
            calls[count] = int(_tuners.ours(task).tried.split()[0])  # noqa: B023

        seconds = _common.interleave(
            {str(count): _common.always(lambda count=count: whole(count)) for count in (1, 5)},
            args.draws or 3, least=2,
        )  # fmt: skip
        row = {
            "logistic": logistic, "n": n, "p": p,
            "one_s": statistics.median(seconds["1"]), "five_s": statistics.median(seconds["5"]),
            "one_calls": calls[1], "five_calls": calls[5],
            "ratio": _common.ratio(seconds["5"], seconds["1"]),
        }  # fmt: skip
        row["ratio_a_call"] = row["ratio"] * calls[1] / calls[5]
        table.append(row)
        print(
            f"\nfolds, {'logistic' if logistic else 'least squares'}, {n} x {p}, {p} penalties, "
            f"{args.threads} threads\n  one fold {row['one_s']:.2f} s ({calls[1]} evaluations), five "
            f"{row['five_s']:.2f} s ({calls[5]}): {row['ratio']:.2f} times; an evaluation "
            f"{row['ratio_a_call']:.2f} times",
            flush=True,
        )
    return table


def rows(args: Any) -> list[dict[str, Any]]:
    """One penalty beside one per feature, for more and more rows."""
    p, draws = 100, args.draws or 10
    ladder = (100, 400) if args.quick else (50, 100, 200, 400, 800, 1600, 6400)
    table = []
    for logistic in (True, False):
        print(
            f"\nrows, {'logistic' if logistic else 'least squares'}, {p} features, {draws} draws: mean "
            f"excess test loss over the true weights, of one penalty,\n  and that of {p} relative to it "
            f"(in how many draws they were better), bounded and free\n  {'rows':>6}"
            + "".join(
                f" | {f'{useful} useful: one':>16} {'many':>10} {'free':>10}"
                for useful in (p // 10, p)
            )
        )
        for n in ladder:
            line = f"  {n:6d}"
            for useful in (p // 10, p):
                row = excess(logistic, n, p, useful, draws)
                table.append(row)
                cells = [f"{row[k] / row['one']:.2f} ({row[k + '_wins']:2d})" for k in COMPARED[1:]]
                line += f" | {row['one']:16.4f} {cells[0]:>10} {cells[1]:>10}"
            print(line, flush=True)
    return table


COMPARED = ("one", "many", "free")


def excess(logistic: bool, n: int, p: int, useful: int, draws: int) -> dict[str, Any]:
    """Mean test loss beyond that of the true weights, and draws in which one penalty was worse."""
    import _tuners
    import _tuning_data

    size = (4.0 if logistic else 1.0) / useful**0.5
    tuners = dict(zip(COMPARED, (_tuners.ours_one, _tuners.ours, _tuners.ours_free), strict=True))
    found: dict[str, list[float]] = {name: [] for name in COMPARED}
    for seed in range(draws):
        split = _tuning_data.synthetic(logistic, n, p, useful, size, 1.0, seed)
        task = _tuners.Task(_tuning_data.Case(logistic, lambda seed: split), split, seed)  # noqa: B023
        for name, tuner in tuners.items():
            found[name].append(split.loss(logistic, tuner(task).theta) - split.truth)
    row = {"logistic": logistic, "n": n, "p": p, "useful": useful, "draws": draws}
    row |= {name: statistics.mean(each) for name, each in found.items()}
    for name in COMPARED:
        row[name + "_wins"] = sum(a < b for a, b in zip(found[name], found["one"], strict=True))
    return row


if __name__ == "__main__":
    main()
