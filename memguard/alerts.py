"""Alerts: who has to look, why, since when, and what was done already; told as events, listed while they last."""

from __future__ import annotations

import os

from memguard._core.alerting import CALM, Signs, judge, paused, rungs
from memguard.model import Event
from memguard.units import format_bytes, format_seconds
from memguard.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard._core.alerting import Alertness, Change
    from memguard.model import Snapshot
    from memguard.rules import Rules

__all__ = ["Alert", "Alerts"]

_NAMED = 3
# Growth of which half came in the last minute of ten is sudden.
_LATELY_S, _BEFORE_S = 60.0, 600.0


@value
class Alert:
    """Something that somebody should look at, and that is not over.

    ``name`` is what it is about: "memory", "forecast", "swap" or "available"; ``severity`` "SEV-1" (act now) to "SEV-3"
    (look); ``since_at`` the monotonic instant at which it was raised; ``text`` says it with its numbers, ``cause`` what
    is known of the reason, ``done`` what the guard has done about it.
    """

    name: str
    severity: str
    since_at: float
    text: str
    cause: str
    done: str


class Alerts:
    """Judges every snapshot that it is shown; a microsecond or two while something is wrong."""

    def __init__(
        self,
        *,
        rules: Rules,
        tell: Callable[[Event], None],
        running: Callable[[], Iterable[str]] = tuple,
        ago: Callable[[float], float | None] = lambda _: None,
        machine_bytes: int | None = None,
    ) -> None:
        self._tell = tell
        self._running = running
        self._ago = ago
        self._rungs = rungs(rules, _machine_bytes() if machine_bytes is None else machine_bytes)
        self._known: Alertness = CALM
        self.active: tuple[Alert, ...] = ()

    def show(self, snapshot: Snapshot) -> None:
        """Judge by this snapshot, and tell what has changed."""
        if snapshot.reading is None:  # the guard was stopped, or has not looked yet
            self._known = paused(self._known)
            return
        self._known, changes = judge(self._known, self._signs(snapshot), self._rungs)
        for change in changes:
            self._change(change, snapshot)

    def now(self, snapshot: Snapshot) -> tuple[Alert, ...]:
        """The alerts that last, with the numbers of a snapshot."""
        return tuple(replace(alert, text=_numbers(alert.name, snapshot), done=_done(snapshot)) for alert in self.active)

    def forget(self) -> None:
        """In a forked child: what was raised is the parent's."""
        self._known, self.active = CALM, ()

    @property
    def calm(self) -> bool:
        """Whether nothing is raised, and nothing on its way."""
        return self._known.calm

    def _signs(self, snapshot: Snapshot) -> Signs:
        vitals, known = snapshot.vitals, not snapshot.blind and snapshot.limit is not None
        swap_ratio = None
        if vitals is not None and vitals.swap_used_bytes is not None and vitals.swap_total_bytes is not None:
            swap_ratio = vitals.swap_used_bytes / vitals.swap_total_bytes if vitals.swap_total_bytes else 0.0
        return Signs(
            at=snapshot.at,
            pressure=snapshot.pressure if known else None,
            forecast_s=(float("inf") if snapshot.forecast is None else snapshot.forecast) if known else None,
            swap_ratio=swap_ratio,
            available_bytes=None if vitals is None else vitals.available_bytes,
        )

    def _change(self, change: Change, snapshot: Snapshot) -> None:
        others = tuple(alert for alert in self.active if alert.name != change.subject)
        if change.severity is None:
            gone = next((alert for alert in self.active if alert.name == change.subject), None)
            self.active = others
            lasted = format_seconds(snapshot.at - change.since_at)
            severity = f"SEV-{change.before}"
            text = f"{change.subject} is well again after {lasted}: {_numbers(change.subject, snapshot)}"
            alert = Alert(
                name=change.subject,
                severity=severity,
                since_at=change.since_at,
                text=text,
                cause="" if gone is None else gone.cause,
                done=_done(snapshot),
            )
            self._tell(self._event("alert.resolved", alert, snapshot))
            return
        text = _numbers(change.subject, snapshot)
        alert = Alert(
            name=change.subject,
            severity=f"SEV-{change.severity}",
            since_at=change.since_at,
            text=text,
            cause=self._cause(snapshot),
            done=_done(snapshot),
        )
        self.active = (*others, alert)
        worse = change.before is None or change.severity < change.before
        self._tell(self._event("alert.raised" if worse else "alert.eased", alert, snapshot))

    def _event(self, name: str, alert: Alert, snapshot: Snapshot) -> Event:
        vitals, limit, reading = snapshot.vitals, snapshot.limit, snapshot.reading
        known: dict[str, str | float | None] = {
            "alert": alert.name,
            "severity": alert.severity,
            "level": snapshot.level.name,
            "lasted_s": round(snapshot.at - alert.since_at, 3),
            "pressure": round(snapshot.pressure, 4),
            "used_bytes": None if reading is None else reading.used_bytes,
            "limit_bytes": None if limit is None else limit.bytes,
            "limit_source": None if limit is None else limit.source,
            "forecast_s": None if snapshot.forecast is None else round(snapshot.forecast, 1),
            "available_bytes": None if vitals is None else vitals.available_bytes,
            "swap_used_bytes": None if vitals is None else vitals.swap_used_bytes,
            "swap_total_bytes": None if vitals is None else vitals.swap_total_bytes,
            "cause": alert.cause,
            "done": alert.done,
        }
        attributes = {name: value for name, value in known.items() if value is not None}
        return Event(at=snapshot.at, name=name, text=f"{alert.severity} {alert.text}", attributes=attributes)

    def _cause(self, snapshot: Snapshot) -> str:
        """What is known of the reason: gradual or sudden, how fast it grows, who holds most, what runs."""
        parts = self._pace(snapshot)
        if snapshot.forecast and snapshot.limit is not None and snapshot.reading is not None:
            rate = (snapshot.limit.bytes - snapshot.reading.used_bytes) / snapshot.forecast
            parts.append(f"growing by {format_bytes(rate)}/s")
        holders = sorted(snapshot.holders, key=lambda holder: -(holder.size_bytes or 0))
        largest = [
            f"{holder.name} {format_bytes(holder.size_bytes)}" for holder in holders[:_NAMED] if holder.size_bytes
        ]
        parts.append(f"largest holders: {', '.join(largest)}" if largest else "no registered holder holds any of it")
        running = list(self._running())[:_NAMED]
        if snapshot.running:
            parts.append(f"{snapshot.running} admitted running" + (f" ({', '.join(running)})" if running else ""))
        return "; ".join(parts)

    def _pace(self, snapshot: Snapshot) -> list[str]:
        """Whether it came gradually (a leak, a deployment) or at once (concurrent work, large inputs)."""
        lately, before = self._ago(_LATELY_S), self._ago(_BEFORE_S)
        if lately is None or snapshot.reading is None:
            return []
        used = snapshot.reading.used_bytes
        new, all_ = used - lately, used - (lately if before is None else before)
        if max(new, all_) <= 0.0:
            return []
        if new >= all_ / 2.0:
            return [f"sudden: {format_bytes(new)} more than {format_seconds(_LATELY_S)} ago"]
        return [f"gradual: {format_bytes(all_)} more than {format_seconds(_BEFORE_S)} ago"]


