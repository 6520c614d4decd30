"""Frames that are kept for a later look."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

NAMES = ("planted_kept_frame.FRAMES",)
"""What the first answer must name, one of them."""

FRAMES: list[FrameType] = []


def _here(number: int) -> None:
    body = f"{number}" * 100
    FRAMES.append(sys._getframe())  # LEAK
    del body


def work(number: int) -> None:
    """One request."""
    _here(number)
