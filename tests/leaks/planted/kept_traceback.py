"""Errors that are kept, with their tracebacks and all locals."""

from __future__ import annotations

NAMES = ("planted_kept_traceback.ERRORS",)
"""What the first answer must name, one of them."""

ERRORS: list[Exception] = []


def _fail(number: int) -> None:
    body = [number] * 200
    raise ValueError(len(body))


def work(number: int) -> None:
    """One request."""
    try:
        _fail(number)
    except ValueError as error:
        ERRORS.append(error)  # LEAK
