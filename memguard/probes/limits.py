"""How much memory this process may use: every limit that holds, each with its source in words.

Method: cgroup v1 and v2 documents of the kernel (Documentation/admin-guide/cgroup-v1/memory.rst,
cgroup-v2.rst), getrlimit(2), and the mistakes of others: parents ignored, v1 ignored on hybrid machines,
memory.low taken for a limit, usage read at the leaf against an ancestor's limit.
"""

from __future__ import annotations

import re

from memguard.model import Limit
from memguard.probes.files import printable, read_file, read_number
from memguard.probes.mounts import Home, find_home, memberships, memory_mounts
from memguard.units import MIB, format_bytes
from memguard.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from memguard.kinds import LimitKind, Usage

__all__ = ["Findings", "find_limits"]

# 2**62 and above is how cgroup v1, getrlimit and Java write "no limit" (v1: 2**63 rounded down to a page).
_UNLIMITED: Final = 1 << 62
_V2: Final = 2
# Measures of resident memory; the others count what is mapped, which may well exceed the machine.
_RESIDENT: Final = frozenset({"tree", "cgroup"})
_LAMBDA: Final = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
_FILES: Final[Mapping[int, tuple[tuple[str, LimitKind], ...]]] = {
    1: (("memory.limit_in_bytes", "kill"),),
    2: (("memory.max", "kill"), ("memory.high", "throttle")),
}
_RLIMITS: Final[tuple[tuple[str, Usage, bytes], ...]] = (
    ("RLIMIT_AS", "address-space", rb"^Max address space\s+(\S+)"),
    ("RLIMIT_DATA", "data", rb"^Max data size\s+(\S+)"),
)


@value
class Findings:
    """What a search for limits found: the limits, and in ``notes`` what was odd, in words.

    Limits come in this order: policy, cgroup levels innermost first, Lambda, rlimits, the machine.
    ``group`` is the directory of this process's own memory group, limited or not (None: there is none), and
    ``group_version`` 1 or 2. Two searches with the same outcome are equal.
    """

    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()
    group: str | None = None
    group_version: int | None = None


def find_limits(  # noqa: PLR0913 - each is a source of its own, named by the caller
    *,
    root: str = "/",
    environ: Mapping[str, str],
    policy_bytes: int | None = None,
    policy_source: str = "",
    pid: str = "self",
    rlimits: Mapping[str, int] | None = None,
) -> Findings:
    """Every memory limit that holds for a process now.

    ``policy_bytes`` is the operator's own limit and ``policy_source`` where it was set. ``rlimits`` gives
    "RLIMIT_AS" and "RLIMIT_DATA" in bytes (negative: none) instead of what the process has now: a guard that
    set a limit itself passes what was there before. ``root`` is put before /proc and /sys.

    A machine's total memory is a limit only when nothing tighter is known about resident memory: not beside
    a policy, cgroup or Lambda limit. Never raises for what the files hold: that becomes a note.
    """
    search = _Search(root=root, pid=pid)
    search.policy(policy_bytes, policy_source)
    search.cgroups()
    search.function(environ)
    search.resources(rlimits)
    search.idle_policy()
    search.machine()
    return Findings(
        limits=tuple(search.limits),
        notes=tuple(dict.fromkeys(search.notes)),
        group=search.group,
        group_version=search.group_version,
    )


