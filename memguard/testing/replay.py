"""Replaying: an incident that was recorded is decided again, perhaps under other rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from memguard._core.record import Record
from memguard.reports.other_rules import decisions
from memguard.reports.reading import RecordError, saved
from memguard.rules import Rules

if TYPE_CHECKING:
    from memguard._core.state import Decision

__all__ = ["load_record", "replay", "save_record"]


def replay(record: Record | str | Path, rules: Rules | None = None) -> tuple[Decision, ...]:
    """Every decision about a recorded incident, in order; ``rules`` must be the ones then in force for the same ones.

    A record is what ``guard.record`` gives, or the path of a file that ``save_record`` wrote.

    Raises:
        ValueError: the file holds no record.
    """
    record = record if isinstance(record, Record) else load_record(record)
    return tuple(decisions(record, rules or Rules()))


def save_record(record: Record, path: str | Path) -> None:
    """Write a record as lines of JSON: the state before, then a line per stimulus."""
    head = record.shown()
    lines = [head, *head.pop("stimuli")]
    Path(path).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def load_record(path: str | Path) -> Record:
    """Read back what ``save_record`` wrote.

    Raises:
        RecordError: a ValueError: it is something else; the text names the line.
    """
    found = saved(path)
    if found is None:
        raise RecordError(f"{path} is no record: write one with save_record(guard.record, path)")
    return found
