"""Cages: a limit that really kills, whoever enforces it, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import pytest

from memguard.errors import CageUnavailable
from memguard.testing import _supervisor
from memguard.testing import cage as cages
from memguard.testing._supervisor import supervisor_unavailable
from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

By = Literal["kernel", "supervisor"]

pytestmark = pytest.mark.real

_HOG = """
import sys, time
kept = []
while True:
    kept.append(bytearray(b"x" * (4 << 20)))
    time.sleep(0.005)
"""
_MODEST = "kept = bytearray(b'x' * (20 << 20))"
_SLEEPER = "import time; time.sleep(600)"
_FAMILY = (
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {_HOG!r}])\n"
    "sys.exit(70 + (child.wait() == -9))"
)


@pytest.fixture(params=["kernel", "supervisor"])
def by(request: pytest.FixtureRequest) -> By:
    """Whoever can enforce a limit on this machine, each in turn."""
    reason = cage_unavailable() if request.param == "kernel" else supervisor_unavailable()
    if reason is not None:
        pytest.skip(f"no cage by the {request.param}: {reason}")
    return cast("By", request.param)


@pytest.fixture
def kernel_only() -> None:
    """Skips where the kernel cannot cage."""
    reason = cage_unavailable()
    if reason is not None:
        pytest.skip(f"no cage by the kernel: {reason}")


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _until(promise: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not promise():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody reaps yet counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _groups() -> set[Path]:
    """The cages of this process that stand in the tree now."""
    parents = [parent for parent in (cages._parent_v1(), cages._parent_v2()) if isinstance(parent, Path)]
    return {group for parent in parents for group in parent.glob(f"memguard-*-{os.getpid()}-*")}


def test_a_hog_is_killed_at_the_limit_and_counted(by: By) -> None:
    """A process that outgrows the limit dies by SIGKILL; the count and the peak stay readable afterwards."""
    with Cage("96MiB", name="hog", by=by) as cage:
        hog = cage.popen(_python(_HOG))
        assert hog.wait(30) == -signal.SIGKILL
        assert cage.killed == 1
    assert cage.killed == 1
    # The supervisor looks every 5 ms: it may see a little less or a little more than the limit.
    assert 80 * MIB < cage.peak_bytes < 128 * MIB
    assert cage.by_kernel == (by == "kernel")
    assert by in cage.kind


def test_a_supervisor_without_proc_asks_ps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no /proc (macOS) the same promise is kept by asking the program 'ps'."""
    monkeypatch.setattr(_supervisor, "_PROC", tmp_path / "none")
    if supervisor_unavailable() is not None:
        pytest.skip("the program 'ps' is missing")
    with Cage("96MiB", name="ps", by="supervisor") as cage:
        assert cage.popen(_python(_HOG)).wait(30) == -signal.SIGKILL
        assert cage.killed == 1


def test_who_stays_below_the_limit_lives(by: By) -> None:
    """A process that fits ends by itself, and nobody is counted as killed."""
    with Cage("96MiB", name="modest", by=by) as cage:
        assert cage.popen(_python(_MODEST)).wait(30) == 0
    assert cage.killed == 0


def test_the_limit_holds_for_children_too(by: By) -> None:
    """The hog may be a grandchild: the largest process is killed, its parent lives to tell."""
    with Cage("96MiB", name="family", by=by) as cage:
        parent = cage.popen(_python(_FAMILY))
        assert parent.wait(30) == 71
        assert cage.killed == 1


