"""Volumes: one file of blobs, without a name as soon as it is open."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3

__all__ = ["NoSpill", "Volume"]

# Rows are cut so small because SQLite makes copies of what it is given.
_PIECE_BYTES: Final = 1 << 20
_PAGE_BYTES: Final = 4096
# A child never uses, and never closes, a connection that its parent opened (sqlite.org/howtocorrupt.html, 2.6).
_graveyard: Final[list[object]] = []


class NoSpill(Exception):
    """Nothing was written, or what was written cannot be read; the text says why."""


class Volume:
    """One file. ``path``: one that keeps its name; ``left``: the descriptor of one that somebody left there."""

    def __init__(  # noqa: PLR0913 - one file, and where it comes from
        self,
        directory: str | None,
        quota_bytes: int,
        *,
        copy_of: int | None = None,
        path: str | None = None,
        left: int | None = None,
        key: bytes = b"",
    ) -> None:
        import sqlite3  # noqa: PLC0415 - 2 MB; Spill has imported it already

        folder = "" if path else tempfile.mkdtemp(prefix="memguard-", dir=directory)
        self.path: str = path or os.path.join(folder, "states.db")  # noqa: PTH118 - as SQLite wants it
        self.key: bytes = key or secrets.token_bytes(32)
        self.fd: int = -1
        self.link: sqlite3.Connection | None = None
        self.foreign: bool = False
        self._finalizer: weakref.finalize[Any, Any] | None = None
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            self.fd = os.open(self.path, flags, 0o600) if left is None else left
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
            _remove_quietly(self.path, folder)
            raise
        self.rows: int = 0
        self.sealed: bool = copy_of is not None or left is not None
        if path is not None and left is None:
            return
        try:
            _remove(self.path, folder)
        except OSError:  # a system that keeps the names of open files
            self._finalizer = weakref.finalize(self, _remove_quietly, self.path, folder)

    @property
    def file_bytes(self) -> int:
        """What the file takes."""
        return os.fstat(self.fd).st_size

    def open(self) -> sqlite3.Connection:
        """The database.

        Raises:
            NoSpill: the file is closed.
        """
        if self.link is None:
            raise NoSpill("the file is closed")
        return self.link

    def write(self, serial: int, body: bytes) -> None:
        """Put a row down, whole or not at all."""
        view = memoryview(body)
        link = self.open()
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
        rows = self.open().execute("SELECT body FROM pieces WHERE serial = ? ORDER BY part", (serial,))
        return b"".join(body for (body,) in rows)

    def drop(self, serial: int) -> None:
        """Give a row's room back; in a sealed file it stays as it is."""
        self.rows -= 1
        if not self.sealed:
            self.open().execute("DELETE FROM pieces WHERE serial = ?", (serial,))

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


def _copy(source: int, target: int) -> None:
    at = 0
    while piece := os.pread(source, _PIECE_BYTES, at):
        at += os.pwrite(target, piece, at)


def _quoted(path: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415 - as sqlite3

    return quote(path)


def _remove(path: str, folder: str) -> None:
    os.unlink(path)  # noqa: PTH108
    if folder:
        os.rmdir(folder)  # noqa: PTH106


def _remove_quietly(path: str, folder: str) -> None:
    with contextlib.suppress(OSError):
        _remove(path, folder)
