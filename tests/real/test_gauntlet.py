"""The gauntlet's short form: one of its loads against the guarded service; `make gauntlet` runs all, and the peers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memguard.testing.cage import cage_unavailable

pytest.importorskip("fastapi")
pytestmark = [pytest.mark.real, pytest.mark.skipif(bool(cage_unavailable()), reason=str(cage_unavailable()))]

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gauntlet" / "run.py"


def run(case: str, folder: Path) -> dict[str, Any]:
    """One load against the guarded service."""
    out = folder / "runs.jsonl"
    argv = [sys.executable, str(SCRIPT), "--case", case, "--by", "memguard", "--json", str(out)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert out.exists(), ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
    assert not found["failed"], found["failed"]
    return found


def test_page_cache_sheds_nothing(tmp_path: Path) -> None:
    """A neighbour that writes 800 MB into the page cache of the same group costs no entry and no request."""
    found = run("page-cache flood", tmp_path)
    assert found["killed"] == found["lost"] == found["refused"] == 0
    assert found["facts"]["made"] == found["facts"]["answers"]
