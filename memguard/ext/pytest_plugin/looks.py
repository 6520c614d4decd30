"""One look at the process: what Python and the C heap hold, and what is resident."""

from __future__ import annotations

import gc
import linecache
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memguard.leaks.native import resident_bytes
from memguard.mallinfo import malloc_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Look", "PureCaches", "look", "settle", "young"]

# Functions of the standard library that empty a cache without any other effect; those of modules that are loaded.
_EMPTIES: Final = (
    ("re", "purge"), ("struct", "_clearcache"), ("urllib.parse", "clear_cache"), ("fnmatch", "_compile_pattern"),
    ("filecmp", "clear_cache"),
)  # fmt: skip


class Look(NamedTuple):
    """What there is at one instant: Python's blocks, bytes that malloc has handed out, resident bytes.

    ``malloc_bytes`` is 0 with another C library than glibc 2.33 or newer.
    """

    blocks: int
    malloc_bytes: int
    rss_bytes: int


def look() -> Look:
    """Read all three; about 40 us."""
    malloc = malloc_bytes()
    return Look(sys.getallocatedblocks(), 0 if malloc is None else malloc[0], resident_bytes())


class PureCaches:
    """Caches that may be emptied at any time without effect: what they take in is nobody's leak."""

    def __init__(self) -> None:
        self._lines: dict[str, Any] = dict(linecache.cache)

    def empty(self) -> None:
        """Empty those of the standard library; source lines are put back as they were."""
        lines: dict[str, Any] = linecache.cache
        for name in lines.keys() - self._lines.keys():
            lines.pop(name, None)
        for home, name in _EMPTIES:
            empty = getattr(sys.modules.get(home), name, None)
            empty = getattr(empty, "cache_clear", empty)
            if empty is not None:
                empty()
        for clear in list(getattr(sys.modules.get("typing"), "_cleanups", ())):
            clear()


def settle(caches: PureCaches, *, full: bool) -> None:
    """Let go of what is garbage, or as good as that."""
    caches.empty()
    gc.collect(2 if full else 1)


@contextmanager
def young(*, quick: bool) -> Iterator[None]:
    """While it lasts a collection looks only at what is made meanwhile: microseconds instead of 100 ms and more.

    What was there before is set aside (``gc.freeze``) and put back; where somebody has set objects aside himself, or it
    is not to be ``quick``, nothing is done.
    """
    if not quick or gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
