"""Other rules: what they would have decided about an incident that was recorded, beside what was decided.

Every stimulus is decided again. What memory did then is what it did: readings, and what reliefs bought, are those of
the record, so that a replay says when other rules would have acted, and not what would have come of it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from memguard._core.machine import advance
from memguard._core.stimuli import Attempt, Looked, Overdue, Refused
from memguard.model import Level
from memguard.units import format_bytes, format_seconds
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memguard._core.record import Record
    from memguard._core.state import Decision
    from memguard.rules import Rules

__all__ = ["Course", "Difference", "compare", "courses_text", "decisions"]

_STEPS: Final = 12


@value
class Course:
    """How an incident goes under some rules; instants are seconds after it began.

    ``levels`` are the changes, ``asked`` the reliefs asked for: when, of whom, how many bytes. ``closed_s`` counts the
    seconds in which normal work is refused, ``refused`` what was refused then as recorded, and ``passed`` what of it
    came at a level at which these rules let it in.
    """

    levels: tuple[tuple[float, str], ...]
    peak_level: str
    seconds: dict[str, float]
    asked: tuple[tuple[float, str, int], ...]
    closed_s: float
    refused: int
    passed: int
    ended_s: float | None

    @property
    def asked_bytes(self) -> int:
        """What was asked for in all."""
        return sum(wanted for _, _, wanted in self.asked)


@value
class Difference:
    """Two courses of one record, and where they part (None: nowhere); ``first`` says it in words."""

    recorded: Course
    other: Course
    first_s: float | None
    first: str
    missed: int

    @property
    def same(self) -> bool:
        """Whether both decide alike throughout."""
        return self.first_s is None

    def to_dict(self) -> dict[str, object]:
        """All of it in plain values."""
        return {**asdict(self), "same": self.same}


def decisions(record: Record, rules: Rules) -> list[Decision]:
    """Every decision about a record, in order."""
    return _decided(record, rules, others=False)


def _decided(record: Record, rules: Rules, *, others: bool) -> list[Decision]:
    """The same; of an attempt that only other rules made, nobody will ever hear: it is overdue in time."""
    found: list[Decision] = []
    state = record.state
    for stimulus in record.stimuli:
        if others and state.step is not None and stimulus.at > state.step.until:
            state = advance(state, Overdue(at=stimulus.at, name=state.step.name), rules).state
        decision = advance(state, stimulus, rules)
        found.append(decision)
        state = decision.state
    return found


def compare(record: Record, before: Rules, after: Rules) -> Difference:
    """What ``after`` would have decided where ``before`` was in force."""
    old, new = decisions(record, before), _decided(record, after, others=after != before)
    begin = old[0].state.at if old else record.state.at
    place = next((number for number, pair in enumerate(zip(old, new, strict=True)) if not _alike(*pair)), None)
    first_s, first = None, "both decide alike throughout"
    if place is not None:
        first_s = old[place].state.at - begin
        first = _first(old[place], new[place])
    return Difference(
        recorded=_course(record, old, begin),
        other=_course(record, new, begin),
        first_s=first_s,
        first=first,
        missed=record.missed,
    )


def _alike(old: Decision, new: Decision) -> bool:
    return old.state.stand.level == new.state.stand.level and _steps(old) == _steps(new)


def _steps(decision: Decision) -> list[tuple[str, int]]:
    return [(one.step.name, one.step.wanted_bytes) for one in decision.actions if isinstance(one, Attempt)]


def _first(old: Decision, new: Decision) -> str:
    state = old.state
    share = f" ({state.pressure:.1%})" if state.limit_bytes else ""
    return f"at {format_bytes(state.used_bytes)}{share} recorded: {_said(old)}; other: {_said(new)}"


def _said(decision: Decision) -> str:
    asked = ", ".join(f"asks {name} for {format_bytes(wanted)}" for name, wanted in _steps(decision))
    return f"{decision.state.stand.level.name}{f', {asked}' if asked else ''}"


def _course(record: Record, found: Sequence[Decision], begin: float) -> Course:
    levels, asked = list[tuple[float, str]](), list[tuple[float, str, int]]()
    seconds = {level.name: 0.0 for level in Level}
    level, at, peak = Level.OK, begin, Level.OK
    refused = passed = 0
    ended: float | None = None
    for stimulus, decision in zip(record.stimuli, found, strict=True):
        state = decision.state
        seconds[level.name] += state.at - at
        if isinstance(stimulus, Refused):
            refused += stimulus.count
            passed += stimulus.count if level < Level.CRITICAL else 0
        if state.stand.level is not level:
            level = state.stand.level
            levels.append((state.at - begin, level.name))
            peak = max(peak, level)
        at = state.at
        asked += [(at - begin, name, wanted) for name, wanted in _steps(decision)]
        if decision.closed is not None and isinstance(stimulus, Looked):
            ended = at - begin
    return Course(
        levels=tuple(levels),
        peak_level=peak.name,
        seconds=seconds,
        asked=tuple(asked),
        closed_s=seconds["CRITICAL"] + seconds["EMERGENCY"],
        refused=refused,
        passed=passed,
        ended_s=ended,
    )


# --- side by side -----------------------------------------------------------------------------------------------------


def courses_text(difference: Difference, names: tuple[str, str] = ("as recorded", "other rules")) -> str:
    """Both side by side, for a terminal of 100 columns."""
    old, new = difference.recorded, difference.other
    rows = [("", *names), *((title, left, right) for title, left, right in _rows(old, new))]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{title:<{wide[0]}}  {left:<{wide[1]}}  {right}".rstrip() for title, left, right in rows]
    when = "" if difference.first_s is None else f"after {format_seconds(difference.first_s)}: "
    lines += ["", f"First difference: {when}{difference.first}."]
    if difference.missed:
        lines.append(f"The record ends {difference.missed} stimuli before the incident did.")
    lines.append("Readings, and what reliefs bought, are those of the record: other reliefs would have changed them.")
    return "\n".join(lines) + "\n"


def _rows(old: Course, new: Course) -> Iterator[tuple[str, str, str]]:
    def both(title: str, said: Callable[[Course], str]) -> tuple[str, str, str]:
        return title, said(old), said(new)

    yield both("highest level", lambda one: one.peak_level)
    for level in ("WARNING", "CRITICAL", "EMERGENCY"):
        yield f"at {level}", format_seconds(old.seconds[level]), format_seconds(new.seconds[level])
    yield both("reliefs asked", lambda one: f"{len(one.asked)} ({format_bytes(one.asked_bytes)})")
    yield both("first of them", lambda one: _when(one, 0) or "none")
    yield both("work is refused for", lambda one: format_seconds(one.closed_s))
    yield both("refused", lambda one: f"{one.refused - one.passed} of {one.refused}")
    yield both("over after", lambda one: "not in the record" if one.ended_s is None else format_seconds(one.ended_s))
    for place in range(min(_STEPS, max(len(old.levels), len(new.levels)))):
        yield "levels" if not place else "", _level(old, place), _level(new, place)
    for place in range(min(_STEPS, max(len(old.asked), len(new.asked)))):
        yield "asked" if not place else "", _when(old, place), _when(new, place)


def _level(course: Course, place: int) -> str:
    if place >= len(course.levels):
        return ""
    at, name = course.levels[place]
    return f"+{format_seconds(at)} {name}"


def _when(course: Course, place: int) -> str:
    if place >= len(course.asked):
        return ""
    at, name, wanted = course.asked[place]
    return f"+{format_seconds(at)} {name}, {format_bytes(wanted)}"
