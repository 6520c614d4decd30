"""The incident: from leaving OK to being OK again, told as one value with a verdict in words."""

from __future__ import annotations

from memguard.units import format_bytes, format_seconds
from memguard.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.model import Incident, Level, Relief

__all__ = ["close", "relieved", "seen"]

# Reliefs kept word for word; counts and sums go on without end.
_KEPT = 32


def seen(incident: Incident, level: Level, used_bytes: int, limit_bytes: int | None) -> Incident:
    """The incident after one more look; the same value when it was no new peak."""
    if level <= incident.peak_level and used_bytes <= incident.peak_bytes:
        return incident
    pressure = used_bytes / limit_bytes if limit_bytes else 0.0
    return replace(
        incident,
        peak_level=max(level, incident.peak_level),
        peak_bytes=max(used_bytes, incident.peak_bytes),
        peak_pressure=max(pressure, incident.peak_pressure),
    )


def relieved(incident: Incident, relief: Relief) -> Incident:
    """The incident with one more measured relief."""
    return replace(
        incident,
        reliefs=(*incident.reliefs, relief)[-_KEPT:],
        attempts=incident.attempts + 1,
        bought_bytes=incident.bought_bytes + relief.bought_bytes,
    )


def close(incident: Incident, at: float, *, exhausted: bool) -> Incident:
    """The ended incident, with its verdict."""
    lasted = format_seconds(at - incident.opened_at)
    if not incident.attempts:
        verdict = f"passed by itself after {lasted}: nothing had to be shed"
    else:
        bought = format_bytes(incident.bought_bytes)
        verdict = f"relieved after {lasted}: {incident.attempts} attempts bought {bought}"
    if exhausted:
        verdict += "; at times nothing that was left to shed helped"
    if incident.refusals:
        verdict += f"; {incident.refusals} refused meanwhile"
    if incident.blind_s > 0:
        verdict += f"; the guard could not look for {format_seconds(incident.blind_s)} of it"
    return replace(incident, closed_at=at, verdict=verdict)
