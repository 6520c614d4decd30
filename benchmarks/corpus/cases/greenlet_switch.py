"""A greenlet that has ended keeps the first chunk of its frames (Python 3.11), mapped outside of the heap."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "greenlet", "2.0.0.post0", "2.0.1"
KIND, BYTES = "native", 4100
RIGHT = ("native memory",)


def service() -> Callable[[], object]:
    """A greenlet for each request."""
    import greenlet  # noqa: PLC0415

    def work(number: int) -> int:
        return number + 1

    def request() -> object:
        return greenlet.greenlet(work).switch(1)

    return request
