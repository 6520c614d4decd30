"""A defaultdict that makes an entry whenever it is asked."""

from __future__ import annotations

from collections import defaultdict

NAMES = ("planted_defaultdict_probing.BY_USER",)
"""What the first answer must name, one of them."""

BY_USER: defaultdict[str, list[int]] = defaultdict(list)


def work(number: int) -> None:
    """One request."""
    if BY_USER[f"user {number}"]:  # LEAK
        raise AssertionError
