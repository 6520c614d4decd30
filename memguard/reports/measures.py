"""Measures: the numbers of an incident, out of its story; None where nobody saw them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memguard.model import Level
from memguard.rules import Rules
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memguard.reports.story import Line, Story

__all__ = ["Attempts", "Measures", "Part", "measured"]

_PARTS: Final = {
    "python_bytes": "Python's heap",
    "native_bytes": "native code and large objects",
    "rss_bytes": "this process",
    "children_bytes": "child processes",
    "page_cache_bytes": "page cache (not counted as used)",
}
_UNCOUNTED: Final = "page_cache_bytes"
# One part is named when it is so much of what grew.
_MOST_RATIO: Final = 0.5
# Less than this is noise of resident memory.
_LEAST_BYTES: Final = 1 << 20
_LEAST_S: Final = 1e-3


@value
class Part:
    """A part of memory, at the last look before and at the highest: bytes; ``counts`` whether they count as used."""

    name: str
    before_bytes: int
    peak_bytes: int
    counts: bool = True

    @property
    def grown_bytes(self) -> int:
        """By how much it grew."""
        return self.peak_bytes - self.before_bytes


@value
class Attempts:
    """What one reclaimer was asked for, gave, and took: bytes, and seconds (None: that was not told)."""

    name: str
    count: int
    wanted_bytes: int
    bought_bytes: int
    cost_s: float | None
    errors: tuple[str, ...] = ()
    after_s: float | None = None


@value
class Measures:
    """All numbers. Instants are seconds after the incident began; ``rate`` is bytes per second up to the peak.

    ``reached`` says when each level was first entered, ``calm_bytes`` what was used at the last look before it.
    """

    rules: Rules
    limit_bytes: int | None
    limit_source: str
    limit_kind: str
    used_source: str
    lasted_s: float | None
    opened_bytes: int | None
    calm_bytes: int | None
    calm_s: float | None
    peak_bytes: int
    peak_s: float | None
    peak_level: Level
    rate: float | None
    reached: Mapping[Level, float]
    parts: tuple[Part, ...]
    holders: tuple[Part, ...]
    attempts: tuple[Attempts, ...]
    refusals: int
    refused_at: tuple[tuple[float, str], ...]
    blind_s: float
    starved_s: float
    starved_by: str
    oom_kills: int
    events: Mapping[str, int]

    @property
    def peak_ratio(self) -> float | None:
        """The peak's share of the limit."""
        return self.peak_bytes / self.limit_bytes if self.limit_bytes else None

    @property
    def grown(self) -> Part | None:
        """The part that makes most of the growth of what counts as used; None when none does."""
        counted = [part for part in self.parts if part.counts and part.grown_bytes > 0]
        whole = sum(part.grown_bytes for part in counted)
        return counted[0] if counted and counted[0].grown_bytes >= max(_LEAST_BYTES, _MOST_RATIO * whole) else None

    @property
    def bought_bytes(self) -> int:
        """What all attempts bought."""
        return sum(one.bought_bytes for one in self.attempts)


def measured(story: Story) -> Measures:
    """The numbers of a story."""
    told: Mapping[str, Any] = story.told.get("incident") or {}
    begin = story.opened.at
    seen = _last(story, "limit_bytes")
    limit = told.get("limit_bytes") or (seen or {}).get("limit_bytes")
    curve = [(at, used) for at, used in story.curve if at >= 0.0]
    peak_s, peak = max(curve, key=lambda point: point[1], default=(None, 0))
    told_peak = int(told.get("peak_bytes") or _attribute(story.closed, "peak_bytes") or 0)
    peak = max(peak, told_peak)
    calm = [(at, used) for at, used in story.curve if at < 0.0]
    opened = min(curve, default=(0.0, 0))[1] or None
    counts: dict[str, int] = {}
    for line in story.lines:
        counts[line.event] = counts.get(line.event, 0) + 1
    starved = max(_named(story, "guard.starved"), key=lambda line: float(_attribute(line, "gap_s")), default=None)
    reached = _reached(story)
    return Measures(
        rules=_rules(story),
        limit_bytes=None if limit is None else int(limit),
        limit_source=str((seen or {}).get("limit_source", "")),
        limit_kind=str((seen or {}).get("limit_kind", "")),
        used_source=str((_last(story, "used_source") or {}).get("used_source", "")),
        lasted_s=None if story.closed is None else story.closed.at - begin,
        opened_bytes=opened,
        calm_bytes=calm[-1][1] if calm else None,
        calm_s=calm[-1][0] if calm else None,
        peak_bytes=peak,
        peak_s=peak_s,
        peak_level=max([*reached, Level[str(told.get("peak_level", "OK"))]]),
        rate=_rate(calm[-1] if calm else None, curve, peak_s),
        reached=reached,
        parts=_parts(story, ((name, words) for name, words in _PARTS.items())),
        holders=_holders(story),
        attempts=_attempts(story, told),
        refusals=int(
            told.get("refusals") or sum(_attribute(line, "count") for line in _named(story, "admission.refused"))
        ),
        refused_at=tuple(
            (line.at - begin, str(line.attributes.get("level", ""))) for line in _named(story, "admission.refused")
        ),
        blind_s=float(told.get("blind_s") or 0.0),
        starved_s=0.0 if starved is None else float(_attribute(starved, "gap_s")),
        starved_by="" if starved is None else str(starved.attributes.get("running", "")),
        oom_kills=_oom_kills(story),
        events=counts,
    )


