"""`memguard run` runs a program as it is, and says at its end what leaked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import memguard

ROOT = Path(memguard.__file__).parents[1]
_PROGRAM = """
import sys
import time

KEPT = []


class Order:
    pass


def main():
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        KEPT.append(Order())
        time.sleep(0.002)
    return 3


async def later():
    print("done", sys.argv[1:])


def fails():
    raise KeyError("mine")


constant = 5
"""


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "orders.py").write_text(_PROGRAM)
    return subprocess.run(
        [sys.executable, "-m", "memguard", "run", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_program_is_run_as_it_is(tmp_path: Path) -> None:
    """A coroutine is run to its end, with its own arguments, and says what it says."""
    done = _run(tmp_path, "orders:later", "--fast", "5")
    assert (done.returncode, done.stdout) == (0, "done ['--fast', '5']\n")


def test_its_errors_are_its_own(tmp_path: Path) -> None:
    """An error of the program ends it as without us."""
    done = _run(tmp_path, "orders:fails")
    assert done.returncode == 1
    assert "KeyError: 'mine'" in done.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("orders", "names no function: write MODULE:FUNCTION"),
        ("order:main", "there is no module 'order'"),
        ("orders:mian", "has no function 'mian'"),
        ("orders:constant", "has no function 'constant'"),
    ],
)
def test_what_is_not_there(target: str, words: str, tmp_path: Path) -> None:
    """A target that is not there is named, with how to write one."""
    done = _run(tmp_path, target)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    """It is refused before the program is run."""
    done = _run(tmp_path, "--diagnose", "--report", "nowhere/report.html", "orders:later")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert done.stdout == ""


@pytest.mark.real
def test_the_diagnosis_at_the_end(tmp_path: Path) -> None:
    """After its end stderr names the holder and the line, the file has the page, and the status is the program's."""
    done = _run(tmp_path, "--diagnose", "--report", "report.html", "orders:main", "8")
    assert done.returncode == 3
    assert "orders.KEPT (list) grows" in done.stderr
    assert "orders.py:15" in done.stderr
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
