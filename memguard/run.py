"""``memguard run``: a program under a guard, from outside; with ``--diagnose`` it says at its end what leaked."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from memguard.errors import MemguardError
from memguard.guard import Guard
from memguard.leaks.files import writable, write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from memguard.findings import LeakReport

__all__ = ["main"]

# Windows grow, so that a program of seconds is diagnosed as well as one of hours.
_FIRST_S, _LONGEST_S = 4.0, 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a program; its own exit status.

    Raises:
        MemguardError: there is no such program, or the report cannot be written.
    """
    options = _options(argv)
    if options.report is not None:
        writable(options.report)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - text, as Python itself puts it there
    program = _program(options.target)
    sys.argv[:] = [options.target, *options.arguments]
    with Guard(limit=options.limit) as guard:
        if not options.diagnose:
            return _run(program)
        diagnosis = _Diagnosis(guard)
        diagnosis.start()
        try:
            return _run(program)
        finally:
            report = diagnosis.end()
            if report is not None:
                _tell(report)
                if options.report is not None:
                    write(options.report, report)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="memguard run",
        description="Runs MODULE:FUNCTION under a guard. With --diagnose the process is examined in windows of 4 to "
        "60 s (slower meanwhile), and at the end, and on SIGUSR1, stderr says what leaked.",
    )
    parser.add_argument("--diagnose", action="store_true", help="say at the end what leaked")
    parser.add_argument("--report", metavar="FILE", help="write the report there too: .html, .txt or .json")
    parser.add_argument("--limit", default="auto", help="what to guard against: 'auto' or an amount like 512MiB")
    parser.add_argument("target", metavar="MODULE:FUNCTION", help="what to run, like app:main")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the program's own")
    return parser.parse_args(argv)


def _program(target: str) -> Callable[[], object]:
    name, colon, attribute = target.partition(":")
    if not colon or not name or not attribute:
        raise MemguardError(f"{target!r} names no function: write MODULE:FUNCTION, like app:main")
    try:
        found: object = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module itself wants
        raise MemguardError(f"there is no module {name!r} here or on PYTHONPATH: run from its folder") from None
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise MemguardError(f"module {name!r} has no function {attribute!r}: write MODULE:FUNCTION, like app:main")
    return found


def _run(program: Callable[[], object]) -> int:
    """Run it as ``sys.exit(main())`` would; a coroutine is run to its end."""
    result = program()
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    if result is None or isinstance(result, int):
        return int(result or 0)
    print(result, file=sys.stderr)
    return 1


def _tell(report: LeakReport) -> None:
    print(f"\nmemguard: {report.text}", file=sys.stderr, flush=True)


class _Diagnosis:
    """Examines one window after another, each twice as long, until the program ends."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._windows, name="memguard-diagnose", daemon=True)
        self._last: LeakReport | None = None
        self._error = ""

    def start(self) -> None:
        with suppress(AttributeError, ValueError):  # no such signal here, or not the main thread
            signal.signal(signal.SIGUSR1, self._on_signal)
        self._thread.start()

    def end(self) -> LeakReport | None:
        """The last report; that of a window which the program's end cut short when there is no other."""
        self._stop.set()
        self._thread.join()
        if self._error:
            print(f"memguard: the diagnosis failed: {self._error}", file=sys.stderr)
        return self._last

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._last is not None:
            _tell(self._last)
        else:
            print("memguard: the first window is not over yet", file=sys.stderr, flush=True)

    def _windows(self) -> None:
        seconds = _FIRST_S
        try:
            while not self._stop.is_set():
                report = self._guard.diagnose(seconds=seconds, until=self._stop.wait)
                if self._last is None or not self._stop.is_set():
                    self._last = report
                self._stop.wait(seconds)
                seconds = min(2 * seconds, _LONGEST_S)
        except BaseException as error:  # noqa: BLE001 - the program goes on without a diagnosis
            self._error = f"{type(error).__name__}: {error}"
