"""Taking turns: long work lets others have the interpreter, and what it dropped dies a little at a time."""

from __future__ import annotations

from time import perf_counter, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["bury", "give_way"]

# Long work gives way after so many seconds, for long enough that whoever waits for a lock or the interpreter gets it: a
# lock that is released and taken again at once goes to nobody else. No more often than others need: a thread that fills
# a cache meanwhile takes every hole at once, and one of its entries keeps a whole arena.
_SLICE_S: Final = 0.002
_YIELD_S: Final = 0.00005
# What is dropped dies so many bytes at a time: some 0.2 ms of small objects.
_DYING_BYTES: Final = 128 << 10


def give_way(began: float) -> float:
    """Let others have the interpreter, and the lock, when a slice of work is over; when the present one began."""
    if perf_counter() - began < _SLICE_S:
        return began
    sleep(_YIELD_S)
    return perf_counter()


def bury(dead: list[Any], each_bytes: float, began: float) -> float:
    """Let what was dropped die, of so many bytes each, a few at a time, and others work between; as ``give_way``."""
    at_once = max(1, int(_DYING_BYTES / max(1.0, each_bytes)))
    while dead:
        del dead[-at_once:]
        began = give_way(began)
    return give_way(began)
