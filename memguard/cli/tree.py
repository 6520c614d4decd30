"""What a process tree holds: private memory of each, or its proportional share where pages are shared.

Method: statm gives resident and shared pages for a few microseconds, smaps_rollup the proportional set size (proc(5))
for a millisecond and more: it is read only where the cheap bounds leave open which side of a mark the tree is on.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from memguard.probes.children import ChildrenProbe
from memguard.probes.files import read_file
from memguard.units import KIB

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Tree", "adopt_orphans"]

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent ends (prctl(2)), so that none leaves the tree; Linux only."""
    import ctypes  # noqa: PLC0415 - for this call alone

    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


class Tree:
    """All descendants of this process."""

    def __init__(self, *, root: str = "/") -> None:
        self._root = root
        self._children = ChildrenProbe(root=root)
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def pids(self) -> Sequence[int]:
        """Who is alive, parents before children; () where nobody can tell."""
        try:
            return self._children.pids()
        except OSError:
            return ()

    def used_bytes(self, *, exact_between: tuple[int, int] = (0, 0)) -> int:
        """What the tree holds.

        Exact whenever it may lie between these two marks; else an upper bound below the first, or what is private
        above the second.
        """
        pids = self.pids()
        resident = private = 0
        for pid in pids:
            with suppress(OSError, ValueError, IndexError):
                fields = read_file(self._root, f"/proc/{pid}/statm").split()
                resident += int(fields[1]) * self._page_bytes
                private += (int(fields[1]) - int(fields[2])) * self._page_bytes
        low, high = exact_between
        if resident < low or private >= high:
            return resident if resident < low else private
        return max(private, min(resident, sum(map(self._share, pids))))

    def _share(self, pid: int) -> int:
        try:
            text = read_file(self._root, f"/proc/{pid}/smaps_rollup")
            start = text.index(b"\nPss:") + 5
            return int(text[start : text.index(b"kB", start)]) * KIB
        except (OSError, ValueError):
            return 0
