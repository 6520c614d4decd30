"""The spill: private, bounded, checked, gone with the process, and shared by nobody after a fork."""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from memguard.agents import spill as room
from memguard.agents import volume as volumes
from memguard.agents.spill import NoSpill, Spill, in_memory

MIB = 1 << 20
FDS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not FDS.is_dir(), reason="looks at its own descriptors in /proc")


@pytest.fixture
def spill(tmp_path: Path) -> Any:
    """A spill in a directory of the test's own."""
    made = Spill(str(tmp_path), 64 * MIB)
    yield made
    made.close()


def its_files(folder: Path) -> list[str]:
    """What this process has open below a folder."""
    links = []
    for fd in FDS.iterdir():
        with suppress(OSError):  # the one that lists them
            links.append(str(fd.readlink()))
    return [link for link in links if link.startswith(str(folder))]


def test_what_is_written_is_read(spill: Spill) -> None:
    """Blobs of all sizes come back, in any order, and dropping the last gives the file back."""
    blobs = [os.urandom(size) for size in (0, 1, 5000, MIB, MIB + 1, 3 * MIB)]
    serials = [spill.write(blob) for blob in blobs]
    assert [spill.read(serial) for serial in reversed(serials)] == list(reversed(blobs))
    assert spill.bytes == sum(map(len, blobs))
    for serial, blob in zip(serials, blobs, strict=True):
        spill.drop(serial, len(blob))
    assert (spill.bytes, spill.count, len(spill._volumes)) == (0, 0, 0)


