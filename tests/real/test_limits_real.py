"""Finding the limit and reading its usage under a real kernel limit: nested groups, page cache, children, fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memguard.model import Limit
from memguard.probes.cgroup import CgroupProbe
from memguard.probes.vitals import VitalsReader
from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.real

# Runs inside the cage: answers each line of Python from the test with what it evaluates to, as JSON.
_INSIDE = """
import json, os, subprocess, sys
from memguard.probes.gauges import close_gauges, open_gauges, refresh_gauges
from memguard.probes.limits import find_limits
from memguard.probes.children import ChildrenProbe
from memguard.probes.procfs import TreeProbe, MappedProbe
from memguard.probes.cgroup import CgroupProbe

def find():
    found = find_limits(environ={})
    return [[limit.bytes, limit.kind, limit.source, limit.path, limit.version] for limit in found.limits]

def used():
    gauges = open_gauges(find_limits(environ={}).limits, elevated_ratio=0.7)
    refresh_gauges(gauges)
    told = [gauge.probe.read() for gauge in gauges]
    close_gauges(gauges)
    return told

for line in sys.stdin:
    try:
        value = eval(line)
    except SyntaxError:
        value = exec(line)
    print(json.dumps(value, default=repr), flush=True)
"""


class Inside:
    """A Python process in a cage that the test talks to, line by line."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def __call__(self, code: str) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(code + "\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())

    def end(self) -> None:
        """Let it run to its end."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(30)
        self._child.stdout.close()


@pytest.fixture
def cage() -> Iterator[Cage]:
    """A group of 256 MiB that the kernel enforces."""
    reason = cage_unavailable()
    if reason is not None:
        pytest.skip(f"no cage by the kernel: {reason}")
    with Cage("256MiB", name="limits", by="kernel") as cage:
        yield cage


@pytest.fixture
def inside(cage: Cage) -> Iterator[Inside]:
    """A Python process in it."""
    process = Inside(_start(cage, [sys.executable, "-c", _INSIDE]))
    yield process
    process.end()


def _start(cage: Cage, command: Sequence[str]) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    environ = {**os.environ, "PYTHONPATH": root}
    return cage.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)


def test_the_limit_of_the_group_is_found_from_inside(cage: Cage, inside: Inside) -> None:
    """A process in a limited group finds that limit, the file it came from, and its level."""
    found = inside("find()")
    count, kind, source, path, version = found[0]
    assert (count, kind) == (256 * MIB, "kill")
    assert f"cgroup v{version}" in source
    assert str(os.getpid()) in path
    assert Path(path, "cgroup.procs").read_text().split()


def test_a_resize_in_place_is_found(cage: Cage, inside: Inside) -> None:
    """A search after the group was resized tells the new limit."""
    inside("find()")
    cage.resize("192MiB")
    assert inside("find()")[0][0] == 192 * MIB


def test_page_cache_is_not_used_memory(cage: Cage, inside: Inside, tmp_path: Path) -> None:
    """A file of 120 MiB written inside raises the group's raw usage, and what is told as used hardly at all."""
    before = inside("used()")[0]
    raw = cage.usage_bytes
    big = tmp_path / "big"
    inside(f"with open({str(big)!r}, 'wb') as file: [file.write(bytes(1 << 20)) for _ in range(120)]; os.fsync(file)")
    if cage.usage_bytes - raw < 100 * MIB:
        pytest.skip(f"{tmp_path} lies on a file system that keeps no page cache in the writer's group")
    assert abs(inside("used()")[0] - before) < 16 * MIB


def test_shared_memory_is_used_memory(cage: Cage, inside: Inside) -> None:
    """64 MiB of anonymous shared memory count: the kernel cannot drop them."""
    before = inside("used()")[0]
    inside("import mmap; kept = mmap.mmap(-1, 64 << 20); kept.write(b'x' * (64 << 20))")
    assert inside("used()")[0] - before > 60 * MIB


def test_memory_of_a_child_counts(cage: Cage, inside: Inside) -> None:
    """A child's 64 MiB count in the group's usage and in the tree's, and are gone when the child is."""
    hog = "import sys; kept = b'x' * (64 << 20); print(1, flush=True); sys.stdin.readline()"
    inside("tree = TreeProbe()")
    group, tree = inside("used()")[0], inside("(tree.refresh(), tree.read())[1]")
    inside(
        f"child = subprocess.Popen([sys.executable, '-c', {hog!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE); "
        "child.stdout.readline()"
    )
    assert inside("used()")[0] - group > 60 * MIB
    assert inside("(tree.refresh(), tree.read())[1]") - tree > 60 * MIB
    inside("child.communicate()")
    assert inside("(tree.refresh(), tree.children_bytes)[1]") == 0
    assert inside("used()")[0] - group < 16 * MIB


