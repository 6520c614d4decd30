"""Files below a named directory, found without ever leaving it: by descriptors, through no link, across no mount."""

from __future__ import annotations

import heapq
import os
import stat
from typing import TYPE_CHECKING, Final

from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Census", "Found", "Mounted", "mounted", "open_below", "open_directory", "take_census"]

_PATH: Final[int] = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Deeper trees are left alone below that: each level keeps two descriptors open.
_DEEPEST: Final = 32
# The oldest files that one census remembers, some 400 bytes each; who wants more of them takes another.
_OLDEST: Final = 8192
# Names of files with several links that one census remembers; more are counted at every name.
_LINKS: Final = 65_536
# A file system whose files lie in memory.
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
# st_blocks counts in these, whatever the file system's own are (stat(2)).
_BLOCK_BYTES: Final = 512


@value
class Found:
    """A regular file as a census saw it: its names below the root, who it is, and when it was last used.

    ``bytes`` are those allocated for it; ``used_at`` is wall clock time; ``links`` counts all of its names,
    those outside the root included; ``mark`` changes when it is replaced, written or (where the mount tells) read.
    """

    paths: tuple[str, ...]
    bytes: int
    used_at: float
    links: int
    mark: tuple[int, ...]

    def is_still(self, now: os.stat_result) -> bool:
        """Whether this is the very file that was seen, not used since."""
        return stat.S_ISREG(now.st_mode) and _mark(now) == self.mark


def _mark(seen: os.stat_result) -> tuple[int, ...]:
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_atime_ns


@value
class Mounted:
    """The mount that a directory lies on; ``kind`` is the file system's ("ext4"), "" where nobody tells."""

    number: int
    kind: str
    options: frozenset[str]

    @property
    def in_memory(self) -> bool:
        """Whether its files take memory: those of a tmpfs count as anonymous memory, in cgroups too."""
        return self.kind in _IN_MEMORY

    @property
    def order(self) -> str:
        """By what "last used" is told here, in words."""
        if "noatime" in self.options:
            return "last change (mounted noatime: reading leaves no trace)"
        if "relatime" in self.options:
            return "last access, to the day (mounted relatime), or last change"
        return "last access or change"


@value(frozen=False)
class Census:
    """What one walk saw; ``complete`` says if that is all there is.

    ``oldest`` are those that may go, least recently used first, and ``more`` says that there are others. ``unread``
    counts what could not be looked at, ``mounts`` other mounts that were passed by.
    """

    bytes: int = 0
    files: int = 0
    oldest: Sequence[Found] = ()
    more: bool = False
    complete: bool = True
    unread: int = 0
    mounts: int = 0


def open_directory(real: str) -> int:
    """A descriptor of an absolute path's directory, reached by its own names only: no part of it may be a link.

    Raises:
        OSError: it is not there, is no directory, or a part of it has become a link.
    """
    fd = os.open("/", _PATH)
    names = [name for name in real.split("/") if name]
    try:
        for number, name in enumerate(names, 1):
            inner = os.open(name, _LIST if number == len(names) else _PATH, dir_fd=fd)
            os.close(fd)
            fd = inner
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_below(root: int, path: str) -> tuple[int, str]:
    """A descriptor of the directory that holds ``path`` (below ``root``), and the last name; no link is followed.

    Raises:
        OSError: it is gone, or a part of it has become a link.
    """
    *above, name = path.split("/")
    fd = os.dup(root)
    try:
        for step in above:
            inner = os.open(step, _PATH, dir_fd=fd)
            os.close(fd)
            fd = inner
    except BaseException:
        os.close(fd)
        raise
    return fd, name


def mounted(fd: int) -> Mounted:
    """The mount that an open file or directory lies on (proc(5): fdinfo, mountinfo)."""
    number = _mount_number(fd)
    try:
        with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123 - a kernel file
            lines = file.read().split(b"\n")
    except OSError:
        lines = []
    for line in lines:
        left, _, right = line.partition(b" - ")
        fields, kinds = left.split(b" "), right.split(b" ")
        if fields[0] == b"%d" % number:
            return Mounted(
                number=number, kind=os.fsdecode(kinds[0]), options=frozenset(os.fsdecode(fields[5]).split(","))
            )
    return Mounted(number=number, kind="", options=frozenset())


