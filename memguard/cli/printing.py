"""What the commands print with: options with examples, lines of 80 columns, a progress line for people."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from memguard.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["Progress", "amount", "duration", "paragraph", "parser", "print_json", "settle_output", "table", "width"]

# Nobody waits for what takes less.
_QUIET_S: Final = 2.0
_WIDEST, _NARROWEST = 100, 40


def parser(command: str, meaning: str, *, examples: Sequence[tuple[str, str]], ends: str) -> argparse.ArgumentParser:
    """A command's options; its help ends with examples and with what its exit status means."""
    lines = [f"  {line}\n      {what}" for line, what in examples]
    shown = "\n".join(["examples:", *lines, "", "exit status:", textwrap.indent(ends.strip(), "  ")])
    return argparse.ArgumentParser(
        prog=f"memguard {command}",
        description=textwrap.fill(meaning, 80),
        epilog=shown,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def settle_output() -> None:
    """Let no name that the terminal cannot write, of a file or a command, end a command of ours."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def amount(text: str) -> int:
    """An option's bytes, like 512MiB, above 0."""
    try:
        count = parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not count:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount to hold anything to: write it like '512MiB'")
    return count


def duration(text: str) -> float:
    """An option's seconds, like 5, 250ms or 2m."""
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def width() -> int:
    """Columns of the terminal, 80 where there is none."""
    return max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((80, 24)).columns))


def paragraph(label: str, text: str, *, indent: int = 2, hang: int = 8) -> str:
    """Text under a label, wrapped to the terminal."""
    first = f"{' ' * indent}{label:<{hang - indent}}" if label else " " * indent
    rest = " " * (hang if label else indent)
    return textwrap.fill(
        text, width(), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Rows in aligned columns; the last one is cut where the terminal ends."""
    if not rows:
        return []
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(wide[number]) if number in right else cell.ljust(wide[number]) for number, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    most = width()
    return [line if len(line) <= most else line[: most - 1] + "…" for line in lines]


def print_json(answer: Any) -> None:  # noqa: ANN401 - whatever JSON can say
    """One JSON document on stdout."""
    print(json.dumps(answer, indent=2))


class Progress:
    """A line on stderr that says what is going on, from the second second on; nothing unless a person looks at it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            self._thread = threading.Thread(target=self._show, name="memguard-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        shown = False
        while not self._done.wait(1.0 if shown else _QUIET_S):
            line = f"{self._what} … {time.monotonic() - self._began:.0f} s"
            sys.stderr.write(f"\r\x1b[K{line[: width() - 1]}")
            sys.stderr.flush()
            shown = True
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