def test_nested_groups_are_each_measured_at_their_own_level(cage: Cage) -> None:
    """A leaf with a wider limit inside the cage: both limits are found, and the cage's usage counts the sibling."""
    outer = Path(_group_of(cage))
    v1 = (outer / "memory.limit_in_bytes").exists()
    if not v1:
        pytest.skip("v2 allows no processes beside child groups with a memory controller")
    leaf = outer / "leaf"
    leaf.mkdir()
    (leaf / "memory.limit_in_bytes").write_text(str(128 * MIB))
    sibling = _start(
        cage, [sys.executable, "-c", "import sys; kept = b'x' * (64 << 20); print(1, flush=True); sys.stdin.readline()"]
    )
    assert sibling.stdin is not None
    assert sibling.stdout is not None
    sibling.stdout.readline()
    enter = f'echo $$ > {leaf}/cgroup.procs; exec "$0" "$@"'
    process = Inside(_start(cage, ["/bin/sh", "-c", enter, sys.executable, "-c", _INSIDE]))
    found, used = process("find()"), process("used()")
    assert [limit[0] for limit in found[:2]] == [128 * MIB, 256 * MIB]
    assert [limit[3] for limit in found[:2]] == [str(leaf), str(outer)]
    assert used[1] - used[0] > 60 * MIB
    process.end()
    sibling.communicate()


def test_a_kill_in_a_group_below_is_seen(cage: Cage) -> None:
    """A kill by the cage's limit is counted by the vitals, also when the victim sat in a group below it."""
    outer = Path(_group_of(cage))
    version = 1 if (outer / "memory.limit_in_bytes").exists() else 2
    limit = Limit(bytes=256 * MIB, kind="kill", source="cage", usage="cgroup", path=str(outer), version=version)
    vitals = VitalsReader([limit])
    assert vitals.read(at=0.0).oom_kills == 0
    leaf = outer / "leaf"
    leaf.mkdir()
    code = "kept = [bytearray(b'x' * (8 << 20)) for _ in range(100)]"
    enter = f'echo $$ > {leaf}/cgroup.procs; exec "$0" "$@"'
    hog = _start(cage, ["/bin/sh", "-c", enter, sys.executable, "-c", code])
    hog.communicate()
    assert hog.returncode == -9
    assert vitals.read(at=1.0).oom_kills == 1


def test_a_removed_group_is_an_error_not_an_old_number(cage: Cage) -> None:
    """A probe whose group was removed raises OSError; it does not tell what it last saw."""
    leaf = Path(_group_of(cage)) / "leaf"
    leaf.mkdir()
    version = 1 if (leaf / "memory.usage_in_bytes").exists() else 2
    if version == 2 and not (leaf / "memory.current").exists():
        pytest.skip("the cage's group hands no memory controller down")
    probe = CgroupProbe(str(leaf), version=version)
    assert probe.read() >= 0
    leaf.rmdir()
    with pytest.raises(OSError, match="No such device"):
        probe.read()
    probe.close()


def test_a_forked_child_must_open_anew(cage: Cage, inside: Inside) -> None:
    """Descriptors that the parent opened tell the parent, also in the child; reopened ones tell the child."""
    inside("tree = TreeProbe(); kept = b'x' * (64 << 20)")
    child = (
        "os.write(w, json.dumps([os.getpid(), (kept := 0), tree.read(), "
        "TreeProbe().read(), tree.close(), TreeProbe().read()]).encode()); os._exit(0)"
    )
    inside("r, w = os.pipe()")
    inside(f"def child(): global kept; {child}")
    told = inside("child() if (pid := os.fork()) == 0 else (os.waitpid(pid, 0), json.loads(os.read(r, 999)))[1]")
    parent = inside("tree.read()")
    _, _, inherited, own, _, again = told
    assert abs(inherited - parent) < 4 * MIB
    assert inherited - own > 60 * MIB
    assert inherited - again > 60 * MIB


def _group_of(cage: Cage) -> str:
    """The directory of the cage's group, asked of a process inside."""
    process = Inside(_start(cage, [sys.executable, "-c", _INSIDE]))
    path = process("find()")[0][3]
    process.end()
    assert isinstance(path, str)
    return path
