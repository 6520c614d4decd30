"""What glibc's malloc says of itself: bytes handed out, and bytes that it has mapped and does not use."""

from __future__ import annotations

from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["malloc_bytes"]

# struct mallinfo2 of malloc.h; all size_t.
_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


def malloc_bytes() -> tuple[int, int] | None:
    """Bytes handed out, blocks that are mapped by themselves included, and bytes in free chunks of the heaps.

    None with another C library than glibc 2.33 or newer (mallinfo2(3)). Costs as much as an idle trim, holds each
    arena's lock meanwhile, and counts free chunks whose pages the kernel has back already. Python's own arenas, where
    objects up to 512 bytes live, are not seen.
    """
    call = _mallinfo2()
    if call is None:
        return None
    found = call()
    return int(found.uordblks) + int(found.hblkhd), int(found.fordblks)


@cache
def _mallinfo2() -> Callable[[], Any] | None:
    """The call, with the structure that it returns; made once, for a class is some thirty objects."""
    import ctypes  # noqa: PLC0415 - a started guard does without it

    class Mallinfo2(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)

    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):  # musl, macOS, glibc before 2.33
        return None
    mallinfo2.restype = Mallinfo2
    call: Callable[[], Any] = mallinfo2
    return call
