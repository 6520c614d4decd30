"""A logging handler added in each request."""

from __future__ import annotations

import logging

NAMES = ("planted_log_handler.LOG.handlers", "logging")
"""What the first answer must name, one of them."""

LOG = logging.getLogger("planted_log_handler")


def work(_number: int) -> None:
    """One request."""
    LOG.addHandler(logging.NullHandler())  # LEAK


def tidy() -> None:
    """Take them out again."""
    LOG.handlers.clear()
