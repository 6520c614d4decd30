"""How the package's sources are written: size, names, and where other people's libraries may appear."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "memguard"
MODULES = sorted(PACKAGE.rglob("*.py"))
_BANNED_WORDS = {"Manager", "Handler", "Helper", "Helpers", "Utils", "Util", "Base", "Impl", "Info", "Data"}
_BANNED_FILES = {"base", "utils", "util", "helpers", "helper", "common", "misc"}
# Whose own room it is: an adapter may import its framework where it likes.
_OWN_ROOMS = ("ext", "demo")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _texts() -> list[Path]:
    """Every text file of the project itself, without environments and build products."""
    kept = [ROOT / ".ci" / "run", ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("*.md")]
    for folder in ("memguard", "tests", "docs", "benchmarks", "examples"):
        kept += [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".toml", ".txt"}]
    return [path for path in kept if path.is_file()]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_stay_small(path: Path) -> None:
    """A module over 400 lines is asking to become two."""
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_names_say_something(path: Path) -> None:
    """No class is called Manager, Helper or the like, and no module is a drawer for everything."""
    assert path.stem.strip("_") not in _BANNED_FILES
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            words = set(re.findall(r"[A-Z][a-z]*", node.name))
            assert not words & _BANNED_WORDS, f"class {node.name}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_defines_itself(path: Path) -> None:
    """A module opens with a docstring and, when it offers something, says what in `__all__`."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    public = [
        node.name
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_")
    ]
    if public and not path.stem.startswith("_"):
        assert any(
            isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
            for node in tree.body
        ), f"{public} are public by accident"


def _outside_imports(path: Path) -> list[tuple[str, bool]]:
    """Every third-party top-level name a module imports at run time, and whether that is inside a function."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, *, inside: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for otherwise in node.orelse:
                visit(otherwise, inside=inside)
            return
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [node.module or ""]
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top != "memguard":
                found.append((top, inside))
        deeper = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside=deeper)

    visit(ast.parse(path.read_text()), inside=False)
    return found


def test_libraries_have_one_home() -> None:
    """Outside the hosts' own rooms, a third-party name lives in one file, imported where it is needed."""
    homes: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] in _OWN_ROOMS:
            continue
        for top, inside in _outside_imports(path):
            assert inside, f"{_name(path)} imports {top} at its top"
            homes[top].add(_name(path))
    assert {top: files for top, files in homes.items() if len(files) > 1} == {}


def test_missing_extras_exist() -> None:
    """Every `MissingExtra` tells people to install an extra that pyproject.toml really has."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("MissingExtra"):
                extra = node.args[1] if len(node.args) > 1 else node.keywords[-1].value
                assert ast.literal_eval(extra) in project["optional-dependencies"], _name(path)


def test_nobody_is_sent_to_the_other_package() -> None:
    """No text tells people to install the distribution called memguard: on PyPI that is somebody else's."""
    wrong = re.compile(r"(pip|pipx|uv|poetry|conda)( \w+)? (install|add) ['\"]?memguard", re.IGNORECASE)
    assert wrong.search("python -m pip " + "install memguard")
    assert wrong.search("pip " + "install 'memguard[fastapi]'")
    assert [_name(path) for path in _texts() if wrong.search(path.read_text())] == []


def test_no_machine_and_no_registry_is_named() -> None:
    """No file holds a path of somebody's machine or the address of a package registry."""
    wrong = re.compile(r"/home/\w+/|/Users/\w+/|/root/\.|files\.pythonhosted|registry\.npm|index-url|pypi\.org/simple")
    here = Path(__file__).resolve()
    assert [_name(path) for path in _texts() if path.resolve() != here and wrong.search(path.read_text())] == []


def test_commands_in_the_docs_exist() -> None:
    """Each `make …` that a page or the CI script shows is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "check", "bench"} <= targets
    for path in [*_texts(), ROOT / ".ci" / "run"]:
        if path.suffix == ".md" or path.name == "run":
            for shown in re.findall(r"(?:^|`)make ([a-z]+)", path.read_text(), re.MULTILINE):
                assert shown in targets, f"{_name(path)} shows: make {shown}"


def test_links_in_the_docs_lead_somewhere() -> None:
    """Every relative link of a page points to a file that exists."""
    for path in _texts():
        if path.suffix == ".md":
            for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text()):
                assert (path.parent / target).exists(), f"{_name(path)} links to {target}"
