"""The house rules that a compiler does not check: who may include and import whom, and what an
import may cost or change."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import implicitgrad as ig

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "implicitgrad"
# Parts that the rest must work without.
OPTIONAL = (
    *("sklearn", "_group_cv", "_group_logistic", "_group_ridge"),
    "plots",
    "adapters",
    "distributed",
    "__main__",
    "_demo",
)

in_checkout = pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").exists(), reason="looks at the sources of a checkout"
)


def native_sources():
    found = []
    for folder in ("cpp/include", "cpp/src"):
        found += [p for p in (ROOT / folder).rglob("*") if p.is_file()]
    return found


@in_checkout
def test_the_core_knows_no_python_and_no_cuda():
    sources = native_sources()
    assert len(sources) > 5
    foreign = re.compile(
        r"#\s*include\s*[<\"](pybind11|Python\.h|numpy|nanobind|cuda|cublas|thrust)"
    )
    guilty = [p.name for p in sources if foreign.search(p.read_text())]
    assert guilty == []


@in_checkout
def test_no_compiler_flag_changes_arithmetic_or_targets_one_machine():
    files = [p for p in ROOT.glob("*.toml")] + [p for p in ROOT.glob("CMake*.*")]
    for folder in ("cmake", "cpp", "bench"):
        files += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".cmake", ".txt", ".json")]
    files = [p for p in files if p.is_file() and "results" not in p.parts]
    assert ROOT / "CMakeLists.txt" in files
    for path in files + native_sources():
        text = "\n".join(re.split(r"#|//", line)[0] for line in path.read_text().splitlines())
        for flag in (
            "-ffast-math",
            "-Ofast",
            "-march=native",
            "-funsafe-math",
            "omp_set_num_threads",
        ):
            assert flag not in text, f"{flag} in {path.name}"


def modules():
    """Dotted names below the package, and their files."""
    out = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


NATIVE = "_core"  # the compiled module has no source here; it imports nothing of ours


def imports(name, path, known):
    """The package's own modules that this one imports, anywhere in the file: an import inside a
    function is a cycle all the same."""
    base = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    base = [part for part in base if part]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
            targets = [t[1:] for t in targets if t[0] == "implicitgrad"]
        elif isinstance(node, ast.ImportFrom) and node.level:
            stem = base[: len(base) - node.level + 1] + (node.module or "").split(".")
            stem = [part for part in stem if part]
            targets = [[*stem, alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            stem = node.module.split(".")[1:]
            targets = [[*stem, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            while target and ".".join(target) not in (*known, NATIVE):
                target = target[:-1]
            yield ".".join(target)


def graph():
    known = modules()
    return {NATIVE: set()} | {
        n: {m for m in imports(n, p, known) if m != n} for n, p in known.items()
    }


@in_checkout
def test_python_modules_import_strictly_downward():
    found = graph()
    assert len(found) > 5 and any(found.values())
    # Raises CycleError, which names the cycle.
    order = list(TopologicalSorter(found).static_order())
    # The package itself stands on top: a module that imports from it is above its own parts.
    core = [n for n in found if n and n.split(".")[0] not in OPTIONAL]
    assert all("" not in found[n] for n in core)
    assert set(order) == set(found)


@in_checkout
def test_nothing_in_the_core_imports_an_optional_part():
    optional = {n for n in graph() if n.split(".")[0] in OPTIONAL}
    for name, used in graph().items():
        if name not in optional:
            assert not used & optional, name


@in_checkout
def test_objectives_and_solvers_are_siblings():
    found = graph()
    assert "solvers" in found and "objectives" in found
    assert "objectives" not in found["solvers"] and "solvers" not in found["objectives"]


FRESH = """
import json, sys
import numpy, scipy.optimize, scipy.sparse.linalg
before = set(sys.modules)
import implicitgrad
tiny = float("5e-324")
print(json.dumps({
    "new": sorted({m.split(".")[0] for m in set(sys.modules) - before}),
    "denormal": tiny != 0 and tiny * 0.5 == 0 and 1e-310 * 0.5 != 0,
    "numpy": bool((numpy.full(64, 1e-310) * 0.5).all()),
}))
"""


def fresh(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def test_import_brings_in_nothing_optional_and_changes_no_arithmetic():
    out = fresh(FRESH)
    seen = json.loads(out.stdout)
    assert out.stderr == ""
    assert not set(seen["new"]) & {
        "sklearn",
        "matplotlib",
        "tqdm",
        "pandas",
        "torch",
        "jax",
        "dask",
    }
    assert seen["denormal"] and seen["numpy"]


def test_work_leaves_denormals_alone_too():
    fresh(
        "import implicitgrad as ig, numpy as np\n"
        "X = np.random.default_rng(0).standard_normal((20000, 20))\n"
        "f = ig.LeastSquares(X, X[:, 0], penalty=ig.L2('feature'))\n"
        "ig.implicit_grad(f, f, ig.train(f, np.zeros(20)).x, np.zeros(20))\n"
        "assert float('5e-324') != 0 and (np.full(64, 1e-310) * 0.5).all()\n"
    )


def test_build_info_tells_what_was_built():
    info = ig.build_info()
    assert info["version"] == ig.__version__
    if (ROOT / "pyproject.toml").exists():
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert ig.__version__ == project["version"]
    words = " ".join(str(key).lower() for key in info)
    for word in ("compiler", "simd", "openmp", "threads"):
        assert word in words
    assert all(value is not None for value in info.values())


def test_public_names():
    for name in (
        "LeastSquares",
        "Logistic",
        "L2",
        "Objective",
        "HyperObjective",
        "ImplicitGradWarning",
        "implicit_grad",
        "response",
        "train",
        "minimize",
        "check_hypergrad",
        "leave_one_out",
        "build_info",
    ):
        assert name in ig.__all__ and getattr(ig, name).__doc__
    assert (Path(ig.__file__).parent / "py.typed").exists()
