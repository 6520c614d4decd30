"""The chronicle: the last events in memory, as lines, so that an incident can be reported without any file."""

from __future__ import annotations

import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from memguard.sinks.jsonl import incident_line, line_of
from memguard.sinks.seeing import SEEN_AT, Held, seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.model import Event
    from memguard.sinks.meters import Watched

__all__ = ["Chronicle"]

# Some 200 to 1000 bytes a line. An incident tells some twenty events; a flapping one more, and then its end counts.
_LINES = 400
_MINUTES = 10
_RECORDS = 8
_RECORD_BYTES = 64 * 1024


class Chronicle:
    """Keeps the last 400 events as the lines that the JSONL sink writes, with the last 8 incidents' records."""

    name = "chronicle"

    def __init__(self) -> None:
        self._clock: Callable[[], float] = time.monotonic
        self._guard: Callable[[], Any] = lambda: None
        self._held = Held()
        self._told = deque[str](maxlen=_LINES)
        self._minutes = deque[str](maxlen=_MINUTES)
        self._incidents = deque[str](maxlen=_RECORDS)

    def attach(self, guard: Watched) -> None:
        """Take instants from this guard's clock, and look at it where an incident turns; it is held weakly."""
        self._clock = guard.now
        self._guard = weakref.ref(guard)

    def __call__(self, event: Event, /) -> None:
        """Keep one event."""
        guard = self._guard()
        wall_s = time.time() - (self._clock() - event.at)
        if guard is None or event.name not in SEEN_AT:
            self._told.append(line_of(event, wall_s=wall_s))
            return
        kept = self._minutes if event.name == "reading.recorded" else self._told
        kept.append(line_of(event, wall_s=wall_s, seen=seen(guard)))
        if event.name == "incident.opened":
            self._held.opened(guard, event)
        elif event.name == "incident.closed":
            record = self._held.closed(guard, event)
            self._incidents.append(incident_line(guard, event, record, wall_s, 2 * _RECORD_BYTES))

    def lines(self) -> list[str]:
        """All that is kept; readers sort it by time."""
        return [*self._minutes, *self._told, *self._incidents]

    def forget(self) -> None:
        """In a forked child: the parent's past is not ours."""
        for kept in (self._told, self._minutes, self._incidents):
            kept.clear()
