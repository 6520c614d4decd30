"""Usage from /proc: this process and its children, its mappings, the machine.

Fields of /proc/<pid>/statm and /proc/meminfo: proc(5). Reading statm by a kept descriptor takes 1 to 2 µs.
"""

from __future__ import annotations

import os

from memguard.probes.children import ChildrenProbe
from memguard.probes.files import KeptFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

__all__ = ["HostProbe", "MappedProbe", "TreeProbe"]

_STATM_BYTES = 128
_MALFORMED = "/proc/self/statm holds too few fields"
# MemTotal, MemFree and MemAvailable are the first three lines: 84 bytes, three words each.
_MEMINFO_BYTES = 160
_MEMINFO_WORDS = 9


class TreeProbe:
    """Reads the resident memory of this process plus what its children held at the last ``refresh()``.

    Children count without their shared pages; pages that a forked child still shares with its parent by
    copy-on-write count in both (the kernel does not tell them apart cheaply).
    """

    __slots__ = ("_children", "_page_bytes", "_statm", "children_bytes", "source")

    def __init__(self, *, root: str = "/", children: Callable[[], int] | None = None) -> None:
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._children = ChildrenProbe(root=root).read if children is None else children
        self._statm = KeptFile(root, "/proc/self/statm")
        self.children_bytes: int = 0
        self.source: str = "resident memory of this process and its children (statm)"

    def read(self) -> int:
        """Bytes held now by this process, and by its children when they were last looked at."""
        try:
            return int(self._statm.read(_STATM_BYTES).split(b" ", 2)[1]) * self._page_bytes + self.children_bytes
        except IndexError:
            raise ValueError(_MALFORMED) from None

    def refresh(self) -> None:
        """Look at the children anew; at a slow pace, it costs tens of microseconds for each child."""
        self._statm.check()
        self.children_bytes = self._children()

    def close(self) -> None:
        """Give the descriptor back."""
        self._statm.close()


class MappedProbe:
    """Reads what RLIMIT_AS or RLIMIT_DATA count: mapped bytes, resident or not.

    ``"data"`` includes the main thread's stack (8 MiB at most by default), which RLIMIT_DATA does not count.
    """

    __slots__ = ("_index", "_page_bytes", "_statm", "source")

    def __init__(self, usage: Literal["address-space", "data"], *, root: str = "/") -> None:
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._index = 0 if usage == "address-space" else 5
        self._statm = KeptFile(root, "/proc/self/statm")
        what = "address space" if usage == "address-space" else "private writable mappings"
        self.source: str = f"{what} of this process (statm)"

    def read(self) -> int:
        """Bytes mapped now."""
        try:
            return int(self._statm.read(_STATM_BYTES).split(b" ")[self._index]) * self._page_bytes
        except IndexError:
            raise ValueError(_MALFORMED) from None

    def refresh(self) -> None:
        """See that the descriptor is still ours."""
        self._statm.check()

    def close(self) -> None:
        """Give the descriptor back."""
        self._statm.close()


class HostProbe:
    """Reads what of the machine's memory is not available: MemTotal minus MemAvailable (page cache is available)."""

    __slots__ = ("_meminfo", "source")

    def __init__(self, *, root: str = "/") -> None:
        self._meminfo = KeptFile(root, "/proc/meminfo")
        self.source: str = "memory of the whole machine (MemTotal - MemAvailable)"

    def read(self) -> int:
        """Bytes that are not available now."""
        fields = self._meminfo.read(_MEMINFO_BYTES).split()
        if len(fields) < _MEMINFO_WORDS or fields[0] != b"MemTotal:" or fields[6] != b"MemAvailable:":
            raise ValueError("/proc/meminfo does not start with MemTotal, MemFree, MemAvailable")
        return max(0, int(fields[1]) - int(fields[7])) * 1024

    def refresh(self) -> None:
        """See that the descriptor is still ours."""
        self._meminfo.check()

    def close(self) -> None:
        """Give the descriptor back."""
        self._meminfo.close()
