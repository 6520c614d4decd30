"""Decoding a text longer than 64 KiB keeps the read buffer and the chunks, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "cbor2", "5.8.0", "5.9.0"
KIND, BYTES = "refcount", 16_400
RIGHT = ("# RIGHT",)


def service() -> Callable[[], object]:
    """Uploads of which one in eight carries a long text."""
    import itertools  # noqa: PLC0415

    import cbor2  # noqa: PLC0415

    short, long = cbor2.dumps("\u00e9"), cbor2.dumps("\u00e9" * 70_000)
    bodies = itertools.cycle([long] + [short] * 7)

    def request() -> object:
        return len(cbor2.loads(next(bodies)))  # RIGHT

    return request
