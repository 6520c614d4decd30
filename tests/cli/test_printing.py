"""What the commands print with: aligned columns, wrapped text, and a progress line for people alone."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from memguard import __main__ as command_line
from memguard.cli import printing
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path


class _Screen(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


def test_progress_is_silent_when_piped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody looks at stderr nothing is written to it, however long it takes, and no thread is started."""
    monkeypatch.setattr(printing, "_QUIET_S", 0.0)
    before = threading.active_count()
    with printing.Progress("looking"):
        assert threading.active_count() == before
    assert capsys.readouterr().err == ""


def test_progress_says_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a line says what is going on, and is wiped at the end."""
    screen = _Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(printing, "_QUIET_S", 0.001)
    with printing.Progress("looking through it"):
        wait_for(lambda: "looking through it …" in screen.getvalue())
    assert screen.getvalue().endswith("\r\x1b[K")


def test_what_is_quick_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over before two seconds leaves no trace on the terminal."""
    screen = _Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with printing.Progress("looking"):
        pass
    assert screen.getvalue() == ""


def test_columns_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers end in one column, words begin in one, and what is too long for the terminal is cut with a mark."""
    monkeypatch.setenv("COLUMNS", "40")
    lines = printing.table([("a", "1", "x" * 99), ("long", "1000", "y")], right=frozenset({1}))
    assert lines[0] == "a        1  " + "x" * 27 + "…"
    assert lines[1] == "long  1000  y"
    assert printing.table([]) == []


@pytest.mark.parametrize("name", sorted(command_line._COMMANDS))
def test_help_fits_a_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Our commands' help has examples that begin with the command, and what each exit status means."""
    with pytest.raises(SystemExit):
        command_line.main([name, "--help"])
    told = capsys.readouterr().out
    if name not in {"doctor", "run", "top", "clean"}:
        return
    assert max(map(len, told.splitlines())) <= 80
    assert f"\n  memguard {name} " in told
    assert "exit status:" in told


@pytest.mark.parametrize("arguments", ["doctor", "clean {cache}"])
def test_a_reader_that_has_gone(arguments: str, tmp_path: Path) -> None:
    """A closed pipe ends a command in silence, with the status of SIGPIPE."""
    (tmp_path / "cache").mkdir()
    words = arguments.format(cache=tmp_path / "cache").split()
    out, into = os.pipe()
    os.close(out)
    command = [sys.executable, "-m", "memguard", *words]
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}  # noqa: PTH109 - text
    try:
        done = subprocess.run(
            command, stdout=into, stderr=subprocess.PIPE, text=True, env=environ, timeout=60, check=False
        )
    finally:
        os.close(into)
    assert (done.returncode, done.stderr) == (141, "")
