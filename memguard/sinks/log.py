"""The log: every event through the standard library's logger ``memguard``, as loud as its row in the table says."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.model import Event

__all__ = ["LogSink"]


class LogSink:
    """Passes events on to ``logging.getLogger("memguard")``; the attributes go along as ``extra["memguard"]``.

    With ``json`` each message is one line of JSON. An event that nobody could see (information, before the application
    has imported ``logging``) costs nothing.
    """

    name = "log"

    def __init__(self, *, json: bool = False) -> None:
        self._json = json

    def __call__(self, event: Event, /) -> None:
        """Log one event."""
        # Not at the top: a service that logs nothing does not pay for it in memory.
        from memguard.telemetry import EVENTS  # noqa: PLC0415

        severity = EVENTS[event.name].severity
        if severity == "info" and "logging" not in sys.modules:
            return
        import logging  # noqa: PLC0415 - as above

        logger = logging.getLogger("memguard")
        level = logging.getLevelNamesMapping()[severity.upper()]
        if logger.isEnabledFor(level):
            details = {"event": event.name, **event.attributes}
            if self._json:
                from memguard.sinks.jsonl import line_of  # noqa: PLC0415 - as above

                logger.log(level, "%s", line_of(event, wall_s=time.time()), extra={"memguard": details})
            else:
                logger.log(level, "%s: %s", event.name, event.text, extra={"memguard": details})
