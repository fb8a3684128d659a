"""What the documentation shows is true: its code runs, its diffs apply, its links lead somewhere."""

import ast
import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import implicitgrad as ig
from implicitgrad import _core, _result

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(ig.__file__).parent
PAGES = [p for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if p.exists()]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
OPTIONAL = ("sklearn", "matplotlib", "tqdm")


def blocks(page, language):
    """(line number, text, output shown) of each fenced block in that language: what is printed stands in
    a block of text right below; None where there is none."""
    shown = r"^```$(?:\n\n```text\n(.*?)^```$)?"
    found = re.finditer(rf"^```{language}\n(.*?){shown}", page.read_text(), re.M | re.S)
    return [(m.string.count("\n", 0, m.start(1)), m.group(1), m.group(2)) for m in found]


def need(text):
    for module in OPTIONAL:
        if re.search(rf"\b(import|from) {module}", text):
            pytest.importorskip(module)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_blocks_of_a_page_run_in_order_and_print_what_it_shows(
    page, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code = blocks(page, "python")
    need("".join(text for _, text, _ in code))
    namespace = {"__name__": "__main__"}
    for line, text, shown in code:
        # Shifted, so that a traceback names the page's own line.
        exec(compile("\n" * line + text, str(page), "exec"), namespace)
        printed = capsys.readouterr().out
        assert shown is None or printed == shown, f"{page.name}:{line}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_examples_run(example, tmp_path, monkeypatch, capsys):
    text = example.read_text()
    need(text)
    assert len(text.splitlines()) <= 40 and ast.get_docstring(ast.parse(text))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    out, err = capsys.readouterr()
    assert out and not err and "disagree" not in out


def modules():
    names = [name for _, name, _ in pkgutil.iter_modules([str(PACKAGE)], "implicitgrad.")]
    return [
        "implicitgrad",
        *(n for n in names if n not in (_core.__name__, "implicitgrad.__main__")),
    ]


@pytest.mark.parametrize("name", modules())
def test_docstrings_show_what_happens(name):
    if name.endswith(".plots"):
        pytest.importorskip("matplotlib").use("Agg")
    module = importlib.import_module(name)
    failed = doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed
    if name.endswith(".plots"):
        importlib.import_module("matplotlib.pyplot").close("all")
    assert not failed  # what went wrong is in the captured output


def test_every_public_function_has_an_example():
    for name in ig.__all__:
        if name not in (
            *("ImplicitGradResult", "ImplicitGradWarning", "InfluenceResult", "Linearization"),
            *("ResponseResult", "UnrolledGradResult"),
        ):
            assert ">>>" in getattr(ig, name).__doc__, name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.split("#")[0]).exists(), target


DIFFS = [(page, *block[:2]) for page in PAGES for block in blocks(page, "diff")]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(
    ("page", "line", "diff"), DIFFS, ids=[f"{p.name}:{n}" for p, n, _ in DIFFS]
)
def test_diffs_apply(page, line, diff):
    # As a user would, but without touching anything.
    command = ["git", "apply", "--check", "-"]
    done = subprocess.run(command, input=diff, text=True, capture_output=True, cwd=ROOT)
    where = f"the diff at {page.name}:{line} no longer applies"
    assert done.returncode == 0, f"{where}:\n{done.stderr}"


def test_the_guide_lists_every_message():
    guide = (ROOT / "docs" / "guide.md").read_text()
    for status, text in _result._ENDINGS.values():
        shown = re.sub(r"\{[^{}]*\}", "…", text.replace("{{", "\0").replace("}}", "\1"))
        shown = shown.replace("\0", "{").replace("\1", "}")
        assert f"| {status} | {shown} |" in guide


def test_stubs_name_what_the_extension_has():
    stub = ast.parse((PACKAGE / "_core.pyi").read_text())
    kinds = (ast.FunctionDef, ast.ClassDef)

    def names(body):
        return {node.name for node in body if isinstance(node, kinds) and node.name[0] != "_"}

    def public(thing):
        return {name for name in dir(thing) if name[0] != "_"}

    assert names(stub.body) == public(_core)
    for node in stub.body:
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            built = getattr(_core, node.name)
            own = public(built) - set().union(*(public(base) for base in built.__bases__))
            assert names(node.body) == own, node.name


def command_line(*arguments):
    command = [sys.executable, "-m", "implicitgrad", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_info_prints_how_it_was_built():
    done = command_line("info")
    assert done.returncode == 0 and done.stderr == ""
    assert all(name in done.stdout for name in ig.build_info())


def test_the_demo_runs(tmp_path):
    pytest.importorskip("sklearn")
    picture = tmp_path / "picture.png"
    draw = importlib.util.find_spec("matplotlib") is not None
    done = command_line("demo", "--quick", *(["--picture", picture] if draw else ["--no-picture"]))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert picture.exists() == draw
    tables = done.stdout.split("\n\n")
    for head in ("breast_cancer", "diabetes"):
        assert any(part.startswith(head) for part in tables)
    assert done.stdout.count("check_hypergrad agrees on 3 of 3 splits") == 2
    assert done.stdout.count("scikit-learn, best of") == 2


def test_the_demo_names_the_extra_that_is_missing(tmp_path, monkeypatch):
    broken = tmp_path / "sklearn"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = command_line("demo")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and 'pip install "implicitgrad[demo]"' in done.stderr


@pytest.mark.parametrize(
    "arguments", [["demo", "--seeds", "0"], ["demo", "--picture", "no-suffix"], ["nothing"], []]
)
def test_bad_arguments_are_refused(arguments):
    if "--picture" in arguments:
        pytest.importorskip("sklearn")
        pytest.importorskip("matplotlib")
    done = command_line(*arguments)
    assert done.returncode in (1, 2) and done.stdout == "" and "Traceback" not in done.stderr
