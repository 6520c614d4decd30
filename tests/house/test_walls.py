"""The walls between the rooms stand, and would be missed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        "sys.path.insert(0, '.')\n"
        "from importlinter.cli import lint_imports_command\n"
        "lint_imports_command(['--no-cache'])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_walls_stand() -> None:
    """Imports point down only, and rooms on one floor are blind to each other."""
    done = _lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("breach", "line", "contract"),
    [
        ("model.py", "from memguard import rules", "Imports point down only"),
        ("_core/breach.py", "import time", "Judging, planning"),
        ("_core/breach.py", "import psutil", "Judging, planning"),
        ("_core/breach.py", "import memguard.sinks", "Imports point down only"),
        ("roster.py", "import os", "The roster"),
        ("newroom.py", "", "Imports point down only"),
    ],
)
def test_breaches_are_noticed(tmp_path: Path, breach: str, line: str, contract: str) -> None:
    """An import through a wall, or a room that no wall knows, breaks the contract it should."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "memguard", tmp_path / "memguard", ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    sinks = tmp_path / "memguard" / "sinks"
    sinks.mkdir(exist_ok=True)
    (sinks / "__init__.py").touch()
    with (tmp_path / "memguard" / breach).open("a") as module:
        module.write(f"\n{line}\n")
    done = _lint(tmp_path)
    assert done.returncode != 0
    broken = done.stdout.partition("Broken contracts")[2] or done.stdout + done.stderr
    assert contract in broken
