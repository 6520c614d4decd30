"""Spill: blobs on disk, in a file that nobody else can open and that vanishes with the process.

An SQLite file (mode 0600) in a directory of its own (0700); both names are removed as soon as the file is open, so that
neither an exit nor a crash leaves anything to be read: the kernel frees the space with the last descriptor. Each blob
carries a MAC (BLAKE2b, keyed at random by the process) over its number and its bytes: what comes back is what was
written, or an error. After a fork the file is sealed: the parent writes to another one, and the child copies it at its
first need.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
import weakref
from _thread import RLock
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3

__all__ = ["NoSpill", "Spill", "in_memory"]

# Rows are cut so small because SQLite makes copies of what it is given.
_PIECE_BYTES: Final = 1 << 20
_PAGE_BYTES: Final = 4096
# Others need the disk too.
_LEFT_FREE_BYTES: Final = 64 << 20
_VOLUME: Final = 1 << 40
# A child never uses, and never closes, a connection that its parent opened (sqlite.org/howtocorrupt.html, 2.6).
_graveyard: Final[list[object]] = []


class NoSpill(Exception):
    """Nothing was written, or what was written cannot be read; the text says why."""


class _Volume:
    """One file."""

    def __init__(self, directory: str | None, quota_bytes: int, *, copy_of: int | None = None) -> None:
        import sqlite3  # noqa: PLC0415 - 2 MB; Spill has imported it already

        folder = tempfile.mkdtemp(prefix="memguard-", dir=directory)
        self.path: str = os.path.join(folder, "states.db")  # noqa: PTH118 - as SQLite wants it
        self.fd = -1
        self.link: sqlite3.Connection | None = None
        self.foreign = False
        self._finalizer: weakref.finalize[Any, Any] | None = None
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            self.fd = os.open(self.path, flags, 0o600)
            if copy_of is not None:
                _copy(copy_of, self.fd)
            # Nobody else can open it: locks and journal files are for those who share.
            address = f"file:{_quoted(self.path)}?mode=rw&nolock=1"
            self.link = link = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
            pragmas = (
                f"page_size={_PAGE_BYTES}", "journal_mode=MEMORY", "synchronous=OFF", "temp_store=MEMORY",
                "cache_size=-256", f"max_page_count={max(8, quota_bytes // _PAGE_BYTES)}",
            )  # fmt: skip
            for pragma in pragmas:
                link.execute(f"PRAGMA {pragma}").fetchall()
            link.execute(
                "CREATE TABLE IF NOT EXISTS pieces"
                " (serial INTEGER, part INTEGER, body BLOB, PRIMARY KEY (serial, part)) WITHOUT ROWID"
            )
        except BaseException:
            self.close()
            _remove_quietly(self.path)
            raise
        self.rows = 0
        self.sealed = copy_of is not None
        try:
            _remove(self.path)
        except OSError:  # a system that keeps the names of open files
            self._finalizer = weakref.finalize(self, _remove_quietly, self.path)

    @property
    def file_bytes(self) -> int:
        """What the file takes."""
        return os.fstat(self.fd).st_size

    def _open(self) -> sqlite3.Connection:
        if self.link is None:
            raise NoSpill("the file is closed")
        return self.link

    def write(self, serial: int, body: bytes) -> None:
        """Put a row down, whole or not at all."""
        view = memoryview(body)
        link = self._open()
        link.execute("BEGIN")
        try:
            for part, at in enumerate(range(0, len(body), _PIECE_BYTES)):
                link.execute("INSERT INTO pieces VALUES (?, ?, ?)", (serial, part, view[at : at + _PIECE_BYTES]))
            link.execute("COMMIT")
        except BaseException:
            if link.in_transaction:
                link.execute("ROLLBACK")
            raise
        self.rows += 1

    def read(self, serial: int) -> bytes:
        """What was written under that number."""
        rows = self._open().execute("SELECT body FROM pieces WHERE serial = ? ORDER BY part", (serial,))
        return b"".join(body for (body,) in rows)

    def drop(self, serial: int) -> None:
        """Give a row's room back; in a sealed file it stays as it is."""
        self.rows -= 1
        if not self.sealed:
            self._open().execute("DELETE FROM pieces WHERE serial = ?", (serial,))

    def close(self) -> None:
        """Give the file back; twice is fine."""
        if self.link is not None:
            if self.foreign:
                _graveyard.append(self.link)
            else:
                self.link.close()  # closing it twice is fine
            self.link = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        if self._finalizer is not None:
            self._finalizer()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class Spill:
    """Blobs on disk by number. Safe between threads; every failure is a ``NoSpill``, and then nothing has changed.

    ``directory`` None takes the system's temporary directory, or /var/tmp where that one is memory. ``quota_bytes``
    bounds what the files take; 64 MiB of the disk are left to others in any case.
    """

    def __init__(self, directory: str | None, quota_bytes: int) -> None:
        # Now: what an import leaves behind under pressure lies between what is shed, and keeps that from going back.
        import_module("sqlite3")

        self.directory: str | None = directory
        self.quota_bytes: int = quota_bytes
        self.broken: str = ""
        """Why nothing can be written at all; "" while it can."""
        self.bytes: int = 0
        """Bytes of the blobs on disk."""
        self.count: int = 0
        self._key = secrets.token_bytes(32)
        self._volumes: dict[int, _Volume] = {}
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
            serial = number * _VOLUME + self._serials
            volume.write(serial, self._mac(serial, blob) + blob)
            try:
                self._verified(volume, serial)
            except BaseException:
                volume.drop(serial)
                raise
            self.bytes += len(blob)
            self.count += 1
            return serial

    def _open(self) -> tuple[int, _Volume]:
        """The volume that is written to."""
        for number, volume in self._volumes.items():
            if not volume.sealed:
                return number, volume
        sealed_bytes = sum(volume.file_bytes for volume in self._volumes.values())
        if self.directory is None:
            self.directory = _a_disk()
        volume = _Volume(self.directory, self.quota_bytes - sealed_bytes)
        self._numbers += 1
        self._volumes[self._numbers] = volume
        return self._numbers, volume

    def read(self, serial: int) -> bytes:
        """The blob of that number.

        Raises:
            NoSpill: the file is damaged, or cannot be read now.
        """
        with self._lock, _told("reading a spilled state"):
            number = serial // _VOLUME
            volume = self._volumes[number]
            if volume.foreign:
                own = _Volume(self.directory, self.quota_bytes, copy_of=volume.fd)
                own.rows = volume.rows
                self._volumes[number] = own
                volume.close()
                volume = own
            return self._verified(volume, serial)

    def _verified(self, volume: _Volume, serial: int) -> bytes:
        body = volume.read(serial)
        mac, blob = body[:_MAC_BYTES], body[_MAC_BYTES:]
        if not secrets.compare_digest(mac, self._mac(serial, blob)):
            raise NoSpill("what is on disk is not what was written")
        return blob

    def _mac(self, serial: int, blob: bytes) -> bytes:
        mac = hashlib.blake2b(serial.to_bytes(16, "big"), key=self._key, digest_size=_MAC_BYTES)
        mac.update(blob)
        return mac.digest()

    def drop(self, serial: int, blob_bytes: int) -> None:
        """Forget a blob; the file is given back with its last one."""
        number = serial // _VOLUME
        with self._lock:
            self.bytes -= blob_bytes
            self.count -= 1
            volume = self._volumes[number]
            # What cannot be deleted takes room in a file that goes with the process.
            with contextlib.suppress(Exception):
                volume.drop(serial)
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


def _copy(source: int, target: int) -> None:
    at = 0
    while piece := os.pread(source, _PIECE_BYTES, at):
        at += os.pwrite(target, piece, at)


def _quoted(path: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415 - as sqlite3

    return quote(path)


def _remove(path: str) -> None:
    os.unlink(path)  # noqa: PTH108
    os.rmdir(os.path.dirname(path))  # noqa: PTH106, PTH120


def _remove_quietly(path: str) -> None:
    with contextlib.suppress(OSError):
        _remove(path)


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
