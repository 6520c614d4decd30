"""``memguard run``: a program under a guard, from outside; with ``--diagnose`` it says at its end what leaked."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from memguard.cli.printing import amount, duration, parser
from memguard.errors import MemguardError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from memguard.findings import LeakReport
    from memguard.guard import Guard

__all__ = ["main"]

# Windows grow, so that a program of seconds is diagnosed as well as one of hours.
_FIRST_S, _LONGEST_S = 4.0, 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a program, or after ``--`` any command under a supervisor; its own exit status.

    Raises:
        MemguardError: there is no such program, or the report cannot be written.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options, command = _options(arguments)
    if command is not None:
        from memguard.cli.supervise import supervise  # noqa: PLC0415 - a program inside needs none of it

        return supervise(
            command, max_bytes=options.max, grace_s=options.grace, as_json=options.json, inside=not options.outside
        )
    from memguard.guard import Guard  # noqa: PLC0415 - a supervisor needs neither
    from memguard.leaks.files import writable, write  # noqa: PLC0415 - as above

    if options.report is not None:
        writable(options.report)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - text, as Python itself puts it there
    program = _program(options.target)
    sys.argv[:] = [options.target, *options.arguments]
    guard = Guard(limit=options.limit)
    guard.gives_way = not options.diagnose  # to one of the program's own
    with guard:
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


def _options(arguments: list[str]) -> tuple[argparse.Namespace, list[str] | None]:
    """The options, and the command after ``--`` (None: a program of ours)."""
    parsed = _parser()
    first = arguments.index("--") if "--" in arguments else len(arguments)
    options = parsed.parse_args(arguments[:first])
    if options.target is not None:
        options = parsed.parse_args(arguments)  # what follows is the program's own, "--" too
        if options.max is not None or options.json or options.outside:
            parsed.error("--max, --outside and --json are for commands: memguard run --max 512MiB -- COMMAND")
        return options, None
    if first == len(arguments):
        parsed.error("name what to run: MODULE:FUNCTION, like app:main, or after -- any command")
    if options.diagnose or options.report or options.limit != "auto":
        parsed.error("--diagnose, --report and --limit are for MODULE:FUNCTION; a command takes --max, --grace, --json")
    return options, arguments[first + 1 :]


def _parser() -> argparse.ArgumentParser:
    parsed = parser(
        "run",
        "Runs MODULE:FUNCTION under a guard in its own process; with --diagnose it is examined in windows of 4 to 60 s "
        "(slower meanwhile), and at its end, and on SIGUSR1, stderr says what leaked. After -- any command runs under "
        "a supervisor, which tells on stderr when the command and its children cross 70, 80, 90 and 95 % of the limit; "
        "a Python program (python …, gunicorn, uvicorn, celery, any script for Python) gets a guard inside, too.",
        examples=(
            ("memguard run app:main", "app.py's main(), guarded against the limit that is found"),
            ("memguard run --diagnose --report leaks.html app:main", "and what leaked"),
            ("memguard run -- gunicorn -w 4 app:app", "a server that does not know us: a guard in each worker"),
            (
                "memguard run --max 512MiB --grace 5 -- ./batch.sh",
                "and end it above 512 MiB: SIGTERM, 5 s later SIGKILL",
            ),
        ),
        ends=(
            "the program's or command's own; 128+N when signal N ended it\n"
            "2    there is no such program, or the call makes no sense\n"
            "126  the command cannot be run\n127  there is no such command\n137  it was ended because of --max"
        ),
    )
    inside = parsed.add_argument_group("for MODULE:FUNCTION")
    inside.add_argument("--diagnose", action="store_true", help="say at the end what leaked")
    inside.add_argument("--report", metavar="FILE", help="write the report there too: .html, .txt or .json")
    inside.add_argument("--limit", default="auto", help="what to guard against: 'auto' or an amount like 512MiB")
    outside = parsed.add_argument_group("for a command after --")
    outside.add_argument("--max", type=amount, metavar="BYTES", help="end it above that, like 512MiB")
    outside.add_argument("--grace", type=duration, default=10.0, metavar="S", help="between SIGTERM and SIGKILL (10 s)")
    outside.add_argument("--outside", action="store_true", help="no guard inside, even of a Python program")
    outside.add_argument("--json", action="store_true", help="what is told on stderr as JSON, a line each")
    parsed.add_argument("target", nargs="?", metavar="MODULE:FUNCTION", help="what to run, like app:main")
    parsed.add_argument("arguments", nargs=argparse.REMAINDER, help="the program's own")
    return parsed


def _program(target: str) -> Callable[[], object]:
    name, colon, attribute = target.partition(":")
    if not colon or not name or not attribute:
        raise MemguardError(
            f"{target!r} names no function: write MODULE:FUNCTION, like app:main; a command goes after --"
        )
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
        import asyncio  # noqa: PLC0415 - 11 MiB that most programs do without

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
