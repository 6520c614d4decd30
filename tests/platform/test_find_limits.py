"""Finding the limit: one folder of ``trees/`` per oddity, each a small /proc and /sys with what must be found."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.probes.limits import Findings, find_limits
from memguard.probes.mounts import memberships, memory_mounts
from memguard.units import GIB, MIB

TREES = Path(__file__).with_name("trees")
NAMES = sorted(folder.name for folder in TREES.iterdir())
FILES = ("proc/meminfo", "proc/self/mountinfo", "proc/self/cgroup", "proc/self/limits")
LEVEL = "sys/fs/cgroup/memory"
MOUNT = b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


def _find(root: Path, **given: Any) -> Findings:
    return find_limits(root=str(root), **{"environ": {}, **given})


def _write(root: Path, path: str | bytes, content: bytes) -> None:
    file = os.path.join(os.fsencode(root), os.fsencode(path))  # noqa: PTH118 - names that are not UTF-8
    os.makedirs(os.path.dirname(file), exist_ok=True)  # noqa: PTH103, PTH120 - as above
    Path(os.fsdecode(file)).write_bytes(content)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_tree_holds_is_found(name: str) -> None:
    """Every limit in order, with its bytes, kind, words, usage and level; every oddity told, and nothing else."""
    root = TREES / name
    expected = json.loads((root / "expected.json").read_text())
    found = _find(root, **expected.get("given", {}))
    assert len(found.limits) == len(expected["limits"]), found
    for limit, wanted in zip(found.limits, expected["limits"], strict=True):
        source = wanted.pop("source")
        assert source in limit.source
        assert {key: value for key, value in asdict(limit).items() if key != "source"} == wanted
    assert len(found.notes) == len(expected["notes"]), found.notes
    for note, words in zip(found.notes, expected["notes"], strict=True):
        assert words in note
    assert found.group == expected["group"]
    assert (found.group_version is None) == (found.group is None)


def test_there_are_enough_trees() -> None:
    """At least 40 oddities are kept, each with a reason in words."""
    assert len(NAMES) >= 40
    assert all(json.loads((TREES / name / "expected.json").read_text())["why"] for name in NAMES)


def test_a_resize_in_place_is_found(tmp_path: Path) -> None:
    """A pod resized while it runs: the next search tells the new number, and an unchanged tree tells the same."""
    root = shutil.copytree(TREES / "docker_v2_namespaced", tmp_path / "tree")
    before = _find(root)
    assert before == _find(root)
    (root / "sys/fs/cgroup/memory.max").write_text(f"{GIB}\n")
    after = _find(root)
    assert [limit.bytes for limit in before.limits] == [512 * MIB]
    assert [limit.bytes for limit in after.limits] == [GIB]
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert [limit.kind for limit in _find(root).limits] == ["host"]


def test_another_process_can_be_asked_about(tmp_path: Path) -> None:
    """``pid`` picks whose files are read."""
    _write(tmp_path, "proc/77/mountinfo", MOUNT)
    _write(tmp_path, "proc/77/cgroup", b"4:memory:/a\n")
    _write(tmp_path, f"{LEVEL}/a/memory.limit_in_bytes", b"4096000\n")
    assert _find(tmp_path).limits == ()
    assert [limit.bytes for limit in _find(tmp_path, pid="77").limits] == [4096000]


@pytest.mark.skipif(os.name != "posix", reason="file names of raw bytes are a POSIX thing")
@pytest.mark.parametrize(
    "name", [b"a:b:c", b"caf\xe9", "grün".encode(), b"a b", b"a\\040b", b"new (deleted)", b"x\xe2\x80\xa8y"]
)
def test_group_names_are_bytes(tmp_path: Path, name: bytes) -> None:
    """Colons, bytes that are no UTF-8, blanks, backslashes, line separators: the group is found, its words print."""
    _write(tmp_path, "proc/self/mountinfo", MOUNT)
    _write(tmp_path, "proc/self/cgroup", b"4:memory:/" + name + b"\n")
    _write(tmp_path, LEVEL.encode() + b"/" + name + b"/memory.limit_in_bytes", b"4096000\n")
    found = _find(tmp_path)
    assert [limit.bytes for limit in found.limits] == [4096000]
    assert found.notes == ()
    found.limits[0].source.encode("utf-8")
    assert found.group == "/" + LEVEL + "/" + os.fsdecode(name)


@given(
    contents=st.lists(st.binary(max_size=200) | st.text("0123456789 kB:/.\n-").map(str.encode), min_size=9, max_size=9)
)
def test_no_content_makes_a_search_raise(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    """Whatever bytes the files hold, the search ends with limits above 0 and notes that print."""
    root = tmp_path_factory.mktemp("fuzz")
    prefixes = (b"MemTotal: ", MOUNT, b"4:memory:/", b"Max data size ", b"", b"", b"hierarchical_memory_limit ", b"")
    paths = (*FILES, f"{LEVEL}/memory.limit_in_bytes", f"{LEVEL}/a/memory.limit_in_bytes", f"{LEVEL}/memory.stat",
             f"{LEVEL}/memory.use_hierarchy")  # fmt: skip
    for path, prefix, content in zip(paths, prefixes, contents, strict=False):
        _write(root, path, prefix + content)
    found = _find(root, environ={"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": contents[8].decode("latin-1")})
    assert all(limit.bytes > 0 for limit in found.limits)
    "".join([*found.notes, *(limit.source for limit in found.limits)]).encode("utf-8")
    shutil.rmtree(root)


def test_only_mounts_of_memory_groups_are_told() -> None:
    """Other file systems and other controllers are no mounts of ours, nor is what they are mounted over."""
    other = (
        b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    )
    over = b"60 35 0:60 / /sys/fs/cgroup/memory ro - tmpfs tmpfs ro\n"
    assert memory_mounts(other) == ()
    assert [mount.point for mount in memory_mounts(other + MOUNT)] == ["/sys/fs/cgroup/memory"]
    assert memory_mounts(other + MOUNT + over) == ()


@given(st.binary(max_size=400))
def test_no_line_makes_the_parsers_raise(text: bytes) -> None:
    """Any bytes parse to something: versions 1 and 2 only, and paths that begin at the root."""
    assert {mount.version for mount in memory_mounts(MOUNT + text)} <= {1, 2}
    assert all(version in {1, 2} and path.startswith("/") for version, path in memberships(b"0::/a\n" + text))
