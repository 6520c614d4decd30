"""The command line names what is there, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import memguard
from memguard import __main__ as command_line
from memguard.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`memguard --version` prints the package's version."""
    with pytest.raises(SystemExit) as ended:
        command_line.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"memguard {memguard.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["dmeo"]])
def test_no_such_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No command, or a misspelt one, exits with 2 and names those that exist."""
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    assert "command" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(command_line._COMMANDS))
def test_every_listed_command_is_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that --help lists exists, and its own --help says how it is called."""
    with pytest.raises(SystemExit) as ended:
        command_line.main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: memguard {name} " in capsys.readouterr().out


def test_options_reach_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the command is the command's own, --help included, and its status is ours."""
    seen: list[list[str]] = []

    def fake(rest: list[str]) -> int:
        seen.append(rest)
        return 7

    monkeypatch.setitem(command_line._COMMANDS, "demo", (fake, ""))
    assert command_line.main(["demo", "--help", "--seconds", "5"]) == 7
    assert seen == [["--help", "--seconds", "5"]]


def _failing(error: BaseException) -> Callable[[Sequence[str]], int]:
    def run(rest: Sequence[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MissingExtra("the demo", "demo"), 2, "memguard demo: the demo needs an optional package: pip install"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_expected_ends_are_no_tracebacks(
    error: BaseException,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a command says on purpose reaches the operator in a line, with a status of its own."""
    monkeypatch.setitem(command_line._COMMANDS, "demo", (_failing(error), ""))
    assert command_line.main(["demo"]) == status
    shown = capsys.readouterr()
    assert shown.err.startswith(words)
    assert "Traceback" not in shown.err


def test_a_programs_own_broken_pipe_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks in a program under `run` is not taken for a reader of ours that has gone."""
    monkeypatch.setitem(command_line._COMMANDS, "run", (_failing(BrokenPipeError("a database's")), ""))
    with pytest.raises(BrokenPipeError, match="a database's"):
        command_line.main(["run", "app:main"])


def test_as_a_module() -> None:
    """`python -m memguard` is the same program, and asking for its version loads no command."""
    code = "import sys, memguard.__main__; print(sorted(name for name in sys.modules if name.startswith('memguard.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['memguard.__main__', 'memguard.errors']"
    done = subprocess.run(
        [sys.executable, "-m", "memguard", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"memguard {memguard.__version__}\n"
