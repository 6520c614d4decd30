"""The table of signals and the sources agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from memguard.telemetry import EVENTS

PACKAGE = Path(__file__).resolve().parents[2] / "memguard"
_FAMILIES = {name.split(".")[0] for name in EVENTS}


def _literals() -> dict[str, str]:
    """Every string of the package that looks like an event's name, and a file it stands in."""
    found: dict[str, str] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "telemetry.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    match = re.fullmatch(r"([a-z]+)\.[a-z_]+", node.value)
                    if match and match[1] in _FAMILIES:
                        found[node.value] = path.name
    return found


def test_every_row_is_emitted() -> None:
    """No row of the table is a promise that nobody keeps."""
    assert sorted(set(EVENTS) - set(_literals())) == []


def test_every_emitted_name_has_a_row() -> None:
    """No event is emitted that the table does not explain."""
    assert {name: where for name, where in _literals().items() if name not in EVENTS} == {}


def test_rows_are_complete() -> None:
    """Each row stands under its own name, with a meaning and one of three severities."""
    for name, row in EVENTS.items():
        assert row.name == name
        assert len(row.meaning) > 10
        assert row.severity in {"info", "warning", "error"}