def _named(story: Story, name: str) -> list[Line]:
    return [line for line in story.lines if line.event == name]


def _attribute(line: Line | None, name: str) -> Any:  # noqa: ANN401 - as it was told
    return 0 if line is None else line.attributes.get(name) or 0


def _last(story: Story, name: str) -> Mapping[str, Any] | None:
    return next((line.seen for line in reversed(story.sights) if line.seen.get(name) is not None), None)


def _rules(story: Story) -> Rules:
    """The rules in force then, as far as this version knows them; the defaults where nobody told."""
    told = story.told.get("rules") or {}
    known = Rules()
    return Rules(**{name: value for name, value in told.items() if hasattr(known, name)}) if told else known


def _reached(story: Story) -> dict[Level, float]:
    found = {Level.OK: 0.0}
    for line in story.lines:
        name = line.attributes.get("level")
        if line.event in {"level.changed", "incident.opened"} and name in Level.__members__:
            found.setdefault(Level[str(name)], line.at - story.opened.at)
    return found


def _rate(calm: tuple[float, int] | None, curve: list[tuple[float, int]], peak_s: float | None) -> float | None:
    """The steeper of the two: on the way to the incident, and in it up to its peak."""
    if not curve:
        return None
    first, last = min(curve), max((point for point in curve if peak_s is not None and point[0] <= peak_s), default=None)
    pairs = [(calm, first), (first, last)]
    rates = [
        (end[1] - begin[1]) / (end[0] - begin[0])
        for begin, end in pairs
        if begin is not None and end is not None and end[0] - begin[0] >= _LEAST_S and end[1] > begin[1]
    ]
    return max(rates, default=None)


def _edges(story: Story) -> tuple[Line, Line] | None:
    """Two sights to compare: the last one before the incident, or its first, and the highest in it."""
    inside = [line for line in story.lines if line.seen.get("used_bytes")]
    before = [line for line in story.before if line.seen.get("used_bytes")]
    if not inside:
        return None
    highest = max(inside, key=lambda line: line.seen["used_bytes"])
    first = before[-1] if before else inside[0]
    return None if first is highest else (first, highest)


def _parts(story: Story, names: Iterable[tuple[str, str]]) -> tuple[Part, ...]:
    edges = _edges(story)
    if edges is None:
        return ()
    first, highest = (line.seen for line in edges)
    both = {*first} & {*highest}
    apart = {"rss_bytes"} if "native_bytes" in both else set[str]()  # it is these two
    found = [
        Part(name=words, before_bytes=int(first[name]), peak_bytes=int(highest[name]), counts=name != _UNCOUNTED)
        for name, words in names
        if name in both - apart
    ]
    return tuple(sorted(found, key=lambda part: -part.grown_bytes))


def _holders(story: Story) -> tuple[Part, ...]:
    edges = _edges(story)
    if edges is None:
        return ()
    first, highest = (line.seen.get("holders") or {} for line in edges)
    found = [
        Part(name=name, before_bytes=int(first.get(name, 0)), peak_bytes=int(highest.get(name, 0)))
        for name in {*first, *highest}
    ]
    grown = [part for part in found if abs(part.grown_bytes) >= _LEAST_BYTES]
    return tuple(sorted(grown, key=lambda part: (-part.grown_bytes, part.name)))


def _attempts(story: Story, told: Mapping[str, Any]) -> tuple[Attempts, ...]:
    """By reclaimer, as the guard measured each; by what was told where the guard's own list is not there."""
    rows: dict[str, dict[str, Any]] = {}
    for relief in told.get("reliefs") or ():
        row = rows.setdefault(relief["name"], {"count": 0, "wanted": 0, "bought": 0, "cost": 0.0, "errors": []})
        row["count"] += 1
        row["wanted"] += relief["wanted_bytes"]
        row["bought"] += relief["before_bytes"] - relief["after_bytes"]
        row["cost"] += relief["cost_s"]
        row["errors"] += [relief["error"]] if relief.get("error") else []
        row.setdefault("after", relief["at"] - relief["cost_s"] - told["opened_at"])
    if not rows:
        for line in story.lines:
            if line.event in {"relief.bought", "relief.useless", "relief.failed"} and line.attributes.get("name"):
                name = str(line.attributes["name"])
                row = rows.setdefault(name, {"count": 0, "wanted": 0, "bought": 0, "cost": None, "errors": []})
                failed = line.event == "relief.failed"  # of the same attempt another line says what it bought
                row["count"] += not failed
                row["wanted"] += _attribute(line, "wanted_bytes")
                row["bought"] += _attribute(line, "bought_bytes")
                row["errors"] += [str(line.attributes.get("error", ""))] if failed else []
                row.setdefault("after", line.at - story.opened.at)
    return tuple(
        Attempts(
            name=name, count=row["count"], wanted_bytes=row["wanted"], bought_bytes=row["bought"], cost_s=row["cost"],
            errors=tuple(dict.fromkeys(row["errors"])), after_s=max(0.0, row["after"]),
        )
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["bought"])
    )  # fmt: skip


def _oom_kills(story: Story) -> int:
    """Kernel kills seen during it."""
    counts = [int(line.seen["oom_kills"]) for line in (*story.sights, *story.after) if "oom_kills" in line.seen]
    return counts[-1] - counts[0] if counts else 0
