"""A list that every instance shares."""

from __future__ import annotations

NAMES = ("planted_class_attribute.Session.history",)
"""What the first answer must name, one of them."""


class Session:
    """It means its own history and has that of all."""

    history: list[tuple[int, str]] = []  # noqa: RUF012 - the leak

    def note(self, number: int) -> None:
        """Write it down."""
        self.history.append((number, f"note {number}"))  # LEAK


def work(number: int) -> None:
    """One request."""
    Session().note(number)
