"""How many workers a server will start, by what operators set: options of gunicorn, WEB_CONCURRENCY and the like."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Workforce", "find_workforce"]

# The first that is set wins: gunicorn and uvicorn let options go before WEB_CONCURRENCY.
_VARIABLES: Final = ("UVICORN_WORKERS", "GRANIAN_WORKERS", "WEB_CONCURRENCY")
_SHORT: Final = re.compile(r"-w(\d+)")


@value
class Workforce:
    """How many workers (1 where nobody says), by whose word; ``wrong`` tells of a setting that is no number."""

    count: int = 1
    source: str = ""
    wrong: str = ""


def find_workforce(environ: Mapping[str, str], *, asked: int | None = None, command: Sequence[str] = ()) -> Workforce:
    """The number that holds: ``asked``, the command line's, GUNICORN_CMD_ARGS, then the variables."""
    if asked is not None:
        return Workforce(count=asked, source="--workers")
    try:
        gunicorn = shlex.split(environ.get("GUNICORN_CMD_ARGS", ""))
    except ValueError as error:
        return Workforce(wrong=f"GUNICORN_CMD_ARGS={environ['GUNICORN_CMD_ARGS']!r} cannot be read: {error}")
    said = [("the command line", _option(command)), ("GUNICORN_CMD_ARGS", _option(gunicorn))]
    said += [(name, environ.get(name, "").strip()) for name in _VARIABLES]
    for source, text in said:
        if not text:
            continue
        if re.fullmatch(r"[1-9]\d{0,4}", text):
            return Workforce(count=int(text), source=source)
        return Workforce(wrong=f"{source} asks for {text[:40]!r} workers, which is no number above 0")
    return Workforce()


def _option(arguments: Sequence[str]) -> str:
    """The value of -w or --workers, the last one; "" when there is none."""
    found = ""
    for number, argument in enumerate(arguments):
        if argument in {"-w", "--workers"}:
            found = arguments[number + 1] if number + 1 < len(arguments) else ""
        elif argument.startswith("--workers="):
            found = argument.partition("=")[2]
        elif match := _SHORT.fullmatch(argument):
            found = match[1]
    return found
