"""What a MultiDict is built from is never let go: one reference too many, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "multidict", "6.3.1", "6.3.2"
KIND, BYTES = "refcount", 98
RIGHT = ("# RIGHT",)


def service() -> Callable[[], object]:
    """Requests whose headers are put into a mapping."""
    from multidict import CIMultiDict  # noqa: PLC0415

    def request() -> object:
        headers = [("host", "example"), ("accept", "text/html"), ("cookie", "a=1; b=2")]  # RIGHT
        return CIMultiDict(headers)["Host"]  # RIGHT

    return request
