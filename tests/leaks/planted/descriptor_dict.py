"""A descriptor that keeps the values of every instance in a dict of its own."""

from __future__ import annotations

from typing import Any

NAMES = ("planted_descriptor_dict.Model.size", "Field", "values")
"""What the first answer must name, one of them."""


class Field:
    """It knows instances by themselves, and so keeps them."""

    def __init__(self) -> None:
        self.values: dict[Any, int] = {}

    def __get__(self, owner: Any, kind: type | None = None) -> int:
        return self.values[owner]

    def __set__(self, owner: Any, value: int) -> None:
        self.values[owner] = value  # LEAK


class Model:
    """Its size lives elsewhere."""

    size = Field()


def work(number: int) -> None:
    """One request."""
    Model().size = number
