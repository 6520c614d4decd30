"""The digits of each integer beyond 64 bits are copied into a buffer that nobody frees, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "ujson", "5.11.0", "5.12.0"
KIND, BYTES = "refcount", 910
RIGHT = ("# RIGHT",)


def service() -> Callable[[], object]:
    """Bodies with a large integer, parsed."""
    import ujson  # noqa: PLC0415

    body = '{"id": ' + "7" * 900 + "}"

    def request() -> object:
        return ujson.loads(body)["id"]  # RIGHT

    return request
