"""Replaying: an incident that was recorded is decided again, perhaps under other rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memguard._core.machine import advance
from memguard._core.record import Record, decode, encode
from memguard._core.state import State
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
    rules = rules or Rules()
    decisions = []
    state = record.state
    for stimulus in record.stimuli:
        decision = advance(state, stimulus, rules)
        decisions.append(decision)
        state = decision.state
    return tuple(decisions)


def save_record(record: Record, path: str | Path) -> None:
    """Write a record as lines of JSON: the state before, then a line per stimulus."""
    head = {"memguard": "record", "version": 1, "missed": record.missed, "state": encode(record.state)}
    lines = [head, *(encode(stimulus) for stimulus in tuple(record.stimuli))]
    Path(path).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def load_record(path: str | Path) -> Record:
    """Read back what ``save_record`` wrote.

    Raises:
        ValueError: it is something else; the text names the line.
    """
    shown: list[Any] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            shown.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error})") from None
    head = shown[0] if shown and isinstance(shown[0], dict) else {}
    if head.get("memguard") != "record" or head.get("version") != 1:
        raise ValueError(f"{path} is no record: write one with save_record(guard.record, path)")
    try:
        state, stimuli = decode(head["state"]), [decode(line) for line in shown[1:]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(state, State):
        raise ValueError(f"{path} is damaged: its first line holds no state")  # noqa: TRY004 - the file is wrong
    return Record(state=state, stimuli=stimuli, missed=int(head.get("missed", 0)))
