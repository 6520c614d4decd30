"""Stored: stories out of a SQLite store, from its three tables."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from memguard.errors import MemguardError
from memguard.reports.story import RECORD, Line, Story, stories
from memguard.units import MIB
from memguard.values import replace

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["stories_in"]

_SEEN: Final = {
    "memguard.memory.rss": "rss_bytes",
    "memguard.memory.children": "children_bytes",
    "memguard.memory.page_cache": "page_cache_bytes",
    "memguard.memory.swap.usage": "swap_used_bytes",
    "memguard.memory.oom_kills": "oom_kills",
    "memguard.admission.running": "requests",
}
_EVENTS: Final = "SELECT timestamp, event_name, text, attributes, host, pid FROM memguard_events ORDER BY id"
_METRICS: Final = """
    SELECT timestamp, metric_name, value, memory_used_mb, memory_limit_mb, host, pid FROM metrics
    WHERE metric_name IN ({marks}) AND timestamp BETWEEN ? AND ? ORDER BY id
"""
_OPERATIONS: Final = """
    SELECT operation_type, count(*), sum(memory_delta_mb), max(memory_delta_mb), max(duration_s) FROM operation_metrics
    WHERE timestamp BETWEEN ? AND ? AND host = ? AND pid = ? GROUP BY operation_type ORDER BY 3 DESC LIMIT 10
"""
_BEFORE_S: Final = 600.0
_AFTER_S: Final = 60.0


def stories_in(path: Path) -> list[Story]:
    """The incidents in a store, the oldest first.

    Raises:
        MemguardError: it cannot be read, or is no store of ours.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=3.0)) as connection:
            told = _on_guards_clock([_event(row) for row in connection.execute(_EVENTS)])
            whole = []
            for story in stories(told):
                lines = [*_metrics(connection, story), *(line for line in told if line.source == story.source)]
                found = next((one for one in stories(lines) if one.opened == story.opened), story)
                whole.append(replace(found, operations=_operations(connection, story) or found.operations))
            return whole
    except sqlite3.Error as error:
        raise MemguardError(f"{path} cannot be read as a store of memguard: {error}") from None


def _event(row: tuple[Any, ...]) -> Line:
    stamp, name, text, attributes, host, pid = row
    when, known = _unix_s(stamp), json.loads(attributes or "{}")
    return Line(
        unix_s=when,
        at=when,
        event=name,
        text=text,
        source=f"{pid} on {host}",
        attributes={} if name == RECORD else known,
        rest=known if name == RECORD else {},
    )


def _on_guards_clock(told: list[Line]) -> list[Line]:
    """The same with each process's own instants, where it told one: the record of an incident speaks in them."""
    ahead_s = {line.source: line.unix_s - float(line.rest["at"]) for line in told if line.rest.get("at") is not None}
    return [replace(line, at=line.unix_s - ahead_s.get(line.source, 0.0)) for line in told]


def _unix_s(stamp: str) -> float:
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()


def _span(story: Story) -> tuple[str, str]:
    begin, end = story.opened.unix_s - _BEFORE_S, story.lines[-1].unix_s + _AFTER_S
    low, high = (datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] for when in (begin, end))
    return low, high


def _metrics(connection: sqlite3.Connection, story: Story) -> list[Line]:
    """Regular readings around an incident, as if they had been told."""
    names = ("system.memory.used", *_SEEN)
    query = _METRICS.format(marks=", ".join("?" * len(names)))
    rows: dict[str, dict[str, Any]] = {}
    ahead_s = story.opened.unix_s - story.opened.at
    for stamp, name, value, used_mb, limit_mb, host, pid in connection.execute(query, (*names, *_span(story))):
        if f"{pid} on {host}" == story.source:
            seen = rows.setdefault(stamp, {"used_bytes": int((used_mb or 0) * MIB)})
            if limit_mb:
                seen["limit_bytes"] = int(limit_mb * MIB)
            if name in _SEEN and value is not None:
                seen[_SEEN[name]] = int(value)
    return [
        Line(
            unix_s=_unix_s(stamp),
            at=_unix_s(stamp) - ahead_s,
            event="reading.recorded",
            text="",
            source=story.source,
            seen=seen,
        )
        for stamp, seen in rows.items()
    ]


def _operations(connection: sqlite3.Connection, story: Story) -> tuple[dict[str, Any], ...]:
    pid, _, host = story.source.partition(" on ")
    low, _ = _span(replace(story, opened=replace(story.opened, unix_s=story.opened.unix_s + _BEFORE_S)))
    _, high = _span(story)
    found = connection.execute(_OPERATIONS, (low, high, host, int(pid)))
    return tuple(
        {
            "type": type_,
            "count": count,
            "delta_bytes": int((total or 0) * MIB),
            "largest_bytes": int((most or 0) * MIB),
            "longest_s": longest or 0.0,
        }
        for type_, count, total, most, longest in found
    )
