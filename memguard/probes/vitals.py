"""What is looked at once a second beside the usage: swap, page cache, stalls, peaks, kernel kills."""

from __future__ import annotations

import os
import re

from memguard.model import Vitals
from memguard.probes.cgroup import page_cache_bytes
from memguard.probes.files import below, read_file
from memguard.probes.portable import portable_vitals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memguard.model import Limit

__all__ = ["VitalsReader"]

_V2 = 2
# A pod's v1 subtree may hold many groups; one look stays below 2 ms.
_MOST_GROUPS = 64


class VitalsReader:
    """Reads the vitals of this process, its memory group and the machine; None for whatever nobody tells.

    The group is the one whose limit is the tightest among ``limits``, or else ``group`` (``Findings.group``).
    Nothing is kept open, so it is right after a fork too. ``available_bytes`` and swap are the machine's,
    ``peak_bytes`` is this process's own (VmHWM), because a group's peak counts page cache.
    """

    def __init__(
        self,
        limits: Sequence[Limit] = (),
        *,
        group: str | None = None,
        group_version: int | None = None,
        root: str = "/",
    ) -> None:
        kills = [limit for limit in limits if limit.usage == "cgroup" and limit.kind == "kill"]
        if kills:
            tightest = min(kills, key=lambda limit: limit.bytes)
            group, group_version = tightest.path, tightest.version
        self._group = group.rstrip("/") if group is not None else None
        self._version = group_version or 0
        self._root = root
        self._portable = not os.path.exists(below(root, "/proc/self/statm"))  # noqa: PTH110 - one flavour of path

    def read(self, *, at: float, children_bytes: int | None = None) -> Vitals:
        """The vitals now; ``at`` is the monotonic instant, ``children_bytes`` what the tree's probe last saw."""
        known = portable_vitals() if self._portable else self._own()
        some, full = self._stalls()
        return Vitals(
            at=at,
            children_bytes=children_bytes,
            page_cache_bytes=self._page_cache(),
            psi_some_ratio=some,
            psi_full_ratio=full,
            oom_kills=self._kills(),
            **known,
        )

    def _text(self, path: str) -> bytes:
        try:
            return read_file(self._root, path)
        except OSError:
            return b""

    def _own(self) -> Mapping[str, int]:
        own = _kilobytes(self._text("/proc/self/status"))
        machine = _kilobytes(self._text("/proc/meminfo"))
        known = {
            "rss_bytes": own.get(b"VmRSS"),
            "peak_bytes": own.get(b"VmHWM"),
            "available_bytes": machine.get(b"MemAvailable"),
            "swap_total_bytes": machine.get(b"SwapTotal"),
        }
        if b"SwapTotal" in machine and b"SwapFree" in machine:
            known["swap_used_bytes"] = max(0, machine[b"SwapTotal"] - machine[b"SwapFree"])
        return {name: value for name, value in known.items() if value is not None}

    def _page_cache(self) -> int | None:
        if self._group is None:
            return None
        try:
            return page_cache_bytes(self._text(f"{self._group}/memory.stat"), self._version)
        except ValueError:
            return None

    def _stalls(self) -> tuple[float | None, float | None]:
        text = self._text(f"{self._group}/memory.pressure") if self._version == _V2 else b""
        text = text or self._text("/proc/pressure/memory")
        some = re.search(rb"^some avg10=(\d+\.\d+)", text, re.MULTILINE)
        full = re.search(rb"^full avg10=(\d+\.\d+)", text, re.MULTILINE)
        return (float(some[1]) / 100 if some else None), (float(full[1]) / 100 if full else None)

    def _kills(self) -> int | None:
        if self._group is None:
            return None
        if self._version == _V2:
            return _killed(self._text(f"{self._group}/memory.events"))
        # v1 counts a kill in the victim's own group alone, not in the group whose limit it was.
        groups = [self._group]
        for group in groups:
            if len(groups) < _MOST_GROUPS:
                groups.extend(self._below(group))
        counts = [_killed(self._text(f"{group}/memory.oom_control")) for group in groups[:_MOST_GROUPS]]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def _below(self, group: str) -> list[str]:
        try:
            with os.scandir(below(self._root, group)) as entries:
                return [f"{group}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []


def _killed(text: bytes) -> int | None:
    match = re.search(rb"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else None


def _kilobytes(text: bytes) -> dict[bytes, int]:
    """The "Name:   123 kB" lines of a /proc file, in bytes."""
    return {name: int(count) * 1024 for name, count in re.findall(rb"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