class _Search:
    """One search: gathers limits and notes while it goes from source to source."""

    def __init__(self, *, root: str, pid: str) -> None:
        self.root = root
        self.pid = pid
        self.limits: list[Limit] = []
        self.notes: list[str] = []
        self.group: str | None = None
        self.group_version: int | None = None
        self.total_bytes = self._total()

    def _read(self, path: str) -> bytes:
        try:
            return read_file(self.root, path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            self.notes.append(f"{printable(path)} cannot be read: {error.strerror}")
            return b""

    def _total(self) -> int | None:
        text = self._read("/proc/meminfo")
        match = re.search(rb"^MemTotal:\s+(\d{1,15}) kB$", text, re.MULTILINE)
        if match is not None and int(match[1]) > 0:
            return int(match[1]) * 1024
        if text:
            self.notes.append("/proc/meminfo holds no MemTotal: the machine's size is unknown")
        elif self.root == "/":
            from memguard.probes.portable import total_bytes  # noqa: PLC0415 - psutil, only where there is no /proc

            return total_bytes()
        return None

    def _add(self, limit: Limit) -> None:
        """Take a limit down; above the machine's memory it counts as the machine's memory."""
        if limit.bytes <= 0:
            self.notes.append(f"{limit.source} is {limit.bytes} bytes: ignored, no process fits into it")
            return
        if limit.usage in _RESIDENT and self.total_bytes is not None and limit.bytes > self.total_bytes:
            has, wanted = format_bytes(self.total_bytes), format_bytes(limit.bytes)
            self.notes.append(f"{limit.source} is {wanted}, more than the machine's {has}: it counts as {has}")
            limit = replace(limit, bytes=self.total_bytes)
        self.limits.append(limit)

    def policy(self, count: int | None, source: str) -> None:
        if count is not None:
            shown = f"policy limit from {source}" if source else "policy limit"
            self._add(Limit(bytes=count, kind="policy", source=shown))

    def cgroups(self) -> None:
        mountinfo = self._read(f"/proc/{self.pid}/mountinfo")
        member = self._read(f"/proc/{self.pid}/cgroup")
        mounts = memory_mounts(mountinfo)
        homes = [
            home
            for version, path in memberships(member)
            if (home := find_home(self.root, mounts, version, path)) is not None
        ]
        if member and not homes:
            self.notes.append("no memory cgroup is mounted: only limits from elsewhere are known")
        seen = [home for home in homes if self._levels(home)]
        if homes and not seen:
            # Only then: on a hybrid machine one of the two trees never has memory files.
            self.notes.extend(home.note for home in homes if home.note)
            where = ", ".join(printable(home.path) for home in homes)
            self.notes.append(f"no memory files in {where} or above: the memory controller is off here")

    def _levels(self, home: Home) -> bool:
        """Take down the limits of a group and its visible ancestors; False when none has memory files."""
        version = home.mount.version
        levels = [
            (name, directory, values)
            for name, directory in home.levels()
            if (values := self._level(directory, version)) is not None
        ]
        if not levels:
            return False
        inmost, outmost = levels[0][1], levels[-1][1]
        if self.group is None:
            self.group, self.group_version = inmost, version
        if home.note:
            self.notes.append(home.note)
        for name, directory, values in levels:
            shown = f"cgroup v{version} {printable(name)}"
            if values and directory != inmost and self._counts_itself_only(directory):
                self.notes.append(f"{shown} does not count its children: its limit is ignored")
                continue
            for file, kind, count in values:
                source = f"{shown} {file}"
                self._add(Limit(bytes=count, kind=kind, source=source, usage="cgroup", path=directory, version=version))
                if kind == "throttle":
                    self.notes.append(f"{source} is set: above it the kernel stalls the group nearly to a stop")
        if version == 1:
            self._hidden_v1(levels[0][0], inmost, outmost)
        elif outmost == home.mount.point:
            self._hidden_v2(inmost, outmost)
        return True

    def _level(self, directory: str, version: int) -> list[tuple[str, LimitKind, int]] | None:
        """The finite limits that one level's files hold; None when it has no such files."""
        finite: list[tuple[str, LimitKind, int]] = []
        absent = 0
        for name, kind in _FILES[version]:
            path = f"{directory.rstrip('/')}/{name}"
            try:
                count = read_number(self.root, path)
            except FileNotFoundError:
                absent += 1
            except OSError as error:
                self.notes.append(f"{printable(path)} cannot be read: {error.strerror}")
            except ValueError as error:
                self.notes.append(f"{printable(path)} {error}: ignored")
            else:
                if count is not None and count < _UNLIMITED:
                    finite.append((name, kind, count))
        return None if absent == len(_FILES[version]) else finite

    def _counts_itself_only(self, directory: str) -> bool:
        return self._read(f"{directory}/memory.use_hierarchy").strip() == b"0"

    def _tightest_kill(self) -> int:
        kills = (limit.bytes for limit in self.limits if limit.kind == "kill" and limit.usage in _RESIDENT)
        return min(kills, default=_UNLIMITED)

    def _hidden_v1(self, name: str, inmost: str, outmost: str) -> None:
        """A v1 group tells the tightest limit above it, even of ancestors outside this container's view."""
        stat = self._read(f"{inmost}/memory.stat")
        match = re.search(rb"^hierarchical_memory_limit (\d{1,19})$", stat, re.MULTILINE)
        if match is not None and int(match[1]) < self._tightest_kill():
            source = f"cgroup v1 {printable(name)} hierarchical_memory_limit, set at a level that cannot be read"
            count = int(match[1])
            self._add(Limit(bytes=count, kind="kill", source=source, usage="cgroup", path=outmost, version=1))
            self.notes.append(f"{source}: what that level uses cannot be seen, {printable(outmost)} is read instead")

    def _hidden_v2(self, inmost: str, outmost: str) -> None:
        """In a cgroup namespace an ancestor's limit (a pod's) is invisible; the real root has no memory.max."""
        if any(limit.kind == "kill" and limit.version == _V2 for limit in self.limits):
            return
        events = self._read(f"{inmost}/memory.events")
        kills = re.search(rb"^oom_kill ([1-9]\d{0,18})$", events, re.MULTILINE)
        told = f" (the kernel has already killed {int(kills[1])} here)" if kills else ""
        self.notes.append(
            f"the groups above {printable(outmost)} are out of sight{told}: a limit there, as a pod's, cannot be seen; "
            "set API_MAX_MEMORY_MB"
        )

    def function(self, environ: Mapping[str, str]) -> None:
        text = environ.get(_LAMBDA, "").strip()
        if not text:
            return
        if re.fullmatch(r"[0-9]{1,12}", text):
            self._add(Limit(bytes=int(text) * MIB, kind="kill", source=f"environment {_LAMBDA}"))
        else:
            self.notes.append(f"environment {_LAMBDA} is {text[:40]!r}, not a number of MiB: ignored")

    def resources(self, rlimits: Mapping[str, int] | None) -> None:
        """Soft limits of the process; above the machine's memory they still hold, they count what is mapped."""
        if rlimits is None:
            rlimits = self._rlimits_now()
        for name, usage, _ in _RLIMITS:
            count = rlimits.get(name, -1)
            # Nobody but a fuse sets an odd one: it follows the limits (memguard.fuse), and is none.
            if 0 <= count < _UNLIMITED and not count & 1:
                self._add(Limit(bytes=count, kind="kill", source=f"{name} of this process", usage=usage))

    def _rlimits_now(self) -> dict[str, int]:
        text = self._read(f"/proc/{self.pid}/limits")
        found: dict[str, int] = {}
        for name, _, pattern in _RLIMITS:
            match = re.search(pattern, text, re.MULTILINE)
            if match is not None and re.fullmatch(rb"\d{1,20}", match[1]):
                found[name] = int(match[1])
            elif text and (match is None or match[1] != b"unlimited"):
                self.notes.append(f"/proc/{self.pid}/limits tells no {name}")
        return found

    def idle_policy(self) -> None:
        tightest = self._tightest_kill()
        for limit in self.limits:
            if limit.kind == "policy" and limit.bytes > tightest:
                has = format_bytes(tightest)
                self.notes.append(f"{limit.source}, {format_bytes(limit.bytes)}, is above the kill limit of {has}")

    def machine(self) -> None:
        bound = any(limit.usage in _RESIDENT and limit.kind != "throttle" for limit in self.limits)
        if self.total_bytes is not None and not bound:
            source = "the machine's memory (MemTotal)"
            self._add(Limit(bytes=self.total_bytes, kind="host", source=source, usage="host"))
