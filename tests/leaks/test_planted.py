"""Every kind of leak in the table is named first, by its holder or its line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memguard

FOLDER = Path(__file__).parent / "planted"
KINDS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in {"table", "diagnosing"})


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What a diagnosis says of each, in a process with a heap of its own."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "diagnosing.py")],
        env={"PYTHONPATH": str(Path(memguard.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_the_table_is_long(found: dict[str, Any]) -> None:
    """At least 25 kinds, and all of them were diagnosed."""
    assert len(KINDS) >= 25
    assert sorted(found) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_leak(kind: str, found: dict[str, Any]) -> None:
    """The first answer names the holder, the coroutine or the kind of memory; the report names the line."""
    one = found[kind]
    assert one["leaks"], one["text"]
    assert any(name in one["first"] for name in one["names"]), one["text"]
    assert one["first"].partition(": ")[2] in one["summary"]
    if kind != "native_memory":  # a C library's calls have no line
        assert one["line"] in one["text"]
