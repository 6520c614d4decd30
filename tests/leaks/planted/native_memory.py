"""Memory that a C library allocates and nobody gives back."""

from __future__ import annotations

import ctypes

NAMES = ("native",)
"""What the first answer must name, one of them."""

_C = ctypes.CDLL(None)
_C.malloc.restype = ctypes.c_void_p
_C.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_BYTES = 40_000


def work(_number: int) -> None:
    """One request."""
    _C.memset(_C.malloc(_BYTES), 1, _BYTES)  # LEAK
