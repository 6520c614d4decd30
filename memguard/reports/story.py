"""Stories: what was told of one incident, found among the lines of a sink, with what was seen before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memguard.values import field, replace, value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memguard._core.record import Record

__all__ = ["RECORD", "STOPPED", "Line", "Story", "stories"]

# What is told within so long before an incident belongs to its story, and what comes so soon after it.
_BEFORE_S: Final = 600.0
_AFTER_S: Final = 60.0
_POINTS: Final = 240
RECORD: Final = "incident_record"
"""The line that says all about the incident that has just ended."""
STOPPED: Final = "the guard was stopped"
"""Why a story has no end, when nothing is wrong with that."""


@value
class Line:
    """One event as a sink wrote it: ``unix_s`` is seconds since 1970, ``at`` the guard's own clock."""

    unix_s: float
    at: float
    event: str
    text: str
    source: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)
    rest: Mapping[str, Any] = field(default_factory=dict)


@value
class Story:
    """One incident as it was told, from ``opened`` to ``closed`` (None: the end is not in the file).

    ``source`` is the process, ``before`` what was told in the ten minutes before, ``after`` in the minute after.
    ``told`` is what the guard itself said of it at the end: the incident, the rules, what ran; ``record`` can be
    replayed. ``ends`` says in words why there is no end.
    """

    source: str
    opened: Line
    lines: tuple[Line, ...]
    closed: Line | None = None
    before: tuple[Line, ...] = ()
    after: tuple[Line, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    record: Record | None = None
    operations: tuple[Mapping[str, Any], ...] = ()
    ends: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sights(self) -> tuple[Line, ...]:
        """Lines beside which it was seen who uses how much, in order."""
        return tuple(line for line in (*self.before, *self.lines) if line.seen.get("used_bytes"))

    @property
    def curve(self) -> tuple[tuple[float, int], ...]:
        """Readings: seconds since the incident began, and bytes used."""
        begin = self.opened.at
        found = [(line.at - begin, used) for line in (*self.before, *self.lines, *self.after) if (used := _used(line))]
        if self.record is not None:
            looks = [
                (stimulus.at - self.opened.at, stimulus.used_bytes)
                for stimulus in self.record.stimuli
                if hasattr(stimulus, "used_bytes")
            ]
            # The highest of each few: what matters is how near the limit it was.
            each = -(-len(looks) // _POINTS) or 1
            found += [
                max(looks[place : place + each], key=lambda look: look[1]) for place in range(0, len(looks), each)
            ]
        return tuple(sorted(found))


def _used(line: Line) -> int:
    return int(line.seen.get("used_bytes") or line.attributes.get("used_bytes") or 0)


def stories(lines: Iterable[Line]) -> list[Story]:
    """Every incident among these, the oldest first."""
    sources: dict[str, list[Line]] = {}
    for line in lines:
        sources.setdefault(line.source, []).append(line)
    found = [story for source, told in sources.items() for story in _of_one(source, told)]
    return sorted(found, key=lambda story: story.opened.unix_s)


def _of_one(source: str, lines: list[Line]) -> list[Story]:
    """The incidents of one process."""
    lines = sorted(lines, key=lambda line: (line.unix_s, line.event == RECORD))
    records = {line.at: line for line in lines if line.event == RECORD}
    told = [line for line in lines if line.event != RECORD]
    found = []
    begin: int | None = None
    for place, line in enumerate(told):
        if line.event == "incident.opened":
            if begin is not None:
                found.append(_story(source, told, begin, place, "another one began, and its end was not told"))
            begin = place
        elif begin is not None and line.event == "incident.closed":
            found.append(_story(source, told, begin, place + 1, "", records.get(line.at)))
            begin = None
        elif begin is not None and line.event == "guard.stopped":
            found.append(_story(source, told, begin, place + 1, STOPPED))
            begin = None
        elif begin is not None and line.event == "guard.started":  # in a container each process is number 1
            found.append(_story(source, told, begin, place, "a new start was told, so the process before it died"))
            begin = None
    if begin is not None:
        found.append(
            _story(source, told, begin, len(told), "nothing was told of its end: it goes on, or the process died")
        )
    return found


def _story(  # noqa: PLR0913, PLR0917 - a slice, and what is known of it
    source: str, told: list[Line], begin: int, end: int, ends: str, record: Line | None = None
) -> Story:
    opened, last = told[begin], told[end - 1]
    story = Story(
        source=source,
        opened=opened,
        lines=tuple(told[begin:end]),
        closed=last if last.event == "incident.closed" else None,
        before=tuple(line for line in told[max(0, begin - 50) : begin] if 0.0 <= opened.at - line.at <= _BEFORE_S),
        after=tuple(line for line in told[end : end + 20] if 0.0 <= line.at - last.at <= _AFTER_S),
        ends=ends,
    )
    if record is None:
        return story
    rest = record.rest
    note = str(rest.get("note") or "")
    return replace(story, told=rest, operations=tuple(rest.get("operations") or ()), notes=(note,) if note else ())
