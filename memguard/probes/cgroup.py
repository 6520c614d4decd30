"""Usage of a memory cgroup as the kernel's killer sees it: page cache left out, children and tmpfs counted.

Before it kills, the kernel drops file pages, so the distance to the kill is usage - inactive_file -
active_file. Shared memory and tmpfs sit on the anonymous lists: they stay counted. Raw usage taken for "used"
closed one public gateway for 26 minutes without any pressure.
"""

from __future__ import annotations

from memguard.probes.files import KeptFile

__all__ = ["CgroupProbe", "page_cache_bytes"]

_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
_PREFIX = {1: b"\ntotal_", 2: b"\n"}
# memory.stat of v2 on Linux 6.18 is about 2 KiB; one read must hold it whole.
_STAT_BYTES = 16384


def _field(stat: bytes, key: bytes) -> int:
    start = stat.find(key)
    if start < 0:
        raise ValueError(f"memory.stat holds no {key.strip().decode()}")
    start += len(key)
    end = stat.find(b"\n", start)
    return int(stat[start:end] if end >= 0 else stat[start:])


def page_cache_bytes(stat: bytes, version: int) -> int:
    r"""The file pages that the kernel drops before it kills, from a memory.stat; ValueError when it does not tell.

    >>> page_cache_bytes(b"anon 7\ninactive_file 8192\nactive_file 4096\n", 2)
    12288
    """
    stat = b"\n" + stat
    prefix = _PREFIX[version]
    return _field(stat, prefix + b"inactive_file ") + _field(stat, prefix + b"active_file ")


class CgroupProbe:
    """Reads a group's usage without page cache, at exactly the level that ``path`` names.

    Below ``exact_above_bytes`` of raw usage the page cache of the last look is taken, for what is subtracted cannot
    matter there (used is never above raw usage); from there on memory.stat is read each time, 6 to 10 µs.
    """

    __slots__ = ("_exact_above_bytes", "_stat", "_usage", "_version", "page_cache_bytes", "source")

    def __init__(self, path: str, *, version: int, exact_above_bytes: int = 0, root: str = "/") -> None:
        directory = path.rstrip("/")
        self._version = version
        self._exact_above_bytes = exact_above_bytes
        self._usage = KeptFile(root, f"{directory}/{_USAGE[version]}")
        self._stat = KeptFile(root, f"{directory}/memory.stat")
        self.page_cache_bytes: int = 0
        self.source: str = f"usage of cgroup v{version} {path} without page cache"

    def read(self) -> int:
        """Bytes used now; OSError when the group is gone, ValueError when its files make no sense."""
        usage = int(self._usage.read(32))
        if usage >= self._exact_above_bytes:
            self.page_cache_bytes = page_cache_bytes(self._stat.read(_STAT_BYTES), self._version)
        return max(0, usage - self.page_cache_bytes)

    def refresh(self) -> None:
        """Look at the page cache anew."""
        self._usage.check()
        self._stat.check()
        self.page_cache_bytes = page_cache_bytes(self._stat.read(_STAT_BYTES), self._version)

    def close(self) -> None:
        """Give both descriptors back."""
        self._usage.close()
        self._stat.close()
