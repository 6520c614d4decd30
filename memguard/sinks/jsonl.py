"""JSON lines: every event as one line of a file, for tools and for later."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from memguard.units import parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.model import Event
    from memguard.sinks.meters import Watched

__all__ = ["JsonlSink", "line_of"]


class JsonlSink:
    """Appends each event to a file as one line of JSON; at ``max_bytes`` it becomes ``NAME.1`` and a new one begins.

    Several processes may write to one file: each line is one write at its end. The file is opened for each line that
    comes, so that it may be moved or removed at any time.

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

    def attach(self, guard: Watched) -> None:
        """Take instants from this guard's clock."""
        self._clock = guard.now

    def __call__(self, event: Event, /) -> None:
        """Write one event.

        Raises:
            OSError: the file cannot be written.
        """
        line = line_of(event, wall_s=time.time() - (self._clock() - event.at)).encode() + b"\n"
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(handle).st_size
            os.write(handle, line)
        finally:
            os.close(handle)
        if size + len(line) > self._max_bytes:
            with suppress(FileNotFoundError):  # another process was quicker
                self._path.replace(f"{self._path}.1")


def line_of(event: Event, *, wall_s: float) -> str:
    """An event as one line of JSON: timestamp, event, text, and the attributes beside them."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_s))
    known = {"timestamp": f"{stamp}.{int(wall_s % 1 * 1000):03d}Z", "event": event.name, "text": event.text}
    return json.dumps({**known, "at": event.at, "pid": os.getpid(), "attributes": dict(event.attributes)}, default=str)
