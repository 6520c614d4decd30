"""JSON log records: a formatter for the handlers of ``logging``, for memguard's records and all others."""

from __future__ import annotations

import json
import logging
import time

__all__ = ["JsonFormatter"]


class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON: timestamp, level, logger, message; an event's name and numbers beside.

    Give it to any handler: ``handler.setFormatter(JsonFormatter())``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        known: dict[str, object] = {
            "timestamp": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        details = getattr(record, "memguard", None)
        if isinstance(details, dict):
            known.update(
                {"event": details.get("event"), "attributes": {k: v for k, v in details.items() if k != "event"}}
            )
        if record.exc_info:
            known["exception"] = self.formatException(record.exc_info)
        return json.dumps(known, default=str)
