"""What a process stands in: limits, allocator, kernel settings, files in memory; read once, judged elsewhere.

Methods: proc(5) for maps, status, meminfo, environ and mountinfo; Documentation/admin-guide/mm/transhuge.rst and
sysctl/vm.rst of the kernel for huge pages and overcommit; mallopt(3) and the GNU C library's tunables for arenas.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from memguard.errors import MemguardError
from memguard.probes.cgroup import page_cache_bytes
from memguard.probes.files import printable, read_file
from memguard.probes.limits import find_limits
from memguard.probes.mounts import mounted
from memguard.units import GIB, KIB, MIB
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memguard.model import Limit
    from memguard.probes.limits import Findings
    from memguard.rules import Rules

__all__ = ["Surroundings", "Tmpfs", "allocator_of", "environ_of", "look_around", "nearest_limit"]

# By the file that is mapped. The first that is there serves malloc: preloaded ones come before the C library.
_ALLOCATORS: Final = (
    ("jemalloc", re.compile(rb"/libjemalloc[^/\n]*\.so")),
    ("mimalloc", re.compile(rb"/libmimalloc[^/\n]*\.so")),
    ("tcmalloc", re.compile(rb"/libtcmalloc[^/\n]*\.so")),
    ("musl", re.compile(rb"/(?:ld-musl-|libc\.musl-)[^/\n]*\.so")),
    ("glibc", re.compile(rb"/libc(?:-2\.\d+)?\.so")),
)
# Where programs leave files; other file systems in memory hold the system's own.
_WRITTEN: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - looked at, not written
_SCALES: Final = {b"": 1, b"k": KIB, b"m": MIB, b"g": GIB}
_V2: Final = 2


@value
class Tmpfs:
    """A file system in memory: where, how much it may take (None: half of the machine), how much it takes now."""

    point: str
    max_bytes: int | None
    used_bytes: int | None


@value
class Surroundings:
    """Everything that ``doctor`` knows about where a process runs; None where the machine does not tell."""

    environ: Mapping[str, str]
    limits: Findings
    policy_error: str = ""
    collect_bytes: int | None = None
    used_bytes: int | None = None
    rss_bytes: int | None = None
    total_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    commit_limit_bytes: int | None = None
    committed_bytes: int | None = None
    overcommit: int | None = None
    huge_pages: str | None = None
    cpus: int = 1
    threads: int | None = None
    allocator: str | None = None
    missing_preloads: tuple[str, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    kills: int | None = None
    kill_off: bool = False

    @property
    def bound(self) -> Limit | None:
        """The tightest limit of resident memory that somebody set; None when only the machine ends it."""
        tight = [
            one for one in self.limits.limits if one.kind in {"policy", "kill"} and one.usage in {"tree", "cgroup"}
        ]
        return min(tight, key=lambda one: one.bytes, default=None)

    @property
    def shared_bytes(self) -> int | None:
        """What all workers of a server have together; None where nobody tells.

        A policy is each process's own, unless it stands for a pod's limit that is out of sight.
        """
        hidden = any("out of sight" in note for note in self.limits.notes)
        kinds = {"kill", "policy"} if hidden else {"kill"}
        found = [one.bytes for one in self.limits.limits if one.kind in kinds and one.usage in {"tree", "cgroup"}]
        return min(found, default=self.total_bytes)


def environ_of(pid: str, *, root: str = "/") -> dict[str, str]:
    """The environment that a process was started with.

    Raises:
        MemguardError: there is no such process, or it is somebody else's.
    """
    try:
        text = read_file(root, f"/proc/{pid}/environ")
    except OSError as error:
        raise MemguardError(
            f"process {pid} cannot be looked at: {error.strerror}; name a running process of yours, or be root"
        ) from None
    pairs = (os.fsdecode(one).partition("=") for one in text.split(b"\0") if b"=" in one)
    return {name: value for name, _, value in pairs}


def nearest_limit(rules: Rules, environ: Mapping[str, str], *, pid: str = "self") -> Limit | None:
    """The tightest of what ends a process for the memory that it holds, as its own guard would find it."""
    found = find_limits(
        environ=environ, pid=pid, policy_bytes=rules.max_bytes, policy_source=rules.origins["max_bytes"]
    )
    resident = [one for one in found.limits if one.usage in {"tree", "cgroup", "host"} and one.kind != "throttle"]
    return min(resident, key=lambda one: one.bytes, default=None)


def look_around(
    *,
    environ: Mapping[str, str],
    root: str = "/",
    pid: str = "self",
    policy: tuple[int | None, str] = (None, ""),
    policy_error: str = "",
) -> Surroundings:
    """Look at everything once; what cannot be read stays None."""
    limits = find_limits(root=root, environ=environ, policy_bytes=policy[0], policy_source=policy[1], pid=pid)
    meminfo = _fields(_text(root, "/proc/meminfo"))
    status = _fields(_text(root, f"/proc/{pid}/status"))
    threads = re.search(rb"^Threads:\s+(\d{1,7})$", _text(root, f"/proc/{pid}/status"), re.MULTILINE)
    kills, kill_off = _kills(root, limits)
    return Surroundings(
        environ=environ,
        limits=limits,
        policy_error=policy_error,
        used_bytes=_used(root, limits),
        rss_bytes=status.get("VmRSS"),
        total_bytes=meminfo.get("MemTotal"),
        swap_total_bytes=meminfo.get("SwapTotal"),
        swap_free_bytes=meminfo.get("SwapFree"),
        commit_limit_bytes=meminfo.get("CommitLimit"),
        committed_bytes=meminfo.get("Committed_AS"),
        overcommit=_number(_text(root, "/proc/sys/vm/overcommit_memory")),
        huge_pages=_chosen(_text(root, "/sys/kernel/mm/transparent_hugepage/enabled")),
        cpus=_cpus(root),
        threads=int(threads[1]) if threads is not None and pid != "self" else None,
        allocator=allocator_of(_text(root, f"/proc/{pid}/maps")),
        missing_preloads=_missing(root, environ),
        tmpfs=_tmpfs(root, pid, environ),
        kills=kills,
        kill_off=kill_off,
    )


def allocator_of(maps: bytes) -> str | None:
    """Whose ``malloc`` a process uses, by what it has mapped; None when that cannot be told."""
    return next((name for name, pattern in _ALLOCATORS if pattern.search(maps)), None)


def _text(root: str, path: str) -> bytes:
    try:
        return read_file(root, path)
    except OSError:
        return b""


def _number(text: bytes) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(rb"\d{1,19}", text) else None


def _fields(text: bytes) -> dict[str, int]:
    """What meminfo and status give in kB, as bytes."""
    found = re.findall(rb"^(\w+):\s+(\d{1,15}) kB$", text, re.MULTILINE)
    return {name.decode(): int(count) * KIB for name, count in found}


def _chosen(text: bytes) -> str | None:
    match = re.search(rb"\[(\w+)\]", text)
    return match[1].decode() if match is not None else None


def _cpus(root: str) -> int:
    """CPUs of the machine, which is what glibc counts, whatever share of them the group may use."""
    text = _text(root, "/sys/devices/system/cpu/online").strip()
    if not re.fullmatch(rb"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", text):
        return os.cpu_count() or 1
    spans = [part.partition(b"-") for part in text.split(b",")]
    return max(1, sum(int(last or first) - int(first) + 1 for first, _, last in spans))


def _missing(root: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    named = re.split(r"[\s:]+", environ.get("LD_PRELOAD", "").strip())
    return tuple(name for name in named if name.startswith("/") and not os.path.exists(root.rstrip("/") + name))  # noqa: PTH110 - any bytes


def _used(root: str, limits: Findings) -> int | None:
    if limits.group is None:
        return None
    usage = "memory.current" if limits.group_version == _V2 else "memory.usage_in_bytes"
    used = _number(_text(root, f"{limits.group}/{usage}"))
    if used is None or limits.group_version is None:
        return None
    try:
        return max(0, used - page_cache_bytes(_text(root, f"{limits.group}/memory.stat"), limits.group_version))
    except ValueError:
        return used


def _kills(root: str, limits: Findings) -> tuple[int | None, bool]:
    """How often the kernel killed in this group, and whether it may not (v1 then lets the group hang instead)."""
    name = "memory.events" if limits.group_version == _V2 else "memory.oom_control"
    text = _text(root, f"{limits.group}/{name}") if limits.group is not None else b""
    kills = re.search(rb"^oom_kill (\d{1,18})$", text, re.MULTILINE)
    off = re.search(rb"^oom_kill_disable 1$", text, re.MULTILINE)
    return int(kills[1]) if kills is not None else None, off is not None


def _tmpfs(root: str, pid: str, environ: Mapping[str, str]) -> tuple[Tmpfs, ...]:
    written = [*_WRITTEN, *filter(None, (environ.get(name, "").rstrip("/") for name in ("TMPDIR", "TEMP", "TMP")))]
    mounts = {point: (kinds[0], kinds[2]) for _, point, kinds in mounted(_text(root, f"/proc/{pid}/mountinfo"))}
    found: dict[str, Tmpfs] = {}
    for path in written:
        above = [point for point in mounts if path == point or path.startswith(point.rstrip("/") + "/")]
        point = max(above, key=len, default="")
        if point and mounts[point][0] in {b"tmpfs", b"ramfs"}:
            found[point] = Tmpfs(
                point=printable(point),
                max_bytes=_size(mounts[point][1]),
                used_bytes=_taken(point) if root == "/" else None,
            )
    return tuple(found.values())


def _size(options: bytes) -> int | None:
    match = re.search(rb"(?:^|,)size=(\d{1,15})([kmg]?)(?:,|$)", options)
    return int(match[1]) * _SCALES[match[2]] if match is not None else None


def _taken(point: str) -> int | None:
    try:
        stat = os.statvfs(point)
    except OSError:
        return None
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
