"""Spill: blobs on disk, in a file that nobody else can open and that vanishes with the process.

An SQLite file (mode 0600) in a directory of its own (0700); both names are removed as soon as the file is open, so that
neither an exit nor a crash leaves anything to be read: the kernel frees the space with the last descriptor. Each blob
carries a MAC (BLAKE2b, keyed at random by the process) over its number and its bytes: what comes back is what was
written, or an error. After a fork the file is sealed: the parent writes to another one, and the child copies it at its
first need. What a process leaves to its successor (``inheritance``) has a name in a private directory, until that one
has opened it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from _thread import RLock
from importlib import import_module
from typing import TYPE_CHECKING, Final

from memguard.agents.volume import NoSpill, Volume

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NoSpill", "Spill", "in_memory"]

# Others need the disk too.
_LEFT_FREE_BYTES: Final = 64 << 20
_VOLUME: Final = 1 << 40


class Spill:
    """Blobs on disk by number. Safe between threads; every failure is a ``NoSpill``, and then nothing has changed.

    ``directory`` None takes the system's temporary directory, or /var/tmp where that one is memory. ``quota_bytes``
    bounds what the files take; 64 MiB of the disk are left to others in any case. ``path``: a file that keeps its name.
    """

    def __init__(self, directory: str | None, quota_bytes: int, *, path: str | None = None) -> None:
        # Now: what an import leaves behind under pressure lies between what is shed, and keeps that from going back.
        import_module("sqlite3")

        self.directory: str | None = directory
        self.quota_bytes: int = quota_bytes
        self.broken: str = ""
        """Why nothing can be written at all; "" while it can."""
        self.bytes: int = 0
        """Bytes of the blobs on disk."""
        self.count: int = 0
        self._path = path
        self._volumes: dict[int, Volume] = {}
        self._numbers = 0
        self._serials = 0
        self._lock = RLock()

    def write(self, blob: bytes) -> int:
        """Keep a blob on disk; its number. It has been read back and compared.

        Raises:
            NoSpill: a full or failing disk, or the quota; the blob is still the caller's alone.
        """
        with self._lock, _told("spilling"):
            if self.bytes + len(blob) > self.quota_bytes:
                raise NoSpill(f"the quota of {self.quota_bytes} bytes on disk is used up")
            number, volume = self._open()
            room = os.statvfs(volume.fd) if hasattr(os, "statvfs") else None
            if room is not None and room.f_bavail * room.f_frsize < len(blob) + _LEFT_FREE_BYTES:
                raise NoSpill(f"the disk has only {room.f_bavail * room.f_frsize} bytes left")
            self._serials += 1
            serial = self._serials
            volume.write(serial, _mac(volume.key, serial, blob) + blob)
            try:
                _verified(volume, serial)
            except BaseException:
                volume.drop(serial)
                raise
            self.bytes += len(blob)
            self.count += 1
            return number * _VOLUME + serial

    def _open(self) -> tuple[int, Volume]:
        """The volume that is written to."""
        for number, volume in self._volumes.items():
            if not volume.sealed:
                return number, volume
        sealed_bytes = sum(volume.file_bytes for volume in self._volumes.values())
        volume = Volume(self.folder(), self.quota_bytes - sealed_bytes, path=self._path)
        return self._enter(volume), volume

    def _enter(self, volume: Volume) -> int:
        self._numbers += 1
        self._volumes[self._numbers] = volume
        return self._numbers

    def folder(self) -> str:
        """The directory that files are made in.

        Raises:
            NoSpill: no temporary directory lies on a disk.
        """
        if self.directory is None:
            self.directory = _a_disk()
        return self.directory

    def read(self, serial: int) -> bytes:
        """The blob of that number.

        Raises:
            NoSpill: the file is damaged, or cannot be read now.
        """
        with self._lock, _told("reading a spilled state"):
            number = serial // _VOLUME
            volume = self._volumes[number]
            if volume.foreign:
                own = Volume(self.directory, self.quota_bytes, copy_of=volume.fd, key=volume.key)
                own.rows = volume.rows
                self._volumes[number] = own
                volume.close()
                volume = own
            return _verified(volume, serial % _VOLUME)

    def drop(self, serial: int, blob_bytes: int) -> None:
        """Forget a blob; the file is given back with its last one."""
        number = serial // _VOLUME
        with self._lock:
            self.bytes -= blob_bytes
            self.count -= 1
            volume = self._volumes[number]
            # What cannot be deleted takes room in a file that goes with the process.
            with contextlib.suppress(Exception):
                volume.drop(serial % _VOLUME)
            if volume.rows <= 0:
                del self._volumes[number]
                volume.close()

    def flush(self) -> None:
        """Bring what was written to the disk, and out of the page cache, which counts as this container's memory."""
        with self._lock, contextlib.suppress(OSError, AttributeError):
            for volume in self._volumes.values():
                if not volume.sealed:
                    os.fdatasync(volume.fd)
                    os.posix_fadvise(volume.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Give the files back, and all that is in them."""
        with self._lock:
            for volume in self._volumes.values():
                volume.close()
            self._volumes.clear()
            self.bytes = self.count = 0

    # --- to a successor ---------------------------------------------------------------------------------------------

    def sign(self, rows: Iterable[tuple[bytes, int, int, float, int]]) -> None:
        """Write beside the blobs what a successor has to know: (name, number, size, seconds unused, bytes) of each.

        Raises:
            NoSpill: a full or failing disk.
        """
        with self._lock, _told("leaving states"):
            _, volume = self._open()
            link = volume.open()
            link.execute("CREATE TABLE will (version INTEGER, key BLOB)")
            link.execute("CREATE TABLE states (name BLOB, serial INTEGER, size INTEGER, idle_s REAL, bytes INTEGER)")
            link.execute("INSERT INTO will VALUES (?, ?)", (_WILL, volume.key))
            own = ((name, serial % _VOLUME, *rest) for name, serial, *rest in rows)
            link.execute("BEGIN")
            link.executemany("INSERT INTO states VALUES (?, ?, ?, ?, ?)", own)
            link.execute("COMMIT")
            os.fsync(volume.fd)

    def adopt(self, path: str) -> list[tuple[bytes, int, int, float, int]]:
        """Reopen what another process left there, once: rows as ``sign`` had them; () when somebody else has it.

        Its name is removed at once, so that an end of this process leaves nothing.

        Raises:
            NoSpill: it cannot be read, or is not what was left.
        """
        import fcntl  # noqa: PLC0415 - where there are hand-overs there is fcntl

        with self._lock, _told("reopening states"):
            left = os.open(path, os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
            try:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = os.fstat(left).st_nlink == 1
            except BlockingIOError:
                alone = False
            if not alone:
                os.close(left)
                return []
            volume = Volume(None, self.quota_bytes, path=path, left=left)
            try:
                rows = _read_will(volume)
            except BaseException:
                volume.close()
                raise
            number, volume.rows = self._enter(volume), len(rows)
            self.count += len(rows)
            self.bytes += sum(row[-1] for row in rows)
            return [(row[0], number * _VOLUME + row[1], row[2], row[3], row[4]) for row in rows]

    # --- forks ------------------------------------------------------------------------------------------------------

    def hold(self, timeout_s: float) -> bool:
        """Before a fork: let nothing be half written."""
        return self._lock.acquire(timeout=timeout_s)

    def seal(self, *, child: bool, held: bool) -> None:
        """After a fork, on either side: what is on disk belongs to both, and is not written to any more."""
        for volume in self._volumes.values():
            volume.sealed = True
            volume.foreign = volume.foreign or child
        if child:
            self._lock = RLock()
        elif held:
            self._lock.release()


_MAC_BYTES: Final = 16
_WILL: Final = 1


def _read_will(volume: Volume) -> list[tuple[bytes, int, int, float, int]]:
    link = volume.open()
    ((version, volume.key),) = link.execute("SELECT version, key FROM will")
    if version != _WILL:
        raise NoSpill(f"what was left is of another version, {version}")
    return link.execute("SELECT name, serial, size, idle_s, bytes FROM states").fetchall()


def _verified(volume: Volume, serial: int) -> bytes:
    body = volume.read(serial)
    mac, blob = body[:_MAC_BYTES], body[_MAC_BYTES:]
    if not secrets.compare_digest(mac, _mac(volume.key, serial, blob)):
        raise NoSpill("what is on disk is not what was written")
    return blob


def _mac(key: bytes, serial: int, blob: bytes) -> bytes:
    mac = hashlib.blake2b(serial.to_bytes(16, "big"), key=key, digest_size=_MAC_BYTES)
    mac.update(blob)
    return mac.digest()


class _told:  # noqa: N801 - used as a word in a with statement
    """Whatever fails here is a ``NoSpill``.

    No generator: an error that passes through one refers to itself by its frames, and keeps whatever the callers had in
    hand until the collector comes, which then counts as shared.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, NoSpill):  # sqlite3.Error, OSError, MemoryError
            raise NoSpill(f"{self._what} failed ({type(error).__name__}: {error})") from error


# --- where ----------------------------------------------------------------------------------------------------------


def _a_disk() -> str:
    for place in (tempfile.gettempdir(), "/var/tmp"):  # noqa: S108 - a directory of our own is made in it
        if os.access(place, os.W_OK) and not in_memory(place):
            return place
    raise NoSpill("no temporary directory lies on a disk: name one by spill='/path'")


def in_memory(place: str, mounts: str = "/proc/self/mountinfo") -> bool:
    """Whether a directory lies in memory (tmpfs, ramfs), where spilling frees nothing; False if nobody can tell."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            lines = file.read().splitlines()
    except OSError:
        return False
    best, kind = "", ""
    where = os.path.realpath(place)
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:  # noqa: PLR2004 - proc(5): the mount point is the fifth
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        below = where == point or where.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    return kind in {"tmpfs", "ramfs"}
