"""Cycles whose finalizer keeps them."""

from __future__ import annotations

import gc

NAMES = ("planted_resurrected_cycle.LIMBO",)
"""What the first answer must name, one of them."""

LIMBO: list[Node] = []


class Node:
    """It refers to itself, and comes back when it is collected."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.me = self

    def __del__(self) -> None:
        LIMBO.append(self)  # LEAK


def work(number: int) -> None:
    """One request."""
    Node(number)
    if number % 50 == 0:
        gc.collect()
