"""What the C allocator has mapped and does not use: read when memory was released and did not come back."""

from __future__ import annotations

__all__ = ["mapped_free_bytes"]

# struct mallinfo2 of malloc.h; all size_t.
_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


def mapped_free_bytes() -> int | None:
    """Bytes in free chunks of glibc's heaps (mallinfo2(3), fordblks); None with another allocator.

    Costs as much as an idle trim, holds each arena's lock meanwhile, and counts free chunks whose pages the kernel has
    back already. Python's own arenas, where objects up to 512 bytes live, are not seen.
    """
    import ctypes  # noqa: PLC0415 - a started guard does without it

    class Mallinfo2(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)

    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):  # musl, macOS, glibc before 2.33
        return None
    mallinfo2.restype = Mallinfo2
    return int(mallinfo2().fordblks)
