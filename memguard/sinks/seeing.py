"""Seeing: what a guard knows at an instant beside its events, as an incident's report will want it, ready for JSON."""

from __future__ import annotations

import base64
import json
import mmap
import sys
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memguard.model import Event

__all__ = ["SEEN_AT", "Held", "seen", "told_of_incident"]

SEEN_AT: Final = frozenset(
    {"guard.started", "incident.opened", "level.changed", "relief.exhausted", "reading.recorded", "incident.closed"}
)
"""Events beside which it is taken down what is seen: where an incident turns, and once a minute before it."""

# As the control API has it: a block of Python's own allocator in use has 44 to 110 bytes.
_BLOCK_BYTES: Final = 64
_ROWS: Final = 10
_PAGE_BYTES: Final = mmap.PAGESIZE


def seen(guard: Any) -> dict[str, Any]:  # noqa: ANN401 - a guard; sinks know only part of its shape
    """Who uses how much, what runs, what the limit is: some 50 µs, asks nobody outside; a failure in its place."""
    try:
        return _seen(guard)
    except Exception as error:  # noqa: BLE001 - the event beside it is worth more
        return {"error": f"{type(error).__name__}: {error}"}


def _seen(guard: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    snapshot = guard.snapshot
    reading, limit, vitals = snapshot.reading, snapshot.limit, snapshot.vitals
    rss = _resident() or getattr(vitals, "rss_bytes", None)
    python = sys.getallocatedblocks() * _BLOCK_BYTES
    python = python if rss is None else min(python, rss)
    found: dict[str, Any] = {
        "level": snapshot.level.name,
        "used_bytes": None if reading is None else reading.used_bytes,
        "used_source": None if reading is None else reading.source,
        "limit_bytes": None if limit is None else limit.bytes,
        "limit_kind": None if limit is None else limit.kind,
        "limit_source": None if limit is None else limit.source,
        "rss_bytes": rss,
        "python_bytes": python,
        "native_bytes": None if rss is None else rss - python,
        "children_bytes": getattr(vitals, "children_bytes", None),
        "page_cache_bytes": getattr(vitals, "page_cache_bytes", None),
        "swap_used_bytes": getattr(vitals, "swap_used_bytes", None),
        "oom_kills": getattr(vitals, "oom_kills", None),
        "promised_bytes": snapshot.promised_bytes,
        "requests": snapshot.running,
        "waiting": guard.waiting,
        "refusals": snapshot.refusals,
        "holders": _holders(snapshot),
        "running": dict(Counter(guard.operations.running_types()).most_common(_ROWS)),
        "verdict": guard.verdict().words,
    }
    return {name: value for name, value in found.items() if value not in (None, {})}


def _resident() -> int:
    """This process's resident bytes now, since the slow look may be seconds old; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - a file of the kernel
            return int(file.read(256).split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def _holders(snapshot: Any) -> dict[str, int]:  # noqa: ANN401 - as above
    known = {holder.name: holder.size_bytes for holder in snapshot.holders if holder.size_bytes}
    return dict(sorted(known.items(), key=lambda item: -item[1])[:_ROWS])


class Held:
    """The record of the incident that is open, so that it is still there when its end is told."""

    def __init__(self) -> None:
        self._record: Any = None

    def opened(self, guard: Any, event: Event) -> None:  # noqa: ANN401 - as above
        """Keep what is being recorded, unless it is of an incident before or after."""
        record = guard.record
        self._record = record if record is not None and record.state.at <= event.at else None

    def closed(self, guard: Any, event: Event) -> Any:  # noqa: ANN401 - as above
        """The record of the incident that this event ends; None when it is gone."""
        record, self._record = self._record, None
        for one in (record, guard.record):
            if one is not None and one.state.at < event.at:
                return one
        return None


def told_of_incident(guard: Any, event: Event, record: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """All about an incident that is over: what it was, the rules then, what ran, and its record, packed."""
    found: dict[str, Any] = {"rules": _rules(guard.rules)}
    incident = next((one for one in reversed(guard.incidents) if one.closed_at == event.at), None)
    if incident is not None:
        found["incident"] = _plain(incident)
        found["operations"] = _ended(guard, incident.opened_at)
    if record is not None:
        text = json.dumps(record.shown(), separators=(",", ":"))
        found["record"] = base64.b85encode(zlib.compress(text.encode(), 6)).decode()
    return found


def _plain(incident: Any) -> Mapping[str, Any]:  # noqa: ANN401 - as above
    from dataclasses import asdict  # noqa: PLC0415 - a started guard does without it

    return {**asdict(incident), "peak_level": incident.peak_level.name}


def _rules(rules: Any) -> Mapping[str, Any]:  # noqa: ANN401 - as above
    from dataclasses import fields  # noqa: PLC0415 - as above

    known = {rule.name: getattr(rules, rule.name) for rule in fields(rules) if rule.name != "origins"}
    return {name: getattr(value, "name", value) for name, value in known.items()}


def _ended(guard: Any, since: float) -> list[dict[str, Any]]:  # noqa: ANN401 - as above
    """Operations that ran in the incident and have ended, by type: those that grew memory most first."""
    rows: dict[str, dict[str, Any]] = {}
    for row in guard.operations.ended():
        if row.at + row.duration_s >= since:
            known = rows.setdefault(
                row.type, {"type": row.type, "count": 0, "delta_bytes": 0, "largest_bytes": 0, "longest_s": 0.0}
            )
            known["count"] += 1
            known["delta_bytes"] += row.memory_delta_bytes
            known["largest_bytes"] = max(known["largest_bytes"], row.memory_delta_bytes)
            known["longest_s"] = max(known["longest_s"], round(row.duration_s, 3))
    return sorted(rows.values(), key=lambda row: -row["delta_bytes"])[:_ROWS]
