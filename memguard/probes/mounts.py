"""Where this process's memory cgroups are: /proc/<pid>/mountinfo joined with /proc/<pid>/cgroup.

Formats: proc(5) "mountinfo", cgroups(7) "/proc/pid/cgroup". Both files are read as bytes, because mount points
and group names need not be UTF-8.
"""

from __future__ import annotations

import os
import re

from memguard.probes.files import below, printable
from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Home", "Mount", "find_home", "memberships", "memory_mounts", "mounted"]

_OCTAL = re.compile(rb"\\([0-7]{3})")
_DELETED = " (deleted)"
# mountinfo before the dash: id, parent, device, root, point, options; after it: type, source, super options.
_BEFORE_DASH, _AFTER_DASH = 6, 3


@value
class Mount:
    """One mounted memory hierarchy: which directory of it (``root``) shows where (``point``), cgroup ``version``."""

    root: str
    point: str
    version: int


@value
class Home:
    """The group this process lives in: a directory inside a mount, "" or "/a/b" below the mount's point.

    ``note`` says in words what was odd about finding it, "" when nothing was.
    """

    mount: Mount
    inside: str
    note: str = ""

    @property
    def path(self) -> str:
        """The group's directory."""
        return _joined(self.mount.point, self.inside)

    def levels(self) -> Iterator[tuple[str, str]]:
        """(name, directory) of this group and every visible ancestor, innermost first."""
        inside = self.inside
        while inside:
            yield inside, _joined(self.mount.point, inside)
            inside = inside.rpartition("/")[0]
        yield "/", self.mount.point


def _joined(point: str, inside: str) -> str:
    return (point.rstrip("/") + inside) or "/"


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))


def mounted(mountinfo: bytes) -> Iterator[tuple[str, str, list[bytes]]]:
    """Root, point and [type, source, super options] of every mount; lines that make no sense are skipped.

    A later mount lies on top of an earlier one with the same point.
    """
    for line in mountinfo.split(b"\n"):
        # Not .split(): an empty source leaves two blanks side by side.
        left, dash, right = line.partition(b" - ")
        fields, kinds = left.split(b" "), right.split(b" ")
        if dash and len(fields) >= _BEFORE_DASH and len(kinds) >= _AFTER_DASH:
            yield _unescaped(fields[3]), _unescaped(fields[4]), kinds


def memory_mounts(mountinfo: bytes) -> tuple[Mount, ...]:
    """Every visible mount that shows memory groups; lines that make no sense are skipped.

    >>> memory_mounts(b"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")
    (Mount(root='/', point='/sys/fs/cgroup/memory', version=1),)
    """
    top: dict[str, Mount | None] = {}
    for root, point, kinds in mounted(mountinfo):
        version = 0
        if kinds[0] == b"cgroup2":
            version = 2
        elif kinds[0] == b"cgroup" and b"memory" in kinds[-1].rstrip().split(b","):
            version = 1
        # The last mount on a point hides the ones below it, of whatever type it is.
        top[point] = Mount(root=root, point=point, version=version) if version else None
    return tuple(mount for mount in top.values() if mount is not None)


def memberships(cgroup: bytes) -> tuple[tuple[int, str], ...]:
    r"""(version, path) of this process in each hierarchy that can limit memory.

    >>> memberships(b"4:cpu,memory:/a:b\n3:name=systemd:/x\n0::/c")
    ((1, '/a:b'), (2, '/c'))
    """
    found: list[tuple[int, str]] = []
    for line in cgroup.split(b"\n"):
        # A group's name may hold colons; only the first two separate.
        number, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if not path.startswith(b"/"):
            continue
        if number == b"0" and not controllers:
            found.append((2, os.fsdecode(path)))
        elif b"memory" in controllers.split(b","):
            found.append((1, os.fsdecode(path)))
    return tuple(found)


def _under(path: str, root: str) -> str | None:
    if root == "/":
        return "" if path == "/" else path
    if path == root:
        return ""
    return path[len(root) :] if path.startswith(root + "/") else None


def _ancestors(inside: str) -> Iterator[str]:
    while inside:
        inside = inside.rpartition("/")[0]
        yield inside


def _endings(path: str) -> Iterator[str]:
    """The path itself, then without its first name, its first two, and so on.

    >>> list(_endings("/a/b/c"))
    ['/a/b/c', '/b/c', '/c']
    """
    while path.strip("/"):
        yield path
        path = "/" + path.lstrip("/").partition("/")[2]


def find_home(root: str, mounts: Sequence[Mount], version: int, path: str) -> Home | None:
    """The directory of the group ``path``, or the nearest thing that is visible; None without a mount.

    Tried in this order: the path below a mount's own root; for a deleted group its nearest ancestor; the
    endings of the path (a bind mount shows a part of the hierarchy under another name); the mount's point.
    Of several mounts the one that shows most ancestors wins.
    """
    mounts = sorted((mount for mount in mounts if mount.version == version), key=lambda mount: len(mount.root))
    if not mounts:
        return None
    rooted = [(mount, inside) for mount in mounts if (inside := _under(path, mount.root)) is not None]
    rooted = [(mount, inside) for mount, inside in rooted if ".." not in inside.split("/")]
    for mount, inside in rooted:
        if _exists(root, mount, inside):
            return Home(mount=mount, inside=inside)
    return _nearest(root, rooted, mounts, path)


def _nearest(root: str, rooted: Sequence[tuple[Mount, str]], mounts: Sequence[Mount], path: str) -> Home:
    shown = printable(path)
    outside = ".." in path.split("/")
    if path.endswith(_DELETED):
        for mount, inside in rooted:
            ancestor = next(name for name in _ancestors(inside) if not name or _exists(root, mount, name))
            note = f"the group {shown} was deleted: its nearest ancestor {printable(ancestor) or '/'} is read"
            return Home(mount=mount, inside=ancestor, note=note)
    for ending in () if outside else _endings(path.removesuffix(_DELETED)):
        for mount in mounts:
            if _exists(root, mount, ending):
                note = f"the group {shown} is not there: {printable(ending)}, the same name's ending, is read"
                return Home(mount=mount, inside=ending, note=note)
    why = "lies outside this cgroup namespace" if outside else "is not there"
    at = printable(mounts[0].point)
    return Home(mount=mounts[0], inside="", note=f"the group {shown} {why}: the mount point {at} is read")


def _exists(root: str, mount: Mount, inside: str) -> bool:
    try:
        return os.path.isdir(below(root, _joined(mount.point, inside)))  # noqa: PTH112 - a path may hold any byte
    except ValueError:
        return False
