"""Cleaning shows first, removes only when told to, and its status says whether the quota holds."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from memguard.cli import clean
from memguard.errors import MemguardError

if TYPE_CHECKING:
    from pathlib import Path


def _fill(folder: Path, *, files: int, kib: int = 64) -> None:
    """Files f0 … of so many KiB, f0 used longest ago."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        file = folder / f"f{number}"
        file.write_bytes(os.urandom(kib << 10))
        at = time.time() - 86400 * (files - number)
        os.utime(file, (at, at))


def test_first_it_only_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --yes nothing is removed; what would go is listed, the oldest first, and the status is 1."""
    _fill(tmp_path / "cache", files=8)
    assert clean.main([str(tmp_path / "cache"), "--max", "256KiB"]) == 1
    told = capsys.readouterr().out
    assert "would remove 5 files, 320.0 KiB" in told
    assert told.index(" f0\n") < told.index(" f4\n")
    assert "repeat with --yes" in told
    assert len(list((tmp_path / "cache").iterdir())) == 8


def test_then_it_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --yes those files go, the others stay, and the status is 0; a second time there is nothing to do."""
    _fill(tmp_path / "cache", files=8)
    arguments = [str(tmp_path / "cache"), "--max", "256KiB"]
    assert clean.main([*arguments, "--yes"]) == 0
    assert "removed 5 files" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == ["f5", "f6", "f7"]
    assert clean.main(arguments) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_a_total_for_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two directories within their own quota are cleaned when they exceed the total, the oldest files of both first."""
    _fill(tmp_path / "a", files=4)
    _fill(tmp_path / "b", files=8)
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert clean.main([*paths, "--max", "1MiB", "--total", "512KiB", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(row["left_bytes"] for row in told["directories"]) <= 512 << 10
    assert not (tmp_path / "b" / "f0").exists()
    assert (tmp_path / "a" / "f3").exists()


def test_what_may_not_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Young, excluded and open files stay; still above the quota the status is 1, and why is said."""
    _fill(tmp_path / "cache", files=4)
    (tmp_path / "cache" / "f0").rename(tmp_path / "cache" / "f0.keep")
    with (tmp_path / "cache" / "f1").open():
        arguments = [str(tmp_path / "cache"), "--max", "64KiB", "--exclude", "*.keep", "--yes", "--json"]
        assert clean.main(arguments) == 1
    told = json.loads(capsys.readouterr().out)["directories"][0]
    assert told["left"] == {"open": 1}
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == ["f0.keep", "f1"]
    assert clean.main([str(tmp_path / "cache"), "--max", "64KiB", "--min-age", "9d", "--yes"]) == 1
    assert "still above the quota" in capsys.readouterr().out


def test_only_what_is_included_goes(tmp_path: Path) -> None:
    """With --include nothing else is touched."""
    _fill(tmp_path / "cache", files=4)
    assert clean.main([str(tmp_path / "cache"), "--max", "64KiB", "--include", "f2", "--yes"]) == 1
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == ["f0", "f1", "f3"]


def test_names_do_not_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A control character in a file's name is not sent to the terminal."""
    _fill(tmp_path / "cache", files=1)
    (tmp_path / "cache" / "f0").rename(tmp_path / "cache" / "red\x1b[31m")
    assert clean.main([str(tmp_path / "cache"), "--max", "1KiB"]) == 1
    told = capsys.readouterr().out
    assert "red?[31m" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("path", ["/tmp", "/etc", "/nowhere/at/all", "."])  # noqa: S108 - refused
def test_directories_that_are_refused(path: str) -> None:
    """What others need, what is not there, and where one stands is an error in words; nothing is looked at."""
    with pytest.raises(MemguardError):
        clean.main([path, "--yes"])


def test_one_inside_the_other(tmp_path: Path) -> None:
    """Files would count twice: refused."""
    _fill(tmp_path / "a" / "b", files=1)
    with pytest.raises(MemguardError, match="count twice"):
        clean.main([str(tmp_path / "a"), str(tmp_path / "a" / "b")])


@pytest.mark.parametrize("arguments", [[], ["x", "--max", "0"], ["x", "--max", "1M"], ["x", "--min-age", "old"]])
def test_calls_that_make_no_sense(arguments: list[str]) -> None:
    """A wrong call ends with 2."""
    with pytest.raises(SystemExit) as ended:
        clean.main(arguments)
    assert ended.value.code == 2


def test_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file name of any bytes can be listed, and be removed."""
    _fill(tmp_path / "cache", files=1)
    os.rename(tmp_path / "cache" / "f0", os.fsencode(tmp_path / "cache") + b"/caf\xe9 \xff")  # noqa: PTH104 - bytes
    assert clean.main([str(tmp_path / "cache"), "--max", "1KiB"]) == 1
    assert "caf? ?" in capsys.readouterr().out
    assert clean.main([str(tmp_path / "cache"), "--max", "1KiB", "--json"]) == 1
    assert "caf\\udce9 \\udcff" in capsys.readouterr().out
    assert clean.main([str(tmp_path / "cache"), "--max", "1KiB", "--yes"]) == 0
    assert not list((tmp_path / "cache").iterdir())
