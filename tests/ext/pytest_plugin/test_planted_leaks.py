"""Every planted leak fails the test that runs into it, and the failure names the line or the holder."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.ext.pytest_plugin.sessions import session

if TYPE_CHECKING:
    from types import ModuleType

_TABLE = Path(__file__).resolve().parents[2] / "leaks" / "planted" / "table.py"


def _table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted_table", _TABLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = _table()
# So many requests a test that the slowest kinds leak in each.
_TESTS = """
import importlib.util, itertools, sys
import pytest

spec = importlib.util.spec_from_file_location("planted_table", {table!r})
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)
KINDS = {kinds!r}
NUMBERS = itertools.count()

@pytest.fixture(scope="module")
def planted(request):
    module = table.plant(request.param)
    yield module
    table.uproot(module)

@pytest.mark.leak_free
@pytest.mark.parametrize("planted", KINDS, indirect=True)
def test_leaks(planted):
    for _ in range(30):
        planted.work(next(NUMBERS))
"""


def test_there_are_enough_kinds() -> None:
    """A bar of 25 kinds is held by at least so many."""
    assert len(TABLE.KINDS) >= 25


def test_every_planted_leak_is_caught(tmp_path: Path) -> None:
    """The test of each kind fails, and its text names the line that leaks or what holds it; all in one session."""
    (tmp_path / "test_planted.py").write_text(_TESTS.format(table=str(_TABLE), kinds=TABLE.KINDS), encoding="utf-8")
    done = session(tmp_path, "--memguard-report=found.json")
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["findings"]
    found = {row["test"].partition("[")[2].rstrip("]"): _told(row) for row in rows}
    unnamed = {
        kind: found.get(kind, "not caught")
        for kind in TABLE.KINDS
        if not any(name in found.get(kind, "") for name in (*_names(kind), f"{kind}.py:{TABLE.leak_line(kind)}"))
    }
    assert unnamed == {}, done.stdout
    assert f"{len(TABLE.KINDS)} failed" in done.stdout


def _told(row: dict[str, Any]) -> str:
    native = f"native {row['native']}" if row["native"] else ""
    return "\n".join([*row["holders"], *row["lines"], native])


def _names(kind: str) -> tuple[str, ...]:
    """What the module says must be named, without running it."""
    tree = ast.parse((TABLE.FOLDER / f"{kind}.py").read_text(encoding="utf-8"))
    names = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["NAMES"]
    )
    found: tuple[str, ...] = ast.literal_eval(names)
    return found
