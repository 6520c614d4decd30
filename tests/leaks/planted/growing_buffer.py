"""A buffer that is only extended."""

from __future__ import annotations

NAMES = ("planted_growing_buffer.LOG",)
"""What the first answer must name, one of them."""

LOG = bytearray()


def work(number: int) -> None:
    """One request."""
    LOG.extend(b"request %d\n" % number)  # LEAK
