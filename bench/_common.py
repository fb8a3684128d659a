"""What the benchmarks share: options, turns, tables' numbers, memory and JSON. Imports no NumPy, so
that the number of threads can be settled before BLAS reads it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# A turn's preparation, untimed; it returns the call to time.
Ready = Callable[[], Callable[[], Any]]


def options(doc: str | None, quick: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", default=None, help="write the numbers to this path as well")
    return parser


def add_threads(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument("--threads", type=int, default=default, help="of every library alike")


def limit_threads(threads: int) -> None:
    """Let this process and its children use so many processors. Before NumPy is imported: BLAS and
    OpenMP read the environment; what does not (XLA) counts the processors it may run on."""
    if threads < 1:
        raise SystemExit("--threads must be at least 1")
    if "numpy" in sys.modules:
        raise RuntimeError("the number of threads must be settled before NumPy is imported")
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    allowed = sorted(os.sched_getaffinity(0))
    if threads < len(allowed):
        os.sched_setaffinity(0, allowed[:threads])


def always(call: Callable[[], Any]) -> Ready:
    """A turn without preparation."""
    return lambda: call


def interleave(
    work: Mapping[str, Ready],
    rounds: int,
    *,
    warm: bool = False,
    seconds: float = math.inf,
    least: int = 3,
) -> dict[str, list[float]]:
    """Seconds of each piece of work, which take turns in every round, so that whatever else the
    machine does hits all of them. A turn begins with a pause, in which the threads of the library
    that ran before stop spinning, and where `warm` an untimed call, prepared for itself. Once
    `seconds` have passed no round is begun beyond the `least`-th."""
    found: dict[str, list[float]] = {name: [] for name in work}
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= least and time.perf_counter() - begin > seconds:
            break
        for name, ready in work.items():
            call = ready()
            time.sleep(0.05)
            if warm:
                ready()()
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return found


def ratio(above: list[float], below: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def resident(field: str) -> int:
    """Bytes of VmRSS or VmHWM (its peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"the kernel does not report {field}")


def peak_growth(call: Callable[[], Any]) -> float:
    """MB by which the resident memory grew at most during the call; NaN where that is not known."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident("VmRSS")
        call()
        return 1e-6 * max(0, resident("VmHWM") - before)
    except OSError:
        return math.nan


def in_child(script: str, payload: Mapping[str, Any]) -> Any:
    """Run `script --child payload` in a fresh interpreter; the JSON of its last line of output."""
    command = [sys.executable, script, "--child", json.dumps(payload)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def child_payload() -> Any:
    """What `in_child` asks this process for, or None."""
    return json.loads(sys.argv[2]) if sys.argv[1:2] == ["--child"] else None


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    peers = ("jax", "jaxlib", "jaxopt", "torch", "himalaya", "optuna")
    for name in ("numpy", "scipy", "scikit-learn", *peers):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def last_level_cache() -> int:
    """Bytes of the largest cache, 0 where the kernel does not say."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KMG")) * unit)
    return max(sizes)


def write(path: str | None, report: Mapping[str, Any]) -> None:
    """The report as JSON, with the build and the versions it ran with."""
    if not path:
        return
    import implicitgrad as ig

    waiting = {name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    whole = {"info": ig.build_info(), "versions": versions(), "openmp": waiting, **report}
    Path(path).write_text(json.dumps(whole, indent=1) + "\n")
