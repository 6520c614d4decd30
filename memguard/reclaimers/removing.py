"""Removing one file of a directory: never through a link, never one that was replaced, never one that is open."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress
from signal import SIGURG
from typing import TYPE_CHECKING, Final

from memguard.reclaimers.walking import open_below

if TYPE_CHECKING:
    from memguard.reclaimers.walking import Found

__all__ = ["OpenFiles", "remove"]

_READ: Final[int] = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_TRACE: Final[int] = getattr(os, "O_NOATIME", 0)
# fcntl.h; the module names F_SETLEASE on Linux only.
_F_SETSIG: Final = 10
_SETLEASE: Final[int | None] = getattr(fcntl, "F_SETLEASE", None)
# A journal beside a database belongs to it: removing either alone corrupts the other (sqlite.org, howtocorrupt).
_JOURNALS: Final = ("-wal", "-journal")
# Looking through the descriptors of every process is given so long: some 3 us each.
_SEARCH_S: Final = 0.5


class OpenFiles:
    """Which files the visible processes hold open, read from /proc/*/fd at the first question.

    Only for file systems without leases. ``complete`` is False when some process could not be looked at, as those of
    other users; files that are mapped and closed are not seen either.
    """

    def __init__(self) -> None:
        self._open: set[tuple[int, ...]] | None = None
        self.complete: bool = True

    def holds(self, device: int, inode: int, *, but: int) -> bool:
        """Whether a visible process had it open when this was first asked; our own descriptor ``but`` is none."""
        if self._open is None:
            self._open = self._search(but)
        return (device, inode) in self._open

    def _search(self, but: int) -> set[tuple[int, ...]]:
        found: set[tuple[int, ...]] = set()
        until = time.perf_counter() + _SEARCH_S
        own = str(os.getpid())
        passed_by = f"/proc/{own}/fd/{but}"
        try:
            pids = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - pathlib is dearer
        except OSError:
            pids = []
        if own not in pids:  # no /proc at all, or somebody else's
            self.complete = False
        for pid in pids:
            try:
                names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - as above
            except FileNotFoundError:
                continue
            except OSError:
                self.complete = False
                continue
            for name in names:
                with suppress(OSError):
                    link = f"/proc/{pid}/fd/{name}"
                    if link != passed_by and os.readlink(link).startswith("/"):  # noqa: PTH115 - as above
                        seen = os.stat(link)  # noqa: PTH116 - as above
                        found.add((seen.st_dev, seen.st_ino))
            if time.perf_counter() > until:
                self.complete = False
                break
        return found


def remove(root: int, found: Found, open_files: OpenFiles, *, dry_run: bool = False) -> str:
    """Unlink every name of one file; "" when it is gone (``dry_run``: when it would go), or why it was left.

    The reasons: ``"open"``, ``"changed"`` (used or replaced since the census), ``"linked"`` (names elsewhere keep it
    alive), ``"in use"`` (a database with a journal), ``"failed"``. The last look at a name and its removal are two
    system calls: a file that is put under that name in the microseconds between is removed in its place.
    """
    if found.links > len(found.paths):
        return "linked"
    left = ""
    for path in found.paths:
        try:
            folder, name = open_below(root, path)
        except OSError:
            return "changed"
        try:
            left = _unlink(folder, name, found, open_files, dry_run=dry_run)
        except FileNotFoundError:
            left = ""
        except OSError:
            left = "failed"
        finally:
            os.close(folder)
        if left:
            return left
    return left


def _unlink(folder: int, name: str, found: Found, open_files: OpenFiles, *, dry_run: bool) -> str:
    if any(_is_there(folder, name + ending) for ending in _JOURNALS):
        return "in use"
    try:
        fd = _open(folder, name)
    except PermissionError:
        fd = -1  # it may be removed by whoever may write the directory
    except FileNotFoundError:
        raise
    except OSError:  # ELOOP, ENXIO: a link, a pipe, a socket
        return "changed"
    try:
        if fd >= 0 and not found.is_still(os.fstat(fd)):
            return "changed"
        if _in_use(fd, found, open_files):
            return "open"
        if not found.is_still(os.stat(name, dir_fd=folder, follow_symlinks=False)):
            return "changed"
        if not dry_run:
            os.unlink(name, dir_fd=folder)
    finally:
        if fd >= 0:
            os.close(fd)  # the lease ends with it
    return ""


def _open(folder: int, name: str) -> int:
    try:
        return os.open(name, _READ | _NO_TRACE, dir_fd=folder)
    except PermissionError:  # only its owner may read it without a trace
        return os.open(name, _READ, dir_fd=folder)


def _in_use(fd: int, found: Found, open_files: OpenFiles) -> bool:
    """Whether somebody has the file open: asked of the kernel by a lease, else looked up in /proc and by its locks.

    A write lease is given only when nobody else has the file open or mapped, in whatever process or namespace
    (fcntl(2), "Leases"). Who opens the file meanwhile waits until it is gone, and the signal that tells us of him is
    SIGURG, which is ignored unless somebody asks for it, instead of SIGIO, which kills.
    """
    if fd >= 0 and _SETLEASE is not None:
        try:
            fcntl.fcntl(fd, _F_SETSIG, SIGURG)
            fcntl.fcntl(fd, _SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return True
        except OSError:
            pass  # not our file, or a file system without leases
        else:
            return False
    if fd >= 0:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
    return open_files.holds(*found.mark[:2], but=fd)


def _is_there(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