def _done(snapshot: Snapshot) -> str:
    """What the guard has done about it."""
    incident = snapshot.incident
    if incident is None:
        return "nothing was needed of the guard"
    bought = f"{incident.attempts} attempts bought {format_bytes(incident.bought_bytes)}"
    return f"{bought}, {incident.refusals} requests refused in this incident"


def _numbers(subject: str, snapshot: Snapshot) -> str:
    """Where a subject stands, in words."""
    vitals, limit, reading = snapshot.vitals, snapshot.limit, snapshot.reading
    if subject == "swap" and vitals is not None and vitals.swap_total_bytes is not None:
        return f"swap: {format_bytes(vitals.swap_used_bytes or 0)} of {format_bytes(vitals.swap_total_bytes)} in use"
    if subject == "available" and vitals is not None and vitals.available_bytes is not None:
        return f"available memory of the machine: {format_bytes(vitals.available_bytes)}"
    used = "unknown" if reading is None else format_bytes(reading.used_bytes)
    of = "no limit" if limit is None else format_bytes(limit.bytes)
    stand = f"memory: {used} of {of} used ({snapshot.pressure:.0%}, {snapshot.level.name.lower()})"
    if subject == "forecast":
        ahead = "not in sight" if snapshot.forecast is None else f"{format_seconds(snapshot.forecast)} away"
        return f"{stand}; the limit is {ahead}"
    return stand


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