def _mount_number(fd: int) -> int:
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb", buffering=0) as file:  # noqa: PTH123 - a kernel file
            text = file.read()
    except OSError:
        return -1
    _, found, rest = text.partition(b"mnt_id:")
    return int(rest.split(None, 1)[0]) if found else -1


def take_census(
    root: int, *, may_go: Callable[[str], bool], step: Callable[[], bool], by_access: bool, now: float
) -> Census:
    """Walk everything below an open directory: how much there is, and which files were used least recently.

    Files count by their allocated bytes, once however many names they have. ``may_go`` picks by the path below the
    root; ``step`` is asked before each file whether to go on. Links, sockets, devices, other file systems and mounts
    are passed by. A stamp from the future (a clock that was wrong) counts as the time of the last change of the inode,
    which the kernel itself keeps.
    """
    census = Census()
    heap: list[tuple[float, int, Found]] = []  # the youngest of the oldest on top
    several: dict[tuple[int, int], list[str]] = {}
    linked: dict[tuple[int, int], os.stat_result] = {}

    def used_at(seen: os.stat_result) -> float:
        stamp = max(seen.st_mtime, seen.st_atime) if by_access else seen.st_mtime
        return stamp if stamp <= now else min(now, seen.st_ctime)

    def keep(paths: tuple[str, ...], seen: os.stat_result) -> None:
        found = Found(
            paths=paths, bytes=seen.st_blocks * _BLOCK_BYTES, used_at=used_at(seen), links=seen.st_nlink,
            mark=_mark(seen),
        )  # fmt: skip
        item = (-found.used_at, census.files, found)
        if len(heap) < _OLDEST:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)
            census.more = True

    for path, seen in _walk(root, census, step):
        key = (seen.st_dev, seen.st_ino)
        if seen.st_nlink > 1 and (key in several or len(several) < _LINKS):
            several.setdefault(key, []).append(path)
            if key in linked:
                continue
            linked[key] = seen
        census.files += 1
        census.bytes += seen.st_blocks * _BLOCK_BYTES
        if key not in several and may_go(path):
            keep((path,), seen)
    for key, paths in several.items():
        if all(map(may_go, paths)):
            keep(tuple(paths), linked[key])
    census.oldest = [found for _, _, found in sorted(heap, key=lambda item: (-item[0], item[1]))]
    return census


def _walk(root: int, census: Census, step: Callable[[], bool]) -> Iterator[tuple[str, os.stat_result]]:
    """(path below the root, stat) of every regular file on the root's own mount."""
    home = os.fstat(root).st_dev, _mount_number(root)
    levels = [("", os.dup(root), os.scandir(root))]
    try:
        while levels:
            above, fd, entries = levels[-1]
            entry = _next(entries)
            if entry is None:
                levels.pop()
                os.close(fd)
                continue
            if not step():
                census.complete = False
                return
            seen = _looked(entry, home[0], census)
            if seen is None:
                continue
            if stat.S_ISREG(seen.st_mode):
                yield above + entry.name, seen
            elif stat.S_ISDIR(seen.st_mode):
                inner = _enter(fd, entry.name, home[1], census, deep=len(levels) >= _DEEPEST)
                if inner is not None:
                    levels.append((f"{above}{entry.name}/", inner, os.scandir(inner)))
    finally:
        for _, fd, entries in levels:
            entries.close()
            os.close(fd)


def _next(entries: Iterator[os.DirEntry[str]]) -> os.DirEntry[str] | None:
    try:
        return next(entries, None)
    except OSError:  # a directory that failed to be read on
        return None


def _looked(entry: os.DirEntry[str], device: int, census: Census) -> os.stat_result | None:
    """What an entry is; None when it is gone since it was listed, or of another file system."""
    try:
        seen = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError:
        census.unread += 1
        return None
    if seen.st_dev != device:
        census.mounts += 1
        return None
    return seen


def _enter(fd: int, name: str, mount: int, census: Census, *, deep: bool) -> int | None:
    """A descriptor of an inner directory; None for one that is too deep, gone, unreadable or another mount."""
    try:
        inner = -1 if deep else os.open(name, _LIST, dir_fd=fd)
    except FileNotFoundError:
        return None
    except OSError:
        inner = -1
    if inner < 0:
        census.unread += 1
        return None
    if _mount_number(inner) != mount:  # a bind mount shows the same device
        os.close(inner)
        census.mounts += 1
        return None
    return inner
