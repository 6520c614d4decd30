"""Keys and values of each RESP3 map that the parser returns are never let go: references too many, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "hiredis", "3.1.0", "3.2.0"
KIND, BYTES = "refcount", 760
RIGHT = ("# RIGHT",)


def service() -> Callable[[], object]:
    """Answers of a Redis server that are maps."""
    import hiredis  # noqa: PLC0415

    reader = hiredis.Reader()
    answer = b"%3\r\n+name\r\n$200\r\n" + b"n" * 200 + b"\r\n+mode\r\n+standalone\r\n+modules\r\n*1\r\n+json\r\n"

    def request() -> object:
        reader.feed(answer)
        return reader.gets()  # RIGHT

    return request
