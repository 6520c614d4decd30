"""JSON lines: every event as one line of a file, for tools and for later."""

from __future__ import annotations

import json
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from memguard.sinks.seeing import SEEN_AT, Held, seen, told_of_incident
from memguard.units import parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.model import Event
    from memguard.sinks.meters import Watched

__all__ = ["JsonlSink", "line_of"]


class JsonlSink:
    """Appends each event to a file as one line of JSON; at ``max_bytes`` it becomes ``NAME.1`` and a new one begins.

    Where a level or an incident begins or ends, the line says under ``seen`` who used how much and what ran. After
    ``incident.closed`` comes a line ``incident_record`` with all that ``memguard report`` and ``memguard replay`` ask
    for. Several processes may write to one file: each line is one write at its end. The file is opened for each line
    that comes, so that it may be moved or removed at any time.

    Raises:
        ValueError: a size below 4 KiB.
    """

    name = "jsonl"
    slow = True

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: str | int = "64MiB") -> None:
        self._path = Path(path).absolute()
        self._max_bytes = parse_bytes(max_bytes)
        if self._max_bytes < 4096:  # noqa: PLR2004 - one long line
            raise ValueError(f"max_bytes={max_bytes!r} holds no line: write 4096 or more")
        self._clock: Callable[[], float] = time.monotonic
        self._guard: Callable[[], Any] = lambda: None
        self._held = Held()

    def attach(self, guard: Watched) -> None:
        """Take instants from this guard's clock, and look at it where an incident turns; it is held weakly."""
        self._clock = guard.now
        self._guard = weakref.ref(guard)

    def __call__(self, event: Event, /) -> None:
        """Write one event.

        Raises:
            OSError: the file cannot be written.
        """
        guard = self._guard()
        wall_s = time.time() - (self._clock() - event.at)
        if guard is None or event.name not in SEEN_AT:
            self._write(line_of(event, wall_s=wall_s))
            return
        self._write(line_of(event, wall_s=wall_s, seen=seen(guard)))
        if event.name == "incident.opened":
            self._held.opened(guard, event)
        elif event.name == "incident.closed":
            self._write(incident_line(guard, event, self._held.closed(guard, event), wall_s, self._max_bytes))

    def _write(self, text: str) -> None:
        line = text.encode() + b"\n"
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(handle).st_size
            os.write(handle, line)
        finally:
            os.close(handle)
        if size + len(line) > self._max_bytes:
            with suppress(FileNotFoundError):  # another process was quicker
                self._path.replace(f"{self._path}.1")


def line_of(event: Event, *, wall_s: float, **more: object) -> str:
    """An event as one line of JSON: timestamp, event, text, and the attributes beside them."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_s))
    known = {"timestamp": f"{stamp}.{int(wall_s % 1 * 1000):03d}Z", "event": event.name, "text": event.text}
    shown = {**known, "at": event.at, "pid": os.getpid(), "attributes": dict(event.attributes), **more}
    return json.dumps(shown, default=str)


def incident_line(guard: Any, event: Event, record: Any, wall_s: float, most_bytes: int) -> str:  # noqa: ANN401
    """All about the incident that an event has ended, as one line; its record stays out where it has no room."""
    from memguard.model import Event as Told  # noqa: PLC0415 - else only type checkers need it

    told = Told(at=event.at, name="incident_record", text=event.text)
    more = told_of_incident(guard, event, record)
    line = line_of(told, wall_s=wall_s, **more)
    if len(line) > most_bytes // 2 and more.pop("record", None):
        line = line_of(told, wall_s=wall_s, **more, note="no room for the record: raise the sink's max_bytes")
    return line
