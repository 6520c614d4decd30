"""What a process leaves to the one that follows it: every state, once, to nobody else."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memguard import Guard, Roster
from memguard.agents.inheritance import sweep
from memguard.agents.spill import Spill
from memguard.agents.states import States
from memguard.agents.volume import NoSpill
from memguard.errors import StateUnreadable
from memguard.testing import FakeClock
from memguard.units import MIB
from memguard.workers.folder import private_folder

if TYPE_CHECKING:
    from memguard.model import Event


def _private(folder: str) -> str:
    return private_folder((folder,))


def _states(tmp_path: Path, told: list[Event] | None = None, **settings: Any) -> States[Any]:
    tell = (told if told is not None else []).append
    return States("beliefs", spill=tmp_path, handover=True, tell=tell, **settings)


def _left(tmp_path: Path) -> list[Path]:
    return sorted(path for path in tmp_path.rglob("*") if path.is_file())


def _leave(states: States[Any], group: str = "api") -> None:
    states.leave(_private, group, within_s=30.0)


def test_all_of_them_are_there_again(tmp_path: Path) -> None:
    """Objects, packed ones and those on disk: equal to what they were, loaded when they are asked for."""
    told: list[Event] = []
    before = _states(tmp_path, told)
    kept = {f"a{number}": {"number": number, "talk": ["x" * number] * 50} for number in range(30)}
    kept["ключ \ud800"] = {"text": "\ud800"}
    before.update(kept)
    before.pack(1)
    before.spill(1)
    before["live"] = kept["live"] = {"now": True}
    _leave(before)
    assert dict(before) == kept
    after = _states(tmp_path, told)
    after.reopen(_private, "api")
    figures = after.figures()
    assert (figures.spilled, figures.live, figures.packed) == (32, 0, 0)
    assert figures.bytes < 64 * 1024
    assert dict(after) == kept
    assert [event.name for event in told] == ["state.left", "state.reopened"]


def test_only_once_and_then_nothing_is_left(tmp_path: Path) -> None:
    """The first that asks has them; from then on the file has no name, and goes with that process."""
    before, first, second = _states(tmp_path), _states(tmp_path), _states(tmp_path)
    before["a"] = [1, 2]
    _leave(before)
    first.reopen(_private, "api")
    assert _left(tmp_path) == []
    second.reopen(_private, "api")
    assert (dict(first), dict(second)) == ({"a": [1, 2]}, {})


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    """0600 in a directory of 0700, whatever the umask; one that is open to others is not used."""
    old = os.umask(0)
    try:
        states = _states(tmp_path)
        states["a"] = "secret"
        _leave(states)
    finally:
        os.umask(old)
    (file,) = _left(tmp_path)
    assert [stat.S_IMODE(place.stat().st_mode) for place in (file, file.parent)] == [0o600, 0o700]
    file.parent.chmod(0o755)
    told: list[Event] = []
    guard = Guard(limit=None, roster=Roster(), clock=FakeClock(), sinks=(told.append,))
    guard._reopen(_states(tmp_path))
    guard.tick()
    assert any("open to others" in event.text for event in told if event.name == "state.unreadable")


def test_other_groups_and_other_names_stay_apart(tmp_path: Path) -> None:
    """States go to those of the same name in the same group of workers alone."""
    before = _states(tmp_path)
    before["a"] = 1
    _leave(before)
    other, elsewhere = States[Any]("talks", spill=tmp_path, handover=True), _states(tmp_path)
    other.reopen(_private, "api")
    elsewhere.reopen(_private, "web")
    assert (len(other), len(elsewhere), len(_left(tmp_path))) == (0, 0, 1)


def test_what_is_new_wins(tmp_path: Path) -> None:
    """A state that the successor has already is not overwritten, and its room on disk is given back."""
    before, after = _states(tmp_path), _states(tmp_path)
    before.update(a="old", b="old")
    _leave(before)
    after["a"] = "new"
    after.reopen(_private, "api")
    assert dict(after) == {"a": "new", "b": "old"}


def test_what_cannot_be_copied_is_told(tmp_path: Path) -> None:
    """One that cannot be pickled stays behind, the others go."""
    told: list[Event] = []
    before, after = _states(tmp_path, told), _states(tmp_path)
    before["a"] = 1
    before["socket"] = lambda: None
    _leave(before)
    assert "1 could not be copied, as 'socket'" in told[-1].text
    after.reopen(_private, "api")
    assert dict(after) == {"a": 1}


def test_a_quota_holds(tmp_path: Path) -> None:
    """No more is left than may be spilled; what does not fit is told."""
    told: list[Event] = []
    before = _states(tmp_path, told, spill_max_bytes="1MiB", max_bytes_each=None)
    for number in range(20):
        before[f"a{number}"] = os.urandom(100_000)
    _leave(before)
    assert "could not be copied" in told[-1].text
    assert sum(file.stat().st_size for file in _left(tmp_path)) <= MIB


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle: an error, and no half of a file."""

    def full(*_: object) -> int:
        raise NoSpill("the disk is full")

    before = _states(tmp_path)
    before["a"] = 1
    monkeypatch.setattr(Spill, "sign", full)
    with pytest.raises(NoSpill, match="full"):
        _leave(before)
    assert _left(tmp_path) == []


