"""Files that are opened and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES = ("planted_open_files.FILES",)
"""What the first answer must name, one of them."""

FILES: list[Any] = []
EACH = 5
"""Requests for one of them: a process may not have many open."""


def work(number: int) -> None:
    """One request."""
    if number % EACH == 0:
        FILES.append(Path(__file__).open(encoding="utf-8"))  # noqa: SIM115 - the leak  # LEAK


def tidy() -> None:
    """Close them."""
    while FILES:
        FILES.pop().close()
