"""The front door: what `import memguard` offers and what it costs."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memguard

_SOURCE = Path(memguard.__file__)
_HEAVY = ("psutil", "objgraph", "cachetools", "opentelemetry", "asyncio", "numpy", "fastapi", "starlette", "uvicorn")


def _fresh(code: str) -> object:
    """What the code prints as JSON in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _typed_names() -> set[str]:
    """The names that the TYPE_CHECKING block imports."""
    blocks = [
        node
        for node in ast.parse(_SOURCE.read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    assert len(blocks) == 1
    return {alias.name for node in blocks[0].body if isinstance(node, ast.ImportFrom) for alias in node.names}


def _typed_homes() -> dict[str, str]:
    tree = ast.parse(_SOURCE.read_text())
    return {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("memguard.")
        for alias in node.names
    }


def test_the_lists_agree() -> None:
    """`__all__`, the lazy table and the block for type checkers name the same things in the same places."""
    assert set(memguard.__all__) == {*memguard._HOMES, "__version__"}
    assert _typed_names() == set(memguard._HOMES)
    assert _typed_homes() == memguard._HOMES
    assert len(memguard.__all__) == len(set(memguard.__all__))


@pytest.mark.parametrize("name", sorted(memguard._HOMES))
def test_every_name_resolves(name: str) -> None:
    """Each promised name is there, and is the very object its module has."""
    home = importlib.import_module(memguard._HOMES[name])
    assert getattr(memguard, name) is getattr(home, name)
    assert name in home.__all__


def test_unknown_names_are_errors() -> None:
    """A typo raises AttributeError, and Python can suggest the right name."""
    with pytest.raises(AttributeError, match="no attribute 'Gaurd'") as caught:
        memguard.Gaurd  # type: ignore[attr-defined]  # noqa: B018
    assert caught.value.name == "Gaurd"
    assert caught.value.obj is memguard


def test_dir_lists_everything() -> None:
    """`dir(memguard)` shows every public name, fetched yet or not."""
    assert set(memguard.__all__) <= set(dir(memguard))


def test_star_import() -> None:
    """`from memguard import *` brings exactly the public names."""
    got = _fresh("import json\nspace = {}\nexec('from memguard import *', space)\nprint(json.dumps(sorted(space)))")
    assert got == sorted({*memguard.__all__, "__builtins__"})


def test_import_loads_nothing_else() -> None:
    """`import memguard` loads one module: itself. No third party, and nothing of the standard library either."""
    got = _fresh(
        "import sys, json\nbefore = set(sys.modules)\nimport memguard\nprint(json.dumps([*{*sys.modules} - before]))"
    )
    assert got == ["memguard"]


@pytest.mark.parametrize("name", ["Guard", "Rules", "GcPolicy", "Ticket"])
def test_names_bring_no_heavy_module(name: str) -> None:
    """Fetching a name imports no heavy library: each is imported where it is first needed."""
    got = _fresh(f"import sys, json, memguard\nmemguard.{name}\nprint(json.dumps(list(sys.modules)))")
    assert isinstance(got, list)
    assert [heavy for heavy in _HEAVY if heavy in got] == []


def test_import_changes_nothing_global() -> None:
    """Importing every public name leaves collector, signals, threads, hooks, limits and logging alone."""
    code = """
import atexit, gc, json, logging, resource, signal, sys, threading, warnings
def state():
    return repr((
        gc.get_threshold(), gc.isenabled(), len(gc.callbacks), [signal.getsignal(s) for s in signal.valid_signals()],
        threading.active_count(), sys.gettrace(), sys.getprofile(), sys.excepthook, sys.unraisablehook,
        threading.excepthook, resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_AS),
        logging.root.level, logging.root.handlers, sys.getswitchinterval(), warnings.filters[:],
    ))
before = state()
import memguard
for name in memguard.__all__:
    getattr(memguard, name)
print(json.dumps(before == state()))
"""
    assert _fresh(code) is True


def test_a_started_guard_brings_no_heavy_module() -> None:
    """A calm guard costs no memory for what it does not use (decisions 0007 and 0016)."""
    heavy = {
        "asyncio", "ctypes", "dataclasses", "inspect", "json", "logging", "psutil", "random", "socket", "subprocess",
        "typing",
    }  # fmt: skip
    program = (
        "import sys, time; before = set(sys.modules); from memguard import Guard; guard = Guard(limit='4GiB').start(); "
        "time.sleep(0.5); brought = set(sys.modules) - before; guard.stop(); print(*sorted(brought))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    brought = set(done.stdout.split())
    assert "memguard.watch" in brought
    assert not brought & heavy


def test_values_are_made_one_way() -> None:
    """No module makes a dataclass: that would bring ``inspect`` along (decision 0016)."""
    made = re.compile(r"^@(dataclasses\.)?dataclass\b", re.MULTILINE)
    room = Path(memguard.__file__).parent
    assert [path for path in room.rglob("*.py") if made.search(path.read_text("utf-8"))] == []