def test_nobody_else_can_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is made with mode 0600 in a directory of mode 0700, whatever the umask, and both lose their names."""
    modes: list[int] = []
    removed = volumes._remove

    def look_first(path: str, folder: str) -> None:
        modes.extend(stat.S_IMODE(place.stat().st_mode) for place in (Path(path), Path(path).parent))
        removed(path, folder)

    monkeypatch.setattr(volumes, "_remove", look_first)
    old = os.umask(0)
    try:
        spill = Spill(str(tmp_path), MIB)
        spill.write(b"secret")
    finally:
        os.umask(old)
    assert modes == [0o600, 0o700]
    assert list(tmp_path.iterdir()) == []
    assert its_files(tmp_path)
    assert all(link.endswith("(deleted)") for link in its_files(tmp_path))
    spill.close()
    assert its_files(tmp_path) == []


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    """After SIGKILL in the middle of its work there is no file to be read."""
    program = textwrap.dedent(f"""
        import os, signal
        from memguard.agents.spill import Spill
        spill = Spill({str(tmp_path)!r}, 1 << 24)
        spill.write(b"secret" * 1000)
        print("written", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "written\n"
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_it_is_an_sqlite_file(spill: Spill) -> None:
    """What is open is an SQLite database of rows, sound by its own check."""
    spill.write(b"x" * 10)
    (volume,) = spill._volumes.values()
    assert os.pread(volume.fd, 15, 0) == b"SQLite format 3"
    assert volume.open().execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_quota(spill: Spill) -> None:
    """Blobs beyond the quota are refused in words; dropping some makes room; the file never grows beyond it."""
    spill.quota_bytes = 3 * MIB
    serials = [spill.write(os.urandom(MIB // 2)) for _ in range(5)]
    with pytest.raises(NoSpill, match="quota"):
        spill.write(os.urandom(MIB))
    for serial in serials:
        spill.drop(serial, MIB // 2)
    for _ in range(20):
        serial = spill.write(os.urandom(2 * MIB))
        spill.drop(serial, 2 * MIB)
    assert spill.bytes == 0


def test_a_file_that_is_full(tmp_path: Path) -> None:
    """SQLite's own bound of pages is met in the middle of a blob: nothing of it stays, what was there is sound."""
    spill = Spill(str(tmp_path), 2 * MIB)
    kept = spill.write(b"k" * MIB)
    spill.quota_bytes = 100 * MIB
    for _ in range(2):
        with pytest.raises(NoSpill, match="full"):
            spill.write(os.urandom(3 * MIB))
    assert spill.read(kept) == b"k" * MIB
    assert spill.count == 1
    again = spill.write(b"a" * 1000)
    assert spill.read(again) == b"a" * 1000
    spill.close()


def test_a_disk_that_is_nearly_full(spill: Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB of a disk are left to others."""
    real = os.statvfs

    def little(fd: int) -> Any:
        found = real(fd)
        fields = list(found)
        fields[4] = 65 * MIB // found.f_frsize  # f_bavail
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", little)
    spill.write(b"small")
    with pytest.raises(NoSpill, match="bytes left"):
        spill.write(bytes(2 * MIB))


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), sqlite3.OperationalError("disk I/O error"), MemoryError()]
)
def test_whatever_fails_is_told(spill: Spill, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    """Any failure of writing is a NoSpill in words, and the next write works."""
    kept = spill.write(b"kept")
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise fault

        patch.setattr(volumes.Volume, "write", fail)
        with pytest.raises(NoSpill, match=type(fault).__name__):
            spill.write(b"lost?")
    assert spill.count == 1
    assert spill.read(spill.write(b"next")) == b"next"
    assert spill.read(kept) == b"kept"


def test_what_is_written_wrong_is_noticed_at_once(spill: Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that keeps something else than it was given is found out while the caller still has the blob."""
    write = volumes.Volume.write
    monkeypatch.setattr(volumes.Volume, "write", lambda volume, serial, body: write(volume, serial, body[:-1] + b"?"))
    with pytest.raises(NoSpill, match="not what was written"):
        spill.write(b"right")
    assert spill.count == 0


@pytest.mark.parametrize("damage", ["changed", "swapped", "gone", "cut"])
def test_damage_is_noticed(spill: Spill, damage: str) -> None:
    """Changed bytes, another state's bytes, a missing row, a file cut short: an error, never something else."""
    one, two = spill.write(b"one" * 1000), spill.write(b"two" * 1000)
    (volume,) = spill._volumes.values()
    row, other = one % room._VOLUME, two % room._VOLUME
    if damage == "changed":
        volume.open().execute("UPDATE pieces SET body = zeroblob(length(body)) WHERE serial = ?", (row,))
    elif damage == "swapped":
        volume.open().execute(
            "UPDATE pieces SET body = (SELECT body FROM pieces WHERE serial = ?) WHERE serial = ?", (other, row)
        )
    elif damage == "gone":
        volume.open().execute("DELETE FROM pieces WHERE serial = ?", (row,))
    else:
        volume.open().execute("PRAGMA shrink_memory")
        os.truncate(volume.fd, 4096)
    with pytest.raises(NoSpill):
        spill.read(one)
    if damage != "cut":
        assert spill.read(two) == b"two" * 1000


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """A directory that vanished is told in words."""
    with pytest.raises(NoSpill, match="FileNotFoundError"):
        Spill(str(tmp_path / "gone"), MIB).write(b"x")


MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/root rw
23 22 0:5 / /mem rw - tmpfs tmpfs rw
24 22 0:6 / /var\\040data rw - ramfs none rw
25 23 8:2 / /mem/disk rw,relatime shared:1 - xfs /dev/sdb rw
broken line
"""


@pytest.mark.parametrize(
    ("place", "memory"),
    [
        ("/srv", False),
        ("/mem", True),
        ("/mem/x", True),
        ("/mem/disk/a", False),
        ("/memory", False),
        ("/var data", True),
    ],
)
def test_memory_is_no_disk(tmp_path: Path, place: str, memory: bool) -> None:
    """The mount that a directory lies on says whether spilling there frees anything."""
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert in_memory(place, str(table)) == memory
    assert not in_memory(place, str(tmp_path / "none"))


def test_a_disk_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the temporary directory is memory, /var/tmp is taken; where that is too, nothing, in words."""
    memory = {"/shm"}
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/shm")
    monkeypatch.setattr(room, "in_memory", lambda place: place in memory)
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert room._a_disk() == "/var/tmp"  # noqa: S108 - a name to compare with
    memory.add("/var/tmp")  # noqa: S108
    with pytest.raises(NoSpill, match="spill='/path'"):
        Spill(None, MIB).write(b"x")


def test_flush_brings_it_to_the_disk(spill: Spill) -> None:
    """Flushing changes nothing that is read, with and without files."""
    spill.flush()
    serial = spill.write(b"x" * MIB)
    spill.flush()
    assert spill.read(serial) == b"x" * MIB


def in_child(work: Any) -> int:
    """What a forked child's work ended with: 0 when it was well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_has_its_own(spill: Spill, tmp_path: Path) -> None:
    """Both read what was there; what either writes or drops after a fork is nothing to the other."""
    serial = spill.write(b"before" * 1000)
    assert spill.hold(1.0)

    def child() -> None:
        spill.seal(child=True, held=True)
        assert spill.read(serial) == b"before" * 1000
        assert spill.read(spill.write(b"child")) == b"child"
        spill.drop(serial, 6000)
        assert list(tmp_path.iterdir()) == []

    assert in_child(child) == 0
    spill.seal(child=False, held=True)
    own = spill.write(b"parent")
    assert len(spill._volumes) == 2
    assert (spill.read(serial), spill.read(own)) == (b"before" * 1000, b"parent")
    spill.drop(serial, 6000)
    assert len(spill._volumes) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_reads_what_its_parent_dropped(spill: Spill) -> None:
    """The parent may drop all and close, and the child still has what was there when it was born."""
    serial = spill.write(b"before" * 1000)
    go, ready = os.pipe()
    assert spill.hold(1.0)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            spill.seal(child=True, held=True)
            os.read(go, 1)
            assert spill.read(serial) == b"before" * 1000
            status = 0
        finally:
            os._exit(status)
    spill.seal(child=False, held=True)
    spill.drop(serial, 6000)
    spill.close()
    os.write(ready, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(go)
    os.close(ready)


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """A spill that is closed, or whose file could not be made, leaves nothing open."""
    gc.collect()
    before = len(list(FDS.iterdir()))
    for _ in range(3):
        spill = Spill(str(tmp_path), MIB)
        spill.drop(spill.write(b"x"), 1)
        spill.write(b"y")
        spill.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *_, **__: 1 / 0)
            with pytest.raises(NoSpill):
                spill.write(b"z")
    gc.collect()
    assert len(list(FDS.iterdir())) == before
    assert list(tmp_path.iterdir()) == []
