"""When somebody has to be told, and when it is over: thresholds with a time to hold and a gap to leave by."""

from __future__ import annotations

from memguard.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from memguard.rules import Rules

__all__ = ["CALM", "SUBJECTS", "Alertness", "Change", "Rung", "Signs", "judge", "paused", "rungs"]

SUBJECTS: Final = ("memory", "forecast", "swap", "available")
"""What there are alerts about; at most one alert of each at a time."""

# A dip shorter than this, a collection's say, does not begin the wait anew.
_DIP_S = 10.0
# An alert is over, or eased, when what it is about has been well below for so long.
_CLEAR_S = 60.0
# Swap and available memory are the machine's, and are looked at every few seconds only.
_MACHINE_S = 30.0
# On a machine of so many bytes and more, the rules' absolute amounts hold; below, shares of it.
_LARGE_BYTES = 8 << 30
# Left when there is half as much again.
_ROOM_RATIO = 1.5


@value
class Signs:
    """What alerts are judged by, at an instant; None: unknown, nothing changes for that. A forecast is infinite when
    memory is not growing.
    """  # noqa: D205 - one sentence, two lines

    at: float
    pressure: float | None = None
    forecast_s: float | None = None
    swap_ratio: float | None = None
    available_bytes: int | None = None


@value
class Rung:
    """One threshold: raised after ``after_s`` above ``enter``, cleared at or below ``leave``.

    Where less is worse, all values are negative.
    """

    subject: str
    severity: int
    enter: float
    leave: float
    after_s: float


@value
class _Stand:
    """How one rung stands: above since when, below since when, raised or not."""

    above_at: float | None = None
    below_at: float | None = None
    raised: bool = False


@value
class Alertness:
    """What is remembered from look to look: every rung's stand, and since when each subject has had an alert."""

    stands: Mapping[tuple[str, int], _Stand]
    raised_at: Mapping[str, float]

    @property
    def calm(self) -> bool:
        """Whether nothing is raised, and nothing on its way."""
        return not self.stands

    def severity(self, subject: str) -> int | None:
        """How severe a subject's alert is, 1 the worst; None while there is none."""
        return min(
            (rung for (name, rung), stand in self.stands.items() if name == subject and stand.raised), default=None
        )


CALM: Final = Alertness(stands={}, raised_at={})


@value
class Change:
    """An alert began, became more or less severe, or ended (``severity`` None); ``since_at`` is when it began."""

    subject: str
    severity: int | None
    before: int | None
    since_at: float


def rungs(rules: Rules, machine_bytes: int | None) -> tuple[Rung, ...]:
    """The thresholds that rules mean on a machine with so many bytes of memory."""
    share = min(1.0, (machine_bytes or _LARGE_BYTES) / _LARGE_BYTES)
    warn, critical = rules.alert_available_bytes * share, rules.alert_available_critical_bytes * share
    gap, soon_s = rules.leave_gap_ratio, rules.alert_forecast_s
    found = (
        ("memory", 2, rules.alert_ratio, rules.alert_ratio - gap, rules.alert_after_s),
        ("memory", 1, rules.alert_critical_ratio, rules.alert_critical_ratio - gap, 0.0),
        # As long as for pressure: a burst's trend is forgotten by then, see _core/forecast.
        ("forecast", 2, -soon_s, -soon_s * 2.0, rules.alert_after_s),
        ("swap", 2, rules.alert_swap_ratio, rules.alert_swap_ratio - gap, _MACHINE_S),
        ("available", 3, -warn, -warn * _ROOM_RATIO, _MACHINE_S),
        ("available", 2, -critical, -critical * _ROOM_RATIO, _MACHINE_S),
    )
    return tuple(
        Rung(subject=subject, severity=severity, enter=enter, leave=leave, after_s=after_s)
        for subject, severity, enter, leave, after_s in found
    )


def judge(known: Alertness, signs: Signs, thresholds: Sequence[Rung]) -> tuple[Alertness, tuple[Change, ...]]:
    """What holds after one more look, and what has changed by it."""
    stands = dict(known.stands)
    for rung in thresholds:
        value = _value(signs, rung.subject)
        if value is None:
            continue
        key = (rung.subject, rung.severity)
        stand = _step(stands.get(key, _Stand()), rung, value, signs.at)
        if stand.above_at is None and not stand.raised:
            stands.pop(key, None)
        else:
            stands[key] = stand
    if stands == known.stands:
        return known, ()
    raised_at, changes = dict(known.raised_at), list[Change]()
    after = Alertness(stands=stands, raised_at=raised_at)
    for subject in SUBJECTS:
        old, new = known.severity(subject), after.severity(subject)
        if old != new:
            since_at = raised_at.setdefault(subject, signs.at)
            changes.append(Change(subject=subject, severity=new, before=old, since_at=since_at))
            if new is None:
                del raised_at[subject]
    return after, tuple(changes)


def paused(known: Alertness) -> Alertness:
    """What is left while nobody looks: what is raised stays so, what was on its way begins anew."""
    return replace(known, stands={key: stand for key, stand in known.stands.items() if stand.raised})


def _value(signs: Signs, subject: str) -> float | None:
    if subject == "memory":
        return signs.pressure
    if subject == "swap":
        return signs.swap_ratio
    less = signs.forecast_s if subject == "forecast" else signs.available_bytes
    return None if less is None else -less


def _step(stand: _Stand, rung: Rung, value: float, at: float) -> _Stand:
    """How a rung stands after one more value."""
    if stand.raised:
        if value > rung.leave:
            return stand if stand.below_at is None else replace(stand, below_at=None)
        below_at = at if stand.below_at is None else stand.below_at
        return _Stand() if at - below_at >= _CLEAR_S else replace(stand, below_at=below_at)
    if value > rung.enter:
        above_at = at if stand.above_at is None else stand.above_at
        return _Stand(above_at=above_at, raised=at - above_at >= rung.after_s)
    if stand.above_at is None:
        return stand
    below_at = at if stand.below_at is None else stand.below_at
    return _Stand() if at - below_at >= _DIP_S else replace(stand, below_at=below_at)
