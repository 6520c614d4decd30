"""A list of a module that is only appended to."""

from __future__ import annotations

NAMES = ("planted_module_list.JOBS",)
"""What the first answer must name, one of them."""

JOBS: list[Job] = []


class Job:
    """What is kept."""

    def __init__(self, number: int) -> None:
        self.text = f"job {number}"


def work(number: int) -> None:
    """One request."""
    JOBS.append(Job(number))  # LEAK