def test_usage_is_of_the_cage_and_the_program_is_the_child(by: By) -> None:
    """The child's pid is the program's own, inside from its first byte; usage counts it."""
    with Cage("256MiB", name="usage", by=by) as cage:
        child = cage.popen(
            _python("import os, time; kept = b'x' * (64 << 20); print(os.getpid(), flush=True); time.sleep(600)"),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        with child.stdout:
            assert int(child.stdout.readline()) == child.pid
        assert child.pid in cage.pids()
        assert _until(lambda: 64 * MIB < cage.working_bytes < 128 * MIB)
        assert cage.working_bytes <= cage.usage_bytes


def test_leaving_kills_what_still_runs(by: By) -> None:
    """Leaving the cage ends and reaps the children, also those that would run for minutes."""
    with Cage("96MiB", name="leftover", by=by) as cage:
        sleeper = cage.popen(_python(_SLEEPER))
        assert sleeper.poll() is None
    assert sleeper.returncode == -signal.SIGKILL
    assert cage.pids() == []


def test_a_grandchild_is_ended_too(by: By) -> None:
    """A grandchild whose parent has gone is killed at the end like everybody else."""
    code = (
        "import subprocess, sys\n"
        f"print(subprocess.Popen([sys.executable, '-c', {_SLEEPER!r}]).pid, flush=True)\n"
        "sys.stdin.readline()"
    )
    with Cage("96MiB", name="orphan", by=by) as cage:
        parent = cage.popen(_python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert parent.stdin is not None
        assert parent.stdout is not None
        with parent.stdin, parent.stdout:
            grandchild = int(parent.stdout.readline())
            assert _until(lambda: {parent.pid, grandchild} <= set(cage.pids()))
        assert parent.wait(30) == 0
        assert not _gone(grandchild)
    assert _until(lambda: _gone(grandchild))


def test_nothing_stays_after_an_exception(by: By) -> None:
    """The group is removed and the child is dead, even when the block fails."""
    before = _groups()
    children: list[subprocess.Popen[bytes]] = []

    def fail_inside() -> None:
        with Cage("96MiB", name="exception", by=by) as cage:
            children.append(cage.popen(_python(_SLEEPER)))
            assert by == "supervisor" or _groups() != before
            raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        fail_inside()
    assert children[0].returncode == -signal.SIGKILL
    assert _groups() == before


def test_a_child_with_groups_of_its_own_leaves_none(kernel_only: None) -> None:
    """Groups that a caged process made below its own are removed as well."""
    before = _groups()
    with Cage("96MiB", name="nested", by="kernel") as cage:
        (group,) = _groups() - before
        (group / "inner").mkdir()
        maker = cage.popen(["/bin/sh", "-c", f"echo $$ > {group}/inner/cgroup.procs; sleep 600"])
        assert _until(lambda: (group / "inner/cgroup.procs").read_text() != "")
    assert maker.returncode == -signal.SIGKILL
    assert _groups() == before


def test_resize_works_under_load(by: By) -> None:
    """A grown limit lets the process live, a shrunk one kills it."""
    code = (
        "import sys\nkept = []\nfor line in sys.stdin:\n"
        "    kept.append(b'x' * (int(line) << 20))\n    print('ok', flush=True)"
    )
    with Cage("64MiB", name="resize", by=by) as cage:
        cage.resize("192MiB")
        child = cage.popen(_python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin, child.stdout:
            child.stdin.write("96\n")
            child.stdin.flush()
            assert child.stdout.readline() == "ok\n"
            cage.resize("128MiB")
            assert cage.limit_bytes == 128 * MIB
            child.stdin.write("64\n")
            child.stdin.flush()
            assert child.wait(30) == -signal.SIGKILL
        assert cage.killed == 1


def test_a_missing_program_is_said_at_once(by: By) -> None:
    """A program that does not exist is the usual error, not a child with an odd status."""
    with Cage("96MiB", name="missing", by=by) as cage, pytest.raises(FileNotFoundError, match="no-such-program"):
        cage.popen(["no-such-program"])


def test_a_cage_outside_its_block_says_so(by: By) -> None:
    """Starting programs before or after the block is a clear error, and a cage is used once."""
    cage = Cage("96MiB", name="outside", by=by)
    with pytest.raises(CageUnavailable, match="not standing"):
        cage.popen(_python(_MODEST))
    with cage:
        cage.popen(_python(_MODEST)).wait(30)
    with pytest.raises(CageUnavailable, match="not standing"):
        cage.popen(_python(_MODEST))
    with pytest.raises(CageUnavailable, match="used once"), cage:
        pass


@pytest.mark.parametrize("limit", [0, -1, "90%", "512 MB"])
def test_a_limit_that_cannot_be_meant_is_refused(limit: int | str) -> None:
    """Zero, negative, a share, or a number with a blank: refused before anything is made."""
    with pytest.raises(ValueError, match=r"bytes|blank"):
        Cage(limit)


def _tree(proc: Path, *, mountinfo: str, cgroup: str) -> Path:
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text(mountinfo)
    (proc / "self/cgroup").write_text(cgroup)
    return proc


def _level(path: Path, *, handed_down: str, limit: str = "max") -> Path:
    path.mkdir(parents=True)
    (path / "cgroup.controllers").write_text("cpu pids")
    (path / "cgroup.subtree_control").write_text(handed_down)
    (path / "memory.max").write_text(limit)
    return path


def test_a_v2_cage_stands_at_the_nearest_level_that_hands_memory_down(tmp_path: Path) -> None:
    """In v2 a group with processes cannot hold a limited child: the cage becomes its sibling."""
    point = tmp_path / "tree"
    _level(point, handed_down="cpu memory")
    slice_ = _level(point / "user.slice", handed_down="memory pids")
    _level(point / "user.slice/shell.scope", handed_down="")
    mount = f"31 23 0:28 / {point} rw - cgroup2 cgroup2 rw\n"
    proc = _tree(tmp_path / "proc", mountinfo=mount, cgroup="0::/user.slice/shell.scope\n")
    assert cages._parent_v2(proc) == slice_


def test_a_v2_cage_does_not_escape_a_limited_level(tmp_path: Path) -> None:
    """A level that is limited itself is never stepped over."""
    point = tmp_path / "tree"
    _level(point, handed_down="memory")
    _level(point / "job", handed_down="", limit="1048576")
    mount = f"31 23 0:28 / {point} rw - cgroup2 cgroup2 rw\n"
    proc = _tree(tmp_path / "proc", mountinfo=mount, cgroup="0::/job\n")
    reason = cages._parent_v2(proc)
    assert isinstance(reason, str)
    assert "1048576" in reason


def test_a_v1_group_below_a_container_mount_is_found(tmp_path: Path) -> None:
    """The mount may begin below the tree's root, and its point may hold an escaped blank."""
    point = tmp_path / "my tree"
    (point / "inner").mkdir(parents=True)
    escaped = str(point).replace(" ", "\\040")
    mount = f"31 23 0:28 /box/7 {escaped} rw - cgroup cgroup rw,memory\n"
    proc = _tree(tmp_path / "proc", mountinfo=mount, cgroup="4:memory:/box/7/inner\n")
    assert cages._parent_v1(proc) == point / "inner"


def test_no_controller_is_a_reason_in_words(tmp_path: Path) -> None:
    """Without any hierarchy each version says why it cannot."""
    proc = _tree(tmp_path / "proc", mountinfo="", cgroup="")
    assert cages._parent_v1(proc) == "no memory controller is mounted"
    assert cages._parent_v2(proc) == "no unified hierarchy is mounted"