def test_damage_is_told_and_harms_nobody(tmp_path: Path) -> None:
    """A file that is none is removed; changed bytes are an error of that state, when it is asked for."""
    told: list[Event] = []
    before, after = _states(tmp_path), _states(tmp_path, told)
    one, two = os.urandom(300), os.urandom(300)
    before.update(a=one, b=two)
    _leave(before)
    (file,) = _left(tmp_path)
    raw = file.read_bytes()
    at = raw.index(one)
    file.write_bytes(raw[:at] + b"?" + raw[at + 1 :])
    file.with_name(file.name.replace(".states", "x.states")).write_bytes(b"no database" * 1000)
    after.reopen(_private, "api")
    assert [event.name for event in told] == ["state.reopened", "state.unreadable"]
    assert after["b"] == two
    with pytest.raises(StateUnreadable, match="not what was written"):
        after["a"]
    assert _left(tmp_path) == []


def test_what_nobody_comes_for_is_removed(tmp_path: Path) -> None:
    """Ten minutes later whoever looks removes it, and what a process left half written."""
    before = _states(tmp_path)
    before["a"] = 1
    _leave(before)
    (file,) = _left(tmp_path)
    part = file.with_suffix(".part")
    part.write_bytes(b"")
    sweep(str(file.parent))
    assert len(_left(tmp_path)) == 2
    for path in (file, part):
        os.utime(path, (time.time() - 601, time.time() - 601))
    sweep(str(file.parent))
    assert _left(tmp_path) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in the place of what was left is not opened."""
    before, after = _states(tmp_path), _states(tmp_path)
    before["a"] = 1
    _leave(before)
    (file,) = _left(tmp_path)
    target = tmp_path / "elsewhere"
    file.rename(target)
    file.symlink_to(target)
    after.reopen(_private, "api")
    assert (len(after), target.exists()) == (0, True)


def test_it_needs_a_disk(tmp_path: Path) -> None:
    """handover=True without a disk cannot be meant."""
    with pytest.raises(ValueError, match="needs a disk"):
        States("beliefs", spill=False, handover=True)


_WORKER = """
import os, signal, sys
from memguard import Guard

class Way:
    group, hindrance, words, shared = "api", "", "a way", True
    def __getattr__(self, name): return lambda *_: None

guard = Guard(limit="1GiB", workers="off")
guard._way = Way()
states = guard.states("beliefs", spill=sys.argv[1], handover=True)
with guard:
    print(sorted(states.items()), flush=True)
    states["runs"] = states.get("runs", 0) + 1
    states.spill()
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    for save in guard._handovers()._saves():
        save()
"""


def test_from_process_to_process(tmp_path: Path) -> None:
    """A clean end hands them on, a kill leaves nothing that anybody could read."""

    def run(end: str) -> subprocess.CompletedProcess[str]:
        words, environ = (
            [sys.executable, "-c", _WORKER, str(tmp_path), end],
            {**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environ)

    seen = [run("clean"), run("clean"), run("killed"), run("clean")]
    assert [one.stdout for one in seen] == ["[]\n", "[('runs', 1)]\n", "[('runs', 2)]\n", "[]\n"], seen
    assert seen[2].returncode == -signal.SIGKILL
